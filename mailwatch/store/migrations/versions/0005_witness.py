"""The register of a witness: the ledgers whose checkpoints it cosigns, their mailboxes, and refused histories."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import INDEX, NAME

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Create the tables; rows of the first are changed."""
    op.create_table(
        "witnessed",
        sa.Column("origin", NAME, primary_key=True),
        sa.Column("first_size", sa.BigInteger, nullable=False),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("root", sa.Text, nullable=False),
        sa.Column("note", sa.Text, nullable=False),
    )
    op.create_table(
        "witnessed_mailboxes",
        sa.Column("commitment", NAME, primary_key=True),
        sa.Column("origin", NAME, primary_key=True),
        sa.Column("first_ms", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "witness_refusals",
        sa.Column("number", INDEX, primary_key=True),
        sa.Column("origin", NAME, nullable=False),
        sa.Column("time_ms", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("request", sa.Text, nullable=False),
    )
    op.create_index("witness_refusals_by_origin", "witness_refusals", ["origin", "number"])
