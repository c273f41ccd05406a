"""mailwatch availability: bounds of each target's availability in a window of time."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence

from rich.table import Table

from mailwatch.analysis.public_json import AvailabilityJson, FiguresJson
from mailwatch.cli.common import add_options, open_config, open_reader, parse_window_options, stdout
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.targets import resolved_targets
from mailwatch.i18n import format_duration, percent_of
from mailwatch.store import queries

NO_DATA = "no data"


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    when = "2026-01, 2026-01-22 (local time) or 2026-01-22T21:55:00+01:00"
    verb.add_argument("--from", dest="start", required=True, metavar="TIME", help=when)
    verb.add_argument("--to", dest="end", required=True, metavar="TIME", help="end of the window, not included")
    verb.add_argument("--target", metavar="NAME", help="only this target")
    verb.add_argument(
        "--with-maintenance",
        action="store_true",
        help="count announced maintenance too, instead of leaving it out",
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    start, end = parse_window_options(args.start, args.end)
    config = open_config(args)
    try:
        with open_reader(config) as reader:
            # A target that is no longer watched still has its record.
            known = [section.name for section, _ in resolved_targets(config)]
            wanted = queries.select_targets(reader, args.target, known)
            answers = queries.availability(reader, wanted, start, end)
    except UnknownTargetError as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
    else:
        stdout().print(_table(answers, with_maintenance=args.with_maintenance))
    return 0


def _table(answers: Sequence[AvailabilityJson], *, with_maintenance: bool) -> Table:
    title = f"{answers[0]['from']} to {answers[0]['to']}"
    columns = ["target", "up, at least", "at most", "coverage", "down, at least", "at most", "mean time to repair"]
    excused = any("maintenance" in answer for answer in answers)
    table = Table(*columns, *(["maintenance"] if excused else []), title=title)
    if excused:
        how = "counted like other time" if with_maintenance else "left out (--with-maintenance counts it)"
        table.caption = f"announced maintenance is {how}"
    for answer in answers:
        counted: FiguresJson = answer.get("with_maintenance", answer) if with_maintenance else answer
        share, down = counted["availability"], counted["downtime"]
        bounds = [_percent(share["lower"]), _percent(share["upper"], up=True), _percent(counted["coverage"])]
        # Without observations the downtime is unknown, not zero.
        lasted = [NO_DATA] * 2
        if down["min"] is not None and down["max"] is not None:
            lasted = [format_duration(down["min"]), format_duration(down["max"], round_up=True)]
        lasted.append("" if counted["mttr"] is None else format_duration(counted["mttr"]))
        lasted += [format_duration(answer.get("maintenance", 0))] if excused else []
        table.add_row(answer["target"], *bounds, *lasted)
    return table


def _percent(share: float | None, *, up: bool = False) -> str:
    """Format a share, rounded down or `up` to a ten-thousandth of a per cent, so that neither bound overstates."""
    if share is None:
        return NO_DATA
    return f"{percent_of(share, 4, up=up)}%"
