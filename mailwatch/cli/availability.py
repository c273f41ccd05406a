"""mailwatch availability: bounds of each target's availability in a window of time."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from mailwatch.analysis.public_json import AvailabilityJson, FiguresJson
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, parse_window_options, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines
from mailwatch.config import Config
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.targets import resolved_targets
from mailwatch.store import queries
from mailwatch.times import DAY_MS, Window, now

DEFAULT_DAYS = 30
"""Days of the window without --from."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    when = "2026-01, 2026-01-22 (local time) or 2026-01-22T21:55:00+01:00"
    verb.add_argument("--from", dest="start", metavar="TIME", help=f"{when}; default: 30 days before the end")
    verb.add_argument("--to", dest="end", metavar="TIME", help="end of the window, not included; default: now")
    verb.add_argument("--target", metavar="NAME", help="only this target")
    verb.add_argument(
        "--with-maintenance",
        action="store_true",
        help="count announced maintenance too, instead of leaving it out",
    )
    add_utc_option(verb)
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    start, end = _window(config, args)
    try:
        with open_reader(config) as reader:
            # A target that is no longer watched still has its record.
            known = [section.name for section, _ in resolved_targets(config)]
            wanted = queries.select_targets(reader, args.target, known)
            if args.target is None:
                # What was removed from the config was watched too.
                former = (name for name in reader.targets() if name not in known)
                wanted += [name for name in former if reader.between(name, start, end) != (0, 0)]
            answers = queries.availability(reader, wanted, start, end)
    except UnknownTargetError as error:
        print_error(f"mailwatch: {error}")
        return 2
    if args.json:
        print(json.dumps(answers, indent=2, ensure_ascii=False))
        return 0
    table = availability_table(answers, terminal_format(args, config), with_maintenance=args.with_maintenance)
    print_lines(stdout(), table)
    return 0


def _window(config: Config, args: argparse.Namespace) -> Window:
    """Return --from and --to; without an end now, without a start 30 days before the end."""
    if args.start is not None and args.end is not None:
        return parse_window_options(config, args.start, args.end)
    end = parse_time(config, args.end, "to")
    end = now() if end is None else end
    start = parse_time(config, args.start, "from")
    start = end - DEFAULT_DAYS * DAY_MS if start is None else start
    if end <= start:
        print_error(f"mailwatch: --from ({args.start}) lies in the future; add --to")
        raise SystemExit(2)
    return start, end


def availability_table(
    answers: Sequence[AvailabilityJson], form: TerminalFormat, *, with_maintenance: bool
) -> TextTable:
    """Return a table of bounds. No bound overstates, and no data is no data."""
    columns = (
        Column(header="target", shrinks=True),
        Column(header="up", right=True),
        Column(header="observed", right=True),
        Column(header="down, at least", below=True),
        Column(header="at most", below=True, label="down, at most"),
        Column(header="mean time to repair", below=True),
        Column(header="maintenance", below=True),
        Column(header="paused", below=True),
    )
    table = TextTable(columns, _note(answers, form, with_maintenance=with_maintenance))
    for answer in answers:
        counted: FiguresJson = answer.get("with_maintenance", answer) if with_maintenance else answer
        share, down, repair = counted["availability"], counted["downtime"], counted["mttr"]
        coverage = counted["coverage"]
        observed = tr("no data") if coverage is None or share["lower"] is None else form.share(coverage)
        # Without observations the downtime is unknown, not zero.
        lasted = [tr("no data")] * 2
        if down["min"] is not None and down["max"] is not None:
            lasted = [form.duration(_millis(down["min"])), form.duration(_millis(down["max"]), up=True)]
        excused = form.duration(_millis(answer.get("maintenance", 0))) if "maintenance" in answer else ""
        paused = form.duration(_millis(answer["paused"])) if "paused" in answer else ""
        mean = "" if repair is None else form.duration(_millis(repair))
        table.add_row(
            answer["target"], form.bounds(share["lower"], share["upper"]), observed, *lasted, mean, excused, paused
        )
    return table


def _note(answers: Sequence[AvailabilityJson], form: TerminalFormat, *, with_maintenance: bool) -> str:
    """Return the window, its zone, and what became of announced maintenance."""
    window = {"start": form.second_of(answers[0]["from"]), "end": form.second_of(answers[0]["to"])}
    note = tr("From {start} to {end} ({zone})", zone=form.zone.key, **window)
    for pruned in [answer["pruned"] for answer in answers if "pruned" in answer][:1]:
        what = "the observations before {at} were pruned by `retention.keep`, as entry {entry} announced"
        note += f"; {tr(what, at=form.second_of(pruned['before']), entry=pruned['entry'])}"
    if not any("maintenance" in answer for answer in answers):
        return note
    if with_maintenance:
        return f"{note}; {tr('announced maintenance is counted like other time')}"
    return f"{note}; {tr('announced maintenance is left out (--with-maintenance counts it)')}"


def _millis(seconds: float) -> int:
    return round(seconds * 1000)
