"""mailwatch verify: checks a bundle or a joint zip offline, one line per claim. Needs no config and no ledger."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from mailwatch.cli.files import MAX_TRUST_BYTES, check_regular_files
from mailwatch.evidence.joint.verify import UNCHECKED_PREFIX, check_joint, is_joint
from mailwatch.evidence.verify import Claim, Trust, verify

_UNCHECKED_TEXT = "[yellow]not checked[/]"


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
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
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    check_regular_files(args.trust, MAX_TRUST_BYTES)
    check_regular_files([args.file, *args.member])
    try:
        trust = Trust.read(args.trust)
    except (OSError, ValueError) as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    joint = is_joint(args.file)
    if args.member and not joint:
        print(f"mailwatch: {args.file} is not a joint zip; leave out --member", file=sys.stderr)
        return 2
    claims = check_joint(args.file, trust, args.member) if joint else verify(args.file, trust)
    valid = all(claim.valid for claim in claims)
    if args.json:
        result = {"valid": valid, "claims": [asdict(claim) for claim in claims]}
        print(json.dumps(result, indent=2, ensure_ascii=False))
        return 0 if valid else 1
    console, wide = Console(highlight=False), max(len(claim.claim) for claim in claims)
    for claim in claims:
        mark = "[green]valid      [/]" if claim.valid else "[bold red]NOT VALID  [/]"
        line = f"{_UNCHECKED_TEXT if _unchecked(claim) else mark}  [bold]{claim.claim:{wide}}[/]  "
        # soft_wrap: one line per claim, also in a pipe.
        console.print(line + _printable(claim.detail), soft_wrap=True)
    if valid:
        console.print("[bold green]The bundle is valid.[/]")
    elif all(claim.valid or _unchecked(claim) for claim in claims):
        console.print("[bold yellow]No errors found, but some claims could not be checked.[/]")
    else:
        console.print("[bold red]The bundle is NOT valid.[/]")
    return 0 if valid else 1


def _printable(text: str) -> str:
    """Return text of an untrusted bundle as one line: no line feeds, terminal escapes or markup."""
    escaped = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return escape(escaped)


def _unchecked(claim: Claim) -> bool:
    return not claim.valid and claim.detail.startswith(UNCHECKED_PREFIX)
