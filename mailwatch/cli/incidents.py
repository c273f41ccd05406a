"""mailwatch incidents: overlapping outages of one provider as one incident, with a timeline."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console, Group
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from mailwatch.analysis.incident_json import incident_json
from mailwatch.analysis.incidents import Incident, IncidentOutage, IncidentStage
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.cli.common import add_options, open_config, open_reader, parse_time, stdout
from mailwatch.cli.outages import format_millis
from mailwatch.cli.timeline_chart import (
    Bar,
    draw_timeline,
    format_minute,
    format_month_second,
    format_second,
    shorten,
)
from mailwatch.store import queries
from mailwatch.times import Millis, now

WIDE_COLUMNS = 110
"""Terminal columns from which tables show more."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--open", action="store_true", help="only incidents in which a channel is still down")
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    verb.add_argument("words", nargs="*", metavar="show ID", help="show one incident: its id, or an outage's")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.words and (len(args.words) != 2 or args.words[0] != "show"):
        print("mailwatch: write `mailwatch incidents`, or `mailwatch incidents show ID`", file=sys.stderr)
        return 2
    start, end = parse_time(args.start, "from"), parse_time(args.end, "to")
    with open_reader(open_config(args)) as reader:
        found = queries.incidents(reader, only_open=args.open, start=start, end=end)
        if args.words:
            found = _matching(args.words[1], found)
            found = [queries.with_symptoms(reader, incident) for incident in found] if len(found) == 1 else found
    if args.words:
        return _show(args.words[1], found, args.json)
    if args.json:
        print(json.dumps([incident_json(incident) for incident in found], indent=2, ensure_ascii=False))
    elif found:
        console = stdout()
        console.print(incident_table(found, console.width))
    else:
        print("no incident on record", file=sys.stderr)
    return 0


def _matching(wanted: str, found: list[Incident]) -> list[Incident]:
    exact = [incident for incident in found if incident.id == wanted]
    return exact or [incident for incident in found if incident.matches(wanted)]


def _show(wanted: str, found: list[Incident], as_json: bool) -> int:
    if len(found) != 1:
        problem = f"{len(found)} incidents begin with" if found else "no incident has the id"
        print(f"mailwatch: {problem} {wanted}; `mailwatch incidents` lists them", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps(incident_json(found[0]), indent=2, ensure_ascii=False))
    else:
        print_incident(stdout(), found[0], now())
    return 0


