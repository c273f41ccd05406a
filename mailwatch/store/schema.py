"""The tables, for either engine. migrations/ creates the tables; a test keeps the two in step."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa

from mailwatch.progress import StartupProgress, StartupStep

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite

logger = logging.getLogger(__name__)

MIGRATION_LOCK = 0x6D61696C
"""A number that no other program is likely to lock in our database: "mail"."""

LOCK_SECONDS = 5
"""Seconds to wait for another transaction, as of a node that was stopped within it."""

metadata = sa.MetaData()
# PostgreSQL would else sort as a country does, and SQLite sorts by bytes.
NAME = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite stores rows in the order of an INTEGER key, which has 64 bits there.
INDEX = sa.BigInteger().with_variant(sa.Integer, "sqlite")
OTHER_KINDS, PENDING = sa.text("kind <> 'observation'"), sa.text("done_ms IS NULL")

entries = sa.Table(
    "entries",
    metadata,
    sa.Column("idx", INDEX, primary_key=True, autoincrement=False),
    sa.Column("kind", NAME, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("target", NAME),
    sa.Column("number", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.Column("header", sa.Text, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Index("entries_by_target", "target", "idx"),
    sa.Index("entries_by_target_time", "target", "time_ms"),
    sa.Index("entries_by_time", "time_ms"),
    sa.Index("entries_by_kind", "kind", "idx", sqlite_where=OTHER_KINDS, postgresql_where=OTHER_KINDS),
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

packs = sa.Table(
    "packs",
    metadata,
    sa.Column("first", INDEX, primary_key=True, autoincrement=False),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("root", sa.LargeBinary, nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("swept", sa.Integer, nullable=False),
    sa.Column("pruned_ms", sa.BigInteger),
    sa.Column("dictionary_of", sa.BigInteger),
    sa.Column("dictionary", sa.LargeBinary),
)
"""Perfect subtrees of 2**level entries from `first` on, of which runs hold `count`. `swept`: 1 once no row is left
that a run holds too. `pruned_ms`: when its runs were dropped. `dictionary_of`: the pack whose `dictionary`
compresses its runs, which may be a pack before it.
"""

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("target", NAME, primary_key=True),
    sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("last", sa.BigInteger, nullable=False),
    sa.Column("pack", INDEX, sa.ForeignKey("packs.first"), nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("low_ms", sa.BigInteger, nullable=False),
    sa.Column("high_ms", sa.BigInteger, nullable=False),
    sa.Column("contents", sa.Integer, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Index("runs_by_pack", "pack", "first"),
    sa.Index("runs_by_target_time", "target", "high_ms", "low_ms", "first"),
)
"""Consecutive observations and gaps of one target in one pack (run_format.py): from index `first` to `last`, with
their earliest and latest time. `contents`: which outcomes occur, as bits.
"""

outbox = sa.Table(
    "outbox",
    metadata,
    sa.Column("number", INDEX, primary_key=True),
    sa.Column("channel", NAME, nullable=False),
    sa.Column("key", NAME, nullable=False),
    sa.Column("event", NAME, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("put_ms", sa.BigInteger, nullable=False),
    sa.Column("payload", sa.Text, nullable=False),
    sa.Column("done_ms", sa.BigInteger),
    sa.Column("outcome", sa.Text),
    sa.Index("outbox_once", "channel", "key", unique=True),
    sa.Index("outbox_pending", "channel", "number", sqlite_where=PENDING, postgresql_where=PENDING),
)
"""Notifications by channel. A finished row stays for a while, so that its key is not sent again."""

outbox_cursor = sa.Table(
    "outbox_cursor",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
)
"""One row: the ledger index up to which events were put into the outbox."""


acknowledgements = sa.Table(
    "acknowledgements",
    metadata,
    sa.Column("subject", NAME, primary_key=True),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
"""Outages and incidents, by id, that the owner has taken note of."""

channels = sa.Table(
    "channels",
    metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("address", sa.Text, nullable=False),
)
"""Which address, as a keyed digest, each name of a channel had in the config that ran last."""

witnessed = sa.Table(
    "witnessed",
    metadata,
    sa.Column("origin", NAME, primary_key=True),
    sa.Column("first_size", sa.BigInteger, nullable=False),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("root", sa.Text, nullable=False),
    sa.Column("note", sa.Text, nullable=False),
)
"""Ledgers of others whose checkpoints this MailWatch cosigns: the first checkpoint, and the newest."""

witnessed_mailboxes = sa.Table(
    "witnessed_mailboxes",
    metadata,
    sa.Column("commitment", NAME, primary_key=True),
    sa.Column("origin", NAME, primary_key=True),
    sa.Column("first_ms", sa.BigInteger, nullable=False),
)
"""Since when each ledger of others has observed which mailboxes, by their commitments."""

witness_refusals = sa.Table(
    "witness_refusals",
    metadata,
    sa.Column("number", INDEX, primary_key=True),
    sa.Column("origin", NAME, nullable=False),
    sa.Column("time_ms", sa.BigInteger, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("request", sa.Text, nullable=False),
    sa.Index("witness_refusals_by_origin", "origin", "number"),
)
"""Signed checkpoints that do not continue what was cosigned before: proof of a second history."""

hub_invitations = sa.Table(
    "hub_invitations",
    metadata,
    sa.Column("digest", NAME, primary_key=True),
    sa.Column("name", NAME, nullable=False),
    sa.Column("made_ms", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger, nullable=False),
)
"""Invitations to this hub that were not used yet: the SHA-256 of each token, and the name it was made for."""

hub_members = sa.Table(
    "hub_members",
    metadata,
    sa.Column("origin", NAME, primary_key=True),
    sa.Column("name", NAME, nullable=False, unique=True),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("witness", sa.Text, nullable=False),
    sa.Column("vantage_point", sa.Text, nullable=False),
    sa.Column("joined_ms", sa.BigInteger, nullable=False),
    sa.Column("revoked_ms", sa.BigInteger),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("pushed_ms", sa.BigInteger),
)
"""The vantage points that push their ledgers to this hub: their keys, and how far and when they pushed last."""

kept_states = sa.Table(
    "kept_states",
    metadata,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("idx", sa.BigInteger, nullable=False),
    sa.Column("leaf", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
)
"""A cache of states that follow from the entries up to `idx` (store/kept_states.py); not evidence."""

outage_heads = sa.Table(
    "outage_heads",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("provider", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("begin_ms", sa.BigInteger, nullable=False),
    sa.Column("first_bad", sa.BigInteger, nullable=False),
    sa.Column("until_ms", sa.BigInteger),
    sa.Column("least_ms", sa.BigInteger, nullable=False),
    sa.Column("opened", sa.BigInteger, nullable=False),
    sa.Column("idx", sa.BigInteger, nullable=False),
)
"""A cache of what lists need of each outage, with its first and its latest entry (store/outage_index.py)."""


head = sa.Table(
    "ledger_head",
    sa.MetaData(),
    sa.Column("id", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("origin", NAME, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sa.Column("successor", sa.Text),
)
"""On PostgreSQL only: one row, the number of entries and their compact range. An append moves it, or fails."""

token_files = sa.Table(
    "token_files",
    head.metadata,
    sa.Column("name", NAME, primary_key=True),
    sa.Column("reply", sa.LargeBinary, nullable=False),
)
"""On PostgreSQL only: the raw replies of timestamp authorities by their SHA-256, which SQLite has files for."""


def insert(connection: sa.Connection, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    """Return an insert that can say what to do on a conflict, in the words of the connection's engine."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects import postgresql

        return postgresql.insert(table)
    from sqlalchemy.dialects import sqlite

    return sqlite.insert(table)


