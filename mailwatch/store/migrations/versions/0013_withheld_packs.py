"""Packs hold withheld entries too, which only the ledgers of a hub's members have: their run names no target."""

from alembic import op

from mailwatch.store.migrations.dialects import is_postgresql

revision = "0013"
down_revision = "0012"

# Runs of a target do not overlap, and no run spans a packed kind of entry that stays a row.
_UNHELD = (
    "OLD.kind NOT IN ('observation', 'gap', 'withheld') OR coalesce((SELECT last FROM runs WHERE target = "
    "CASE OLD.kind WHEN 'withheld' THEN '' ELSE OLD.target END "
    "AND first <= OLD.idx ORDER BY first DESC LIMIT 1), -1) < OLD.idx"
)


def upgrade() -> None:
    """Let the withheld rows of `entries` go that a run holds."""
    if is_postgresql():
        op.execute(
            "CREATE OR REPLACE FUNCTION entries_no_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF {_UNHELD} THEN RAISE EXCEPTION 'the ledger is append-only'; END IF; RETURN OLD; END $$"
        )
        return
    op.execute("DROP TRIGGER entries_no_delete")
    op.execute(
        f"CREATE TRIGGER entries_no_delete BEFORE DELETE ON entries WHEN {_UNHELD} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )
