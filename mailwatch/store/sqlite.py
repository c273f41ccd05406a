"""How a ledger in an SQLite file is opened, held by one process, and appended to."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from mailwatch.files import sync_folder
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import StoreError, StoreHealth, StoreMovedError, database_locked, translate_error
from mailwatch.store.schema import checkpoints, entries

AUTO_VACUUM = "auto_vacuum=INCREMENTAL"
"""The file knows which page refers to which, so that it can be shortened in steps while entries are appended."""
_INCREMENTAL = 2
COPY_FOLDER = "compact.partial"
"""Folder in data_dir with the new file of `mailwatch ledger compact`; one that is left was not finished."""


class SqlitePlace:
    """The SQLite file of a data_dir."""

    is_shared = False

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir

    def __str__(self) -> str:
        return str(database(self.data_dir))

    def absence(self) -> str:
        """Return how the database is missing, "" if the file has content."""
        path = database(self.data_dir)
        if path.exists() and path.stat().st_size > 0:
            return ""
        return "is empty" if path.exists() else "is gone"

    def engine(self, *, read_only: bool = False, health: StoreHealth | None = None) -> sa.Engine:
        """Return an engine for the existing file."""
        return engine(self.data_dir, read_only=read_only, health=health)

    def hold(self, health: StoreHealth) -> SqliteHold:
        """Lock the data_dir for this process. Raises DataDirLockedError, OSError."""
        return SqliteHold(self.data_dir, health)

    def cut(self) -> None:
        """Do nothing: there is no connection."""

    def save_tables(self, made: sa.Engine) -> None:
        """Have the tables in the file itself, not in its write-ahead log. Raises StoreError."""
        with made.connect() as connection:
            empty_log(connection, database(self.data_dir))


class SqliteHold:
    """The one process that writes: the lock of its data_dir, and the connection that appends."""

    tail = None

    def __init__(self, data_dir: Path, health: StoreHealth) -> None:
        self._data_dir = data_dir
        self._health = health
        self._insert = sa.insert(entries)
        self._engine: sa.Engine | None = None
        self._lock = DataDirLock(data_dir)
        shutil.rmtree(data_dir / COPY_FOLDER, ignore_errors=True)

    def open(self) -> sa.Engine:
        """Open the database, made if it is missing. Raises StoreError, OSError."""
        if not database(self._data_dir).exists():
            make_database(self._data_dir)
        self._engine = engine(self._data_dir, health=self._health)
        return self._engine

    def begin(self) -> None:
        """Open the connection that appends. Raises StoreError, OSError."""
        assert self._engine is not None
        self._connection = self._engine.connect()
        self._database = database(self._data_dir).stat()

    def settle(self, origin: str, tree: CompactRange) -> None:
        """Remember the identity of the open files: those that were checked. Raises StoreError, OSError."""
        with self.transaction() as connection:
            # A read creates the write-ahead log.
            connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar()
        self._database = database(self._data_dir).stat()
        self._health.log = write_ahead_log(self._data_dir).stat()
        self._connection.info["log"] = self._health.log

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Run statements in one transaction, which no other process can change anything in. Raises StoreError."""
        with self._connection.begin():
            yield self._connection

    def writing(self) -> AbstractContextManager[sa.Connection]:
        """Write in one transaction: the lock keeps all others out. Raises StoreError."""
        return self.transaction()

    def advance(self, connection: sa.Connection, before: CompactRange, after: CompactRange) -> None:
        """Do nothing: no other process writes, and the entries give the tree."""

    def append(self, before: CompactRange, after: CompactRange, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Commit rows that make `after` of `before`; always True, since no other process writes. Raises
        StoreError.
        """
        with self._connection.begin():
            self._connection.execute(self._insert, rows)
        return True

    def give_back(self, keep: int, pages: int) -> int:
        """Shorten the file by up to `pages` of its free pages, but leave `keep` bytes of them; return by how many.

        0 for a file that was made before it could be shortened in steps. Raises StoreError.
        """
        with self.transaction() as connection:
            if connection.exec_driver_sql("PRAGMA auto_vacuum").scalar() != _INCREMENTAL:
                return 0
            free = int(connection.exec_driver_sql("PRAGMA freelist_count").scalar_one())
            size = int(connection.exec_driver_sql("PRAGMA page_size").scalar_one())
            shortened = max(0, min(free - keep // size, pages))
            for _ in range(shortened):
                # Python's driver ends a statement without columns after its first step, which is one page.
                connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
        return shortened

    def check(self) -> None:
        """Check that the open files are still those at the ledger's paths. Raises StoreError, OSError.

        Otherwise commits would succeed into a file that nobody can open any more.
        """
        try:
            if not same_file(database(self._data_dir), self._database):
                raise file_moved(database(self._data_dir))
            self._lock.hold()
            if self._health.log and not same_file(write_ahead_log(self._data_dir), self._health.log):
                self._heal_log(write_ahead_log(self._data_dir))
        except StoreMovedError as error:
            self._health.note(error)
            raise

    def _heal_log(self, log: Path) -> None:
        try:
            self._restore_log()
        except BaseException:
            self._health.note(file_moved(log))
            raise
        self._health.note(log_restored(log))

    def _restore_log(self) -> None:
        """Recover from a removed write-ahead log: its content is still readable, and is moved into the
        database.
        """
        assert self._engine is not None
        empty_log(self._connection, database(self._data_dir))
        self._connection.close()
        self._health.log = None
        self._engine.dispose()
        self._connection = self._engine.connect()
        self.settle("", CompactRange())

    def release(self) -> None:
        """Close the database and release the lock."""
        if self._engine is not None:
            if hasattr(self, "_connection"):
                self._connection.close()
            self._engine.dispose()
        self._lock.release()


def database(data_dir: Path) -> Path:
    """Return the path of a data_dir's SQLite file."""
    return data_dir / "mailwatch.sqlite"


def write_ahead_log(data_dir: Path) -> Path:
    """Return the path of SQLite's write-ahead log, which holds the latest commits."""
    return data_dir / "mailwatch.sqlite-wal"


def same_file(path: Path, opened: os.stat_result) -> bool:
    """Return whether a path still names the opened file; False if the path does not exist."""
    try:
        return same_stat(path.stat(), opened)
    except OSError:
        return False


def same_stat(one: os.stat_result, other: os.stat_result) -> bool:
    """Return whether both are of the same file."""
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def file_moved(path: Path) -> StoreMovedError:
    """Return the error for a path that no longer names the opened file."""
    return StoreMovedError(
        f"{path} is no longer the file that was opened: it was moved, replaced or removed. New entries wait "
        "in memory: put it back, and MailWatch writes them",
        f"{path.name} was moved, replaced or removed while MailWatch runs",
    )


def log_restored(log: Path) -> StoreMovedError:
    """Return the error for a write-ahead log that was moved or removed after its content was saved."""
    return StoreMovedError(
        f"{log} was moved, replaced or removed; its content is in the database; nothing is lost, and you need "
        "not do anything",
        f"{log.name} was moved, replaced or removed; its content is saved",
    )


def make_database(data_dir: Path) -> None:
    """Create an empty database file with mode 0600, synced to disk. Raises FileExistsError, OSError."""
    # Never open an existing database this way: closing a file drops all locks that this process holds on it
    # (fcntl(2)), including those of SQLite's other connections. Another process could then remove the log under
    # them. SQLite gives its -wal and -shm files the mode of the database.
    os.close(os.open(database(data_dir), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    sync_folder(data_dir)


def engine(data_dir: Path, *, read_only: bool = False, health: StoreHealth | None = None) -> sa.Engine:
    """Return an engine for the existing SQLite file, with write-ahead log and every commit synced to disk.

    SQLite's errors are raised as StoreError and noted in `health`, except errors caused by a statement's own
    values. All connections use the same file as the first, and the log in `health`.
    """
    path, log = database(data_dir), write_ahead_log(data_dir)
    opened: list[os.stat_result] = []
    health = health or StoreHealth()

    def connect() -> sqlite3.Connection:
        if opened and not same_file(path, opened[0]):
            raise _note(health, file_moved(path))
        if health.log and not same_file(log, health.log):
            raise _note(health, file_moved(log))
        # mode=rw: do not create a missing file, since an empty database would be taken for the ledger.
        return sqlite3.connect(
            f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=10, check_same_thread=False
        )

    # As many connections as the web server has threads.
    made = sa.create_engine(f"sqlite:///{path}", creator=connect, max_overflow=40)

    @sa.event.listens_for(made, "connect")
    def _pragmas(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        # The driver begins transactions too late for DDL and reads, so the "begin" event below does it.
        connection.isolation_level = None
        pragmas = ["journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"]
        if read_only:
            pragmas.append("query_only=ON")
        elif path.stat().st_size == 0:
            # Of effect in an empty file only, and before it has a log; any other one it would write to.
            pragmas.insert(0, AUTO_VACUUM)
        cursor = connection.cursor()
        try:
            for pragma in pragmas:
                cursor.execute(f"PRAGMA {pragma}")
            opened[:] = opened or [path.stat()]
            record.info["log"] = log.stat() if health.log else None
        except BaseException:
            # The pool does not know the connection yet and would leave it open.
            connection.close()
            raise

    _check_transactions(made, path, health, read_only)
    return made


def _check_transactions(made: sa.Engine, path: Path, health: StoreHealth, read_only: bool) -> None:
    """Begin transactions at once, on files that are still in place only; raise SQLite's errors as StoreError."""

    @sa.event.listens_for(made, "checkout")
    def _check(_connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if _is_stale(record.info, health):
            # The pool then opens another connection.
            raise sa.exc.DisconnectionError

    @sa.event.listens_for(made, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
        if _is_stale(connection.info, health):
            raise file_moved(write_ahead_log(path.parent))

    @sa.event.listens_for(made, "handle_error")
    def _translate(context: ExceptionContext) -> None:
        cause = context.original_exception
        if isinstance(cause, sqlite3.Error) and (error := translate_error(path, cause)) is not None:
            raise _note(health, error) from cause


def empty_log(connection: sa.Connection, path: Path) -> None:
    """Move the content of this connection's write-ahead log into the database `path`. Raises StoreError."""
    # Bypasses SQLAlchemy, which would begin a transaction and wait for itself.
    raw = connection.connection.dbapi_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        busy, _, _ = raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        raise translate_error(path, error) or error from error
    if busy:
        raise database_locked(path)


def _note(health: StoreHealth, error: StoreError) -> StoreError:
    health.note(error)
    return error


def _is_stale(info: Mapping[str, Any], health: StoreHealth) -> bool:
    """Return whether a connection uses another log than the writer's, which is not the ledger's."""
    known: os.stat_result | None = info.get("log")
    return known is not None and health.log is not None and not same_stat(known, health.log)
