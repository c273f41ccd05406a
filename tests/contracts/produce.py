"""Makes the snapshots: python -m tests.contracts.produce FOLDER. A process of its own: it sets clock and version.

It drives the command line by `mailwatch.__main__.main` and the HTTP app by ASGI. `_started` alone knows how the
parts of MailWatch are put together.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import json
import os
import re
import socket
import sqlite3
import sys
import tarfile
import time
import zipfile
import zlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx
from prometheus_client.parser import text_string_to_metric_families

import mailwatch
from tests.contracts.snapshots import EXPECTED, difference
from tests.helpers.time_server import time_server

TESTDATA = Path(__file__).parents[1] / "testdata"
STORED = TESTDATA / "contracts"
OLD = TESTDATA / "old"
VERSION = "0.1.0"
"""As which the snapshots are made: it stands in each statement, and so in what is signed."""
PASSWORD = "contracts-only"
HOUR_MS = 3_600_000
TIMES = json.loads((STORED / "times.json").read_bytes())
NOW_MS: int = TIMES["written"] + HOUR_MS
OF_TARGETS = tuple(
    f"mailwatch_{name}" for name in ("probe_", "target_", "observations_", "outage", "gap_", "maintenance_")
)
"""Metrics that are there as soon as a target was probed; when others come depends on the machine."""
HANGS = 200.0
"""Seconds after which what is waited for will not come."""
MACHINE = frozenset({"version", "python"})
"""Labels of metrics whose values are not compared."""
Row = dict[str, Any]


class Maker:
    """Makes the snapshots in `out`, with the stored installations unpacked in `work`."""

    def __init__(self, out: Path, work: Path) -> None:
        self.out, self.work = out, work
        for name in ("home", "away"):
            with tarfile.open(STORED / f"{name}.tar.xz") as tar:
                tar.extractall(work / name, filter="data")

    def text(self, name: str, content: str) -> None:
        """Write a snapshot."""
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")

    def json(self, name: str, value: Any) -> None:
        """Write a snapshot as JSON; the order of keys is no contract."""
        self.text(name, json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n")

    def run(self, *words: object) -> tuple[int, str]:
        """Run a command; return its exit status and what it printed."""
        from mailwatch.__main__ import main

        printed = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        with patch.object(sys, "argv", ["mailwatch", *map(str, words)]), contextlib.redirect_stdout(printed):
            try:
                status = main()
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(error.code is not None)
            printed.flush()
        printed.seek(0)
        return status, printed.read()

    def asked(self, *words: object, config: str = "home") -> Any:
        """Run a command that must end with 0; return what it printed as JSON."""
        status, printed = self.run("--config", self.work / config / "config.yaml", *words, "--json")
        assert status == 0, (words, status, printed)
        return json.loads(printed)


# --- the command line ---


def commands(maker: Maker) -> None:
    """What the verbs print as JSON, from the stored ledger."""
    window = ("--from", TIMES["start_rfc3339"], "--to", TIMES["end_rfc3339"])
    outages = maker.asked("outages")
    maker.json("cli/outages.json", outages)
    maker.json("cli/outages-show.json", [maker.asked("outages", "show", one["id"]) for one in outages])
    incidents = maker.asked("incidents")
    maker.json("cli/incidents.json", incidents)
    maker.json("cli/incidents-show.json", [maker.asked("incidents", "show", one["id"]) for one in incidents])
    maker.json("cli/offline.json", maker.asked("offline"))
    maker.json("cli/availability.json", maker.asked("availability", *window))
    for name in ("home", "away"):
        maker.json(f"cli/ledger-audit-{name}.json", maker.asked("ledger", "audit", config=name))
    maker.json("cli/providers.json", maker.asked("providers", "libero"))
    maker.json("cli/config-show.json", _relative(maker.asked("config", "show"), maker.work))
    maker.json("cli/config-check.json", sorted(maker.asked("config", "check")))
    _, printed = maker.run("config", "schema")
    schema = json.loads(printed)
    maker.json("config-schema.json", _bare(schema, schema.get("$defs", {})))


def bundles(maker: Maker) -> None:
    """Evidence, made again from the stored ledger, and what `verify` says of it and of all older bundles."""
    made = maker.out / "bundles"
    maker.text("bundles/zlib", zlib.ZLIB_RUNTIME_VERSION + "\n")
    trust = ("--trust", STORED / "authority.pem")
    outages = {one["id"]: one for one in maker.asked("outages")}
    oldest = list(outages)[-1]
    proven = next(key for key, one in outages.items() if one.get("proven_afterwards"))
    away = maker.asked("outages", config="away")[-1]["id"]
    window = ("--from", "2026-11-29T11:00:00Z", "--to", "2026-11-29T22:00:00Z")

    def write(name: str, *words: object, config: str = "home") -> None:
        status, printed = maker.run("--config", maker.work / config / "config.yaml", *words, "-o", made / name)
        assert status == 0, (words, status, printed)

    write("outage.zip", "report", oldest, "--lang", "en")
    write("proven.zip", "report", proven, "--lang", "it")
    write("away.zip", "report", away, "--lang", "it", config="away")
    write("period.zip", "report", *window, "--lang", "it")
    write("target.zip", "report", *window, "--target", "anna-second", "--lang", "en")
    write("letter.pdf", "claim", oldest, "--lang", "it")
    write("letter-en.pdf", "claim", oldest, "--lang", "en", "--formal")
    members = [_member(made / f"{name}.zip") for name in ("outage", "away")]
    status, printed = maker.run("merge", *members, "-o", made / "joint.zip", *trust)
    assert status == 0, printed

    claims = {}
    for path in sorted(made.glob("*.zip")):
        told = [word for member in members for word in ("--member", member)] if path.stem == "joint" else []
        claims[f"now/{path.stem}"] = _claims(maker.run("verify", path, *trust, *told, "--json"))
    for path in sorted(OLD.glob("*.zip")):
        told = [word for member in ("a-en", "a-away") for word in ("--member", OLD / f"{member}.zip")]
        more = told if path.stem == "a-joint" else []
        authority = OLD / f"{'b-stamped' if path.stem.startswith('b-stamped') else 'a'}-authority.pem"
        claims[f"656f141/{path.stem}"] = _claims(maker.run("verify", path, "--trust", authority, *more, "--json"))
    maker.json("verify.json", claims)
    for path in made.glob("*.docx"):
        _keep_text(path)


def _member(made: Path) -> Path:
    """Take the stored bundle where it holds the same: a joint report names the SHA-256, and zlibs differ."""
    stored = EXPECTED / "bundles" / made.name
    return made if difference(stored, made) else stored


def _claims(ended: tuple[int, str]) -> Row:
    status, printed = ended
    told = json.loads(printed)
    # A member is named by its SHA-256.
    claims = [[re.sub("[0-9a-f]{12}", "...", one["claim"]), one["valid"]] for one in told.pop("claims")]
    return {"status": status, "claims": claims, "keys": sorted(told)}


def _keep_text(path: Path) -> None:
    """Of a .docx the text counts; the rest is the library's, with the time of day."""
    with zipfile.ZipFile(path) as packed:
        text = packed.read("word/document.xml")
    path.with_suffix(".docx.xml").write_bytes(text.replace(b"><", b">\n<"))
    path.unlink()


