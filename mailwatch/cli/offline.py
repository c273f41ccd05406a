"""mailwatch offline: when our own line was down, newest first."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.table import Table

from mailwatch.analysis.public_json import OfflineJson
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, stdout
from mailwatch.cli.outages import format_millis
from mailwatch.store import queries


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    start, end = parse_time(args.start, "from"), parse_time(args.end, "to")
    with open_reader(open_config(args)) as reader:
        found = queries.offline(reader, start=start, end=end)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    elif found:
        stdout().print(_table(found))
    else:
        print("no time offline on record", file=sys.stderr)
    return 0


def _table(found: Sequence[OfflineJson]) -> Table:
    table = Table(
        "part", "first found offline", "first found online again", "at least", "at most", "control servers"
    )
    for period in found:
        lasted = period["duration"]
        table.add_row(
            period["part"],
            period["first_offline"],
            period["first_online"] or "[bold red]still offline[/]",
            _format_duration(lasted["min"]),
            _format_duration(lasted["max"], up=True) if period["first_online"] else "",
            ", ".join(period["reasons"]),
        )
    return table


def _format_duration(seconds: float | None, *, up: bool = False) -> str:
    return format_millis(None if seconds is None else round(seconds * 1000), up=up)
