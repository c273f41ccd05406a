"""The ledger: entries and checkpoints, append-only by trigger."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import INDEX, NAME, create_index, forbid, is_postgresql

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables, and the triggers that forbid changes to them."""
    op.create_table(
        "entries",
        sa.Column("idx", INDEX, primary_key=True, autoincrement=False),
        sa.Column("kind", NAME, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("target", NAME),
        sa.Column("number", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("header", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_index("entries_by_target", "entries", ["target", "idx"])
    op.create_index("entries_by_time", "entries", ["time_ms"])
    create_index("entries_by_kind", "entries", ["kind", "idx"], "kind <> 'observation'")
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
    )
    if is_postgresql():
        _create_head()
    for table in ("entries", "checkpoints"):
        for change in ("UPDATE", "DELETE", *(["TRUNCATE"] if is_postgresql() else [])):
            forbid(table, change)


def _create_head() -> None:
    """Create the head row's table. What SQLite's lock does for one process, it does for several."""
    op.create_table(
        "ledger_head",
        sa.Column("id", sa.SmallInteger, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("origin", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
        sa.Column("successor", sa.Text),
        # One hash for each set bit of the size: the compact range.
        sa.CheckConstraint("octet_length(hashes) = 32 * bit_count(size::bit(64))"),
    )
    op.create_table(
        "token_files",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("reply", sa.LargeBinary, nullable=False),
    )
    # The row is updated in place many times a second: half of its page is kept free for that.
    op.execute("ALTER TABLE ledger_head SET (fillfactor = 50)")
    # The database itself refuses a second entry of a target's number. SQLite has one writer.
    op.create_index("entries_by_number", "entries", ["target", "number"], unique=True)
    op.execute(
        "CREATE FUNCTION mailwatch_refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'the ledger is append-only'; END $$"
    )
    op.execute(
        "CREATE FUNCTION mailwatch_head() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.size < OLD.size OR NEW.origin <> OLD.origin OR NEW.id <> OLD.id OR OLD.successor IS NOT NULL "
        "THEN RAISE EXCEPTION 'the head of the ledger never falls'; END IF; RETURN NEW; END $$"
    )
    op.execute(
        "CREATE TRIGGER ledger_head_never_falls BEFORE UPDATE ON ledger_head FOR EACH ROW "
        "EXECUTE FUNCTION mailwatch_head()"
    )
    for change in ("DELETE", "TRUNCATE"):
        forbid("ledger_head", change)
    for change in ("UPDATE", "DELETE", "TRUNCATE"):
        forbid("token_files", change)
