"""Measures what the ledger takes on disk: by counts that the database keeps, never by reading the entries."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqlalchemy as sa

from mailwatch.analysis.storage_budget import LedgerSizes
from mailwatch.store.errors import StoreHealth
from mailwatch.store.pack_tree import ledger_size
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import entries, packs, runs
from mailwatch.store.sqlite import database, write_ahead_log
from mailwatch.times import DAY_MS, Millis

RUNS_A_TIME = 2000
"""Runs to measure at a time, by an index lookup each."""
RUN_BYTES = 120
"""Bytes of a run besides its data and its target's name: its other columns, and three indexes."""
_FORMS = (True, False)
_TABLE_SIZES = sa.text(
    "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0) FROM pg_class c WHERE c.relkind = 'r' "
    "AND c.relnamespace = current_schema()::regnamespace AND (c.relname IN ('packs', 'runs')) = :packs"
)


class SizeMeter:
    """Measures the ledger, also while another process writes it."""

    def __init__(self, where: Path | Place, health: StoreHealth | None = None) -> None:
        self._packs: dict[int, int] = {}
        """Bytes of each pack that was measured; packs do not change."""
        place = place_of(where)
        self._data_dir = place.data_dir
        self._engine = place.engine(read_only=True, health=health)

    def measure(self, at: Millis) -> LedgerSizes:
        """Return the sizes at the time `at`, by a few lookups. Raises StoreError, OSError.

        SQLite counts the pages of the file and those that are free; its `dbstat` would read them all.
        """
        if self._engine.dialect.name == "postgresql":
            return self._measure_postgresql(at)
        with self._engine.connect() as connection:
            page = _pragma(connection, "page_size")
            free = _pragma(connection, "freelist_count") * page
            held = _pragma(connection, "page_count") * page - free
            size = ledger_size(connection)
            last_day = _entries_since(connection, size, at - DAY_MS)
            packed, in_packs = self._measure_packs(connection)
        log = write_ahead_log(self._data_dir)
        return LedgerSizes(
            rows=max(0, held - in_packs),
            packs=in_packs,
            packed=packed,
            free=free,
            log=log.stat().st_size if log.exists() else 0,
            entries=size,
            last_day=last_day,
            disk_free=shutil.disk_usage(database(self._data_dir).parent).free,
        )

    def _measure_postgresql(self, at: Millis) -> LedgerSizes:
        """Return the sizes of the tables with their indexes. The server does not say what is free on its disk."""
        with self._engine.connect() as connection:
            packed, rows = (
                int(connection.execute(_TABLE_SIZES, {"packs": which}).scalar_one()) for which in _FORMS
            )
            size = ledger_size(connection)
            last_day = _entries_since(connection, size, at - DAY_MS)
            count = sum(count for _, count in _kept_packs(connection))
        return LedgerSizes(rows=rows, packs=packed, packed=count, entries=size, last_day=last_day)

    def _measure_packs(self, connection: sa.Connection) -> tuple[int, int]:
        """Return the entries in packs, and the bytes of these.

        Packs that were not measured yet are, the newest first, up to RUNS_A_TIME runs; the others count as these.
        """
        found, left = _kept_packs(connection), RUNS_A_TIME
        self._packs = {first: self._packs[first] for first, _ in found if first in self._packs}
        for first, _ in found:
            if left > 0 and first not in self._packs:
                self._packs[first], many = _measure_pack(connection, first)
                left -= many
        count = sum(count for _, count in found)
        measured = sum(count for first, count in found if first in self._packs)
        in_packs = sum(self._packs.values())
        return count, in_packs * count // measured if measured else in_packs

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


def _kept_packs(connection: sa.Connection) -> list[tuple[int, int]]:
    """Return first index and number of entries of each pack that was not pruned, the newest first."""
    query = sa.select(packs.c.first, packs.c.count).where(packs.c.pruned_ms.is_(None))
    return [(first, count) for first, count in connection.execute(query.order_by(packs.c.first.desc()))]


def _measure_pack(connection: sa.Connection, first: int) -> tuple[int, int]:
    """Return the bytes of a pack with its indexes, and the number of its runs; no run is read."""
    column = runs.c
    texts = sa.func.coalesce(sa.func.sum(sa.func.length(column.target)), 0)
    bytes_ = sa.func.coalesce(sa.func.sum(sa.func.length(column.data)), 0)
    query = sa.select(sa.func.count(), bytes_, texts).where(column.pack == first)
    many, data, names = connection.execute(query).one()
    dictionary = sa.select(sa.func.coalesce(sa.func.length(packs.c.dictionary), 0)).where(packs.c.first == first)
    own = int(connection.execute(dictionary).scalar_one())
    # The name is in the row and in two indexes.
    return int(data) + own + 3 * int(names) + many * RUN_BYTES, many


def _pragma(connection: sa.Connection, name: str) -> int:
    return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _entries_since(connection: sa.Connection, size: int, at: Millis) -> int | None:
    """Return the number of entries since a time; None if the ledger begins later."""
    column = entries.c
    begun = connection.execute(sa.select(column.time_ms).order_by(column.idx).limit(1)).scalar()
    if begun is None or begun > at:
        return None
    first = sa.select(column.idx).where(column.time_ms >= at).order_by(column.time_ms, column.idx).limit(1)
    index = connection.execute(first).scalar()
    return 0 if index is None else size - int(index)
