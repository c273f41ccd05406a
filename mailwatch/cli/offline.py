"""mailwatch offline: when our own line was down, newest first."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.table import Table

from mailwatch.cli.common import moment, open_config, open_reader, options, stdout
from mailwatch.cli.outages import span
from mailwatch.store import queries


def add(verb: argparse.ArgumentParser) -> None:
    """Say what the verb takes."""
    options(verb)
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    start, end = moment(args.start, "from"), moment(args.end, "to")
    with open_reader(open_config(args)) as reader:
        found = queries.offline(reader, start=start, end=end)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif found:
        stdout().print(_table(found))
    else:
        print("no time offline on record", file=sys.stderr)
    return 0


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table(
        "part", "first found offline", "first found online again", "at least", "at most", "control servers"
    )
    for told in found:
        lasted = told["duration"]
        table.add_row(
            told["part"],
            told["first_offline"],
            told["first_online"] or "[bold red]still offline[/]",
            _span(lasted["min"]),
            _span(lasted["max"], up=True) if told["first_online"] else "",
            ", ".join(told["reasons"]),
        )
    return table


def _span(seconds: float | None, *, up: bool = False) -> str:
    return span(None if seconds is None else round(seconds * 1000), up=up)
