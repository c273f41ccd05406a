"""mailwatch backup: ledger, keys, tokens and grants in one file, even while `mailwatch run` writes."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mailwatch.cli.common import add_options, open_config
from mailwatch.store import backup


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument(
        "file", type=Path, metavar="FILE", help="a new file, for example mailwatch-2026-11-24.tar.gz"
    )
    add_options(verb)
    verb.set_defaults(run=_backup)


def _backup(args: argparse.Namespace) -> int:
    config = open_config(args)
    try:
        made = backup(config.data_dir, args.file)
    except FileExistsError as error:
        print(f"mailwatch: {error}", file=sys.stderr)
        return 2
    plain = {
        "file": str(args.file),
        "origin": made.origin,
        "entries": made.entries,
        "files": made.files,
        "bytes": made.size,
    }
    if args.json:
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0
    print(f"{args.file}: {made.origin}, {made.entries} entries, {made.files} files, {made.size} bytes")
    print("It contains the private key of the ledger: protect it like a password.", file=sys.stderr)
    print("It does not contain the config and the password files.", file=sys.stderr)
    return 0
