"""mailwatch config: checks and shows config.yaml, prints its JSON Schema, and hashes a password for it."""

from __future__ import annotations

import argparse
import getpass
import json
import sys

from mailwatch import config
from mailwatch.cli.common import add_options, config_path
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.settings import Target

_MAX_PASSWORD_CHARS = 4096
"""Most characters of a password on stdin: the input may be endless."""


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    actions = verb.add_subparsers(required=True, metavar="check|schema|show|hash-password")
    check = actions.add_parser("check", help="list all mistakes with file:line; exit 1 if there are any")
    check.set_defaults(run=_check)
    schema = actions.add_parser("schema", help="print the JSON Schema, for editors")
    schema.set_defaults(run=_schema)
    show = actions.add_parser("show", help="print the effective config, without secrets")
    show.set_defaults(run=_show)
    hashing = actions.add_parser(
        "hash-password", help="ask for a password, or read it from stdin, and print its argon2id hash"
    )
    hashing.set_defaults(run=_hash_password)
    for action in (check, show):
        add_options(action)


def _check(args: argparse.Namespace) -> int:
    notes: tuple[config.ConfigProblem, ...] = ()
    problems: tuple[config.ConfigProblem, ...] = ()
    status, count = 0, 0
    try:
        loaded = config.load(config_path(args))
        notes = (*config.web_warnings(loaded), *config.warnings(loaded), *config.channel_warnings(loaded))
        problems, count = _check_references(loaded)
        status = 1 if problems else 0
    except config.ConfigError as error:
        problems = error.problems
        status = 2 if isinstance(error, config.ConfigNotFoundError) else 1
    for note in notes:
        print(f"warning: {note}", file=sys.stderr)
    for problem in problems:
        print(problem, file=sys.stderr)
    if args.json:
        plain = {"valid": status == 0, "mistakes": _plain(problems), "warnings": _plain(notes)}
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    if status == 0:
        print(f"no mistakes: {count} target{'' if count == 1 else 's'}", file=sys.stderr)
    return status


def _check_references(loaded: config.Config) -> tuple[tuple[config.ConfigProblem, ...], int]:
    """Open everything that the config names, as `run` does. Return every mistake, and the number of targets."""
    problems: list[config.ConfigProblem] = []
    targets: list[Target] = []
    for step in (
        lambda: config.check_references(loaded),
        lambda: targets.extend(config.build_targets(loaded)),
        lambda: config.build_authorities(loaded),
        lambda: config.build_channels(loaded),
        lambda: config.build_heartbeat(loaded),
        lambda: config.web_access(loaded),
    ):
        try:
            step()
        except config.ConfigError as error:
            problems += error.problems
    if not any(problem.message.startswith("signing") for problem in problems):
        problems += _check_signing(loaded)
    return tuple(sorted(set(problems))), len(targets)


def _check_signing(loaded: config.Config) -> list[config.ConfigProblem]:
    """Open the signing key as `report` will, and return its mistakes."""
    if loaded.signing is None:
        return []
    from mailwatch.cli.common import open_signer  # Loading pyHanko is slow.

    try:
        open_signer(loaded)
    except EvidenceError as error:
        return [loaded.problem(("signing",), f"signing: {error}")]
    return []


def _schema(args: argparse.Namespace) -> int:
    print(json.dumps(config.schema(), indent=2, ensure_ascii=False))
    return 0


def _show(args: argparse.Namespace) -> int:
    try:
        loaded = config.load(config_path(args))
    except config.ConfigError as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, config.ConfigNotFoundError) else 1
    if args.json:
        print(json.dumps(config.effective(loaded), indent=2, ensure_ascii=False))
    else:
        print(config.effective_yaml(loaded), end="")
    return 0


def _hash_password(args: argparse.Namespace) -> int:
    from argon2 import PasswordHasher
    from argon2.exceptions import HashingError

    if sys.stdin.isatty():
        password = getpass.getpass("password: ")
        if getpass.getpass("again: ") != password:
            print("mailwatch: the passwords differ; try again", file=sys.stderr)
            return 2
    else:
        password = sys.stdin.readline(_MAX_PASSWORD_CHARS).rstrip("\r\n")
    if len(password) >= _MAX_PASSWORD_CHARS:
        print("mailwatch: this is not a password: its first line has no end", file=sys.stderr)
        return 2
    if not password:
        print("mailwatch: there is no password on stdin; type one, or pipe one in", file=sys.stderr)
        return 2
    try:
        print(PasswordHasher().hash(password))
    except HashingError as error:
        # HashingError carries only text. Hashing takes 64 MiB, and one thread for each of four lanes.
        raise RuntimeError("can't start new thread") if "hread" in str(error) else MemoryError from None
    return 0


def _plain(problems: tuple[config.ConfigProblem, ...]) -> list[dict[str, str | int]]:
    return [{"file": str(m.file), "line": m.line, "what": m.message} for m in problems]
