"""mailwatch config: checks and shows config.yaml, prints its JSON Schema, and hashes a password for it."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from mailwatch import config
from mailwatch.cli.common import add_options, config_path
from mailwatch.cli.errors import print_error
from mailwatch.errors import OperationError
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.time_zone import TimeZoneError

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
    found = _Check()
    status = 0
    try:
        found.examine(config.load(config_path(args)))
    except config.ConfigError as error:
        found.problems.update(error.problems)
        status = 2 if isinstance(error, config.ConfigNotFoundError) else 1
        # What the mistakes do not touch is checked in the same run.
        if status == 1 and (rest := config.salvage(config_path(args))):
            found.examine(rest)
    status = status or (1 if found.problems else 0)
    notes, problems = tuple(found.notes), tuple(sorted(found.problems))
    for note in notes:
        print_error(f"warning: {note}")
    for problem in problems:
        print_error(str(problem))
    if args.json:
        plain = {"valid": status == 0, "mistakes": _plain(problems), "warnings": _plain(notes)}
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    if status == 0:
        print_error(f"no mistakes: {found.targets} target{'' if found.targets == 1 else 's'}")
    return status


@dataclass
class _Check:
    """What is wrong with a config, and what deserves a warning."""

    problems: set[config.ConfigProblem] = field(default_factory=set)
    notes: list[config.ConfigProblem] = field(default_factory=list)
    targets: int = 0

    def examine(self, loaded: config.Config) -> None:
        """Add what `run` and `report` would find in a config."""
        self.notes += [*config.web_warnings(loaded), *config.warnings(loaded), *config.channel_warnings(loaded)]
        self.notes += config.advice(loaded)
        found, self.targets = config.reference_problems(loaded)
        self.problems.update(found, _check_signing(loaded, found), _check_zone(loaded))
        if not any(problem.message.startswith("database") for problem in found):
            self._examine_database(loaded)

    def _examine_database(self, loaded: config.Config) -> None:
        """Connect to PostgreSQL as `run` will, and add what is wrong with it."""
        if loaded.database is None:
            return
        from mailwatch.store.place import configured_place  # Loading SQLAlchemy is slow.
        from mailwatch.store.postgres_check import examine

        try:
            facts = examine(configured_place(loaded))
        except OperationError as error:
            self.problems.add(loaded.problem(("database",), f"database: {error}"))
            return
        for obstacle in facts.obstacles if facts else ():
            self.problems.add(loaded.problem(("database",), f"database: {obstacle}"))
        for remark in (*facts.losses(), *facts.remarks()) if facts else ():
            self.notes.append(loaded.problem(("database",), f"database: {remark} (docs/how-to/postgresql.md)"))


def _check_zone(loaded: config.Config) -> Sequence[config.ConfigProblem]:
    try:
        loaded.zone()
    except TimeZoneError as error:
        return [loaded.problem((), f"timezone: {error.reason}, or write timezone: here")]
    return []


def _check_signing(
    loaded: config.Config, found: Collection[config.ConfigProblem]
) -> Sequence[config.ConfigProblem]:
    """Open the signing key as `report` will, and return its mistakes, unless a file of it is missing anyway."""
    if loaded.signing is None or any(problem.message.startswith("signing") for problem in found):
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
