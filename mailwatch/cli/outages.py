"""mailwatch outages: the outages on record, newest first, or one in full."""

from __future__ import annotations

import argparse
import json
import sys

from rich.table import Table

from mailwatch import i18n
from mailwatch.analysis.outage import ClockFacts
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import public_outage_json
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, stdout
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.targets import resolved_targets
from mailwatch.model import TargetSettings
from mailwatch.store import queries
from mailwatch.times import rfc3339


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--open", action="store_true", help="only ongoing outages")
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    verb.add_argument("--target", metavar="NAME", help="only outages of this target")
    verb.add_argument("words", nargs="*", metavar="show ID", help="show one outage in full")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.words and (len(args.words) != 2 or args.words[0] != "show"):
        print("mailwatch: write `mailwatch outages`, or `mailwatch outages show ID`", file=sys.stderr)
        return 2
    start, end = parse_time(args.start, "from"), parse_time(args.end, "to")
    config = open_config(args)
    try:
        with open_reader(config) as reader:
            known = [section.name for section, _ in resolved_targets(config)]
            wanted = queries.select_targets(reader, args.target, known)
            found = queries.outage_records(reader, only_open=args.open, start=start, end=end)
    except UnknownTargetError as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    if args.target is not None:
        found = [record for record in found if record.target in wanted]
    if args.words:
        return _print_outage(args.words[1], found, args.json)
    if args.json:
        print(json.dumps([public_outage_json(record) for record in found], indent=2, ensure_ascii=False))
    elif found:
        stdout().print(_table(found))
    else:
        print("no outage on record", file=sys.stderr)
    return 0


def _print_outage(wanted: str, found: list[OutageRecord], as_json: bool) -> int:
    fitting = [record for record in found if record.id.startswith(wanted)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} outages begin with" if fitting else "no outage has the id"
        print(f"mailwatch: {problem} {wanted}; `mailwatch outages` lists them", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(public_outage_json(fitting[0]), indent=2, ensure_ascii=False))
    else:
        stdout().print(outage_table(fitting[0]))
    return 0


def _table(found: list[OutageRecord]) -> Table:
    table = Table("outage", "target", "first failure", "up again", "at least", "at most", "cause")
    for column in table.columns[:6]:
        column.overflow = "fold"
    for record in found:
        table.add_row(
            record.id,
            record.target,
            rfc3339(record.first_bad),
            _NOT_OVER[record.state] if record.first_good is None else rfc3339(record.first_good),
            format_millis(record.durations.least),
            "" if record.state == "open" else format_millis(record.durations.most, up=True),
            ", ".join(record.causes) + _remarks_text(record),
        )
    return table


_NOT_OVER = {"open": "[bold red]still down[/]", "unwatched": "[yellow]no longer monitored[/]"}


def _remarks_text(record: OutageRecord) -> str:
    proven = " (proven afterwards)" if record.proven_afterwards else ""
    excused = record.maintenance
    return proven + (f" ({format_millis(excused)} of it in maintenance)" if excused else "")


def outage_table(record: OutageRecord) -> Table:
    """Return a table of one outage with all fields of its ledger entry."""
    table = Table(show_header=False, title=f"Outage {record.id} of {record.target}")
    table.add_column(style="bold")
    table.add_column()
    good = record.last_good
    table.add_row("last successful check", "never up before" if good is None else rfc3339(good))
    table.add_row("first failed check", rfc3339(record.first_bad))
    table.add_row("last failed check", rfc3339(record.last_bad))
    over = "unknown: no longer monitored" if record.state == "unwatched" else "still down"
    table.add_row("next successful check", over if record.first_good is None else rfc3339(record.first_good))
    lasted = record.durations
    table.add_row("at least", format_millis(lasted.least))
    table.add_row("at most", format_millis(lasted.most, up=True))
    if lasted.estimate is not None:
        table.add_row(
            "estimate", f"{format_millis(lasted.estimate)} ± {format_millis(lasted.uncertainty, up=True)}"
        )
    table.add_row("checks", f"{record.down} down, {record.up} up, {record.unknown} unknown")
    table.add_row("longest without a check", format_millis(record.largest_gap, up=True))
    table.add_row("unobserved", format_millis(record.unobserved, up=True))
    if clock := _clock(record.clock):
        table.add_row("the clock", clock)
    if record.maintenance:
        table.add_row(
            "in maintenance", f"{format_millis(record.maintenance)} of the shortest duration; announced before"
        )
    if record.proven_afterwards:
        table.add_row("proven afterwards", "the server accepted the same password before and after")
    table.add_row("causes", ", ".join(f"{cause} ({n})" for cause, n in record.causes.items()))
    table.add_row("failed at", ", ".join(f"{phase} ({n})" for phase, n in record.phases.items()))
    for words in record.replies:
        table.add_row("server replies", words)
    table.add_row("first failure", record.first_detail)
    if record.settings is not None:
        table.add_row("monitored as", _watched_text(record.settings))
    table.add_row("ledger", f"entries {record.first_index} to {record.last_index}")
    return table


def _watched_text(settings: TargetSettings) -> str:
    """Return how the target was watched. Records from before 2026-11 lack the host."""
    where = f" {settings.host}:{settings.port} (tls: {settings.tls})" if settings.host else ""
    return f"{settings.kind}{where}, every {format_millis(settings.interval)}"


def _clock(clock: ClockFacts | None) -> str:
    """Return what happened to the wall clock during the outage, "" if nothing did."""
    if clock is None or not (clock.stepped or clock.reboots):
        return ""
    parts = [f"the clock was set by {format_millis(clock.stepped, up=True)} in total"] if clock.stepped else []
    if clock.reboots:
        parts.append(f"the machine was restarted ({clock.reboots})")
    why = "at least and at most are wider by that" if clock.is_wall else "the durations do not depend on it"
    if clock.reboots:
        why = "across a restart, the durations are as wide as the possible error of the wall clock"
    return f"{' and '.join(parts)}; {why}"


def format_millis(millis: int | None, *, up: bool = False) -> str:
    """Format a duration in milliseconds, "unknown" for None."""
    return "unknown" if millis is None else i18n.format_duration(millis / 1000, up)
