"""Reads the states of many targets at once: what the newest entries decide needs no query for each target.

A start, or a node that takes over, asks some ten questions about each target, and the answers to nearly all of
them are among the newest entries. Here these are read once, and answer the same questions in memory; all others go
to the database. The answers are those of the moment when it was made.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter

import sqlalchemy as sa

from mailwatch.model import Outcome
from mailwatch.store.entry_rows import Entry
from mailwatch.store.kept_states import KeptState, read_all_kept
from mailwatch.store.outage_index import OutageIndex
from mailwatch.store.reader import Reader
from mailwatch.store.schema import entries
from mailwatch.store.selection import PACKED_KINDS
from mailwatch.times import Millis

ENTRIES_PER_TARGET = 8
MAX_ENTRIES = 50_000
"""Entries that are held at most; some 100 MB."""
MAX_OUTAGES = 5_000
"""Entries of outages before those that are read at once."""
MIN_TARGETS = 20
"""For fewer targets a query for each is as fast."""
_COLUMNS = ("idx", "kind", "time_ms", "target", "number", "header", "payload", "outcome")

_INDEX = attrgetter("index")


class _ReadOnce(OutageIndex):
    """The index as it was at the first question."""

    def _follow(self) -> None:
        if self._next is None:
            super()._follow()


class RecentReader(Reader):
    """A reader with the newest entries in memory, from `floor` on. For one thread, and not for long."""

    def __init__(self, reader: Reader, targets: Collection[str]) -> None:
        self.__dict__.update(reader.__dict__)
        self._index = _ReadOnce(self)
        size = reader.size()
        self._floor = max(0, size - min(MAX_ENTRIES, ENTRIES_PER_TARGET * len(targets)))
        self._newest, outcomes = self._read(self._floor, size)
        if len(self._newest) != size - self._floor:
            # Some of them are in packs.
            self._floor, self._newest = size, []
        self._rare = [entry for entry in self._newest if entry.kind not in PACKED_KINDS]
        self._by_target: dict[str, list[Entry]] = {}
        self._outcomes: dict[tuple[str, str], list[int]] = {}
        for entry, outcome in zip(self._newest, outcomes, strict=False):
            if entry.target is not None:
                self._by_target.setdefault(entry.target, []).append(entry)
                if outcome is not None:
                    self._outcomes.setdefault((entry.target, outcome), []).append(entry.index)
        self._kept: dict[str, dict[str, KeptState]] = {}
        self._has_all_watches = False
        self._watches = self._newest_watches(reader, 3 * len(targets))
        self._known: dict[int, Entry] = {}

    @classmethod
    def of(cls, reader: Reader, targets: Collection[str]) -> Reader:
        """Return a reader for questions about these targets: this one if they are few. Raises StoreError."""
        return cls(reader, targets) if len(targets) >= MIN_TARGETS else reader

    def expect_outages(self, indices: Iterable[int]) -> None:
        """Read the entries of outages that will be asked for, unless they are too many."""
        wanted = sorted({index for index in indices if index < self._floor})
        if 0 < len(wanted) <= MAX_OUTAGES:
            self._known = {entry.index: entry for entry in super().entries_at(wanted)}

    @property
    def outages(self) -> OutageIndex:
        """The index of the outages on record."""
        return self._index

    def entries(
        self,
        *,
        target: str | None = None,
        kinds: Sequence[str] = (),
        outcome: Outcome | None = None,
        start_ms: Millis | None = None,
        end_ms: Millis | None = None,
        from_index: int | None = None,
        to_index: int | None = None,
        descending: bool = False,
        limit: int | None = None,
        checked: bool = True,
    ) -> Iterator[Entry]:
        """Yield entries, as Reader.entries does."""
        is_plain = outcome is None and start_ms is None and end_ms is None and checked
        is_within = from_index is not None and from_index >= self._floor
        if is_plain and (is_within or (descending and limit is not None)):
            found = self._selected(target, kinds, from_index, to_index, descending=descending, limit=limit)
            if is_within or len(found) == limit:
                yield from found
                return
        yield from super().entries(
            target=target, kinds=kinds, outcome=outcome, start_ms=start_ms, end_ms=end_ms, from_index=from_index,
            to_index=to_index, descending=descending, limit=limit, checked=checked,
        )  # fmt: skip

    def entries_at(self, indices: Sequence[int]) -> Iterator[Entry]:
        """Yield the entries (not observations) with these indices, in ledger order."""
        missing = [index for index in indices if index < self._floor and index not in self._known]
        found = {entry.index: entry for entry in super().entries_at(missing)} if missing else {}
        for index in sorted(set(indices)):
            entry = found.get(index) or self._known.get(index)
            if entry is None and self._floor <= index < self._floor + len(self._newest):
                entry = self._newest[index - self._floor]
            if entry is not None:
                yield entry

    def latest(self, target: str, kind: str, *, at_most: int | None = None) -> Entry | None:
        """Return the newest entry of a kind about a target, as Reader.latest does."""
        to_index = None if at_most is None else at_most + 1
        found = self._selected(target, [kind], None, to_index, descending=True, limit=1)
        if found:
            return found[0]
        if kind == "watch" and at_most is None and (target in self._watches or self._has_all_watches):
            return self._watches.get(target)
        return super().latest(target, kind, at_most=at_most)

    def last_index(
        self, *, target: str, outcome: Outcome, before: int | None = None, after: int | None = None
    ) -> int | None:
        """Return the index of the newest observation with that outcome, as Reader.last_index does."""
        indices = self._outcomes.get((target, outcome.value), [])
        place = len(indices) if before is None else bisect_left(indices, before)
        if place and (after is None or indices[place - 1] > after):
            return indices[place - 1]
        if after is not None and (place or after + 1 >= self._floor):
            return None
        return super().last_index(target=target, outcome=outcome, before=before, after=after)

    def kept(self, kind: str, subject: str) -> KeptState | None:
        """Return a state that is kept beside the ledger; all of a kind are read at the first question."""
        if kind not in self._kept:
            with self._engine.connect() as connection:
                self._kept[kind] = read_all_kept(connection, kind)
        return self._kept[kind].get(subject)

    def _selected(
        self,
        target: str | None,
        kinds: Sequence[str],
        from_index: int | None,
        to_index: int | None,
        *,
        descending: bool,
        limit: int | None,
    ) -> list[Entry]:
        """Return what is in memory of a question."""
        held: Sequence[Entry] = self._by_target.get(target or "", [])
        if target is None:
            held = self._newest if not kinds or set(kinds) & set(PACKED_KINDS) else self._rare
            held = held[0 if from_index is None else bisect_left(held, from_index, key=_INDEX) :]
        matching = (
            entry
            for entry in (reversed(held) if descending else held)
            if (not kinds or entry.kind in kinds)
            and (from_index is None or entry.index >= from_index)
            and (to_index is None or entry.index < to_index)
        )
        return list(islice(matching, limit))

    def _read(self, start: int, end: int) -> tuple[list[Entry], list[str | None]]:
        query = sa.select(*(entries.c[name] for name in _COLUMNS)).order_by(entries.c.idx)
        query = query.where(entries.c.idx >= start, entries.c.idx < end)
        with self.snapshot() as connection:
            rows = connection.execute(query).all()
        return [self._entry(row[:-1]) for row in rows], [row.outcome for row in rows]

    def _newest_watches(self, reader: Reader, limit: int) -> dict[str, Entry]:
        """Return the newest change of each target that has one lately: each has one within a day."""
        found: dict[str, Entry] = {}
        newest = list(reader.entries(kinds=["watch"], descending=True, limit=limit))
        for entry in newest:
            if entry.target is not None:
                found.setdefault(entry.target, entry)
        self._has_all_watches = len(newest) < limit
        return found
