"""Deletes the rows that packs hold, the last of the three steps of packing (packing.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from mailwatch.store.packs import PackReader
from mailwatch.store.run_format import Row
from mailwatch.store.schema import packs

RUNS_AT_ONCE = 16
"""Runs that are read with one query."""
# As texts: to build such a statement and its key takes longer than to read the forty rows of a run.
_RUNS = sa.text(
    "SELECT runs.target, runs.first, runs.last, runs.data, packs.dictionary_of "
    "FROM runs JOIN packs ON packs.first = runs.pack WHERE runs.pack = :pack AND runs.first > :after "
    "ORDER BY runs.first LIMIT :limit"
)
_ROWS = sa.text(
    "SELECT idx, kind, time_ms, target, number, outcome, header, payload FROM entries "
    "WHERE target = :target AND idx BETWEEN :first AND :last AND kind IN ('observation', 'gap') ORDER BY idx"
)
_DELETE = sa.text(
    "DELETE FROM entries "
    "WHERE target = :target AND idx BETWEEN :first AND :last AND kind IN ('observation', 'gap')"
)


@dataclass(slots=True)
class Sweeper:
    """Deletes the rows that runs hold. It remembers where it is; a new one begins with the oldest unswept pack.

    `findings`: packs with a row that differs from its run; nothing of such a run is deleted.
    """

    findings: list[str] = field(default_factory=list)
    _pack: int | None = None
    _after: int = -1
    _failed: set[int] = field(default_factory=set)

    def sweep(self, connection: sa.Connection, limit: int) -> int:
        """Delete rows in the transaction of `connection`, run by run, until there are `limit`; return how many.

        0 means that there is nothing left to sweep. About 30 µs a row. Raises StoreError.
        """
        deleted, reader = 0, PackReader(connection)
        while deleted < limit:
            if self._pack is None and not self._begin(connection):
                return deleted
            where = {"pack": self._pack, "after": self._after, "limit": RUNS_AT_ONCE}
            found = connection.execute(_RUNS, where).all()
            if not found:
                self._finish(connection)
                continue
            deleted += self._sweep_runs(connection, reader, found, limit - deleted)
        return deleted

    def _begin(self, connection: sa.Connection) -> bool:
        query = sa.select(packs.c.first).where(packs.c.swept == 0, packs.c.pruned_ms.is_(None))
        query = query.where(packs.c.first.not_in(self._failed)).order_by(packs.c.first)
        self._pack, self._after = connection.execute(query.limit(1)).scalar(), -1
        return self._pack is not None

    def _finish(self, connection: sa.Connection) -> None:
        if self._pack not in self._failed:
            connection.execute(sa.update(packs).where(packs.c.first == self._pack).values(swept=1))
        self._pack = None

    def _sweep_runs(
        self, connection: sa.Connection, reader: PackReader, found: Sequence[sa.Row[Any]], limit: int
    ) -> int:
        """Delete the rows of runs until there are `limit`; return how many."""
        deleted, compared = 0, list[dict[str, Any]]()
        for run_row in found:
            if deleted >= limit:
                break
            held = {"target": run_row.target, "first": run_row.first, "last": run_row.last}
            if many := self._compare(connection, reader, run_row, held):
                deleted += many
                compared.append(held)
            self._after = run_row.first
        if compared:
            connection.execute(_DELETE, compared)
        return deleted

    def _compare(
        self, connection: sa.Connection, reader: PackReader, run_row: sa.Row[Any], held: dict[str, Any]
    ) -> int:
        """Return how many rows a run holds, each the same in the run; 0 if one is not."""
        rows = list(map(Row._make, connection.execute(_ROWS, held)))
        if not rows:
            return 0
        run = reader.load(run_row)
        packed = list(run.rows(range(run.count)))
        if packed == rows:
            return len(rows)
        by_index = {row.idx: row for row in packed}
        if all(by_index.get(row.idx) == row for row in rows):
            return len(rows)
        assert self._pack is not None
        self._failed.add(self._pack)
        self.findings.append(f"rows from {run_row.first} on differ from their copy in a pack, and stay")
        return 0
