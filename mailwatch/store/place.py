"""Where a ledger is kept, and what differs with it: how the database is opened, held and appended to.

There is one Store, one Reader and one Outbox for SQLite and PostgreSQL alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from mailwatch.config import Config
from mailwatch.config.errors import FieldError
from mailwatch.config.schema_database import DatabaseSection
from mailwatch.config.secrets import read_secret
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store.committed_tail import CommittedTail
from mailwatch.store.errors import StoreHealth, StoreUnavailableError
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.sqlite import SqlitePlace


class Hold(Protocol):
    """The writing side of a place: held by one process, as far as the place can tell."""

    @property
    def tail(self) -> CommittedTail | None:
        """Where this process keeps what it committed last; None where a failover cannot lose a commit."""

    def open(self) -> sa.Engine:
        """Open the database. Raises StoreError, OSError."""

    def begin(self) -> None:
        """Open the connection that appends. Raises StoreError, OSError."""

    def settle(self, origin: str, tree: CompactRange) -> None:
        """Take `tree` for what is committed: the start has checked it. Raises StoreError, OSError."""

    def transaction(self) -> AbstractContextManager[sa.Connection]:
        """Run statements in one transaction. Raises StoreError."""

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Write in one transaction. Raises StoreError; EvictedError if this process may not any more."""

    def advance(self, connection: sa.Connection, before: CompactRange, after: CompactRange) -> None:
        """Note within a transaction that its rows make `after` of `before`. Raises StoreError."""

    def append(self, before: CompactRange, after: CompactRange, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Commit rows of `entries`, which make the tree `after` of the tree `before`, or nothing.

        False: there are entries beyond `before` that others committed. Raises StoreError; CommitInDoubtError if
        the same rows must be appended again before any others; EvictedError if this process may write no more.
        """

    def give_back(self, keep: int, pages: int) -> int:
        """Give up to `pages` free pages back to the disk, but leave `keep` bytes; return how many.

        Raises StoreError.
        """

    def check(self) -> None:
        """Check that the database is still the one that was opened. Raises StoreError, OSError."""

    def release(self) -> None:
        """Close the database, for others to hold. Raises nothing."""


class Place(Protocol):
    """Where a ledger's database is. `str` names it in messages, without a password.

    `data_dir`: the folder of what is no database: the keys, and files of this machine.
    """

    data_dir: Path
    is_shared: bool
    """Whether other machines may have the same database."""

    def absence(self) -> str:
        """Return how the database is missing, as far as that shows without opening it; "" if it does not."""

    def engine(self, *, read_only: bool = False, health: StoreHealth | None = None) -> sa.Engine:
        """Return an engine, whose errors are raised as StoreError and noted in `health`.

        Errors caused by a statement's own values are not.
        """

    def hold(self, health: StoreHealth) -> Hold:
        """Hold the place for this process. Raises DataDirLockedError, OSError."""

    def cut(self) -> None:
        """Break all connections, so that who waits for the database fails. For any thread."""

    def save_tables(self, made: sa.Engine) -> None:
        """Have the tables where they outlast whatever happens to the first entry. Raises StoreError."""


def configured_place(config: Config) -> Place:
    """Return the place that a config names. Raises OperationError for PostgreSQL without psycopg."""
    section = config.database
    if section is None:
        return SqlitePlace(config.data_dir)
    if section.password_file is None and section.password_env is None:
        return PostgresPlace(config.data_dir, section.url)
    return PostgresPlace(config.data_dir, section.url, password=partial(_password, section))


def _password(section: DatabaseSection) -> str:
    """Read the password, at each connection: it may have been changed. Raises StoreUnavailableError."""
    try:
        return read_secret(section.password_file, section.password_env).get_secret_value()
    except FieldError as error:
        raise StoreUnavailableError(f"the password of the database: {error}", "its password is missing") from None


def place_of(where: Path | Place) -> Place:
    """Return the place that is meant: a path is the data_dir of a ledger in SQLite."""
    return SqlitePlace(where) if isinstance(where, Path) else where
