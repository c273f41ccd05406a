"""mailwatch outages: the outages on record, newest first, or one in full."""

from __future__ import annotations

import argparse
import json

from rich.text import Text

from mailwatch.analysis.outage import ClockFacts
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import OutageJson
from mailwatch.cli.common import add_limit_option, add_options, open_config, open_reader, parse_time, stdout
from mailwatch.cli.errors import print_error
from mailwatch.cli.language import tr, translated, word
from mailwatch.cli.terminal_format import TerminalFormat, add_utc_option, terminal_format
from mailwatch.cli.text_table import Column, FactList, TextTable, print_lines
from mailwatch.config import Config
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.config.targets import resolved_targets
from mailwatch.model import TargetSettings
from mailwatch.store import queries


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb)
    verb.add_argument("--open", action="store_true", help="only ongoing outages")
    verb.add_argument("--from", dest="start", metavar="TIME", help="only those that overlap the time from here")
    verb.add_argument("--to", dest="end", metavar="TIME", help="... to here")
    verb.add_argument("--target", metavar="NAME", help="only outages of this target")
    add_limit_option(verb)
    add_utc_option(verb)
    verb.add_argument("words", nargs="*", metavar="show ID", help="show one outage in full")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.words and (len(args.words) != 2 or args.words[0] != "show"):
        print_error("mailwatch: write `mailwatch outages`, or `mailwatch outages show ID`")
        return 2
    config = open_config(args)
    start, end = parse_time(config, args.start, "from"), parse_time(config, args.end, "to")
    try:
        with open_reader(config) as reader:
            known = [section.name for section, _ in resolved_targets(config)]
            wanted = queries.select_targets(reader, args.target, known)
            id_begins = args.words[1] if args.words else ""
            found = queries.outage_records(
                reader,
                only_open=args.open,
                start=start,
                end=end,
                wanted=lambda head: (
                    (args.target is None or head.target in wanted) and head.id.startswith(id_begins)
                ),
                part=queries.Part(args.limit),
            )
            written = queries.with_acknowledgements(reader, found) if args.json else []
    except UnknownTargetError as error:
        print_error(f"mailwatch: {error}")
        return 2
    if args.words:
        return _print_outage(args, config, found, written)
    if args.json:
        print(json.dumps(written, indent=2, ensure_ascii=False))
        return 0
    form = terminal_format(args, config)
    if found:
        print_lines(stdout(), outage_table(found, form))
    else:
        print_error("no outage on record")
    return 0


def _print_outage(
    args: argparse.Namespace, config: Config, fitting: list[OutageRecord], written: list[OutageJson]
) -> int:
    wanted = args.words[1]
    if len(fitting) != 1:
        if fitting:
            print_error(f"mailwatch: {len(fitting)} outages begin with {wanted}; `mailwatch outages` lists them")
        else:
            print_error(f"mailwatch: no outage has the id {wanted}; `mailwatch outages` lists them")
        return 1
    if args.json:
        print(json.dumps(next(one for one in written if one["id"] == fitting[0].id), indent=2, ensure_ascii=False))
        return 0
    record = fitting[0]
    print_lines(stdout(), outage_facts(record, terminal_format(args, config)))
    print_error(f"evidence: mailwatch report {record.id} -o outage-{record.id}.zip")
    print_error(f"complaint: mailwatch claim {record.id} -o letter-{record.id}")
    return 0


def outage_table(found: list[OutageRecord], form: TerminalFormat) -> TextTable:
    """Return a table of outages."""
    columns = (
        Column(header="outage"),
        Column(header="target", shrinks=True),
        Column(header="first failure"),
        Column(header="up again"),
        Column(header="at least"),
        Column(header="at most", below=True),
        Column(header="cause", below=True, label=""),
    )
    table = TextTable(columns, form.zone_note())
    for record in found:
        over = record.first_good
        table.add_row(
            record.id,
            record.target,
            form.minute(record.first_bad),
            state_text(record.state, paused=record.paused_at is not None) if over is None else form.minute(over),
            form.duration(record.durations.least),
            "" if record.state == "open" else form.duration(record.durations.most, up=True),
            ", ".join(word("cause", cause) for cause in record.causes) + _remarks_text(record, form),
        )
    return table


