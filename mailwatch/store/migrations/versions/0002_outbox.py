"""The outbox: the notifications to send, and the position up to which the ledger was read for them."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import INDEX, NAME, create_index

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create the two tables; unlike the ledger's, their rows are changed and deleted."""
    op.create_table(
        "outbox",
        sa.Column("number", INDEX, primary_key=True),
        sa.Column("channel", NAME, nullable=False),
        sa.Column("key", NAME, nullable=False),
        sa.Column("event", NAME, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("put_ms", sa.BigInteger, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("done_ms", sa.BigInteger),
        sa.Column("outcome", sa.Text),
    )
    op.create_index("outbox_once", "outbox", ["channel", "key"], unique=True)
    create_index("outbox_pending", "outbox", ["channel", "number"], "done_ms IS NULL")
    op.create_table(
        "outbox_cursor",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("idx", sa.BigInteger, nullable=False),
    )
