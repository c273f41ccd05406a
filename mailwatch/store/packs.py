"""Reads entries out of packs; merging.py merges them with the rows, so that no reader knows which is which.

All of a query is read in one transaction: a row may be swept into its run between two. Until it is swept, an entry
is both a row and in a run; it is given once.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from typing import Any
from weakref import WeakSet

import sqlalchemy as sa
import zstandard

from mailwatch.store.errors import DAMAGE_ADVICE, StoreDamagedError, StoreHealth
from mailwatch.store.merging import Chunk
from mailwatch.store.run_format import Row, Run, RunDamagedError
from mailwatch.store.schema import packs, runs
from mailwatch.store.selection import ALL_CONTENTS, Selection
from mailwatch.times import Millis

WINDOW_ENTRIES = 8192
"""Entries of a pack that are remade at a time."""
RUNS_PER_STEP = 8


class EntriesPrunedError(StoreDamagedError):
    """Entries are asked for that were pruned to the root of their subtree."""


@dataclass(frozen=True, slots=True)
class PackSubtree:
    """A pack as a part of the tree."""

    first: int
    level: int
    root: bytes


class PrunedSubtree(PackSubtree):
    """A pack whose runs were dropped: only its root is left."""


class PackCache:
    """The pack that was read last, for a reader of many short ranges in order; up to 50 MB for 65,536 entries.

    `lock`: held while it is used, since decoding is not for two threads at once.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._loaded: LoadedPack | None = None

    def get(self, reader: PackReader, first: int) -> LoadedPack:
        """Return a whole pack. With `lock` held."""
        if self._loaded is None or self._loaded.first != first:
            self._loaded = LoadedPack(reader, Selection(), first)
        self._loaded.reader = reader
        return self._loaded


_engines_with_packs: WeakSet[sa.Engine] = WeakSet()


def has_packs(connection: sa.Connection) -> bool:
    """Return whether there are the tables: a ledger of an older version is read as it is."""
    if connection.engine not in _engines_with_packs:
        if not sa.inspect(connection).has_table(runs.name):
            return False
        _engines_with_packs.add(connection.engine)
    return True


