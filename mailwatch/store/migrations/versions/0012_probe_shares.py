"""Which node probes which targets, and the messages between the nodes. SQLite has one node and no such table."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import is_postgresql

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the tables."""
    if not is_postgresql():
        return
    # What a node says of its probing, as JSON; empty where an older version runs, or a node that does not probe.
    op.add_column("nodes", sa.Column("probing", sa.Text, nullable=False, server_default=""))
    op.create_table(
        "probe_shares",
        sa.Column("share", sa.SmallInteger, primary_key=True, autoincrement=False),
        sa.Column("node", sa.Text, sa.ForeignKey("nodes.id", ondelete="CASCADE"), nullable=False),
    )
    op.create_table(
        "probe_messages",
        sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
        sa.Column("node", sa.Text, nullable=False),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("sender", sa.Text, nullable=False),
        sa.Column("sender_epoch", sa.BigInteger, nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.clock_timestamp()),
        sa.Column("body", sa.Text, nullable=False),
        # A message that is lost is a probe that is made again: nothing here is worth a disk.
        prefixes=["UNLOGGED"],
    )
    op.create_index("probe_messages_to", "probe_messages", ["node", "epoch"])
    # Rows live for milliseconds. They are not worth compressing, and what they leave is to be swept soon.
    op.execute("ALTER TABLE probe_messages ALTER COLUMN body SET STORAGE EXTERNAL")
    op.execute(
        "ALTER TABLE probe_messages SET (autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_scale_factor = 0)"
    )