def state_text(state: str, *, paused: bool = False) -> Text:
    """Return why there is no end: it is `open`, the target is paused meanwhile, or no longer watched."""
    if paused:
        return Text(tr("paused"), "yellow")
    if state == "open":
        return Text(tr("still down"), "bold red")
    return Text(tr("no longer monitored"), "yellow")


def _remarks_text(record: OutageRecord, form: TerminalFormat) -> str:
    proven = f" ({tr('proven afterwards')})" if record.proven_afterwards else ""
    excused = record.maintenance
    return proven + (f" ({tr('{time} of it in maintenance', time=form.duration(excused))})" if excused else "")


def outage_facts(record: OutageRecord, form: TerminalFormat) -> FactList:
    """Return one outage with all fields of its ledger entry."""
    title = tr("Outage {id} of {target}", id=record.id, target=record.target)
    facts = FactList(Text(title, "bold"))
    good, over, lasted = record.last_good, record.first_good, record.durations
    facts.add("last successful check", tr("never up before") if good is None else form.second(good))
    facts.add("first failed check", form.second(record.first_bad))
    facts.add("last failed check", form.second(record.last_bad))
    unended = state_text(record.state, paused=record.paused_at is not None).plain
    facts.add("next successful check", unended if over is None else form.second(over))
    if record.paused_at is not None:
        facts.add("paused since", form.second(record.paused_at))
    facts.add("times", form.zone.key)
    facts.add("at least", form.duration(lasted.least))
    facts.add("at most", form.duration(lasted.most, up=True))
    if lasted.estimate is not None:
        estimate = f"{form.duration(lasted.estimate)} ± {form.duration(lasted.uncertainty, up=True)}"
        facts.add("estimate", estimate)
    counts = {"down": record.down, "up": record.up, "unknown": record.unknown}
    facts.add("checks", tr("{down} down, {up} up, {unknown} unknown", **counts))
    facts.add("longest without a check", form.duration(record.largest_gap, up=True))
    facts.add("unobserved", form.duration(record.unobserved, up=True))
    if clock := _clock(record.clock, form):
        facts.add("the clock", clock)
    if record.maintenance:
        excused = form.duration(record.maintenance)
        facts.add("in maintenance", tr("{time} of the shortest duration; announced before", time=excused))
    if record.proven_afterwards:
        facts.add("proven afterwards", tr("the server accepted the same password before and after"))
    facts.add("causes", ", ".join(f"{word('cause', cause)} ({n})" for cause, n in record.causes.items()))
    facts.add("failed at", ", ".join(f"{word('phase', phase)} ({n})" for phase, n in record.phases.items()))
    for words in record.replies:
        facts.add("server replies", words)
    facts.add("first error", translated(record.first_detail))
    if record.settings is not None:
        facts.add("monitored as", _watched_text(record.settings, form))
    entries = {"first": record.first_index, "last": record.last_index}
    facts.add("ledger", tr("entries {first} to {last}", **entries))
    return facts


def _watched_text(settings: TargetSettings, form: TerminalFormat) -> str:
    """Return how the target was watched. Records from before 2026-11 lack the host."""
    where = f" {settings.host}:{settings.port} (tls: {settings.tls})" if settings.host else ""
    return f"{settings.kind}{where}, {tr('every {time}', time=form.duration(settings.interval))}"


def _clock(clock: ClockFacts | None, form: TerminalFormat) -> str:
    """Return what happened to the wall clock during the outage, "" if nothing did."""
    if clock is None or not (clock.stepped or clock.reboots):
        return ""
    stepped = form.duration(clock.stepped, up=True)
    parts = [tr("the clock was set by {time} in total", time=stepped)] if clock.stepped else []
    if clock.reboots:
        parts.append(tr("the machine was restarted, or another one took over ({count})", count=clock.reboots))
        why = tr("across a restart, the durations are as wide as the possible error of the wall clock")
    elif clock.is_wall:
        why = tr("at least and at most are wider by that")
    else:
        why = tr("the durations do not depend on it")
    both = f" {tr('and')} "
    return f"{both.join(parts)}; {why}"
