"""mailwatch report --from --to: the report on a month or a year, as one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from mailwatch.cli.common import parse_window_options, sign_if_configured
from mailwatch.cli.files import is_pdf, write_output
from mailwatch.cli.time_zone import local_zone
from mailwatch.config import Config, effective
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, check_within_tokens
from mailwatch.evidence.period_case import PeriodEvidence, ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.evidence.report.charts import AvailabilityCalendar
from mailwatch.evidence.report.period import period_report
from mailwatch.store import Reader, Tokens
from mailwatch.store.keys import Keys

ServiceLookup = Callable[[Config, Reader, str], dict[str, Any] | None]
EnclosedFiles = Callable[[Config, LedgerRange], list[File]]


def make_period_report(
    args: argparse.Namespace,
    config: Config,
    reader: Reader,
    keys: Keys,
    service: ServiceLookup,
    enclosed: EnclosedFiles,
) -> tuple[PeriodEvidence, int] | None:
    """Write the report on --from, --to and --target. Return the evidence and the size in bytes; None, with the
    reason on stderr, if it cannot be made.
    """
    zone, bounds = local_zone(), parse_window_options(args.start, args.end)
    calendar = AvailabilityCalendar(bounds, zone)
    with Console(stderr=True).status("reading the entries") as status:
        try:
            case = find_period_evidence(
                reader,
                Tokens(config.data_dir),
                keys,
                bounds,
                _report_targets(config, reader, args.target, service),
                config.vantage_point.name,
                calendar.add,
            )
            for outage in case.outages:
                check_within_tokens(case.range, outage)
        except EvidenceError as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return None
        if missing := sorted(set(args.target or ()) - case.replay.accounts.keys()):
            print(f"mailwatch: no record of {missing[0]} in that window", file=sys.stderr)
            return None
        status.update("drawing the report")
        place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
        pdf = period_report(case, calendar, pretty_json(case.statement), place, args.lang, zone)
        try:
            pdf = sign_if_configured(config, pdf)
        except EvidenceError as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return None
        status.update("writing the bundle")
        if is_pdf(args.output):
            return case, write_output(args.output, pdf)
        files = [File("report.pdf", pdf), *enclosed(config, case.range)]
        size = write_output(
            args.output, lambda out: write_period_bundle(out, reader, keys, case, args.lang, files)
        )
    return case, size


def _report_targets(
    config: Config, reader: Reader, names: list[str] | None, service: ServiceLookup
) -> list[ReportTarget]:
    """Return the targets to report on: those named, even if no longer watched, else all of the config."""
    watched = []
    for name in names or [target["name"] for target in effective(config)["targets"]]:
        recorded = service(config, reader, name)
        watched.append(
            ReportTarget(name, (recorded or {}).get("provider", ""), (recorded or {}).get("kind", ""), recorded)
        )
    return watched
