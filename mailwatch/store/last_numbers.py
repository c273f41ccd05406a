"""The highest running number of each target, of many targets in one question, as a node that takes over asks."""

from __future__ import annotations

import json
from collections.abc import Collection

import sqlalchemy as sa

from mailwatch.store.errors import StoreHealth
from mailwatch.store.packs import PackReader
from mailwatch.store.schema import entries, runs


def last_numbers(connection: sa.Connection, health: StoreHealth, targets: Collection[str]) -> dict[str, int]:
    """Return the highest running number of each target, 0 for one without entries. Raises StoreError."""
    packs, found = PackReader(connection, health), dict[str, int]()
    for row in connection.execute(_query(connection.dialect.name, targets)):
        # Newer entries than those of its row may be in a pack: what is around an outage stays in rows.
        is_packed = row.packed is not None and (row.idx is None or row.packed > row.idx)
        found[row.target] = packs.last_number(row.target) if is_packed else row.number or 0
    return found


def _query(dialect: str, targets: Collection[str]) -> sa.Select[tuple[str, int | None, int | None, int | None]]:
    """Ask for each target's newest row, and for the last entry of its newest run: one step of an index each."""
    given = sa.literal(json.dumps(list(targets)), sa.Text)
    if dialect == "postgresql":
        each = sa.func.json_array_elements_text(sa.cast(given, sa.JSON))
    else:
        each = sa.func.json_each(given)
    names = each.table_valued("value", name="names")
    newest = entries.c.target == names.c.value
    order = entries.c.idx.desc()
    run = sa.select(runs.c.last).where(runs.c.target == names.c.value).order_by(runs.c.first.desc()).limit(1)
    return sa.select(
        names.c.value.label("target"),
        sa.select(entries.c.idx).where(newest).order_by(order).limit(1).scalar_subquery().label("idx"),
        sa.select(entries.c.number).where(newest).order_by(order).limit(1).scalar_subquery().label("number"),
        run.scalar_subquery().label("packed"),
    )
