"""mailwatch backup: ledger, keys, tokens and grants in one file, even while `mailwatch run` writes."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from mailwatch.cli.common import add_options, open_config
from mailwatch.cli.errors import error_reason, print_error
from mailwatch.cli.language import tr, translated
from mailwatch.config import Config
from mailwatch.errors import UsageError
from mailwatch.store import Backup, back_up_and_rotate, backup, backup_keys
from mailwatch.store.place import configured_place
from mailwatch.times import now

MOST_KEPT = 1000


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.epilog = "Without FILE it backs up as backup: in the config says: into its folder, and keeps as many."
    what = "a new file, for example mailwatch-2026-11-24.tar.gz; with --keep a folder"
    verb.add_argument("file", type=Path, nargs="?", metavar="FILE", help=what)
    keep = "name the file by the time, and keep only the newest N of this ledger in the folder"
    verb.add_argument("--keep", type=_number, metavar="N", help=keep)
    keys = "only the keys and other files beside the database, for who backs PostgreSQL up with tools of its own"
    verb.add_argument("--keys", action="store_true", help=keys)
    add_options(verb)
    verb.set_defaults(run=_backup)


def _number(text: str) -> int:
    if text.isdecimal() and text.isascii() and 1 <= int(text[:5]) <= MOST_KEPT:
        return int(text)
    raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MOST_KEPT}")


def _backup(args: argparse.Namespace) -> int:
    config = open_config(args)
    if args.keys and (args.file is None or args.keep):
        raise UsageError("mailwatch: --keys needs a FILE, and keeps no number of them: they hardly ever change")
    folder, keep = _rotation(config, args)
    try:
        if args.keys:
            return _print_done(args, args.file, backup_keys(configured_place(config), args.file), None)
        if folder is None:
            return _print_done(args, args.file, backup(configured_place(config), args.file), None)
        done = back_up_and_rotate(configured_place(config), folder, keep, now())
    except FileExistsError as error:
        print_error(f"mailwatch: {error_reason(error)}")
        return 2
    return _print_done(args, done.file, done.made, done.removed)


def _rotation(config: Config, args: argparse.Namespace) -> tuple[Path | None, int]:
    """Return the folder and the number to keep; no folder for a single file. Raises UsageError."""
    section = config.backup
    if args.file is not None:
        return (None, 0) if args.keep is None else (args.file, args.keep)
    if section is None:
        raise UsageError("mailwatch: name a FILE, or a folder and --keep N, or write backup: into the config")
    return section.to, args.keep or section.keep


def _print_done(args: argparse.Namespace, file: Path, made: Backup, removed: tuple[Path, ...] | None) -> int:
    plain: dict[str, object] = {
        "file": str(file),
        "origin": made.origin,
        "entries": made.entries,
        "files": made.files,
        "bytes": made.size,
    }
    if made.left_out:
        plain["left_out"] = list(made.left_out)
    if removed is not None:
        plain["removed"] = [str(path) for path in removed]
    if args.json:
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return 0
    entries = "no database" if made.entries is None else f"{made.entries} entries"
    what = f"{file}: {made.origin}, {entries}, {made.files} files, {made.size} bytes"
    print(translated(what))
    for why in made.left_out:
        print_error(tr("left out: {what}", what=why))
    for path in removed or ():
        print(tr("removed {path}", path=path))
    print_error("It contains the private key of the ledger: protect it like a password.")
    print_error("It does not contain the config and the password files.")
    return 0
