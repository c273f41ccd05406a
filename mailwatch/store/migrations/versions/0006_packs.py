"""Packs: old observations re-encoded by target, without loss. A row may go only once a run holds it."""

import sqlalchemy as sa
from alembic import op

from mailwatch.store.migrations.dialects import INDEX, NAME, forbid, is_postgresql

revision = "0006"
down_revision = "0005"

# Runs of a target do not overlap, and no run spans an observation or gap that stays a row.
_UNHELD = (
    "OLD.kind NOT IN ('observation', 'gap') OR coalesce((SELECT last FROM runs "
    "WHERE target = OLD.target AND first <= OLD.idx ORDER BY first DESC LIMIT 1), -1) < OLD.idx"
)
_ALTERED = (
    "NEW.first <> OLD.first OR NEW.level <> OLD.level OR NEW.root <> OLD.root OR NEW.count <> OLD.count "
    "OR coalesce(NEW.dictionary_of, -1) <> coalesce(OLD.dictionary_of, -1) "
    "OR coalesce(NEW.dictionary <> OLD.dictionary, NEW.dictionary IS NULL AND OLD.dictionary IS NOT NULL) "
    "OR (OLD.pruned_ms IS NOT NULL AND coalesce(NEW.pruned_ms, -1) <> OLD.pruned_ms)"
)
_GUARDS = (
    ("entries_no_delete", "DELETE", "entries", _UNHELD),
    ("packs_no_update", "UPDATE", "packs", _ALTERED),
    ("packs_no_delete", "DELETE", "packs", "1 = 1"),
    ("runs_no_update", "UPDATE", "runs", "1 = 1"),
    ("runs_no_delete", "DELETE", "runs", "(SELECT pruned_ms FROM packs WHERE first = OLD.pack) IS NULL"),
)


def upgrade() -> None:
    """Create the tables; let the rows of `entries` go that a run holds, and no others."""
    op.create_table(
        "packs",
        sa.Column("first", INDEX, primary_key=True, autoincrement=False),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("root", sa.LargeBinary, nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("swept", sa.Integer, nullable=False),
        sa.Column("pruned_ms", sa.BigInteger),
        sa.Column("dictionary_of", sa.BigInteger),
        sa.Column("dictionary", sa.LargeBinary),
    )
    op.create_table(
        "runs",
        sa.Column("target", NAME, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
        sa.Column("pack", INDEX, sa.ForeignKey("packs.first"), nullable=False),
        sa.Column("count", sa.BigInteger, nullable=False),
        sa.Column("low_ms", sa.BigInteger, nullable=False),
        sa.Column("high_ms", sa.BigInteger, nullable=False),
        sa.Column("contents", sa.Integer, nullable=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    op.create_index("runs_by_pack", "runs", ["pack", "first"])
    op.create_index("runs_by_target_time", "runs", ["target", "high_ms", "low_ms", "first"])
    op.execute("DROP TRIGGER entries_no_delete" + (" ON entries" if is_postgresql() else ""))
    for guard in _GUARDS:
        (_guard_postgresql if is_postgresql() else _guard_sqlite)(*guard)
    for table in ("packs", "runs") if is_postgresql() else ():
        forbid(table, "TRUNCATE")


def _guard_sqlite(name: str, change: str, table: str, condition: str) -> None:
    op.execute(
        f"CREATE TRIGGER {name} BEFORE {change} ON {table} WHEN {condition} "
        "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
    )


def _guard_postgresql(name: str, change: str, table: str, condition: str) -> None:
    op.execute(
        f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF {condition} THEN "
        f"RAISE EXCEPTION 'the ledger is append-only'; END IF; RETURN {'NEW' if change == 'UPDATE' else 'OLD'}; "
        "END $$"
    )
    op.execute(f"CREATE TRIGGER {name} BEFORE {change} ON {table} FOR EACH ROW EXECUTE FUNCTION {name}()")