def exclude_others(connection: sa.Connection, table: sa.Table) -> None:
    """Let no other transaction change a table until this one ends. In SQLite that is so from its beginning.

    Raises StoreUnavailableError if another one takes longer than LOCK_SECONDS.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{LOCK_SECONDS}s'")
        connection.exec_driver_sql(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE")


_current: list[str] = []
"""The revision of this version's schema, once this process has migrated some tables to it."""


def migrate(made: sa.Engine, progress: StartupProgress) -> None:
    """Migrate the tables to this version's schema, in one transaction."""
    if _current and _revision(made) == _current[0]:
        # A node that takes over has asked before, and Alembic takes a quarter of a second on a busy machine.
        return
    # Imported only here: readers need no migration, and Alembic costs each command a tenth of a second.
    from alembic import command
    from alembic.config import Config
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    with made.begin() as connection:
        if connection.dialect.name == "postgresql":
            # Two nodes may start at once. SQLite's transactions exclude each other already.
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        here = MigrationContext.configure(connection).get_current_revision()
        if here not in (None, ScriptDirectory.from_config(config).get_current_head()):
            progress.update(StartupStep.MIGRATING)
            logger.info("updating the tables of the ledger to this version; this takes a while for a long ledger")
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        _current[:] = [MigrationContext.configure(connection).get_current_revision() or ""]


def _revision(made: sa.Engine) -> str | None:
    """Return the revision of tables, None for a database without any."""
    with made.begin() as connection:
        if not sa.inspect(connection).has_table("alembic_version"):
            return None
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
