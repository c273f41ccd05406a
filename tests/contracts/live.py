"""Snapshots of what is probed and recorded now, by the true clock: labels of metrics, shapes of entries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import sqlite3
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.contracts.app import asked, started
from tests.contracts.maker import Maker, Row, shape_of
from tests.helpers.time_server import time_server

OF_TARGETS = tuple(
    f"mailwatch_{name}" for name in ("probe_", "target_", "observations_", "outage", "gap_", "maintenance_")
)
"""Metrics that are there as soon as a target was probed; when others come depends on the machine."""
RECORDED = (
    "node.start", "watch.begin", "observation.up", "observation.down", "outage.open", "outage.closed",
    "clock.survey",
)  # fmt: skip
"""Entries that surely come; whether there is a gap depends on the machine."""
HANGS = 200.0
"""Seconds after which what is waited for will not come."""


async def _greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
    if line := await reader.readline():
        writer.write(b"* BYE\r\n" + line.split()[0] + b" OK\r\n")
    writer.close()


async def live(maker: Maker) -> None:
    """Probe two targets, one up and one refused: labels of metrics, shapes of answers and of entries."""
    home = maker.work / "live"
    home.mkdir()
    config = home / "config.yaml"
    async with contextlib.AsyncExitStack() as servers:
        clock, _ = await servers.enter_async_context(time_server())
        greeting = await servers.enter_async_context(await asyncio.start_server(_greet, "127.0.0.1", 0))
        deaf = servers.enter_context(socket.socket())
        deaf.bind(("127.0.0.1", 0))
        ports = {"up": greeting.sockets[0].getsockname()[1], "down": deaf.getsockname()[1]}
        settings: Row = {"vantage_point": {"name": "new"}, "data_dir": "data", "guard": "off"}
        settings["targets"] = [
            {"name": name, "kind": "imap", "host": "127.0.0.1", "port": port, "tls": "none"}
            for name, port in ports.items()
        ]
        settings |= {
            "clock": {"servers": [f"127.0.0.1:{clock}"]},
            "detection": {"open_after": 1, "close_after": 1},
        }
        # Where the machine was too busy for one probe, the next one counts.
        settings["defaults"] = {"interval": "5s", "timeout": "5s"}
        settings["maintenance"] = [
            {"name": "weekly", "cron": "0 3 * * 0", "duration": "1h", "timezone": "UTC", "targets": ["up"]},
            {"name": "once", "start": "2026-11-01T00:00", "end": "2026-11-01T01:00", "timezone": "UTC"},
        ]
        config.write_text(json.dumps(settings))
        displayed = await _run_through(config, "clock.survey", "observation.up", "outage.open")
        _, printed = await asyncio.to_thread(maker.run, "--config", config, "probe", "--json")
        config.write_text(json.dumps(settings | {"notify": [{"url": f"json://127.0.0.1:{ports['down']}/"}]}))
        notified = await asyncio.to_thread(maker.run, "--config", config, "notify", "test", "--json")
        config.write_text(json.dumps(settings))
        deaf.close()
        await servers.enter_async_context(await asyncio.start_server(_greet, "127.0.0.1", ports["down"]))
        await _run_through(config, "outage.closed")
    maker.json("metrics-labels.json", _labels(displayed))
    maker.json("cli/probe.json", [shape_of(one) for one in json.loads(printed)])
    maker.json("cli/notify-test.json", {"status": notified[0], "shape": shape_of(json.loads(notified[1]))})
    recorded = _entries(home / "data")
    maker.json("entries.json", {name: recorded[name] for name in RECORDED})


async def _run_through(config: Path, *wanted: str) -> str:
    """Run until such entries are on record; return /metrics of then."""
    async with started(config, probing=True) as app, asyncio.timeout(HANGS):
        displayed = ""
        while displayed.count("\nmailwatch_probe_success{") < 2 or not _entries(config.parent / "data").keys() >= {
            *wanted
        }:
            await asyncio.sleep(0.05)
            displayed = (await asked(app, True, "/metrics")).text
    return displayed


def _labels(exposition: str) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name.startswith(OF_TARGETS):
                labels[sample.name] = sorted({*labels.get(sample.name, ()), *sample.labels})
    return labels


def _entries(data_dir: Path) -> Row:
    """The shape of header and payload of each kind of entry, by its event, outcome or state."""
    shapes: Row = {}
    with contextlib.closing(sqlite3.connect(f"file:{data_dir}/mailwatch.sqlite?mode=ro", uri=True)) as raw:
        for kind, header, payload in raw.execute("SELECT kind, header, payload FROM entries ORDER BY idx"):
            reported = json.loads(payload)
            which = next((reported[key] for key in ("event", "outcome", "state") if key in reported), "")
            shapes.setdefault(
                f"{kind}.{which}", [shape_of(json.loads(header)), _settled_shape(shape_of(reported))]
            )
    return shapes


def _settled_shape(shape: Any) -> Any:
    """Leave out what depends on when the clock was compared, and in which phase a probe ended."""
    if isinstance(shape, list):
        return [_settled_shape(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    reported = {key: _settled_shape(value) for key, value in shape.items()}
    if "boot" in reported:
        reported.pop("bound", None)
    return reported | {
        key: sorted({*reported[key].values()}) for key in ("causes", "phases", "phases_us") if key in reported
    }
