"""mailwatch verify: checks a bundle or a joint zip offline, one line per claim. Needs no config and no ledger."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from zoneinfo import ZoneInfo

from rich.text import Text

from mailwatch.cli.common import printable, stdout
from mailwatch.cli.errors import error_reason, print_error
from mailwatch.cli.files import MAX_TRUST_BYTES, check_regular_files
from mailwatch.cli.language import language, tr, translated, word
from mailwatch.cli.text_table import GAP, hanging_lines, table_width
from mailwatch.evidence.caveat_text import caveat_text
from mailwatch.evidence.joint.verify import UNCHECKED_PREFIX, is_joint
from mailwatch.evidence.verify import Claim, Trust, VerificationResult
from mailwatch.evidence.warnings import Caveat
from mailwatch.i18n import Formatter
from mailwatch.ledger.cosignature import VerifierKeyError, parse_verifier_key


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "Exit status: 0 valid, 1 not valid."
    verb.add_argument(
        "file", type=Path, metavar="FILE.zip", help="the bundle, or a joint zip from `mailwatch merge`"
    )
    verb.add_argument(
        "--member",
        type=Path,
        action="append",
        default=[],
        metavar="FILE.zip",
        help="a bundle that the joint zip does not enclose; may be repeated",
    )
    verb.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM certificates of timestamp authorities, or a ledger key (keys/ledger.pub); may be repeated",
    )
    verb.add_argument(
        "--witness",
        action="append",
        default=[],
        metavar="VKEY",
        help="the key of a witness that you trust (the line in its keys/witness.pub); may be repeated",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    check_regular_files(args.trust, MAX_TRUST_BYTES)
    check_regular_files([args.file, *args.member])
    try:
        trust = Trust.read(args.trust)
        trust.witnesses = {str(parse_verifier_key(key)) for key in args.witness}
    except VerifierKeyError as error:
        print_error(f"mailwatch: --witness {error}")
        return 2
    except (OSError, ValueError) as error:
        print_error(f"mailwatch: {error_reason(error)}")
        return 2
    joint = is_joint(args.file)
    if args.member and not joint:
        print_error(f"mailwatch: {args.file} is not a joint zip; leave out --member")
        return 2
    found = _verify(args.file, trust, args.member if joint else None)
    claims, valid = found.claims, found.valid
    if args.json:
        result = {
            "valid": valid,
            "claims": [_claim_json(claim) for claim in claims],
            "caveats": [{**asdict(one), "grave": one.grave} for one in found.caveats],
        }
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0 if valid else 1
    _print_claims(claims)
    _print_caveats(found.caveats)
    if valid:
        message, style = tr("The bundle is valid."), "bold green"
        if any(claim.note for claim in claims):
            message, style = tr("The bundle is valid; read what is marked as a note."), "bold yellow"
    elif all(claim.valid or _unchecked(claim) for claim in claims):
        message, style = tr("No errors found, but some claims could not be checked."), "bold yellow"
    else:
        message, style = tr("The bundle is NOT valid."), "bold red"
    stdout().print(Text(message, style), soft_wrap=True)
    if any(one.grave for one in found.caveats):
        advice = tr("That it is valid does not answer the caveats in red: read them before relying on it.")
        stdout().print(Text(advice, "red"), soft_wrap=True)
    return 0 if valid else 1


def _verify(path: Path, trust: Trust, members: list[Path] | None) -> VerificationResult:
    """Verify a bundle, or a joint zip if `members` is a list of those not enclosed."""
    # They load Typst, and the words of reports.
    from mailwatch.evidence.pages.compare import examine_with_pages
    from mailwatch.evidence.pages.joint import verify_joint_with_pages

    if members is None:
        return examine_with_pages(path, trust)
    return verify_joint_with_pages(path, trust, members)


def _print_claims(claims: list[Claim]) -> None:
    """Print one line per claim, wrapped beside its name on a narrow terminal."""
    console = stdout()
    marks = [_mark(claim) for claim in claims]
    names = [word("claim", claim.claim) for claim in claims]
    mark_room = max(len(mark.plain) for mark in marks) + GAP
    room = mark_room + max(map(len, names)) + GAP
    for claim, mark, name in zip(claims, marks, names, strict=True):
        head = Text.assemble(mark, " " * (mark_room - len(mark.plain)), (name, "bold"))
        for line in hanging_lines(head, translated(printable(claim.detail)), room, table_width(console)):
            console.print(line, soft_wrap=True, highlight=False)


def _print_caveats(found: Sequence[Caveat]) -> None:
    """Print one line per caveat, by its name, wrapped like a claim."""
    if not found:
        return
    console, writing = stdout(), Formatter(language(), ZoneInfo("UTC"), tenths=False)
    marks = [Text(tr("caveat"), "bold red") if one.grave else Text(tr("note"), "yellow") for one in found]
    mark_room = max(len(mark.plain) for mark in marks) + GAP
    room = mark_room + max(len(one.code) for one in found) + GAP
    for one, mark in zip(found, marks, strict=True):
        head = Text.assemble(mark, " " * (mark_room - len(mark.plain)), (one.code, "bold"))
        for line in hanging_lines(head, printable(caveat_text(one, writing)), room, table_width(console)):
            console.print(line, soft_wrap=True, highlight=False)


def _claim_json(claim: Claim) -> dict[str, object]:
    status = "note" if claim.note else "valid" if claim.valid else "not valid"
    return {
        "claim": claim.claim,
        "valid": claim.valid,
        "detail": claim.detail,
        "status": "not checked" if _unchecked(claim) else status,
    }


def _mark(claim: Claim) -> Text:
    if _unchecked(claim):
        return Text(tr("not checked"), "yellow")
    if claim.note:
        return Text(tr("note"), "yellow")
    return Text(tr("valid"), "green") if claim.valid else Text(tr("NOT VALID"), "bold red")


def _unchecked(claim: Claim) -> bool:
    return not claim.valid and claim.detail.startswith(UNCHECKED_PREFIX)
