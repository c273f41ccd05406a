"""Snapshots of the command line: options, exit statuses, what is printed as JSON, what is written to files."""

from __future__ import annotations

import argparse
import contextlib
import json
import sqlite3
import tarfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.contracts.maker import STORED, TIMES, Maker, Row, shape_of


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
    maker.json("config-schema.json", bare(schema, schema.get("$defs", {})))


def _relative(value: Any, folder: Path) -> Any:
    return json.loads(json.dumps(value).replace(str(folder.resolve()), "FOLDER"))


def bare(schema: Any, definitions: Row) -> Any:
    """Leave out of a JSON Schema sentences and names of our classes: what is referred to stands in place."""
    if isinstance(schema, list):
        return [bare(one, definitions) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        rest = {key: value for key, value in schema.items() if key != "$ref"}
        return bare({**definitions[schema["$ref"].rpartition("/")[2]], **rest}, definitions)
    collected = {}
    for key, value in schema.items():
        if key == "properties":
            collected[key] = {name: bare(one, definitions) for name, one in value.items()}
        elif key not in ("title", "description", "$defs"):
            collected[key] = value if key == "default" else bare(value, definitions)
    return collected


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
    reported: Row = {"arguments": _arguments(parser)}
    for group in parser._mutually_exclusive_groups:
        names = sorted("/".join(action.option_strings) or action.dest for action in group._group_actions)
        reported.setdefault("one_of", []).append({"of": names, "required": group.required})
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            reported["verbs"] = {name: _verb(one) for name, one in action.choices.items()}
    return reported


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
        "nodes", "report", "claim", "verify", "merge", "ledger", "backup", "config", "notify", "providers",
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
    collected = {}
    for words in EXITS:
        real = [word.replace("FOLDER", str(maker.work)) for word in words]
        there = ["--config", str(maker.work / "home" / "config.yaml")]
        absent = ["--config", str(maker.work / "none.yaml")]
        status = [maker.run(*where, *real)[0] for where in (there, absent)]
        collected[" ".join(words)] = {"here": status[0], "no config": status[1]}
    maker.json("exits.json", collected)


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
    maker.json("backup.json", {"shape": shape_of(made), "members": members})
    row = ("json-1", "open contract", "open", TIMES["end"], TIMES["end"], "{}", TIMES["end"] + 1000, "refused")
    with contextlib.closing(sqlite3.connect(home / "data" / "mailwatch.sqlite")) as raw:
        columns = "channel, key, event, time_ms, put_ms, payload, done_ms, outcome"
        raw.execute(f"INSERT INTO outbox ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        raw.commit()
    maker.json("cli/notify-list.json", maker.asked("notify", "list", config="kept"))