def _relative(value: Any, folder: Path) -> Any:
    return json.loads(json.dumps(value).replace(str(folder.resolve()), "FOLDER"))


def _bare(schema: Any, definitions: Row) -> Any:
    """Leave out of a JSON Schema sentences and names of our classes: what is referred to stands in place."""
    if isinstance(schema, list):
        return [_bare(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return _bare({**definitions[schema["$ref"].rpartition("/")[2]], **rest}, definitions)
    told = {}
    for key, value in schema.items():
        if key == "properties":
            told[key] = {name: _bare(one, definitions) for name, one in value.items()}
        elif key not in ("title", "description", "$defs"):
            told[key] = value if key == "default" else _bare(value, definitions)
    return told


class _Parsed(Exception):
    """The parser was made; what it would do is not done."""


def options(maker: Maker) -> None:
    """Each verb with its arguments: names, how many, choices, defaults. How help is worded is no contract."""

    def parser_of(*words: str) -> argparse.ArgumentParser:
        caught: list[argparse.ArgumentParser] = []

        def parse(self: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
            caught.append(self)
            raise _Parsed

        from mailwatch import cli

        with patch.object(argparse.ArgumentParser, "parse_args", parse), contextlib.suppress(_Parsed):
            cli.parse(words)
        return caught[0]

    root = parser_of()
    verbs = next(action for action in root._actions if isinstance(action, argparse._SubParsersAction)).choices
    described = {name: _described(parser_of(name), name) for name in verbs}
    maker.json("options.json", {"mailwatch": _arguments(root), **described})


def _described(root: argparse.ArgumentParser, name: str) -> Row:
    chosen = next(action for action in root._actions if isinstance(action, argparse._SubParsersAction))
    return _verb(chosen.choices[name])


def _verb(parser: argparse.ArgumentParser) -> Row:
    told: Row = {"arguments": _arguments(parser)}
    for group in parser._mutually_exclusive_groups:
        names = sorted("/".join(action.option_strings) or action.dest for action in group._group_actions)
        told.setdefault("one_of", []).append({"of": names, "required": group.required})
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            told["verbs"] = {name: _verb(one) for name, one in action.choices.items()}
    return told


def _arguments(parser: argparse.ArgumentParser) -> list[Row]:
    rows = []
    # The order of options is no contract, that of the others is.
    for action in sorted(parser._actions, key=lambda action: list(action.option_strings)):
        sub = isinstance(action, argparse._SubParsersAction)
        choices = list(action.choices) if action.choices is not None else None
        default = action.default if isinstance(action.default, str | int | float | None) else str(action.default)
        metavar = list(action.metavar) if isinstance(action.metavar, tuple) else action.metavar
        rows.append(
            {
                "names": list(action.option_strings) or ["COMMAND" if sub else str(action.metavar or action.dest)],
                "nargs": action.nargs,
                "choices": choices,
                "default": None if default == argparse.SUPPRESS else default,
                "const": action.const if isinstance(action.const, bool | str | int) else None,
                "metavar": metavar,
                "required": action.required,
                "repeatable": type(action).__name__ == "_AppendAction",
            }
        )
    return rows


EXITS: tuple[tuple[str, ...], ...] = (
    (),
    ("--version",),
    ("no-such-verb",),
    *((verb, "--no-such-option") for verb in (
        "run", "health", "demo", "init", "login", "probe", "outages", "incidents", "offline", "availability",
        "report", "claim", "verify", "merge", "ledger", "backup", "config", "notify", "providers",
    )),
    ("outages",),
    ("outages", "--bogus"),
    ("outages", "show", "ffffffffffff"),
    ("outages", "show"),
    ("incidents", "show", "ffffffffffff"),
    ("availability",),
    ("availability", "--from", "yesterday", "--to", "2026-11-30"),
    ("availability", "--from", "2026-11-30", "--to", "2026-11-29"),
    ("availability", "--from", "2026-11-29", "--to", "2026-11-30", "--target", "nothing"),
    ("report", "-o", "FOLDER/x.zip"),
    ("report", "ffffffffffff", "-o", "FOLDER/x.zip"),
    ("report", "ffffffffffff", "-o", "FOLDER/none/x.zip"),
    ("report", "--from", "2026-11-29", "--to", "2026-11-30", "--target", "nothing", "-o", "FOLDER/x.zip"),
    ("claim", "ffffffffffff", "-o", "FOLDER/x"),
    ("claim", "ffffffffffff"),
    ("claim", "log", "ffffffffffff"),
    ("claim", "log", "ffffffffffff", "--sent", "2026-11-29"),
    ("verify", "FOLDER/none.zip"),
    ("verify", "FOLDER/home/config.yaml"),
    ("merge", "FOLDER/none.zip", "-o", "FOLDER/x.zip"),
    ("merge", "FOLDER/home/config.yaml", "-o", "FOLDER/x.zip"),
    ("ledger",),
    ("backup",),
    ("config",),
    ("config", "check"),
    ("config", "show", "extra"),
    ("notify",),
    ("probe", "nothing"),
    ("login", "nothing"),
    ("health",),
    ("providers", "extra"),
)  # fmt: skip


def exits(maker: Maker) -> None:
    """Exit statuses, over the installation and without any config."""
    told = {}
    for words in EXITS:
        real = [word.replace("FOLDER", str(maker.work)) for word in words]
        there = ["--config", str(maker.work / "home" / "config.yaml")]
        absent = ["--config", str(maker.work / "none.yaml")]
        status = [maker.run(*where, *real)[0] for where in (there, absent)]
        told[" ".join(words)] = {"here": status[0], "no config": status[1]}
    maker.json("exits.json", told)


# --- the app ---


@contextlib.asynccontextmanager
async def _started(config: Path, *, probing: bool = False) -> AsyncIterator[Any]:
    """The HTTP app of an installation, started as `mailwatch run` starts it; nothing is probed unless wanted."""
    from prometheus_client import CollectorRegistry

    from mailwatch.config import load
    from mailwatch.metrics import Metrics
    from mailwatch.monitor.startup import Startup

    async with contextlib.AsyncExitStack() as undo:
        service, app = await Startup(config, load(config), Metrics(CollectorRegistry()), undo).run()
        if probing:
            await undo.enter_async_context(service.running(lambda: None))
        yield app


async def _asked(app: Any, owner: bool, path: str) -> httpx.Response:
    # A defect is a 500 in the snapshot, not the end of all of them.
    transport = httpx.ASGITransport(app=app, client=("127.0.0.1", 40_000), raise_app_exceptions=False)
    auth = httpx.BasicAuth("mailwatch", PASSWORD) if owner else None
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8080", auth=auth) as client:
        return await client.get(path)


async def web(maker: Maker) -> None:
    """Each answer of the API, to the owner and to an anonymous visitor of a public installation."""
    home = maker.work / "web"
    with tarfile.open(STORED / "home.tar.xz") as tar:
        tar.extractall(home, filter="data")
    settings = json.loads((home / "config.yaml").read_text())
    (home / "web-password").write_text(PASSWORD + "\n")
    (home / "web-password").chmod(0o600)
    settings["web"] |= {"public": True, "password_file": "web-password"}
    (home / "config.yaml").write_text(json.dumps(settings))
    async with _started(home / "config.yaml") as app:
        for who, owner in (("owner", True), ("anonymous", False)):
            await _api(maker, app, owner, who)
        openapi = (await _asked(app, True, "/api/openapi.json")).json()
        maker.json("openapi.json", _paths(openapi))
        maker.json("metrics.json", _metrics((await _asked(app, True, "/metrics")).text))
    _schema(maker, home)


async def _api(maker: Maker, app: Any, owner: bool, who: str) -> None:
    async def get(path: str) -> Any:
        answer = await _asked(app, owner, path)
        kind = answer.headers.get("content-type", "")
        if answer.status_code == 200 and kind.startswith("application/json"):
            return answer.json()
        body = answer.json() if kind.startswith("application/json") else None
        shape = _shape(body) if body is not None else None
        return {"status": answer.status_code, "type": kind.partition(";")[0], "shape": shape}

    window = f"from={TIMES['start_rfc3339']}&to={TIMES['end_rfc3339']}"
    outages, incidents = await get("/api/v1/outages"), await get("/api/v1/incidents")
    assert outages, who
    assert incidents, who
    one, incident = outages[-1]["id"], incidents[-1]["id"]
    paths = {
        "targets": "targets",
        "outages": "outages",
        "outages-open": "outages?open=true",
        "outages-of-window": f"outages?{window}",
        "outage": f"outages/{one}",
        "incidents": "incidents",
        "incidents-open": "incidents?open=true",
        "incident": f"incidents/{incident}",
        "observations": "observations?limit=2",
        "observations-down": "observations?limit=2&outcome=down&target=anna-imap",
        "observations-unknown": "observations?limit=1&outcome=unknown&target=anna-imap",
        "observations-before": "observations?limit=1&before=100",
        "offline": "offline",
        "availability": f"availability?{window}",
        "availability-of-target": f"availability?{window}&target=anna-second",
    }
    for name, path in paths.items():
        maker.json(f"api/{who}/{name}.json", await get(f"/api/v1/{path}"))
    wrong = [
        "/api/v1/outages/none", "/api/v1/outages/ffffffffffff/evidence.zip", "/api/v1/incidents/none",
        "/api/v1/outages?target=none", "/api/v1/outages?from=never", "/api/v1/outages?bogus=1",
        "/api/v1/observations?limit=0", "/api/v1/availability", "/api/v1/none", "/none", "/metrics",
        "/api/openapi.json", "/healthz", "/readyz", "/", "/outages",
        "/incidents", "/observations", "/ledger", "/about", "/api/docs", "/login",
    ]  # fmt: skip
    maker.json(f"api/{who}/statuses.json", {path: await _status(app, owner, path) for path in wrong})
    for name, path in (
        ("outages.csv", "/api/v1/outages.csv"), ("observations.csv", "/api/v1/observations.csv?limit=3"),
        ("outages.atom", "/outages.atom"),
    ):  # fmt: skip
        answer = await _asked(app, owner, path)
        if answer.status_code == 200:
            shown = answer.content.decode()
            maker.text(f"api/{who}/{name}", _without_words(shown) if name.endswith("atom") else shown)
            headers = {key: answer.headers.get(key) for key in ("content-type", "content-disposition")}
            maker.json(f"api/{who}/{name}.headers.json", headers)


def _without_words(atom: str) -> str:
    """Leave out the sentences of a feed, which may be worded anew."""
    return re.sub(r"(<(title|summary|content|subtitle)[^>]*>)[^<]*", r"\1...", atom)


async def _status(app: Any, owner: bool, path: str) -> Row:
    answer = await _asked(app, owner, path)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    told: Row = {"status": answer.status_code, "type": kind}
    if kind == "application/json" and answer.status_code >= 400:
        told["shape"] = _shape(answer.json())
    return told


def _shape(value: Any) -> Any:
    """Keys and types without the values."""
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shape(value[0])] if value else []
    return type(value).__name__


def _paths(openapi: Row) -> Row:
    """What may be asked, with which parameters. Shapes of answers may be added."""

    def parameter(one: Row) -> Row:
        kept = {key: one.get(key, False) for key in ("name", "in", "required")}
        schema = {key: value for key, value in one["schema"].items() if key not in ("title", "description")}
        return kept | {"schema": schema}

    return {
        path: {
            method: sorted(map(parameter, told.get("parameters", ())), key=lambda one: str(one["name"]))
            for method, told in methods.items()
        }
        for path, methods in openapi["paths"].items()
    }


def _metrics(exposition: str) -> Row:
    """Name, type, help, and each sample's labels; no values. What Python tells of itself is not ours."""
    told = {}
    for family in text_string_to_metric_families(exposition):
        if family.name.startswith(("process_", "python_")):
            continue
        samples = {}
        for sample in family.samples:
            labels = {key: "..." if key in MACHINE else value for key, value in sample.labels.items()}
            samples[sample.name + json.dumps(labels, sort_keys=True)] = 1
        told[family.name] = {"type": family.type, "help": family.documentation, "samples": sorted(samples)}
    return told


# --- files ---


def _schema(maker: Maker, home: Path) -> None:
    """The tables of a database that today's program has opened, and the files beside it."""
    with contextlib.closing(sqlite3.connect(home / "data" / "mailwatch.sqlite")) as raw:
        rows = raw.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name").fetchall()
        version = raw.execute("SELECT * FROM alembic_version").fetchall()
        facts = ("journal_mode", "application_id", "user_version")
        pragma = {key: raw.execute(f"PRAGMA {key}").fetchone()[0] for key in facts}
    tables = [[kind, name, table, " ".join((sql or "").split())] for kind, name, table, sql in rows]
    maker.json("database.json", {"schema": tables, "revision": version, "pragma": pragma})
    files = {}
    for path in sorted((home / "data").rglob("*")):
        name = re.sub(r"[0-9a-f]{64}", "SHA256", str(path.relative_to(home / "data")))
        files[name] = f"{path.stat().st_mode & 0o777:o}"
    maker.json("data-dir.json", files)


async def fresh(maker: Maker) -> None:
    """A data_dir that the program makes itself."""
    home = maker.work / "fresh"
    home.mkdir()
    target = {"name": "mail", "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none"}
    settings: Row = {
        "vantage_point": {"name": "new"},
        "data_dir": "data",
        "guard": "off",
        "clock": {"servers": []},
    }
    settings["targets"] = [target]
    (home / "config.yaml").write_text(json.dumps(settings))
    async with _started(home / "config.yaml"):
        pass
    inner = Maker.__new__(Maker)
    inner.out, inner.work = maker.out / "fresh", maker.work
    _schema(inner, home)


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
        shown = await _lived(config, "clock.survey", "observation.up", "outage.open")
        _, printed = await asyncio.to_thread(maker.run, "--config", config, "probe", "--json")
        config.write_text(json.dumps(settings | {"notify": [{"url": f"json://127.0.0.1:{ports['down']}/"}]}))
        notified = await asyncio.to_thread(maker.run, "--config", config, "notify", "test", "--json")
        config.write_text(json.dumps(settings))
        deaf.close()
        await servers.enter_async_context(await asyncio.start_server(_greet, "127.0.0.1", ports["down"]))
        await _lived(config, "outage.closed")
    maker.json("metrics-labels.json", _labels(shown))
    maker.json("cli/probe.json", [_shape(one) for one in json.loads(printed)])
    maker.json("cli/notify-test.json", {"status": notified[0], "shape": _shape(json.loads(notified[1]))})
    maker.json("entries.json", _entries(home / "data"))


async def _lived(config: Path, *wanted: str) -> str:
    """Run until such entries are on record; return /metrics of then."""
    async with _started(config, probing=True) as app, asyncio.timeout(HANGS):
        shown = ""
        while shown.count("\nmailwatch_probe_success{") < 2 or not _entries(config.parent / "data").keys() >= {
            *wanted
        }:
            await asyncio.sleep(0.05)
            shown = (await _asked(app, True, "/metrics")).text
    return shown


def _labels(exposition: str) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            if sample.name.startswith(OF_TARGETS):
                labels[sample.name] = sorted({*labels.get(sample.name, ()), *sample.labels})
    return labels


def _entries(data_dir: Path) -> Row:
    """The shape of header and payload of each kind of entry, by its event, outcome or state."""
    shapes = {}
    with contextlib.closing(sqlite3.connect(f"file:{data_dir}/mailwatch.sqlite?mode=ro", uri=True)) as raw:
        for kind, header, payload in raw.execute("SELECT kind, header, payload FROM entries ORDER BY idx"):
            told = json.loads(payload)
            which = next((told[key] for key in ("event", "outcome", "state") if key in told), "")
            shapes.setdefault(f"{kind}.{which}", [_shape(json.loads(header)), _settled_shape(_shape(told))])
    return shapes


def _settled_shape(shape: Any) -> Any:
    """Leave out what depends on when the clock was compared, and in which phase a probe ended."""
    if isinstance(shape, list):
        return [_settled_shape(one) for one in shape]
    if not isinstance(shape, dict):
        return shape
    told = {key: _settled_shape(value) for key, value in shape.items()}
    if "boot" in told:
        told.pop("bound", None)
    return told | {key: sorted({*told[key].values()}) for key in ("causes", "phases", "phases_us") if key in told}


def make(out: Path, work: Path) -> Maker:
    """Make all snapshots that need no probe."""
    maker = Maker(out, work)
    for step in (commands, bundles, options, exits, kept):
        step(maker)
    asyncio.run(web(maker))
    asyncio.run(fresh(maker))
    return maker


def kept(maker: Maker) -> None:
    """What verbs write into a data_dir or beside it: the log of claims, a backup; and messages set aside."""
    home = maker.work / "kept"
    with tarfile.open(STORED / "home.tar.xz") as tar:
        tar.extractall(home, filter="data")
    config = ("--config", home / "config.yaml")
    oldest = maker.asked("outages", config="kept")[-1]["id"]
    words = ("--sent", "2026-11-29", "--by", "PEC", "--to", "pec@example.it", "--ticket", "7", "--answer", "none")
    status, _ = maker.run(*config, "claim", "log", oldest, *words)
    assert status == 0
    maker.text("claims-sent.jsonl", (home / "data" / "claims" / "sent.jsonl").read_text())
    made = maker.asked("backup", home / "backup.tar.gz", config="kept")
    with tarfile.open(home / "backup.tar.gz") as backup:
        members = {one.name: f"{one.mode:o}" for one in backup if not one.name.endswith(".tsr")}
    maker.json("backup.json", {"shape": _shape(made), "members": members})
    row = ("json-1", "open contract", "open", TIMES["end"], TIMES["end"], "{}", TIMES["end"] + 1000, "refused")
    with contextlib.closing(sqlite3.connect(home / "data" / "mailwatch.sqlite")) as raw:
        columns = "channel, key, event, time_ms, put_ms, payload, done_ms, outcome"
        raw.execute(f"INSERT INTO outbox ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        raw.commit()
    maker.json("cli/notify-list.json", maker.asked("notify", "list", config="kept"))


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """At the stored time, in Rome, as the version of the snapshots."""
    mailwatch.__version__ = VERSION
    nanoseconds = patch.object(time, "time_ns", lambda: NOW_MS * 1_000_000)
    with nanoseconds, patch.object(time, "time", lambda: NOW_MS / 1000):
        yield


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    os.umask(0o077)
    with TemporaryDirectory() as folder:
        with _settled():
            maker = make(Path(sys.argv[1]), Path(folder))
        # By the true clock: what is probed takes time.
        asyncio.run(live(maker))
