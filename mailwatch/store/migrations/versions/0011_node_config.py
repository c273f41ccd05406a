"""What each node's config says, as digests of its parts. SQLite has one node and no such table."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import is_postgresql

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column. A node of an older version leaves it empty."""
    if is_postgresql():
        op.add_column("nodes", sa.Column("config", sa.Text, nullable=False, server_default=""))
