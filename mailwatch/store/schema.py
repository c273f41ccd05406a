"""The tables, and how a database is opened. migrations/ makes them; a test keeps the two alike."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine.interfaces import DBAPIConnection

from mailwatch.progress import Progress, Step

logger = logging.getLogger(__name__)

metadata = sa.MetaData()
# SQLite keeps rows in the order of an INTEGER key; there it holds 64 bits.
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
"""Signed notes, with the compact range from which the tree can be grown again."""

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
"""What is to be told to whom. A row that is done stays for a while, so that its key is not told again."""

outbox_cursor = sa.Table(
    "outbox_cursor",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
)
"""One row: up to which index of the ledger events were put into the outbox."""


def database(data_dir: Path) -> Path:
    """Name the SQLite file of a data_dir."""
    return data_dir / "mailwatch.sqlite"


def engine(data_dir: Path, *, read_only: bool = False) -> sa.Engine:
    """Open the SQLite file, made with mode 0600 if it is not there. Write-ahead log, every commit on disk."""
    path = database(data_dir)
    if not read_only and not path.exists():
        # Never when it is there: to close a file drops all locks that this process holds on it (fcntl(2)), and
        # with them those of SQLite's other connections; another process then takes the log away under them.
        # SQLite gives its -wal and -shm files the mode of the database.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    # As many readers as the web has threads.
    made = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 10}, max_overflow=40)

    @sa.event.listens_for(made, "connect")
    def _pragmas(connection: DBAPIConnection, _record: Any) -> None:
        # The driver's own transaction control begins too late for DDL and reads; SQLAlchemy's "begin" rules.
        connection.isolation_level = None
        pragmas = ["journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"]
        cursor = connection.cursor()
        try:
            for pragma in (*pragmas, "query_only=ON") if read_only else pragmas:
                cursor.execute(f"PRAGMA {pragma}")
        except BaseException:
            # The pool does not know the connection yet, and would leave it open.
            connection.close()
            raise

    @sa.event.listens_for(made, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return made


def migrate(made: sa.Engine, progress: Progress) -> None:
    """Bring the tables to this version's shape, in one transaction."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with made.begin() as connection:
        here = MigrationContext.configure(connection).get_current_revision()
        if here not in (None, ScriptDirectory.from_config(config).get_current_head()):
            progress.at(Step.MIGRATING)
            logger.info("bringing the ledger's tables to the shape of this version; a long ledger takes a while")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
