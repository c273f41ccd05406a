"""Deletes the rows that packs hold, the last of the three steps of packing (packing.py).

In ledger order, over all targets at once: rows that follow each other share pages. Run by run, each page of a
ledger of many targets would be written once for each of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa

from mailwatch.store.packs import PackReader
from mailwatch.store.schema import packs

RUNS_AT_ONCE = 16
"""Runs that are read with one query."""
READ_FOR_ONE = 4
"""Entries of a pack that are read in the time in which one row is deleted."""
# As texts: to build such a statement and its key takes longer than to read a run.
_RUNS = sa.text(
    "SELECT runs.target, runs.first, runs.last, runs.data, packs.dictionary_of "
    "FROM runs JOIN packs ON packs.first = runs.pack WHERE runs.pack = :pack AND runs.first > :after "
    "ORDER BY runs.first LIMIT :limit"
)
_ROWS = sa.text(
    "SELECT idx, kind, time_ms, target, number, outcome, header, payload FROM entries "
    "WHERE idx >= :first AND idx < :end AND kind IN ('observation', 'gap', 'withheld') ORDER BY idx LIMIT :limit"
)
_DELETE = sa.text(
    "DELETE FROM entries WHERE idx BETWEEN :first AND :last AND kind IN ('observation', 'gap', 'withheld')"
)


@dataclass(slots=True)
class _Copies:
    """The digests of what a pack holds, and how far its rows are deleted."""

    first: int
    end: int
    digests: dict[int, bytes] = field(default_factory=dict)
    """By index; 70 bytes each in memory, where the entries take 1,100."""
    read_after: int | None = -1
    """The first index of the run that was read last; None once all are read."""
    next: int = 0
    """The index from which on rows are still to be compared."""
    differs: bool = False


@dataclass(slots=True)
class Sweeper:
    """Deletes the rows that runs hold. It remembers where it is; a new one begins with the oldest unswept pack.

    `findings`: packs with a row that differs from its copy, which stays.
    """

    findings: list[str] = field(default_factory=list)
    _pack: _Copies | None = None
    _failed: set[int] = field(default_factory=set)

    def sweep(self, connection: sa.Connection, limit: int) -> int:
        """Read a part of a pack, or compare up to `limit` rows with it and delete them, in the transaction of
        `connection`; return how many entries were read or compared.

        0 means that there is nothing left to sweep. About 15 µs a row. Raises StoreError.
        """
        while self._pack is not None or self._begin(connection):
            assert self._pack is not None
            if self._pack.read_after is not None:
                if read := self._read(connection, self._pack, READ_FOR_ONE * limit):
                    return read
            elif compared := self._delete(connection, self._pack, limit):
                return compared
            else:
                self._finish(connection, self._pack)
        return 0

    def _begin(self, connection: sa.Connection) -> bool:
        query = sa.select(packs.c.first, packs.c.level).where(packs.c.swept == 0, packs.c.pruned_ms.is_(None))
        query = query.where(packs.c.first.not_in(self._failed)).order_by(packs.c.first)
        found = connection.execute(query.limit(1)).one_or_none()
        if found is not None:
            self._pack = _Copies(found.first, found.first + (1 << found.level), next=found.first)
        return found is not None

    def _finish(self, connection: sa.Connection, pack: _Copies) -> None:
        if pack.differs:
            self._failed.add(pack.first)
        else:
            connection.execute(sa.update(packs).where(packs.c.first == pack.first).values(swept=1))
        self._pack = None

    def _read(self, connection: sa.Connection, pack: _Copies, limit: int) -> int:
        """Read committed runs of a pack until they have `limit` entries; return how many."""
        reader, before = PackReader(connection), len(pack.digests)
        while len(pack.digests) < before + limit:
            where = {"pack": pack.first, "after": pack.read_after, "limit": RUNS_AT_ONCE}
            found = connection.execute(_RUNS, where).all()
            if not found:
                pack.read_after = None
                break
            for run_row in found:
                run = reader.load(run_row)
                pack.digests.update((row.idx, _digest(row)) for row in run.rows(range(run.count)))
                pack.read_after = run_row.first
                if len(pack.digests) >= before + limit:
                    break
        return len(pack.digests) - before

    def _delete(self, connection: sa.Connection, pack: _Copies, limit: int) -> int:
        """Compare the next rows of a pack's range with their copies and delete those; return how many rows."""
        where = {"first": pack.next, "end": pack.end, "limit": limit}
        rows = connection.execute(_ROWS, where).all()
        if not rows:
            return 0
        pack.next = rows[-1].idx + 1
        if held := [{"first": first, "last": last} for first, last in self._held(pack, rows)]:
            connection.execute(_DELETE, held)
        return len(rows)

    def _held(self, pack: _Copies, rows: Sequence[sa.Row[Any]]) -> Iterator[tuple[int, int]]:
        """Yield the first and last index of each stretch of rows that are the same as their copies."""
        first = last = -1
        for row in rows:
            copy = pack.digests.get(row.idx)
            if copy is not None and copy == _digest(row):
                first, last = (row.idx if first < 0 else first), row.idx
                continue
            if copy is not None:
                pack.differs = True
                self.findings.append(f"entry {row.idx} differs from its copy in a pack, and stays")
            if first >= 0:
                yield first, last
            first = -1
        if first >= 0:
            yield first, last


def _digest(row: Sequence[object]) -> bytes:
    """Return the SHA-256 of all columns of a row."""
    return hashlib.sha256(orjson.dumps(list(row))).digest()
