"""mailwatch claim: the letter of complaint about an outage, as PDF and as a text to edit."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path

from mailwatch.cli.opening import language, local_zone, open_config, open_reader, options
from mailwatch.config import claims
from mailwatch.evidence.case import find
from mailwatch.evidence.gather import NoCase
from mailwatch.evidence.letter import Letter, compose, docx, pdf, prepare
from mailwatch.evidence.report.terms import title
from mailwatch.store import Tokens
from mailwatch.store.keys import load_or_make


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    verb = subparsers.add_parser("claim", help="write the letter of complaint about an outage")
    options(verb, json=False)
    verb.add_argument("outage", metavar="OUTAGE_ID", help="its id, or how it begins; see `mailwatch outages`")
    verb.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="writes FILE.pdf and, to edit, FILE.docx"
    )
    verb.add_argument("--lang", choices=("it", "en"), default=language(), help="the letter's language")
    verb.add_argument(
        "--formal", action="store_true", help="a formal notice (diffida ad adempiere), not a complaint"
    )
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    config = open_config(args)
    reader = open_reader(config)
    try:
        case = find(reader, Tokens(config.data_dir), load_or_make(config.data_dir), args.outage, None)
    except NoCase as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 1
    section = claims.find(config.claims, case.payload)
    place = ", ".join(filter(None, (config.vantage_point.name, config.vantage_point.place)))
    letter = prepare(reader, case, section, place, args.lang, local_zone(), args.formal)
    reader.close()
    blocks = compose(letter)
    stem = args.output.with_suffix("") if args.output.suffix in (".pdf", ".docx") else args.output
    for suffix, content in ((".pdf", pdf(letter, blocks)), (".docx", docx(blocks, stem.name))):
        path = stem.with_name(stem.name + suffix)
        # It names a person.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
            out.write(content)
        print(path)
    for line in _hints(letter):
        print(f"mailwatch: {line}", file=sys.stderr)
    return 0


def _hints(letter: Letter) -> list[str]:
    """Say what is left to the owner."""
    hints = ["fill in what is marked, and read the whole before you send it; this is no legal advice"]
    if not letter.claim:
        hints.append("no claim in the config is for this outage; with one the letter is filled in: docs/claims.md")
    rule = letter.claim.get("rule")
    if rule is not None and not rule["verified"]:
        hints.append(
            f"the rule {rule['key']} is not verified: compare it with your contract ({rule['source_url']})"
        )
    return hints + days_left(letter, date.today())  # noqa: DTZ011 - the owner's own day


def days_left(letter: Letter, today: date) -> list[str]:
    """Say until when the provider wants to be asked, window by window."""
    told = []
    reading = letter.claim.get("reading", {})
    for window in reading.get("windows", []):
        if "deadline" in window:
            left = (date.fromisoformat(window["deadline"]) - today).days
            how = f"{left} days left" if left >= 0 else f"{-left} days ago"
            which = title(window, reading["zone"], replace(letter.writing, language="en"))
            told.append(f"last day to claim for {which}: {window['deadline']} ({how})")
    return told
