"""mailwatch claim: a letter of complaint about an outage, as PDF and as DOCX to edit, and the log of sent
messages.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from mailwatch.cli.common import add_options, language, open_config, open_reader
from mailwatch.cli.files import check_writable, write_output
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.cli.time_zone import local_zone
from mailwatch.config import schema_claims
from mailwatch.config.schema_claims import NotifiedSection
from mailwatch.evidence.claims import sent_log
from mailwatch.evidence.ledger_range import EvidenceError, check_within_tokens
from mailwatch.evidence.letter import Letter, compose_letter, docx, letter_pdf, prepare_letter
from mailwatch.evidence.outage_case import find_outage, find_outage_evidence
from mailwatch.evidence.report.contract import window_title
from mailwatch.store import Tokens
from mailwatch.store.keys import load_keys as load_keys

SENT_OPTIONS = {"sent": "date", "by": "means", "to": "to", "ticket": "reference", "answer": "answer"}
"""Options of `claim log`, and their keys in the config."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = (
        "`mailwatch claim log OUTAGE_ID` lists what was sent to the provider about an outage. With --sent "
        "and --by, it adds an entry, which report and letter then mention."
    )
    add_options(verb, json=False)
    verb.add_argument(
        "outage",
        nargs="+",
        metavar="OUTAGE_ID",
        help="id of the outage, or its first characters; see `mailwatch outages`",
    )
    verb.add_argument("-o", "--output", type=Path, metavar="FILE", help="writes FILE.pdf, and FILE.docx to edit")
    verb.add_argument("--lang", choices=("it", "en"), default=language(), help="language of the letter")
    verb.add_argument(
        "--formal", action="store_true", help="write a formal notice (diffida ad adempiere) instead of a complaint"
    )
    sent = verb.add_argument_group("with log: a message that you sent")
    sent.add_argument("--sent", metavar="DATE", help="date, for example 2026-02-03")
    sent.add_argument("--by", metavar="MEANS", help="means: PEC, registered letter, form, telephone")
    sent.add_argument("--to", metavar="ADDRESS", help="address it went to")
    sent.add_argument("--ticket", metavar="REFERENCE", help="ticket or receipt number")
    sent.add_argument("--answer", metavar="TEXT", help="the answer, and its date")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    logging = args.outage[0] == "log" and len(args.outage) == 2
    stray = [name for name in SENT_OPTIONS if getattr(args, name) is not None]
    if not logging and (len(args.outage) != 1 or args.output is None or stray):
        print(
            "mailwatch: write `mailwatch claim OUTAGE_ID -o FILE`, or `... claim log OUTAGE_ID`", file=sys.stderr
        )
        return 2
    if logging and (args.output is not None or (stray and (args.sent is None or args.by is None))):
        print("mailwatch: `mailwatch claim log OUTAGE_ID` takes --sent and --by, or neither", file=sys.stderr)
        return 2
    return _log(args, args.outage[1]) if logging else _letter(args, args.outage[0])


def _log(args: argparse.Namespace, wanted: str) -> int:
    """List the messages sent about an outage, after adding the given message, if any."""
    config = open_config(args)
    try:
        with open_reader(config) as reader:
            outage = find_outage(reader, wanted).id
        if args.sent is not None:
            fields = {
                key: getattr(args, name) for name, key in SENT_OPTIONS.items() if getattr(args, name) is not None
            }
            message = NotifiedSection.model_validate(fields)
            if message.date > date.today():  # noqa: DTZ011 - the owner's own day
                raise ValueError(f"--sent: {args.sent} is in the future")
            sent_log.sent_messages(config.data_dir, outage)  # An unreadable log must be repaired first.
            sent_log.add_message(config.data_dir, outage, message)
        messages = sent_log.sent_messages(config.data_dir, outage)
    except ValidationError as error:
        first = error.errors()[0]
        name = next((name for name, key in SENT_OPTIONS.items() if key in first["loc"]), "sent")
        print(f"mailwatch: --{name}: {first.get('ctx', {}).get('error', first['msg'])}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    except (EvidenceError, sent_log.SentLogError, OSError) as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 1
    if not messages:
        print(f"mailwatch: nothing is logged as sent about {outage}; log it with --sent and --by", file=sys.stderr)
    for one in messages:
        parts = (one.date.isoformat(), one.means, one.to, one.reference, one.answer)
        print("\t".join(part or "-" for part in parts))
    return 0


def _letter(args: argparse.Namespace, wanted: str) -> int:
    stem = args.output.with_suffix("") if args.output.suffix in (".pdf", ".docx") else args.output
    for suffix in (".pdf", ".docx"):
        check_writable(stem.with_name(stem.name + suffix) if stem.name else stem)
    check_pdf_resources()
    zone = local_zone()  # Checked first: without a time zone the work would be wasted.
    config = open_config(args)
    place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
    try:
        with open_reader(config) as reader:
            case = find_outage_evidence(reader, Tokens(config.data_dir), load_keys(config.data_dir), wanted, None)
            check_within_tokens(case.range, case.record)
            section = sent_log.with_log(
                schema_claims.find_claim(config.claims, case.record), case.record, config.data_dir
            )
            letter = prepare_letter(reader, case, section, place, args.lang, zone, args.formal)
    except (EvidenceError, sent_log.SentLogError) as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 1
    blocks = compose_letter(letter)
    for suffix, content in ((".pdf", letter_pdf(letter, blocks)), (".docx", docx(blocks, stem.name, args.lang))):
        path = stem.with_name(stem.name + suffix)
        write_output(path, partial(_copy, content))
        print(path)
    for line in _open_points(letter):
        print(f"mailwatch: {line}", file=sys.stderr)
    return 0


def _copy(content: bytes, out: IO[bytes]) -> None:
    out.write(content)


def _open_points(letter: Letter) -> list[str]:
    """Return what the owner still has to do."""
    hints = ["fill in the marked places, and read the whole letter before you send it; this is not legal advice"]
    if letter.claim is None:
        hints.append(
            "no claim in the config covers this outage; add one to fill in the letter: docs/how-to/claims.md"
        )
    rule = None if letter.claim is None else letter.claim.rule
    if rule is not None and not rule.verified:
        hints.append(f"the rule {rule.key} is not verified: compare it with your contract ({rule.source_url})")
    return hints + days_left(letter, date.today())  # noqa: DTZ011 - the owner's own day


def days_left(letter: Letter, today: date) -> list[str]:
    """Return the deadline for claims, for each window of the rule."""
    lines = []
    reading = None if letter.claim is None else letter.claim.reading
    for window in () if reading is None else reading.windows:
        if window.deadline is not None:
            left = (window.deadline - today).days
            how = f"{left} days left" if left >= 0 else f"{-left} days ago"
            which = window_title(window.window, replace(letter.writing, language="en"))
            lines.append(f"last day to claim for {which}: {window.deadline} ({how})")
    return lines
