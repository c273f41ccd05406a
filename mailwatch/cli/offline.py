"""mailwatch offline: when our own line was down, newest first."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich.text import Text

from mailwatch.analysis.public_json import OfflineJson
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines
from mailwatch.store import queries


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    add_utc_option(verb)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    start, end = parse_time(config, args.start, "from"), parse_time(config, args.end, "to")
    with open_reader(config) as reader:
        found = queries.offline(reader, start=start, end=end)
    if args.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    form = terminal_format(args, config)
    if found:
        print_lines(stdout(), _table(found, form))
    else:
        print_error("no time offline on record")
    return 0


def _table(found: Sequence[OfflineJson], form: TerminalFormat) -> TextTable:
    columns = (
        Column(header="part"),
        Column(header="offline from"),
        Column(header="online again"),
        Column(header="at least"),
        Column(header="at most"),
        Column(header="control servers", below=True, label=""),
    )
    table = TextTable(columns, form.zone_note())
    for period in found:
        lasted, over = period["duration"], period["first_online"]
        table.add_row(
            tr(period["part"]),
            form.second_of(period["first_offline"]),
            form.second_of(over) if over else Text(tr("still offline"), "bold red"),
            form.duration(_millis(lasted["min"])),
            form.duration(_millis(lasted["max"]), up=True) if over else "",
            ", ".join(tr(reason) for reason in period["reasons"]),
        )
    return table


def _millis(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1000)