def incident_table(found: list[Incident], width: int) -> Table:
    """Return a table of incidents, with the channels that were down if `width` allows."""
    what = "channels" if width >= WIDE_COLUMNS else "targets"
    table = _table("incident", "provider", "first failure", "all up again", "at least", what)
    table.padding = (0, 2 if width >= WIDE_COLUMNS else 1, 0, 0)
    for incident in found:
        over = incident.first_good
        table.add_row(
            incident.id,
            escape(shorten(incident.provider or incident.members[0].outage.target, width // 8)),
            format_minute(incident.first_bad),
            _state_text(incident) if over is None else format_minute(over),
            format_millis(incident.last_bad - incident.first_bad),
            _channels(incident)
            if width >= WIDE_COLUMNS
            else str(len({member.key for member in incident.members})),
        )
    return table


def print_incident(console: Console, incident: Incident, at: Millis) -> None:
    """Print one incident in full; an open one as of `at`."""
    over = incident.first_good
    whose = incident.provider or incident.members[0].outage.target
    state = _state_text(incident) if over is None else Text("over", "bold green")
    good = (
        "never up before"
        if incident.last_good is None
        else f"last successful check {format_second(incident.last_good)}"
    )
    most = None if incident.last_good is None or over is None else over - incident.last_good
    least = format_millis(incident.last_bad - incident.first_bad)
    console.print(Text.assemble(("Incident ", "bold"), incident.id, " of ", (whose, "bold"), ": ", state))
    console.print(f"from {format_second(incident.first_bad)} ({good})")
    console.print(f"to   {format_second(incident.last_bad) if over is None else format_second(over)}", end="")
    console.print(" (last failed check)" if over is None else " (first checks that succeeded again)")
    length = f"at least {least}" + (f", at most {format_millis(most, up=True)}" if most is not None else "")
    console.print(
        f"{length}; at least one channel down for at least {format_millis(incident.surely_down)}\n",
        highlight=False,
    )
    until = incident.until
    end = max(incident.last_bad + 1, until if until is not None else at)
    start = incident.first_bad if incident.last_good is None else incident.last_good
    console.print(draw_timeline(_bars(incident, end), min(start, incident.first_bad), end, console.width))
    console.print("\n[dim]All times are in UTC.[/]\n")
    console.print(Group(_members(incident, console.width), "", _stages(incident.stages(), console.width)))


def _bars(incident: Incident, end: Millis) -> list[Bar]:
    seats: dict[tuple[str, str], list[IncidentOutage]] = {}
    by_account = sorted(incident.members, key=lambda m: (m.outage.kind, m.outage.account, m.outage.target))
    for member in by_account:
        seats.setdefault(member.key, []).append(member)
    several = len({vantage for vantage, _ in seats}) > 1
    return [
        Bar(
            label=f"{target} @{vantage}" if several else target,
            sure=[(m.outage.first_bad, m.outage.last_bad) for m in members],
            possible=[(m.outage.begin, end if m.outage.until is None else m.outage.until) for m in members],
            note="still down"
            if any(m.outage.state == "open" for m in members)
            else format_millis(_min_duration(members)),
        )
        for (vantage, target), members in seats.items()
    ]


def _min_duration(members: list[IncidentOutage]) -> Millis:
    return Incident(provider="", members=tuple(members)).surely_down


def _members(incident: Incident, width: int) -> Table:
    columns = ["target", "first failure", "up again", "at least"]
    table = _table(*columns, *(["at most", "causes", "trouble"] if width >= WIDE_COLUMNS else ["trouble"]))
    name = _columns_left(table, width, 2 * len("01-22 22:00:00") + 13 + (30 if width >= WIDE_COLUMNS else 0) + 17)
    for member in sorted(incident.members, key=_by_account):
        outage = member.outage
        end, good = outage.first_good, outage.last_good
        least, most = outage.last_bad - outage.first_bad, None if end is None or good is None else end - good
        row = [
            escape(shorten(outage.target, name)),
            format_month_second(outage.first_bad),
            _state_text(outage) if end is None else format_month_second(end),
            format_millis(least),
        ]
        proven = ", proven afterwards" if outage.proven_afterwards else ""
        excused = f", {format_millis(outage.maintenance)} of it in maintenance" if outage.maintenance else ""
        if width >= WIDE_COLUMNS:
            row += [format_millis(most, up=True), escape(", ".join(outage.causes))]
        trouble = " → ".join(trouble for _, trouble in member.symptom_changes) or member.trouble
        table.add_row(*row, trouble + proven + excused)
    return table


def _by_account(member: IncidentOutage) -> tuple[str, str, Millis]:
    outage = member.outage
    return outage.account or outage.target, outage.kind, outage.first_bad


def _stages(stages: list[IncidentStage], width: int) -> Table:
    table = _table("from", "down", "what", "change")
    room = _columns_left(table, width, len("01-22 22:00:00") + 4)
    for stage in stages:
        changes = [f"[red]▼[/] {escape(shorten(m.outage.target, room // 2 - 2))}" for m in stage.failed]
        changes += [f"[green]▲[/] {escape(shorten(m.outage.target, room // 2 - 2))}" for m in stage.restored]
        changes += [
            f"[yellow]?[/] {escape(shorten(m.outage.target, room // 2 - 2))}" for m in stage.no_longer_watched
        ]
        channels = ", ".join(f"{kind} {count}" for kind, count in stage.channels.items())
        served = "[yellow]no longer monitored[/]" if stage.no_longer_watched else "[green]served[/]"
        what = f"{', '.join(stage.trouble)} ({channels})" if channels else served
        table.add_row(format_month_second(stage.at), str(stage.targets), what, "\n".join(changes))
    return table


def _channels(incident: Incident) -> str:
    counts: dict[str, set[tuple[str, str]]] = {}
    for member in incident.members:
        counts.setdefault(member.outage.kind, set()).add(member.key)
    return ", ".join(f"{kind} {len(seats)}" for kind, seats in sorted(counts.items()))


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for column in table.columns:
        column.no_wrap = column.header not in ("trouble", "causes", "what")
    return table


def _columns_left(table: Table, width: int, used: int) -> int:
    """Return the terminal columns left beside the table columns of known width."""
    return max(12, width - used - 2 * (len(table.columns) - 1))


def _state_text(part: Incident | OutageRecord) -> Text:
    """Return why there is no end."""
    return Text("still down", "bold red") if part.state == "open" else Text("no longer monitored", "yellow")
