"""The members of a hub, and the invitations to it that were not used yet."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import NAME

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "hub_invitations",
        sa.Column("digest", NAME, primary_key=True),
        sa.Column("name", NAME, nullable=False),
        sa.Column("made_ms", sa.BigInteger, nullable=False),
        sa.Column("until_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "hub_members",
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
