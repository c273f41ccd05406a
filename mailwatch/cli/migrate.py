"""mailwatch migrate: the ledger goes from its SQLite file to PostgreSQL, or back, while MailWatch does not run."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import yaml
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from mailwatch.cli.common import add_options, open_config
from mailwatch.cli.language import tr
from mailwatch.config import Config
from mailwatch.config.schema_database import DatabaseSection, database_as_text
from mailwatch.errors import UsageError
from mailwatch.store.migrate import Move, MoveStep, to_postgresql, to_sqlite
from mailwatch.store.place import configured_place
from mailwatch.store.postgres import PostgresPlace

SQLITE = "sqlite"


def add(verb: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    verb.add_argument(
        "--to",
        required=True,
        metavar="DATABASE",
        help="sqlite, or postgresql://user@host/database without a password; its tables are made",
    )
    password = verb.add_mutually_exclusive_group()
    password.add_argument("--password-file", type=Path, metavar="FILE", help="the first line is its password")
    password.add_argument("--password-env", metavar="NAME", help="the environment variable with its password")
    add_options(verb)
    verb.set_defaults(run=_migrate)


def _migrate(args: argparse.Namespace) -> int:
    config = open_config(args)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("")

        def progress(step: MoveStep, done: int, of: int) -> None:
            bar.update(task, description=tr(step.value), completed=done, total=of or None)

        if args.to == SQLITE:
            place = configured_place(config)
            if not isinstance(place, PostgresPlace):
                raise UsageError("mailwatch: the config names no other database; the ledger is in SQLite already")
            section, moved = None, to_sqlite(place, progress)
        else:
            section = _section(config, args)
            moved = to_postgresql(_place(config, section), progress)
    _print_done(args, moved, section)
    return 0


def _section(config: Config, args: argparse.Namespace) -> DatabaseSection:
    """Return the database that is named: with the password of the config if that names it too. Raises
    UsageError.
    """
    file = args.password_file and args.password_file.absolute()
    given = {"url": args.to, "password_file": file, "password_env": args.password_env}
    try:
        section = DatabaseSection.model_validate(given)
    except ValidationError as error:
        # The value may hold a password, so it is not repeated.
        raise UsageError(f"mailwatch: --to {_first_fault(error)}") from None
    known = config.database
    if known is not None and known.url == section.url and not (args.password_file or args.password_env):
        return known
    return section


def _first_fault(error: ValidationError) -> str:
    what = error.errors(include_input=False, include_url=False)[0]
    return str(what["ctx"]["error"] if "error" in what.get("ctx", {}) else what["msg"])


def _place(config: Config, section: DatabaseSection) -> PostgresPlace:
    place = configured_place(config.model_copy(update={"database": section}))
    assert isinstance(place, PostgresPlace)
    return place


def _print_done(args: argparse.Namespace, moved: Move, section: DatabaseSection | None) -> None:
    line = {"database": _line(section)}
    if args.json:
        print(json.dumps({**asdict(moved), **line}, indent=2, ensure_ascii=False))
        return
    print(
        tr(
            "{origin}: {entries} entries went from {source} to {destination}",
            origin=moved.origin,
            entries=moved.entries,
            source=moved.source,
            destination=moved.destination,
        )
    )
    print(tr("Write this into the config before MailWatch starts again:"))
    print(yaml.safe_dump(line, sort_keys=False, allow_unicode=True, width=1000).rstrip())


def _line(section: DatabaseSection | None) -> object:
    """Return what is to be in the config: the address alone where it has no password."""
    if section is not None and section.password_file is None and section.password_env is None:
        return section.url
    return database_as_text(section)
