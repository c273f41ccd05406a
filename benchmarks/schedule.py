"""Does the schedule hold: 10,000 targets a minute, the whole `mailwatch run`, against a light stand-in."""

from __future__ import annotations

import asyncio
import contextlib
import math
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.process import Monitor, cpu_seconds, peak_memory, quantile
from tests.servers import HOST, server_folder

TARGETS = 10_000
INTERVAL = 60.0
WARM_UP = 10.0
LAG = "mailwatch_schedule_lag_seconds_bucket"


def measure(seconds: float, targets: int = TARGETS) -> dict[str, Any]:
    """Run for `seconds` after a warm-up. One scrape of all metrics falls into the measured span."""
    with stand_in() as port, server_folder() as folder:
        monitor = Monitor(folder, [_target(number, port) for number in range(targets)], interval=INTERVAL)
        began = time.monotonic()
        with monitor.running():
            started = time.monotonic() - began
            time.sleep(WARM_UP)
            cpu, at = cpu_seconds(monitor.pid), time.monotonic()
            before = monitor.metrics(LAG, "mailwatch_observations_total")
            scrape = time.monotonic() - at
            time.sleep(max(0.0, seconds - scrape))
            cpu, span = cpu_seconds(monitor.pid) - cpu, time.monotonic() - at
            after = monitor.metrics(LAG, "mailwatch_observations_total", "mailwatch_gap_seconds_total")
            memory = peak_memory(monitor.pid)
    return _result(before, after, span) | {
        "targets": targets,
        "interval_seconds": INTERVAL,
        "start_seconds": round(started, 1),
        "scrape_seconds": round(scrape, 2),
        "cpu_share": round(cpu / span, 3),
        "peak_memory_mib": round(memory / 2**20, 1),
        "due": round(targets / INTERVAL * span),
    }


def _result(before: dict[str, float], after: dict[str, float], span: float) -> dict[str, Any]:
    lag: dict[float, float] = {}
    outcomes = {"up": 0, "down": 0, "unknown": 0}
    gaps = 0.0
    for sample, value in after.items():
        grown = value - before.get(sample, 0.0)
        if sample.startswith(LAG):
            lag[float(_label(sample, "le"))] = grown
        elif sample.startswith("mailwatch_observations_total"):
            outcomes[_label(sample, "outcome")] += round(grown)
        else:
            gaps += value
    return {
        "seconds": round(span, 1),
        "observations": outcomes,
        "lag_p50_seconds": _seconds(quantile(lag, 0.5)),
        "lag_p99_seconds": _seconds(quantile(lag, 0.99)),
        "lag_p999_seconds": _seconds(quantile(lag, 0.999)),
        "gap_seconds": round(gaps, 1),
    }


def _seconds(value: float | None) -> float | str | None:
    return "beyond the last bucket" if value == math.inf else None if value is None else round(value, 4)


def _label(sample: str, name: str) -> str:
    return sample.partition(f'{name}="')[2].partition('"')[0]


def _target(number: int, port: int) -> dict[str, Any]:
    return {"name": f"t{number:05}", "kind": "imap", "host": HOST, "port": port, "tls": "none"}


@contextlib.contextmanager
def stand_in() -> Iterator[int]:
    """A process that greets like an IMAP server and knows CAPABILITY and LOGOUT; yields its port."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(theirs,), daemon=True)
    process.start()
    try:
        if not ours.poll(30):
            raise RuntimeError("the stand-in does not start")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()
        ours.close()
        theirs.close()


def _serve(pipe: Connection) -> None:
    asyncio.run(_serve_forever(pipe))


async def _serve_forever(pipe: Connection) -> None:
    server = await asyncio.get_running_loop().create_server(_Session, HOST, 0, backlog=1000)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


class _Session(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")

    def data_received(self, data: bytes) -> None:
        for line in data.splitlines():
            tag, _, command = line.partition(b" ")
            match command.strip().upper():
                case b"CAPABILITY":
                    self._transport.write(b"* CAPABILITY IMAP4rev1\r\n" + tag + b" OK done\r\n")
                case b"LOGOUT":
                    self._transport.write(b"* BYE\r\n" + tag + b" OK done\r\n")
                    self._transport.close()
                case _:
                    self._transport.write(tag + b" BAD not known here\r\n")


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print the result as a table; return it."""
    table = Table(title=f"{result['targets']:,} targets, each every {result['interval_seconds']:g} s")
    table.add_column("measure")
    table.add_column("value", justify="right")
    for name, value in result.items():
        table.add_row(name, str(value))
    console.print(table)
    return result
