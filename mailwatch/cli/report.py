"""mailwatch report: the evidence of an outage, or the report on a month or a year, as one file."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from zoneinfo import ZoneInfo

from rich.console import Console

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.cli.common import add_options, open_config, open_reader, sign_if_configured
from mailwatch.cli.errors import print_error
from mailwatch.cli.files import check_writable, is_pdf, write_output
from mailwatch.cli.language import language, tr, translated
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.config import Config, build_authorities, effective, schema_claims
from mailwatch.config.recorded_targets import UnknownTargetError
from mailwatch.evidence.bundle import File, pretty_json
from mailwatch.evidence.claims.owner_statement import owner_claim
from mailwatch.evidence.claims.sent_log import SentLogError, with_log
from mailwatch.evidence.declaration import enclosed_declarations
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, check_within_tokens
from mailwatch.evidence.outage_case import (
    OutageEvidence,
    certificates_file,
    find_outage_evidence,
    write_outage_bundle,
)
from mailwatch.evidence.rendering import Rendering, outside_facts
from mailwatch.evidence.stated import ServiceJson, UserNameJson
from mailwatch.i18n import LANGUAGES
from mailwatch.ledger.entry import login_name_commitment, login_name_key
from mailwatch.model import TargetChange
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.declarations import Declarations
from mailwatch.store.keys import Keys
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.place import configured_place
from mailwatch.times import parse_duration


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    add_options(verb, json=False)
    verb.add_argument(
        "outage",
        metavar="OUTAGE_ID",
        nargs="?",
        help="id of the outage, or its first characters; see `mailwatch outages`",
    )
    when = "2026-01, 2026-01-22 (local time) or 2026-01-22T21:55:00+01:00"
    verb.add_argument(
        "--from", dest="start", metavar="TIME", help=f"instead of an outage, a window of time: {when}"
    )
    verb.add_argument("--to", dest="end", metavar="TIME", help="end of the window, not included")
    verb.add_argument(
        "--target", action="append", metavar="NAME", help="only this target, of a window; may be repeated"
    )
    where = "file to write; FILE.pdf holds only the report, which proves nothing by itself"
    verb.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.zip", help=where)
    verb.add_argument("--lang", choices=LANGUAGES, default=language(), help="language of the report")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    whole = args.start is not None and args.end is not None
    if whole == (args.outage is not None) or (args.start is None) != (args.end is None):
        print_error("mailwatch: write `mailwatch report OUTAGE_ID`, or `... report --from TIME --to TIME`")
        return 2
    check_writable(args.output)
    check_pdf_resources()
    config = open_config(args)
    with open_reader(config) as reader:
        keys = load_keys(config.data_dir)
        zone = config.zone()  # Checked first: without a time zone the work would be wasted.
        try:
            make = _make_period if whole else _make_outage
            size = make(args, config, reader, keys, zone)
        except UnknownTargetError as error:
            print_error(f"mailwatch: {error}")
            return 2
        except (EvidenceError, SentLogError) as error:
            print_error(f"mailwatch: {error}")
            return 1
    return _print_done(args.output, size)


def _make_period(args: argparse.Namespace, config: Config, reader: Reader, keys: Keys, zone: ZoneInfo) -> int:
    """Write the report on a window; return its size. Raises UnknownTargetError, EvidenceError."""
    configured = [target["name"] for target in effective(config)["targets"]]
    for name in args.target or ():
        queries.select_targets(reader, name, configured)
    from mailwatch.cli import period_report  # It loads Typst, which other commands do not need.

    helpers = _recorded_service, _enclosed_certificates
    return period_report.make_period_report(args, config, reader, keys, zone, *helpers)


def _make_outage(args: argparse.Namespace, config: Config, reader: Reader, keys: Keys, zone: ZoneInfo) -> int:
    """Write the report on an outage; return its size. Raises EvidenceError, SentLogError."""
    with Console(stderr=True).status(tr("gathering the entries")) as status:
        place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
        case = _find_case(args.outage, config, reader, keys, Rendering(args.lang, zone, place))
        print_as_of(case, zone)
        status.update(tr("drawing the report"))
        declared, stated = enclosed_declarations(reader, keys, Declarations(config.data_dir), case.range)
        case = case.stating(stated)
        from mailwatch.evidence.report import (
            read_report_facts,  # It loads Typst, which other commands do not need.
            render_outage_report,
        )

        pdf = render_outage_report(case, read_report_facts(reader, case), pretty_json(case.statement))
        status.update(tr("signing the report") if config.signing else tr("writing the bundle"))
        pdf = sign_if_configured(config, pdf)
        if is_pdf(args.output):
            return write_output(args.output, pdf)
        files = [File("report.pdf", pdf), *_enclosed_certificates(config, case.range), *declared]
        return write_output(
            args.output, lambda out: write_outage_bundle(out, reader, keys, case, args.lang, files)
        )


def _find_case(wanted: str, config: Config, reader: Reader, keys: Keys, rendering: Rendering) -> OutageEvidence:
    """Find an outage's evidence, with how the target was watched and what the owner claims."""
    case = find_outage_evidence(reader, Tokens(configured_place(config)), keys, wanted, None)
    check_within_tokens(case.range, case.record)
    case.statement["service"] = _recorded_service(config, reader, case.record.target, case.record.first_index)
    if user_name := _user_name(config, keys, case.record):
        case.statement["user_name"] = user_name
    case.statement["report"] = rendering.as_json(outside_facts(reader, case.range))
    section = with_log(schema_claims.find_claim(config.claims, case.record), case.record, config.data_dir)
    return case.with_claim(owner_claim(section, case.record)) if section else case


