"""mailwatch report --from --to: a month or a year as one file."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from mailwatch.cli.common import signed, window
from mailwatch.cli.files import alone, write_whole
from mailwatch.cli.time_zone import local_zone
from mailwatch.config import Config, effective
from mailwatch.evidence.bundle import File, pretty
from mailwatch.evidence.ledger_range import NoCase, Range, within_tokens
from mailwatch.evidence.period_case import PeriodCase, Watched, find, write
from mailwatch.evidence.report.charts import Calendar
from mailwatch.evidence.report.period import period_report
from mailwatch.store import Reader, Tokens
from mailwatch.store.keys import Keys

Service = Callable[[Config, Reader, str], dict[str, Any] | None]
Enclosed = Callable[[Config, Range], list[File]]


def make(
    args: argparse.Namespace, config: Config, reader: Reader, keys: Keys, service: Service, enclosed: Enclosed
) -> tuple[PeriodCase, int] | None:
    """Make the case of --from, --to and --target, and write it; None when there is none, after saying why."""
    zone, bounds = local_zone(), window(args.start, args.end)
    calendar = Calendar(bounds, zone)
    with Console(stderr=True).status("reading the entries") as status:
        try:
            case = find(
                reader,
                Tokens(config.data_dir),
                keys,
                bounds,
                _watched(config, reader, args.target, service),
                config.vantage_point.name,
                calendar.add,
            )
            for outage in case.replay.payloads():
                within_tokens(case.found, outage)
        except NoCase as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return None
        if missing := sorted(set(args.target or ()) - case.replay.accounts.keys()):
            print(f"mailwatch: no record of {missing[0]} in that window", file=sys.stderr)
            return None
        status.update("drawing the report")
        place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
        pdf = period_report(case, calendar, pretty(case.statement), place, args.lang, zone)
        try:
            pdf = signed(config, pdf)
        except NoCase as error:
            print(f"mailwatch: {error}", file=sys.stderr)
            return None
        status.update("writing the bundle")
        if alone(args.output):
            return case, write_whole(args.output, lambda out: out.write(pdf))
        files = [File("report.pdf", pdf), *enclosed(config, case.found)]
        size = write_whole(args.output, lambda out: write(out, reader, keys, case, args.lang, files))
    return case, size


def _watched(config: Config, reader: Reader, names: list[str] | None, service: Service) -> list[Watched]:
    """What is asked for: the targets of the config, or those named, also when they are watched no more."""
    watched = []
    for name in names or [target["name"] for target in effective(config)["targets"]]:
        told = service(config, reader, name)
        watched.append(Watched(name, (told or {}).get("provider", ""), (told or {}).get("kind", ""), told))
    return watched
