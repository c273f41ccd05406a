"""An index by target and time: a query of a window must not read the whole history of its target."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create the index; on ten million entries this takes some twenty seconds, once."""
    op.create_index("entries_by_target_time", "entries", ["target", "time_ms"])