class PackReader:
    """Reads packs over one connection, within its transaction. Raises StoreDamagedError for damaged runs."""

    def __init__(
        self, connection: sa.Connection, health: StoreHealth | None = None, cache: PackCache | None = None
    ) -> None:
        self._connection = connection
        self._cache = cache
        self._health = health or StoreHealth()
        self._is_empty = not has_packs(connection)
        self._decompressors: dict[int | None, zstandard.ZstdDecompressor] = {}

    def chunks(self, wanted: Selection, *, descending: bool = False) -> Generator[Chunk, None, None]:
        """Yield what packs hold of a selection, in ledger order."""
        if self._is_empty or not wanted.contents:
            return
        if wanted.target is None:
            yield from self._windows(wanted, descending)
            return
        for run_row in self.runs(wanted, descending=descending):
            yield Chunk(run_row.first, run_row.last, _Loader(self, wanted, run_row).rows)

    def runs(self, wanted: Selection, *, descending: bool = False) -> Iterator[sa.Row[Any]]:
        """Yield the rows of the table `runs` of a target that may hold what is wanted, in ledger order."""
        if self._is_empty:
            return
        column = runs.c
        query = self._overlapping(wanted)
        if wanted.start_ms is not None or wanted.end_ms is not None:
            # The bounds come out of the index by time alone; the runs are then read in ledger order.
            bounds = query.with_only_columns(sa.func.min(column.first), sa.func.max(column.first))
            low, high = self._connection.execute(bounds).one()
            if low is None:
                return
            query = query.where(column.first.between(low, high))
        query = query.order_by(column.first.desc() if descending else column.first)
        with self._stream(query) as found:
            yield from found

    def _stream(self, query: sa.Select[Any]) -> sa.CursorResult[Any]:
        return self._connection.execute(query, execution_options={"yield_per": RUNS_PER_STEP})

    def _overlapping(self, wanted: Selection) -> sa.Select[Any]:
        column = runs.c
        query = sa.select(
            column.target, column.first, column.last, column.pack, column.low_ms, column.high_ms, column.data,
            packs.c.dictionary_of,
        ).join(packs, packs.c.first == column.pack)  # fmt: skip
        if wanted.target is not None:
            query = query.where(column.target == wanted.target)
        if wanted.contents != ALL_CONTENTS:
            query = query.where(column.contents.op("&")(wanted.contents) != 0)
        if wanted.from_index is not None:
            query = query.where(column.last >= wanted.from_index)
            if wanted.target is not None:
                before = sa.select(sa.func.max(column.first)).where(
                    column.target == wanted.target, column.first <= wanted.from_index
                )
                query = query.where(column.first >= sa.func.coalesce(before.scalar_subquery(), 0))
        if wanted.to_index is not None:
            query = query.where(column.first < wanted.to_index)
        if wanted.start_ms is not None:
            query = query.where(column.high_ms >= wanted.start_ms)
        if wanted.end_ms is not None:
            query = query.where(column.low_ms < wanted.end_ms)
        return query

    def _windows(self, wanted: Selection, descending: bool) -> Iterator[Chunk]:
        """Yield the packs of all targets, some thousand entries at a time."""
        for first, level, is_pruned in self.packs(wanted.from_index, wanted.to_index, descending=descending):
            if is_pruned:
                continue
            loaded = None if self._cache else LoadedPack(self, wanted, first)
            starts = range(first, first + (1 << level), WINDOW_ENTRIES)
            for start in reversed(starts) if descending else starts:
                end = min(start + WINDOW_ENTRIES, first + (1 << level))
                if (wanted.from_index or 0) < end and (wanted.to_index is None or wanted.to_index > start):
                    if loaded is not None:
                        yield Chunk(start, end - 1, partial(_window, loaded, wanted, start, end))
                    elif self._cache:
                        yield Chunk(start, end - 1, partial(self._cached, self._cache, first, wanted, start, end))

    def loaded(self, wanted: Selection) -> Iterator[tuple[LoadedPack, int, int]]:
        """Yield the packs that hold a part of a range, each with the part [low, high) that it holds."""
        for first, level, is_pruned in self.packs(wanted.from_index, wanted.to_index):
            if not is_pruned:
                end = first + (1 << level)
                high = end if wanted.to_index is None else min(end, wanted.to_index)
                yield LoadedPack(self, wanted, first), max(first, wanted.from_index or 0), high

    def _cached(self, cache: PackCache, first: int, wanted: Selection, start: int, end: int) -> list[Row]:
        with cache.lock:
            return _window(cache.get(self, first), wanted, start, end)

    def packs(
        self, from_index: int | None, to_index: int | None, *, descending: bool = False
    ) -> list[tuple[int, int, bool]]:
        """Return first index, level and whether it was pruned, of the packs that overlap a range."""
        if self._is_empty:
            return []
        column = packs.c
        query = sa.select(column.first, column.level, column.pruned_ms)
        if to_index is not None:
            query = query.where(column.first < to_index)
        if from_index is not None:
            before = sa.select(sa.func.max(column.first)).where(column.first <= from_index)
            query = query.where(column.first >= sa.func.coalesce(before.scalar_subquery(), 0))
        query = query.order_by(column.first.desc() if descending else column.first)
        return [
            (first, level, pruned is not None)
            for first, level, pruned in self._connection.execute(query)
            if from_index is None or first + (1 << level) > from_index
        ]

    def load(self, run_row: sa.Row[Any]) -> Run:
        """Decode a run, which must be what its row says."""
        try:
            run = Run(run_row.data, self._decompressor(run_row.dictionary_of))
        except RunDamagedError as error:
            raise self.damaged(run_row, error) from None
        if (run.target, run.indices[0], run.indices[-1]) != (run_row.target, run_row.first, run_row.last):
            raise self.damaged(run_row, RunDamagedError("it is of other entries"))
        return run

    def rows(self, run_row: sa.Row[Any], wanted: Selection) -> list[Row]:
        """Return the wanted rows of a run."""
        run = self.load(run_row)
        try:
            return list(run.rows(wanted.positions(run), headers=wanted.headers))
        except RunDamagedError as error:
            raise self.damaged(run_row, error) from None

    def damaged(self, run_row: sa.Row[Any], why: RunDamagedError) -> StoreDamagedError:
        """Note that a run is damaged; return the error."""
        what = f"the packed entries of a target from {run_row.first} on are not what was written: {why}"
        self._health.note(error := StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what))
        return error

    def _decompressor(self, dictionary_of: int | None) -> zstandard.ZstdDecompressor:
        known = self._decompressors.get(dictionary_of)
        if known is None:
            query = sa.select(packs.c.dictionary).where(packs.c.first == dictionary_of)
            data = None if dictionary_of is None else self._connection.execute(query).scalar()
            if len(self._decompressors) > 16:
                self._decompressors.clear()
            known = self._decompressors[dictionary_of] = decompressor(data)
        return known

    def check_unpruned(self, from_index: int, to_index: int) -> None:
        """Raise EntriesPrunedError if entries of this range were pruned."""
        for first, level, is_pruned in self.packs(from_index, to_index):
            if is_pruned:
                what = f"entries {first} to {first + (1 << level) - 1} were pruned by `retention.keep`"
                raise EntriesPrunedError(what, what)

    def index_bounds(self, wanted: Selection) -> tuple[int, int] | None:
        """Return the lowest and the highest index of a target's wanted entries; None if there are none."""
        ends = []
        for descending in (False, True):
            for run_row in self.runs(wanted, descending=descending):
                run = self.load(run_row)
                if positions := wanted.positions(run):
                    ends.append(run.indices[positions[-1 if descending else 0]])
                    break
        return (ends[0], ends[1]) if len(ends) == 2 else None

    def latest_time(self, from_index: int, to_index: int) -> Millis | None:
        """Return the latest time of the entries in a range; None if packs hold none."""
        wanted = Selection(from_index=from_index, to_index=to_index)
        column = runs.c
        latest: list[Millis] = []
        for first, _, _ in self.packs(from_index, to_index):
            of_pack = self._overlapping(wanted).where(column.pack == first)
            inside = (column.first >= from_index) & (column.last < to_index)
            whole = of_pack.where(inside).with_only_columns(sa.func.max(column.high_ms))
            latest += [at for at in self._connection.execute(whole).scalars() if at is not None]
            for run_row in self._connection.execute(of_pack.where(~inside)).all():
                run = self.load(run_row)
                latest += [run.times[at] for at in wanted.positions(run)]
        return max(latest, default=None)

    def payloads(self, target: str, start_ms: Millis, end_ms: Millis) -> Iterator[tuple[Millis, int, str]]:
        """Yield time, index and payload of a target's observations in [start_ms, end_ms), by time and index."""
        if self._is_empty:
            return
        wanted = Selection(target=target, kinds=("observation",), start_ms=start_ms, end_ms=end_ms)
        column = runs.c
        waiting: list[tuple[Millis, int, str]] = []
        query = self._overlapping(wanted).order_by(column.low_ms, column.first)
        with self._stream(query) as found:
            for run_row in found:
                # Runs overlap in time where the clock was set.
                waiting.sort(key=itemgetter(0, 1))
                cut = bisect_left(waiting, run_row.low_ms, key=itemgetter(0))
                yield from waiting[:cut]
                del waiting[:cut]
                run = self.load(run_row)
                try:
                    payloads = run.payloads
                except RunDamagedError as error:
                    raise self.damaged(run_row, error) from None
                waiting += [(run.times[at], run.indices[at], payloads[at]) for at in wanted.positions(run)]
        waiting.sort(key=itemgetter(0, 1))
        yield from waiting

    def times(self, target: str, from_index: int) -> Iterator[tuple[int, Millis]]:
        """Yield index and time of a target's observations from an index on, in ledger order."""
        wanted = Selection(target=target, kinds=("observation",), from_index=from_index)
        for run_row in self.runs(wanted):
            run = self.load(run_row)
            for at in wanted.positions(run):
                yield run.indices[at], run.times[at]

    def last_index(self, wanted: Selection) -> int | None:
        """Return the highest index of a target's wanted entries; None if there are none."""
        for run_row in self.runs(wanted, descending=True):
            run = self.load(run_row)
            if positions := wanted.positions(run):
                return run.indices[positions[-1]]
        return None

    def targets(self) -> list[str]:
        """Return the names of all targets in packs."""
        return [] if self._is_empty else [name for name in distinct(self._connection, runs.c.target) if name]

    def last_number(self, target: str) -> int:
        """Return the highest running number of a target in packs; 0 if there is none."""
        for run_row in self.runs(Selection(target=target), descending=True):
            return self.load(run_row).numbers[-1]
        return 0

    def subtrees(self) -> list[PackSubtree]:
        """Return the packs that were not pruned, in order."""
        if self._is_empty:
            return []
        column = packs.c
        query = sa.select(column.first, column.level, column.root).where(column.pruned_ms.is_(None))
        return [PackSubtree(*row) for row in self._connection.execute(query.order_by(column.first))]

    def pruned(self, end: int) -> list[PrunedSubtree]:
        """Return the pruned packs that begin before `end`, in order."""
        if self._is_empty:
            return []
        column = packs.c
        query = sa.select(column.first, column.level, column.root).where(column.pruned_ms.is_not(None))
        found = self._connection.execute(query.where(column.first < end).order_by(column.first))
        return [PrunedSubtree(*row) for row in found]

    def end(self) -> int:
        """Return the index after the last pack; 0 without packs."""
        if self._is_empty:
            return 0
        query = sa.select(packs.c.first, packs.c.level).order_by(packs.c.first.desc()).limit(1)
        row = self._connection.execute(query).one_or_none()
        return 0 if row is None else row.first + (1 << row.level)

    def of_pack(self, first: int, wanted: Selection) -> Sequence[sa.Row[Any]]:
        """Return the rows of the table `runs` of a pack that may hold what is wanted."""
        return self._connection.execute(self._overlapping(wanted).where(runs.c.pack == first)).all()


