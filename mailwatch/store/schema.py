"""The tables, and how the database is opened. migrations/ creates the tables; a test keeps the two in step."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from mailwatch.files import sync_folder
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.errors import StoreError, StoreHealth, StoreMovedError, database_locked, translate_error

logger = logging.getLogger(__name__)

metadata = sa.MetaData()
# SQLite stores rows in the order of an INTEGER key, which has 64 bits there.
INDEX = sa.BigInteger().with_variant(sa.Integer, "sqlite")

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("idx", INDEX, primary_key=True, autoincrement=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("target", sa.Text),
    sa.Column("number", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.Column("header", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Index("entries_by_target", "target", "idx"),
    sa.Index("entries_by_target_time", "target", "time_ms"),
    sa.Index("entries_by_time", "time_ms"),
    sa.Index("entries_by_kind", "kind", "idx", sqlite_where=sa.text("kind <> 'observation'")),
)
"""The ledger. `header` and `payload` are the sealed texts; the other columns repeat them for queries."""

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
)
"""Signed notes, each with the compact range from which the tree can grow on."""

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("number", INDEX, primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("put_ms", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("done_ms", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.Index("outbox_once", "channel", "key", unique=True),
    sa.Index("outbox_pending", "channel", "number", sqlite_where=sa.text("done_ms IS NULL")),
)
"""Notifications by channel. A finished row stays for a while, so that its key is not sent again."""

outbox_cursor = sa.Table(
    "outbox_cursor",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
)
"""One row: the ledger index up to which events were put into the outbox."""


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
        cursor = connection.cursor()
        try:
            for pragma in (*pragmas, "query_only=ON") if read_only else pragmas:
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


def migrate(made: sa.Engine, progress: StartupProgress) -> None:
    """Migrate the tables to this version's schema, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with made.begin() as connection:
        here = MigrationContext.configure(connection).get_current_revision()
        if here not in (None, ScriptDirectory.from_config(config).get_current_head()):
            progress.update(StartupStep.MIGRATING)
            logger.info("updating the tables of the ledger to this version; this takes a while for a long ledger")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
