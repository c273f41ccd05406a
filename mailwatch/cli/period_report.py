"""mailwatch report --from --to: the report on a month or a year, as one file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, cast
from zoneinfo import ZoneInfo

from rich.console import Console

from mailwatch.cli.common import parse_window_options, sign_if_configured
from mailwatch.cli.files import is_pdf, write_output
from mailwatch.cli.language import tr
from mailwatch.config import Config, effective
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.declaration import enclosed_declarations
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, check_within_tokens
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.charts import AvailabilityCalendar
from mailwatch.evidence.report.facts import ObserverFacts
from mailwatch.evidence.report.period import period_report
from mailwatch.evidence.stated import ServiceJson
from mailwatch.store import Reader, Tokens
from mailwatch.store.declarations import Declarations
from mailwatch.store.keys import Keys
from mailwatch.store.place import configured_place

ServiceLookup = Callable[[Config, Reader, str, int | None], ServiceJson | None]
"""By config, ledger, target, and the entry up to which its settings count (None: all)."""
EnclosedFiles = Callable[[Config, LedgerRange], list[File]]


def make_period_report(
    args: argparse.Namespace,
    config: Config,
    reader: Reader,
    keys: Keys,
    zone: ZoneInfo,
    service: ServiceLookup,
    enclosed: EnclosedFiles,
) -> int:
    """Write the report on --from, --to and --target. Return its size in bytes. Raises EvidenceError."""
    bounds = parse_window_options(config, args.start, args.end)
    calendar = AvailabilityCalendar(bounds, zone)
    with Console(stderr=True).status(tr("reading the entries")) as status:
        targets = _report_targets(config, reader, args.target, service)
        name = config.vantage_point.name
        case = find_period_evidence(
            reader, Tokens(configured_place(config)), keys, bounds, targets, name, calendar.add
        )
        for outage in case.outages:
            check_within_tokens(case.range, outage)
        if missing := sorted(set(args.target or ()) - case.replay.accounts.keys()):
            raise EvidenceError(f"no record of {missing[0]} in that window")
        status.update(tr("drawing the report"))
        place = ", ".join(filter(None, (name, config.vantage_point.place)))
        declared, stated = enclosed_declarations(reader, keys, Declarations(config.data_dir), case.range)
        cast(dict[str, Any], case.statement).update(stated)
        case.statement["report"] = Rendering(args.lang, zone, place, bounds).as_json()
        for one in case.statement["targets"]:
            one["service"] = service(config, reader, one["target"], case.range.end.size - 1)
        span = case.range.start.size, case.range.end.size
        entries = reader.entries(kinds=ObserverFacts.KINDS, from_index=span[0], to_index=span[1])
        pdf = period_report(case, calendar, pretty_json(case.statement), ObserverFacts.of(entries))
        pdf = sign_if_configured(config, pdf)
        status.update(tr("writing the bundle"))
        if is_pdf(args.output):
            return write_output(args.output, pdf)
        files = [File("report.pdf", pdf), *enclosed(config, case.range), *declared]
        return write_output(
            args.output, lambda out: write_period_bundle(out, reader, keys, case, args.lang, files)
        )


def _report_targets(
    config: Config, reader: Reader, names: list[str] | None, service: ServiceLookup
) -> list[ReportTarget]:
    """Return the targets to report on: those named, else all of the config and all on record, since what was
    removed from the config was watched too. Those without an entry in the window are left out later.
    """
    watched = []
    known = dict.fromkeys([*(target["name"] for target in effective(config)["targets"]), *reader.targets()])
    for name in names or known:
        recorded = service(config, reader, name, None)
        provider, kind = (str((recorded or {}).get(key, "")) for key in ("provider", "kind"))
        watched.append(ReportTarget(name, provider, kind, recorded))
    return watched