def print_as_of(case: OutageEvidence, zone: ZoneInfo) -> None:
    """Say of an open outage how far the signed record goes."""
    if case.record.state == "open":
        at = f"{datetime.fromtimestamp(case.range.end.time_ms / 1000, zone):%Y-%m-%d %H:%M:%S}"
        print_error(
            f"mailwatch: the outage is open; the signed record ends at {at}. It is signed every ten minutes, and "
            "for each document that the pages make"
        )


def _print_done(path: Path, size: int) -> int:
    if is_pdf(path):
        print(translated(f"{path}: {size:,} bytes; only the report; for the evidence, name a .zip"))
    else:
        print(translated(f"{path}: {size:,} bytes; to verify it: mailwatch verify {path}"))
    return 0


def _enclosed_certificates(config: Config, found: LedgerRange) -> list[File]:
    used = {token.authority for token in found.tokens}
    known = [one for one in build_authorities(config) if one.name in used and one.ca_file]
    return [certificates_file(one.name, one.ca_file) for one in known if one.ca_file]


def _user_name(config: Config, keys: Keys, record: OutageRecord) -> UserNameJson | None:
    """Return the target's login name of today's config, if it is the one on record; else None."""
    targets = effective(config)["targets"]
    today: dict[str, Any] = next((target for target in targets if target["name"] == record.target), {})
    name = (today.get("login") or {}).get("username")
    if name is None or record.settings is None:
        return None
    key = login_name_key(keys.secret, name)
    if login_name_commitment(key, name) != record.settings.login_name:
        return None
    return {"name": name, "key": key.hex()}


def _recorded_service(config: Config, reader: Reader, name: str, at_most: int | None = None) -> ServiceJson | None:
    """Return the target's settings without its login: as recorded up to entry `at_most`, else as in today's
    config.
    """
    shown_keys = ("kind", "provider", "host", "port", "tls", "interval", "timeout", "url")
    today = next((target for target in effective(config)["targets"] if target["name"] == name), None)
    configured = None if today is None else {key: today[key] for key in shown_keys if key in today}
    entry = reader.latest(name, "watch", at_most=at_most)
    if entry is None or not isinstance(entry.fact, TargetChange) or not entry.fact.settings.host:
        if configured is None:
            return None
        return cast(ServiceJson, configured | {"with_login": "login" in (today or {})})
    known = entry.fact.settings
    recorded: dict[str, object] = {
        "kind": known.kind.value,
        "provider": known.provider,
        "host": known.host,
        "port": known.port,
        "tls": known.tls.value,
        "interval": f"{known.interval}ms",
        "timeout": f"{known.timeout}ms",
    }
    if configured is None or configured["kind"] != recorded["kind"]:
        configured = {key: value for key, value in recorded.items() if value}
    for key in ("interval", "timeout"):
        if key in configured and parse_duration(configured[key]) == parse_duration(recorded[key]):
            del recorded[key]
    watched = {key: recorded[key] for key in recorded if key in configured}
    return cast(ServiceJson, configured | watched | {"with_login": bool(known.login)})
