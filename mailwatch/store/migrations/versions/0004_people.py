"""What people decided: acknowledged outages, and the addresses of the channels by their names."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import NAME

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Create the two tables; their rows are changed and deleted."""
    op.create_table(
        "acknowledgements",
        sa.Column("subject", NAME, primary_key=True),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "channels",
        sa.Column("name", NAME, primary_key=True),
        sa.Column("address", sa.Text, nullable=False),
    )
