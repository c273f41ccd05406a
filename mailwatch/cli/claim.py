"""mailwatch claim: a letter of complaint about an outage, as PDF and as DOCX to edit, and the log of sent
messages.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from mailwatch.cli.common import add_options, open_config, open_reader
from mailwatch.cli.errors import error_reason, print_error
from mailwatch.cli.files import check_writable, write_output
from mailwatch.cli.language import language
from mailwatch.cli.report import print_as_of
from mailwatch.cli.resource_limits import check_pdf_resources
from mailwatch.config import schema_claims
from mailwatch.config.catalogue.operators import operator
from mailwatch.config.schema_claims import NotifiedSection
from mailwatch.evidence.claims import sent_log
from mailwatch.evidence.ledger_range import EvidenceError, check_within_tokens
from mailwatch.evidence.letter import (
    MIN_DISSOLVE_DAYS,
    Letter,
    compose_letter,
    docx,
    letter_pdf,
    open_blanks,
    prepare_letter,
)
from mailwatch.evidence.outage_case import find_outage, find_outage_evidence
from mailwatch.evidence.report.contract import window_title
from mailwatch.i18n import LANGUAGES
from mailwatch.store import Tokens
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.place import configured_place

DISSOLVES = (
    "warning: if the provider does not perform in time, this letter ends the contract, and the mailbox with it: "
    "save your mail first, and have a lawyer or a consumer association read the letter"
)
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
    verb.add_argument("--lang", choices=LANGUAGES, default=language(), help="language of the letter")
    verb.add_argument(
        "--formal",
        action="store_true",
        help="write a formal notice (diffida e messa in mora) instead of a complaint",
    )
    verb.add_argument(
        "--dissolve",
        type=int,
        metavar="DAYS",
        help="write a notice to perform within DAYS, at least 15, after which the contract ends (diffida ad "
        "adempiere, art. 1454 c.c.); only while the outage is open",
    )
    verb.add_argument(
        "--preview", action="store_true", help="write no letter; print what it still needs from you, as JSON"
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
    if not logging and (len(args.outage) != 1 or (args.output is None) != args.preview or stray):
        print_error("mailwatch: write `mailwatch claim OUTAGE_ID -o FILE`, or `... claim log OUTAGE_ID`")
        return 2
    if logging and (args.output is not None or args.preview or (stray and (args.sent is None or args.by is None))):
        print_error("mailwatch: `mailwatch claim log OUTAGE_ID` takes --sent and --by, or neither")
        return 2
    if args.dissolve is not None and args.dissolve < MIN_DISSOLVE_DAYS:
        print_error(f"mailwatch: --dissolve: the law asks for at least {MIN_DISSOLVE_DAYS} days (art. 1454 c.c.)")
        return 2
    if logging:
        return _log(args, args.outage[1])
    return _preview(args, args.outage[0]) if args.preview else _letter(args, args.outage[0])


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
        print_error(f"mailwatch: --{name}: {first.get('ctx', {}).get('error', first['msg'])}")
        return 2
    except ValueError as error:
        print_error(f"mailwatch: {error}")
        return 2
    except (EvidenceError, sent_log.SentLogError, OSError) as error:
        print_error(f"mailwatch: {error_reason(error)}")
        return 1
    if not messages:
        print_error(f"mailwatch: nothing is logged as sent about {outage}; log it with --sent and --by")
    for one in messages:
        parts = (one.date.isoformat(), one.means, one.to, one.reference, one.answer)
        print("\t".join(part or "-" for part in parts))
    return 0


def _preview(args: argparse.Namespace, wanted: str) -> int:
    """Print what the letter still needs, and what makes it weak."""
    letter = _prepare(args, wanted)
    if letter is None:
        return 1
    company = operator(letter.outage.provider)
    found = {
        "addressee": (company and company.addressee) or "",
        "blanks": [asdict(blank) for blank in open_blanks(letter)],
        "warnings": letter.warnings,
    }
    print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


def _letter(args: argparse.Namespace, wanted: str) -> int:
    stem = args.output.with_suffix("") if args.output.suffix in (".pdf", ".docx") else args.output
    for suffix in (".pdf", ".docx"):
        check_writable(stem.with_name(stem.name + suffix) if stem.name else stem)
    check_pdf_resources()
    letter = _prepare(args, wanted)
    if letter is None:
        return 1
    blocks = compose_letter(letter)
    for suffix, content in ((".pdf", letter_pdf(letter, blocks)), (".docx", docx(blocks, stem.name, args.lang))):
        path = stem.with_name(stem.name + suffix)
        write_output(path, partial(_copy, content))
        print(path)
    for line in _open_points(letter):
        print_error(f"mailwatch: {line}")
    return 0


def _prepare(args: argparse.Namespace, wanted: str) -> Letter | None:
    """Return the content of the letter; None, after an error message, if it cannot be made."""
    config = open_config(args)
    zone = config.zone()  # Checked first: without a time zone the work would be wasted.
    place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
    try:
        with open_reader(config) as reader:
            case = find_outage_evidence(
                reader, Tokens(configured_place(config)), load_keys(config.data_dir), wanted, None
            )
            check_within_tokens(case.range, case.record)
            print_as_of(case, zone)
            section = sent_log.with_log(
                schema_claims.find_claim(config.claims, case.record), case.record, config.data_dir
            )
            return prepare_letter(reader, case, section, place, args.lang, zone, args.formal, args.dissolve)
    except (EvidenceError, sent_log.SentLogError) as error:
        print_error(f"mailwatch: {error}")
        return None


def _copy(content: bytes, out: IO[bytes]) -> None:
    out.write(content)


def _open_points(letter: Letter) -> list[str]:
    """Return what the owner still has to do."""
    hints = [f"warning: {weakness}" for weakness in letter.warnings]
    if letter.dissolve:
        hints.insert(0, DISSOLVES)
    left = "; ".join(blank.label for blank in open_blanks(letter))
    hints += [
        f"still blank, and marked in the letter: {left}",
        "fill these in, and read the whole letter before you send it; this is not legal advice",
    ]
    company = operator(letter.outage.provider)
    if company is not None:
        sources = sorted({fact.source_url for fact in company.facts()})
        hints.append(f"the addressee is from the catalogue; check that it is still right: {', '.join(sources)}")
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
            which = window_title(window.window, replace(letter.writing, language=language()))
            lines.append(f"last day to claim for {which}: {window.deadline} ({how})")
    return lines
