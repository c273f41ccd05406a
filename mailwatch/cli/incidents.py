"""mailwatch incidents: overlapping outages of one provider as one incident, with a timeline."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.incidents import Incident, IncidentOutage, IncidentStage, matches_group
from mailwatch.cli.common import add_limit_option, add_options, open_config, open_reader, parse_time, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr, word
from mailwatch.cli.outages import state_text
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, TextTable, print_lines, print_text
from mailwatch.cli.timeline_chart import Bar, draw_timeline
from mailwatch.config import Config, catalogue
from mailwatch.store import queries
from mailwatch.times import Millis, now


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--open", action="store_true", help="only incidents in which a channel is still down")
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    add_limit_option(verb)
    add_utc_option(verb)
    verb.add_argument("words", nargs="*", metavar="show ID", help="show one incident: its id, or an outage's")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.words and (len(args.words) != 2 or args.words[0] != "show"):
        print_error("mailwatch: write `mailwatch incidents`, or `mailwatch incidents show ID`")
        return 2
    config = open_config(args)
    start, end = parse_time(config, args.start, "from"), parse_time(config, args.end, "to")
    with open_reader(config) as reader:
        groups = queries.incident_groups(reader, only_open=args.open, start=start, end=end)
        groups = _matching(args.words[1], groups) if args.words else groups[: args.limit]
        found = queries.incidents_of(reader, groups)
        if args.words and len(found) == 1:
            found = [queries.with_symptoms(reader, found[0])]
        written = queries.incidents_with_acknowledgements(reader, found) if args.json else []
    if args.words:
        return _show(args, config, found, written)
    if args.json:
        print(json.dumps(written, indent=2, ensure_ascii=False))
        return 0
    form = terminal_format(args, config)
    if found:
        print_lines(stdout(), incident_table(found, form))
    else:
        print_error("no incident on record")
    return 0


def _matching(wanted: str, found: Sequence[queries.IncidentGroup]) -> Sequence[queries.IncidentGroup]:
    exact = [group for group in found if group.id == wanted]
    return exact or [group for group in found if matches_group(group.members, wanted)]


def _show(args: argparse.Namespace, config: Config, found: list[Incident], written: list[IncidentJson]) -> int:
    if len(found) != 1:
        wanted = args.words[1]
        if found:
            print_error(f"mailwatch: {len(found)} incidents begin with {wanted}; `mailwatch incidents` lists them")
        else:
            print_error(f"mailwatch: no incident has the id {wanted}; `mailwatch incidents` lists them")
        return 1
    if args.json:
        print(json.dumps(written[0], indent=2, ensure_ascii=False))
    else:
        print_incident(stdout(), found[0], now(), terminal_format(args, config))
    return 0


def incident_table(found: list[Incident], form: TerminalFormat) -> TextTable:
    """Return a table of incidents."""
    columns = (
        Column(header="incident"),
        Column(header="provider", shrinks=True),
        Column(header="first failure"),
        Column(header="all up again"),
        Column(header="at least"),
        Column(header="kinds", below=True, label=""),
    )
    table = TextTable(columns, form.zone_note())
    for incident in found:
        over = incident.first_good
        table.add_row(
            incident.id,
            _whose(incident),
            form.minute(incident.first_bad),
            _state_text(incident) if over is None else form.minute(over),
            form.duration(incident.last_bad - incident.first_bad),
            _channels(incident),
        )
    return table


def _state_text(incident: Incident) -> Text:
    """Return why an incident has no end: what is down, or whose end is not known, with how many are paused."""
    paused = len({member.key for member in incident.members if member.is_paused})
    counted = tr("{count} paused", count=str(paused))
    if paused and incident.state != "open":
        return Text(counted, "yellow")
    return Text.assemble(state_text(incident.state), f", {counted}" if paused else "")


def _whose(incident: Incident) -> str:
    """Return the provider's name, without a provider the target's."""
    known = catalogue.by_key(incident.provider)
    return known.name if known else incident.provider or incident.members[0].outage.target


def print_incident(console: Console, incident: Incident, at: Millis, form: TerminalFormat) -> None:
    """Print one incident in full; an open one as of `at`."""
    over = incident.first_good
    state = _state_text(incident) if over is None else Text(tr("ended"), "bold green")
    title = tr("Incident {id} of {provider}: ", id=incident.id, provider=_whose(incident))
    console.print(Text.assemble((title, "bold"), state))
    for line in _bounds(incident, form):
        print_text(console, line)
    until = incident.until
    end = max(incident.last_bad + 1, until if until is not None else at)
    start = incident.first_bad if incident.last_good is None else incident.last_good
    italian = form.language == "it"
    bars = _bars(incident, end, form)
    console.print()
    console.print(draw_timeline(bars, min(start, incident.first_bad), end, console.width, form.zone, italian))
    console.print()
    print_lines(console, _members(incident, form))
    console.print()
    print_lines(console, _stages(incident.stages(), form))


def _bounds(incident: Incident, form: TerminalFormat) -> list[str]:
    """Return when the incident began and ended, and how long it lasted."""
    over, good = incident.first_good, incident.last_good
    before = tr("never up before") if good is None else tr("last successful check {time}", time=form.second(good))
    end = (
        tr("to {time} (last failed check)", time=form.second(incident.last_bad))
        if over is None
        else tr("to {time} (first checks that succeeded again)", time=form.second(over))
    )
    least = form.duration(incident.last_bad - incident.first_bad)
    length = tr("at least {time}", time=least)
    if good is not None and over is not None:
        length += tr(", at most {time}", time=form.duration(over - good, up=True))
    down = tr("at least one channel down for at least {time}", time=form.duration(incident.surely_down))
    return [f"{tr('from {time}', time=form.second(incident.first_bad))} ({before})", end, f"{length}; {down}"]


def _bars(incident: Incident, end: Millis, form: TerminalFormat) -> list[Bar]:
    seats: dict[tuple[str, str], list[IncidentOutage]] = {}
    by_account = sorted(incident.members, key=lambda m: (m.outage.kind, m.outage.account, m.outage.target))
    for member in by_account:
        seats.setdefault(member.key, []).append(member)
    several = len({vantage for vantage, _ in seats}) > 1
    return [
        Bar(
            label=f"{target} @{vantage}" if several else target,
            sure=[(m.outage.first_bad, m.outage.last_bad) for m in members],
            possible=[(m.outage.begin, end if m.until is None else m.until) for m in members],
            note=_lane_note(members, form),
        )
        for (vantage, target), members in seats.items()
    ]


def _lane_note(members: list[IncidentOutage], form: TerminalFormat) -> str:
    if any(member.is_open for member in members):
        return tr("still down")
    if any(member.is_paused for member in members):
        return tr("paused")
    return form.duration(_min_duration(members))


def _min_duration(members: list[IncidentOutage]) -> Millis:
    return Incident(provider="", members=tuple(members)).surely_down


def _members(incident: Incident, form: TerminalFormat) -> TextTable:
    columns = (
        Column(header="target", shrinks=True),
        Column(header="first failure"),
        Column(header="up again"),
        Column(header="at least"),
        Column(header="at most", below=True),
        Column(header="causes", below=True, label=""),
        Column(header="trouble", below=True, label=""),
    )
    table = TextTable(columns)
    for member in sorted(incident.members, key=_by_account):
        outage = member.outage
        end, good = outage.first_good, outage.last_good
        most = None if end is None or good is None else end - good
        proven = f", {tr('proven afterwards')}" if outage.proven_afterwards else ""
        excused = form.duration(outage.maintenance) if outage.maintenance else ""
        trouble = " → ".join(tr(one) for _, one in member.symptom_changes) or tr(member.trouble)
        table.add_row(
            outage.target,
            form.day_and_second(outage.first_bad),
            form.day_and_second(end)
            if end is not None
            else Text(tr("paused"), "yellow")
            if member.is_paused
            else state_text(outage.state),
            form.duration(outage.last_bad - outage.first_bad),
            "" if most is None else form.duration(most, up=True),
            ", ".join(word("cause", cause) for cause in outage.causes),
            trouble + proven + (f", {tr('{time} of it in maintenance', time=excused)}" if excused else ""),
        )
    return table


def _by_account(member: IncidentOutage) -> tuple[str, str, Millis]:
    outage = member.outage
    return outage.account or outage.target, outage.kind, outage.first_bad


def _stages(stages: list[IncidentStage], form: TerminalFormat) -> TextTable:
    columns = (
        Column(header="from"),
        Column(header="down", right=True),
        Column(header="what", below=True, label=""),
        Column(header="change", below=True, label=""),
    )
    table = TextTable(columns, form.zone_note())
    for stage in stages:
        changes = [f"▼ {m.outage.target}" for m in stage.failed]
        changes += [f"▲ {m.outage.target}" for m in stage.restored]
        changes += [f"? {m.outage.target}" for m in stage.no_longer_watched]
        changes += [f"‖ {m.outage.target}" for m in stage.paused]
        channels = ", ".join(f"{kind} {count}" for kind, count in stage.channels.items())
        left = tr("no longer monitored") if stage.no_longer_watched else tr("paused") if stage.paused else ""
        served = left or tr("all up")
        what = f"{', '.join(tr(one) for one in stage.trouble)} ({channels})" if channels else served
        table.add_row(form.day_and_second(stage.at), str(stage.targets), what, ", ".join(changes))
    return table


def _channels(incident: Incident) -> str:
    counts: dict[str, set[tuple[str, str]]] = {}
    for member in incident.members:
        counts.setdefault(member.outage.kind, set()).add(member.key)
    return ", ".join(f"{kind} {len(seats)}" for kind, seats in sorted(counts.items()))
