"""The ledger: entries and checkpoints, append-only by trigger."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables, and the triggers that forbid changes to them."""
    op.create_table(
        "entries",
        sa.Column(
            "idx", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("target", sa.Text),
        sa.Column("number", sa.BigInteger),
        sa.Column("outcome", sa.Text),
        sa.Column("header", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
    )
    op.create_index("entries_by_target", "entries", ["target", "idx"])
    op.create_index("entries_by_time", "entries", ["time_ms"])
    op.create_index("entries_by_kind", "entries", ["kind", "idx"], sqlite_where=sa.text("kind <> 'observation'"))
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
        sa.Column("hashes", sa.LargeBinary, nullable=False),
    )
    for table in ("entries", "checkpoints"):
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )
