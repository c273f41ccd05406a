"""Snapshots of the HTTP app over the stored ledger: JSON, CSV, feed, OpenAPI, metrics; and of tables and files."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import tarfile
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.contracts.app import PASSWORD, asked, started
from tests.contracts.commands import bare
from tests.contracts.maker import STORED, TIMES, Maker, Row, shape_of

MACHINE = frozenset({"version", "python"})
"""Labels of metrics whose values are not compared."""


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
    async with started(home / "config.yaml") as app:
        for who, owner in (("owner", True), ("anonymous", False)):
            await _api(maker, app, owner, who)
        openapi = (await asked(app, True, "/api/openapi.json")).json()
        maker.json("openapi.json", _paths(openapi))
        maker.json("openapi-shapes.json", _shapes(openapi))
        maker.json("metrics.json", _metrics((await asked(app, True, "/metrics")).text))
    _schema(maker, home)


async def _api(maker: Maker, app: Any, owner: bool, who: str) -> None:
    async def get(path: str) -> Any:
        answer = await asked(app, owner, path)
        kind = answer.headers.get("content-type", "")
        if answer.status_code == 200 and kind.startswith("application/json"):
            return answer.json()
        body = answer.json() if kind.startswith("application/json") else None
        shape = shape_of(body) if body is not None else None
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
        answer = await asked(app, owner, path)
        if answer.status_code == 200:
            output = answer.content.decode()
            maker.text(f"api/{who}/{name}", _without_words(output) if name.endswith("atom") else output)
            headers = {key: answer.headers.get(key) for key in ("content-type", "content-disposition")}
            maker.json(f"api/{who}/{name}.headers.json", headers)


def _without_words(atom: str) -> str:
    """Leave out the sentences of a feed, which may be worded anew."""
    return re.sub(r"(<(title|summary|content|subtitle)[^>]*>)[^<]*", r"\1...", atom)


async def _status(app: Any, owner: bool, path: str) -> Row:
    answer = await asked(app, owner, path)
    kind = answer.headers.get("content-type", "").partition(";")[0]
    reported: Row = {"status": answer.status_code, "type": kind}
    if kind == "application/json" and answer.status_code >= 400:
        reported["shape"] = shape_of(answer.json())
    return reported


def _paths(openapi: Row) -> Row:
    """What may be asked, with which parameters. Shapes of answers may be added."""

    def parameter(one: Row) -> Row:
        kept = {key: one.get(key, False) for key in ("name", "in", "required")}
        schema = {key: value for key, value in one["schema"].items() if key not in ("title", "description")}
        return kept | {"schema": schema}

    return {
        path: {
            method: sorted(map(parameter, reported.get("parameters", ())), key=lambda one: str(one["name"]))
            for method, reported in methods.items()
        }
        for path, methods in openapi["paths"].items()
    }


def _shapes(openapi: Row) -> Row:
    """What is answered, as JSON Schema: the keys of each answer and their types."""
    found = {}
    for path, methods in openapi["paths"].items():
        content = methods["get"]["responses"]["200"].get("content", {})
        if "application/json" in content:
            found[path] = bare(content["application/json"]["schema"], openapi["components"]["schemas"])
    return found


def _metrics(exposition: str) -> Row:
    """Name, type, and labels; no values. How help is worded is no contract, and Python's own are not ours."""
    collected = {}
    for family in text_string_to_metric_families(exposition):
        if family.name.startswith(("process_", "python_")):
            continue
        samples = {}
        for sample in family.samples:
            labels = {key: "..." if key in MACHINE else value for key, value in sample.labels.items()}
            samples[sample.name + json.dumps(labels, sort_keys=True)] = 1
        collected[family.name] = {"type": family.type, "samples": sorted(samples)}
    return collected


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
    async with started(home / "config.yaml"):
        pass
    inner = Maker.__new__(Maker)
    inner.out, inner.work = maker.out / "fresh", maker.work
    _schema(inner, home)
