"""mailwatch outages: the outages on record, newest first, or one in full."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.table import Table

from mailwatch import i18n
from mailwatch.analysis.outage import public_outage_json
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, stdout
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.targets import resolved_targets
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
            found = queries.outage_payloads(reader, only_open=args.open, start=start, end=end)
    except UnknownTargetError as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    if args.target is not None:
        found = [payload for payload in found if payload["target"] in wanted]
    if args.words:
        return _print_outage(args.words[1], found, args.json)
    if args.json:
        print(json.dumps([public_outage_json(payload) for payload in found], indent=2, ensure_ascii=False))
    elif found:
        stdout().print(_table(found))
    else:
        print("no outage on record", file=sys.stderr)
    return 0


def _print_outage(wanted: str, found: list[dict[str, Any]], as_json: bool) -> int:
    fitting = [payload for payload in found if payload["id"].startswith(wanted)]
    if len(fitting) != 1:
        problem = f"{len(fitting)} outages begin with" if fitting else "no outage has the id"
        print(f"mailwatch: {problem} {wanted}; `mailwatch outages` lists them", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(public_outage_json(fitting[0]), indent=2, ensure_ascii=False))
    else:
        stdout().print(outage_record(fitting[0]))
    return 0


def _table(found: list[dict[str, Any]]) -> Table:
    table = Table("outage", "target", "first failure", "up again", "at least", "at most", "cause")
    for column in table.columns[:6]:
        column.overflow = "fold"
    for payload in found:
        lasted, closed = payload["duration_ms"], payload["state"] == "closed"
        table.add_row(
            payload["id"],
            payload["target"],
            rfc3339(payload["first_bad"]),
            rfc3339(payload["first_good"]) if closed else _NOT_OVER[payload["state"]],
            format_millis(lasted["min"]),
            "" if payload["state"] == "open" else format_millis(lasted["max"], up=True),
            ", ".join(payload["causes"]) + _remarks_text(payload),
        )
    return table


_NOT_OVER = {"open": "[bold red]still down[/]", "unwatched": "[yellow]no longer monitored[/]"}


def _remarks_text(payload: dict[str, Any]) -> str:
    proven = " (proven afterwards)" if payload.get("proven_afterwards") else ""
    excused = payload.get("maintenance_ms")
    return proven + (f" ({format_millis(excused)} of it in maintenance)" if excused else "")


def outage_record(payload: dict[str, Any]) -> Table:
    """Return a table of one outage with all fields of its ledger entry."""
    table = Table(show_header=False, title=f"Outage {payload['id']} of {payload['target']}")
    table.add_column(style="bold")
    table.add_column()
    for name, key in (
        ("last successful check", "last_good"),
        ("first failed check", "first_bad"),
        ("last failed check", "last_bad"),
    ):
        table.add_row(name, "never up before" if payload[key] is None else rfc3339(payload[key]))
    closed = payload["first_good"] is not None
    over = "unknown: no longer monitored" if payload["state"] == "unwatched" else "still down"
    table.add_row("next successful check", rfc3339(payload["first_good"]) if closed else over)
    lasted = payload["duration_ms"]
    table.add_row("at least", format_millis(lasted["min"]))
    table.add_row("at most", format_millis(lasted["max"], up=True))
    if lasted["estimate"] is not None:
        table.add_row(
            "estimate", f"{format_millis(lasted['estimate'])} ± {format_millis(lasted['uncertainty'], up=True)}"
        )
    seen = payload["observations"]
    table.add_row("looks", f"{seen['down']} down, {seen['up']} up, {seen['unknown']} unknown")
    table.add_row("longest without a check", format_millis(payload["largest_gap_ms"], up=True))
    table.add_row("unobserved", format_millis(payload["unobserved_ms"], up=True))
    if clock := _clock(payload.get("clock")):
        table.add_row("the clock", clock)
    if payload.get("maintenance_ms"):
        table.add_row(
            "in maintenance",
            f"{format_millis(payload['maintenance_ms'])} of the shortest duration; announced before",
        )
    if payload.get("proven_afterwards"):
        table.add_row("proven afterwards", "the server accepted the same password before and after")
    table.add_row("causes", ", ".join(f"{cause} ({n})" for cause, n in payload["causes"].items()))
    table.add_row("failed at", ", ".join(f"{phase} ({n})" for phase, n in payload["phases"].items()))
    for words in payload["replies"]:
        table.add_row("server replies", words)
    table.add_row("first failure", payload["first_detail"])
    if settings := payload.get("watch"):
        table.add_row("monitored as", _watched_text(settings))
    table.add_row("ledger", f"entries {payload['ledger']['first']} to {payload['ledger']['last']}")
    return table


def _watched_text(settings: dict[str, Any]) -> str:
    """Return how the target was watched. Records from before 2026-11 lack the host."""
    where = f" {settings['host']}:{settings['port']} (tls: {settings['tls']})" if settings["host"] else ""
    return f"{settings['kind']}{where}, every {format_millis(settings['interval'])}"


def _clock(clock: dict[str, Any] | None) -> str:
    """Return what happened to the wall clock during the outage, "" if nothing did."""
    if clock is None or not (clock["stepped_ms"] or clock["reboots"]):
        return ""
    parts = (
        [f"the clock was set by {format_millis(clock['stepped_ms'], up=True)} in total"]
        if clock["stepped_ms"]
        else []
    )
    if clock["reboots"]:
        parts.append(f"the machine was restarted ({clock['reboots']})")
    why = "at least and at most are wider by that" if clock.get("wall") else "the durations do not depend on it"
    if clock["reboots"]:
        why = "across a restart, the durations are as wide as the possible error of the wall clock"
    return f"{' and '.join(parts)}; {why}"


def format_millis(millis: int | None, *, up: bool = False) -> str:
    """Format a duration in milliseconds, "unknown" for None."""
    return "unknown" if millis is None else i18n.format_duration(millis / 1000, up)
