"""The nodes that share a ledger in PostgreSQL, and which of them probes. SQLite has one node and no such table."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import is_postgresql

revision = "0009"
down_revision = "0007"


def upgrade() -> None:
    """Create the tables, and the one share that there is: all targets."""
    if not is_postgresql():
        return
    op.create_table(
        "nodes",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        # -infinity: it has left, or was evicted.
        sa.Column("until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("seen", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("version", sa.Text, nullable=False),
        sa.Column("offset_ms", sa.BigInteger),
        sa.Column("bound_ms", sa.BigInteger),
        sa.Column("refusal", sa.Text, nullable=False, server_default=""),
    )
    # A node that a share names cannot be deleted: else its share would stay taken for ever.
    op.create_table(
        "shares",
        sa.Column("share", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.id")),
        sa.Column("since", sa.TIMESTAMP(timezone=True)),
        sa.Column("takeovers", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("former", sa.Text),
        sa.Column("reason", sa.Text, nullable=False, server_default="first"),
        # The history of the server that the active node compared with its own copy last.
        sa.Column("cluster", sa.Text),
        # Whether a commit waited for a replica then.
        sa.Column("synchronous", sa.Boolean, nullable=False, server_default=sa.false()),
    )
    for table in ("nodes", "shares"):
        # Updated in place each second or two: half of its page is kept free for that.
        op.execute(f"ALTER TABLE {table} SET (fillfactor = 50)")
    op.execute("INSERT INTO shares (share) VALUES (0)")