@dataclass(frozen=True, slots=True)
class _Loader:
    """Reads one run when it is needed."""

    reader: PackReader
    wanted: Selection
    run_row: sa.Row[Any]

    def rows(self) -> list[Row]:
        return self.reader.rows(self.run_row, self.wanted)


class LoadedPack:
    """The runs of a pack, read when the first window of it is needed."""

    def __init__(self, reader: PackReader, wanted: Selection, first: int) -> None:
        self.reader = reader
        self.first = first
        self._wanted = wanted
        self._loaded: list[tuple[sa.Row[Any], Run]] | None = None

    def runs(self) -> list[tuple[sa.Row[Any], Run]]:
        """Return the runs with their rows of the table."""
        if self._loaded is None:
            found = self.reader.of_pack(self.first, self._wanted)
            self._loaded = [(run_row, self.reader.load(run_row)) for run_row in found]
        return self._loaded


def _window(pack: LoadedPack, wanted: Selection, start: int, end: int) -> list[Row]:
    """Return the wanted entries among [start, end) of a pack."""
    low = start if wanted.from_index is None else max(start, wanted.from_index)
    high = end if wanted.to_index is None else min(end, wanted.to_index)
    within = replace(wanted, from_index=low, to_index=high)
    found: list[Row] = []
    for run_row, run in pack.runs():
        if run.indices[0] >= high or run.indices[-1] < low:
            continue
        try:
            found += run.rows(within.positions(run), headers=wanted.headers)
        except RunDamagedError as error:
            raise pack.reader.damaged(run_row, error) from None
    found.sort(key=itemgetter(0))
    return found


def decompressor(dictionary: bytes | None) -> zstandard.ZstdDecompressor:
    """Return a decompressor for runs compressed with a dictionary."""
    return zstandard.ZstdDecompressor(dict_data=raw_dictionary(dictionary) if dictionary else None)


def raw_dictionary(dictionary: bytes) -> zstandard.ZstdCompressionDict:
    """Return a dictionary that is plain content, whatever its bytes look like."""
    return zstandard.ZstdCompressionDict(dictionary, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def distinct(connection: sa.Connection, column: sa.ColumnElement[str | None]) -> Iterator[str]:
    """Yield the distinct values of an indexed column, each found by one index lookup, in one statement."""
    first = sa.select(sa.func.min(column).label("value")).cte("distinct_values", recursive=True)
    following = sa.select(sa.func.min(column)).where(column > first.c.value).scalar_subquery()
    every = first.union_all(sa.select(following).where(first.c.value.is_not(None)))
    yield from connection.execute(sa.select(every.c.value).where(every.c.value.is_not(None))).scalars()
