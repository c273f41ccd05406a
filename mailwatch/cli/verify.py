"""mailwatch verify: checks a bundle, offline; one line a claim. Needs no config and no ledger."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mailwatch.evidence.verify import Trust, verify


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the verb."""
    verb = subparsers.add_parser("verify", help="check an evidence bundle, offline; exit 1 if it is not valid")
    verb.add_argument("file", type=Path, metavar="FILE.zip", help="the bundle")
    verb.add_argument(
        "--trust",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="PEM certificates of timestamp authorities, or a ledger's key (keys/ledger.pub); may be repeated",
    )
    verb.add_argument("--json", action="store_true", help="print JSON")
    verb.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    try:
        trust = Trust.read(args.trust)
    except (OSError, ValueError) as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    if not args.file.exists():
        print(f"mailwatch: {args.file} is not there", file=sys.stderr)
        return 2
    claims = verify(args.file, trust)
    valid = all(claim.valid for claim in claims)
    if args.json:
        told = {"valid": valid, "claims": [asdict(claim) for claim in claims]}
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0 if valid else 1
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for claim in claims:
        mark = "[green]valid[/]" if claim.valid else "[bold red]NOT VALID[/]"
        table.add_row(mark, f"[bold]{claim.claim}[/]", claim.detail.replace("[", r"\["))
    console = Console()
    console.print(table)
    console.print("[bold green]The bundle is valid.[/]" if valid else "[bold red]The bundle is NOT valid.[/]")
    return 0 if valid else 1
