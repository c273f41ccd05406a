"""Changes what a ledger's database holds, as who has the disk can: its triggers are out of the way first."""

from __future__ import annotations

from mailwatch.store.place import Place


def alter(place: Place, statement: str) -> None:
    """Run one statement on a ledger's tables."""
    made = place.engine()
    with made.begin() as connection:
        if place.is_shared:
            for table in ("entries", "checkpoints", "packs", "runs"):
                connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        else:
            names = connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'trigger'").scalars()
            for name in names.all():
                connection.exec_driver_sql(f"DROP TRIGGER {name}")
        changed = connection.exec_driver_sql(statement).rowcount
    made.dispose()
    assert changed, statement
