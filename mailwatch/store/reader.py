"""The reading side: any number of readers, in any process, while one process writes."""

from __future__ import annotations

import functools
import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import sqlalchemy as sa

from mailwatch.ledger.merkle import Subtree, leaf_hash
from mailwatch.model import Outcome
from mailwatch.store.acknowledgements import Acknowledged, read_acknowledgements
from mailwatch.store.announcements import AnnouncementLog
from mailwatch.store.entry_rows import CheckpointRow, Entry, RawEntry, entry_from_row, is_consistent
from mailwatch.store.errors import StoreDamagedError, StoreError, StoreHealth, damaged, entry_mismatch
from mailwatch.store.first_start import check_not_missing, ledger_exists
from mailwatch.store.incident_index import IncidentIndex
from mailwatch.store.kept_states import KeptState, damaged_states, kept_subjects, read_kept
from mailwatch.store.merging import merge
from mailwatch.store.observation_payloads import row_payloads
from mailwatch.store.outage_index import KeptHeads, OutageIndex, read_heads
from mailwatch.store.pack_tree import ledger_size, subtrees
from mailwatch.store.packs import PackCache, PackReader, PackSubtree, PrunedSubtree, distinct
from mailwatch.store.place import Place, place_of
from mailwatch.store.run_format import Row
from mailwatch.store.schema import checkpoints, entries
from mailwatch.store.selection import PACKED_KINDS, WITHHELD, Selection
from mailwatch.store.sqlite_integrity import integrity_findings
from mailwatch.store.stretches import Part, parts
from mailwatch.times import Millis

_COLUMNS = ("idx", "kind", "time_ms", "target", "number", "header", "payload")
UNREADABLE = (OSError, StoreError, sa.exc.SQLAlchemyError, ValueError, KeyError)
"""Exceptions of reading a ledger that is missing, forbidden or invalid."""
ROWS_PER_STEP = 1000
_STREAMED = {"yield_per": ROWS_PER_STEP}
T = TypeVar("T")


def _row_bounds(
    connection: sa.Connection, target: str, start_ms: Millis | None, end_ms: Millis | None
) -> tuple[int, int]:
    """Return the lowest and highest index of a target's rows in that time; (0, -1) if there are none."""
    column = entries.c
    query = sa.select(sa.func.min(column.idx), sa.func.max(column.idx)).where(column.target == target)
    if start_ms is not None:
        query = query.where(column.time_ms >= start_ms)
    if end_ms is not None:
        query = query.where(column.time_ms < end_ms)
    low, high = connection.execute(query).one()
    return (0, -1) if low is None else (low, high)


@contextmanager
def _until_dropped(connection: sa.Connection) -> Iterator[sa.Connection]:
    """Use a connection, and close it. A reader that goes no further need not know that it was lost since."""
    dropped = False
    try:
        with connection:
            try:
                yield connection
            except GeneratorExit:
                dropped = True
                raise
    except StoreError:
        if not dropped:
            raise


def _streamed(limit: int | None) -> dict[str, Any]:
    """Return the options of a query for rows. Few come at once: a cursor on the server takes four messages."""
    return {} if limit is not None and limit <= ROWS_PER_STEP else _STREAMED


def _unchecked(row: Sequence[Any]) -> Entry:
    return Entry(*row)


def _packed(row: Row) -> Entry:
    """Return an entry out of a pack, whose header was remade from its payload."""
    return Entry(row.idx, row.kind, row.time_ms, row.target, row.number, row.header, row.payload)


_INDEX = attrgetter("index")
_packed_raw: Callable[[Row], RawEntry] = itemgetter(0, 1, 2, 3, 6, 7)
_FIRST: Callable[[Sequence[Any]], int] = itemgetter(0)


class Reader:
    """Queries of the ledger; sees only committed entries.

    Each query raises StoreDamagedError if the disk does not hold what was written, and StoreUnavailableError.
    """

    def __init__(self, made: sa.Engine, health: StoreHealth | None = None, name: str = "") -> None:
        self._engine = made
        self._name = name or made.url.database or ""
        self._is_sqlite = made.dialect.name == "sqlite"
        self._health = health or StoreHealth()
        self._cache: PackCache | None = None

    @classmethod
    def open(cls, where: Path | Place, health: StoreHealth | None = None) -> Self:
        """Open a ledger for reading.

        Raises FileNotFoundError if there is no ledger yet, LedgerMissingError if there was one.
        """
        place, health = place_of(where), health or StoreHealth()
        check_not_missing(place)
        if not place.absence():
            made = place.engine(read_only=True, health=health)
            try:
                if ledger_exists(place.data_dir, made):
                    return cls(made, health, str(place))
            except StoreError:
                # The query that fails will report the error.
                return cls(made, health, str(place))
            made.dispose()
        raise FileNotFoundError(f"{place.data_dir} contains no ledger yet; `mailwatch run` creates it")

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
        """Yield entries in ledger order. `start_ms` and `end_ms` bound the entry's own time, half-open.

        Each entry must match its header (StoreDamagedError), unless `checked` is False, as for an audit.
        """
        column = entries.c
        query = sa.select(*(column[name] for name in _COLUMNS))
        if target is not None:
            query = query.where(column.target == target)
        if kinds:
            query = query.where(column.kind.in_(kinds))
            if "observation" not in kinds:
                # The same condition as the index has; without it SQLite does not use the index and reads
                # everything.
                query = query.where(sa.text("kind <> 'observation'"))
        if outcome is not None:
            query = query.where(column.outcome == outcome.value)
        if target is not None and (start_ms is not None or end_ms is not None):
            # First find the index bounds in the index by time alone: rows read by that index would have to be
            # sorted.
            with self._engine.connect() as connection:
                low, high = _row_bounds(connection, target, start_ms, end_ms)
            query = query.where(column.idx.between(low, high))
        time = self._unindexed(column.time_ms) if target is not None else column.time_ms
        if start_ms is not None:
            query = query.where(time >= start_ms)
        if end_ms is not None:
            query = query.where(time < end_ms)
        if from_index is not None:
            query = query.where(column.idx >= from_index)
        if to_index is not None:
            query = query.where(column.idx < to_index)
        query = query.order_by(column.idx.desc() if descending else column.idx).limit(limit)
        wanted = Selection(
            target=target, kinds=kinds, outcome=outcome, start_ms=start_ms, end_ms=end_ms, from_index=from_index,
            to_index=to_index,
        )  # fmt: skip
        with (
            _until_dropped(self.snapshot()) as connection,
            connection.execute(query, execution_options=_streamed(limit)) as rows,
            closing(
                PackReader(connection, self._health, self._cache).chunks(wanted, descending=descending)
            ) as chunks,
        ):
            made = map(self._entry if checked else _unchecked, rows)
            yield from islice(merge(made, chunks, _packed, _INDEX, descending=descending), limit)

    @contextmanager
    def keeping_packs(self) -> Iterator[None]:
        """Keep the pack that was read last, for a reading of many short ranges in order."""
        self._cache = PackCache()
        try:
            yield
        finally:
            self._cache = None

    def subtrees(self) -> list[PackSubtree]:
        """Return the packs with their roots, without pruned ones."""
        with self.snapshot() as connection:
            return PackReader(connection, self._health).subtrees()

    def snapshot(self) -> sa.Connection:
        """Return a connection whose statements all see the same moment of the ledger."""
        connection = self._engine.connect()
        # In SQLite every transaction is like that.
        return connection if self._is_sqlite else connection.execution_options(isolation_level="REPEATABLE READ")

    def _unindexed(self, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        """Return a column so that SQLite uses no index of it; PostgreSQL chooses by its statistics."""
        return sa.literal_column(f"+{column.key}") if self._is_sqlite else column

    def _entry(self, row: Sequence[Any]) -> Entry:
        try:
            return entry_from_row(row)
        except StoreDamagedError as error:
            self._health.note(error)
            raise

    def latest(self, target: str, kind: str, *, at_most: int | None = None) -> Entry | None:
        """Return the newest entry of a kind (not observation) about a target, up to index `at_most` if given.

        It searches the target's entries backwards, no further than the first entry of that kind.
        """
        if kind in PACKED_KINDS:
            to_index = None if at_most is None else at_most + 1
            newest = self.entries(target=target, kinds=[kind], to_index=to_index, descending=True, limit=1)
            return next(newest, None)
        column = entries.c
        query = sa.select(*(column[name] for name in _COLUMNS)).where(column.target == target)
        first = sa.select(sa.func.min(column.idx)).where(column.kind == kind, sa.text("kind <> 'observation'"))
        # Use the index by target: the index by kind would scan the entries of all other targets.
        query = query.where(self._unindexed(column.kind) == kind, column.idx >= first.scalar_subquery())
        query = query.order_by(column.idx.desc()).limit(1)
        if at_most is not None:
            query = query.where(column.idx <= at_most)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else self._entry(row)

    def between(self, target: str, start_ms: Millis, end_ms: Millis) -> tuple[int, int]:
        """Return the index of a target's first entry in that time, and one past its last; (0, 0) for none."""
        wanted = Selection(target=target, start_ms=start_ms, end_ms=end_ms)
        with self.snapshot() as connection:
            bounds = _row_bounds(connection, target, start_ms, end_ms)
            packed = PackReader(connection, self._health).index_bounds(wanted)
        low, high = bounds if packed is None else packed
        if bounds[0] <= bounds[1]:
            low, high = min(low, bounds[0]), max(high, bounds[1])
        return (low, high + 1) if high >= low >= 0 else (0, 0)

    def latest_time(self, from_index: int, to_index: int) -> Millis:
        """Return the latest time of those entries; the last entry's time may be earlier if the clock was set back.
        Raises ValueError if there are none.
        """
        query = sa.select(sa.func.max(entries.c.time_ms)).where(entries.c.idx.between(from_index, to_index - 1))
        with self.snapshot() as connection:
            found = connection.execute(query).scalar()
            packed = PackReader(connection, self._health).latest_time(from_index, to_index)
        if (latest := max((at for at in (found, packed) if at is not None), default=None)) is None:
            raise ValueError(f"there are no entries from {from_index} to {to_index}")
        return latest

    def raw_entries(self, from_index: int, to_index: int, *, headers: bool = True) -> Iterator[RawEntry]:
        """Yield entries as stored, in half the time of `entries`.

        Without `headers` those of packed entries are "": they would be remade from what is given anyway.
        """
        with self._raw_rows(from_index, to_index) as (rows, packed):
            wanted = Selection(from_index=from_index, to_index=to_index, headers=headers)
            with closing(packed.chunks(wanted)) as chunks:
                yield from merge(rows, chunks, _packed_raw, _FIRST)

    def raw_parts(self, from_index: int, to_index: int) -> Iterator[Part]:
        """Yield entries as `raw_entries` without headers; out of packs, good observations as stretches."""
        with self._raw_rows(from_index, to_index) as (rows, packed):
            wanted = Selection(from_index=from_index, to_index=to_index, headers=False)
            yield from parts(rows, packed, wanted)

    @contextmanager
    def _raw_rows(self, from_index: int, to_index: int) -> Iterator[tuple[Iterator[RawEntry], PackReader]]:
        """Give the rows of a range, and what reads its packs at the same moment of the ledger."""
        column = entries.c
        names = ("idx", "kind", "time_ms", "target", "header", "payload")
        query = sa.select(*(column[name] for name in names)).order_by(column.idx)
        query = query.where(column.idx >= from_index, column.idx < to_index)
        with self.snapshot() as connection, connection.execute(query, execution_options=_STREAMED) as rows:
            packed = PackReader(connection, self._health)
            packed.check_unpruned(from_index, to_index)
            yield self._consistent(rows.partitions()), packed

    def _consistent(self, parts: Iterable[Sequence[Sequence[Any]]]) -> Iterator[Any]:
        for part in parts:
            for row in part:
                if not is_consistent(row[4], row[5]) and not (row[1] == WITHHELD and row[5] == ""):
                    self._health.note(error := entry_mismatch(row[0]))
                    raise error
            yield from part

    def tree_parts(self, from_index: int, to_index: int) -> Iterator[bytes | Subtree]:
        """Yield the hashes of the leaves [from_index, to_index), in order, and of pruned packs their subtrees.

        Raises EntriesPrunedError if one of the ends is inside a pruned pack.
        """
        with self.snapshot() as connection:
            for found in subtrees(connection, from_index, to_index, self._health):
                if isinstance(found, PrunedSubtree):
                    yield Subtree(found.root, found.level)
                else:
                    yield leaf_hash(found[1].encode())

    def leaf_hashes(self, from_index: int, to_index: int) -> Iterator[bytes]:
        """Yield the hashes of the leaves [from_index, to_index), in order."""
        with self.snapshot() as connection:
            PackReader(connection).check_unpruned(from_index, to_index)
            for found in subtrees(connection, from_index, to_index, self._health):
                assert not isinstance(found, PrunedSubtree)
                yield leaf_hash(found[1].encode())

    def observation_payloads(self, target: str, start_ms: Millis, end_ms: Millis) -> Iterator[dict[str, Any]]:
        """Yield the payloads of a target's observations whose own time is in [start_ms, end_ms), by their time."""
        latest: tuple[Millis, int] | None = None
        with self.snapshot() as connection:
            rows = self._noting_damage(row_payloads(connection, target, start_ms, end_ms))
            packed = PackReader(connection, self._health).payloads(target, start_ms, end_ms)
            for found in heapq.merge(rows, packed, key=itemgetter(0, 1)):
                if latest != (found[0], found[1]):
                    yield orjson.loads(found[2])
                latest = (found[0], found[1])

    def _noting_damage(self, found: Iterator[T]) -> Iterator[T]:
        try:
            yield from found
        except StoreDamagedError as error:
            self._health.note(error)
            raise

    def observation_times(self, target: str, from_index: int) -> Iterator[Millis]:
        """Yield the times of a target's observations from an index on, in ledger order."""
        column = entries.c
        query = sa.select(column.idx, column.time_ms).where(column.target == target, column.idx >= from_index)
        query = query.where(column.kind == "observation").order_by(column.idx)
        latest = -1
        with self.snapshot() as connection, connection.execute(query, execution_options=_STREAMED) as rows:
            packed = PackReader(connection, self._health).times(target, from_index)
            for index, time in heapq.merge(map(tuple, rows), packed):
                if index != latest:
                    yield time
                latest = index

    def last_index(
        self, *, target: str, outcome: Outcome, before: int | None = None, after: int | None = None
    ) -> int | None:
        """Return the index of the newest observation with that outcome, before index `before` if given.

        `after`: search no further back than the entry after that index.
        """
        column = entries.c
        query = sa.select(column.idx).where(column.target == target, column.outcome == outcome.value)
        if after is not None:
            query = query.where(column.idx > after)
        if before is not None:
            query = query.where(column.idx < before)
        with self.snapshot() as connection:
            found: int | None = connection.execute(query.order_by(column.idx.desc()).limit(1)).scalar()
            lowest = max(-1 if found is None else found, -1 if after is None else after) + 1
            wanted = Selection(target=target, outcome=outcome, from_index=lowest, to_index=before)
            packed = PackReader(connection, self._health).last_index(wanted)
        return found if packed is None else packed

    def targets(self) -> list[str]:
        """Return the names of all targets on record, each found by one index lookup."""
        with self.snapshot() as connection:
            in_rows = distinct(connection, entries.c.target)
            return sorted({*in_rows, *PackReader(connection, self._health).targets()})

    def size(self) -> int:
        """Return the number of committed entries."""
        with self.snapshot() as connection:
            return ledger_size(connection)

    def checkpoints(self, first: int = 0, last: int | None = None) -> Iterator[CheckpointRow]:
        """Yield the checkpoints of `first` to `last` entries, both inclusive, oldest first; by default all."""
        column = checkpoints.c
        query = sa.select(column.size, column.time_ms, column.note, column.hashes).where(column.size >= first)
        if last is not None:
            query = query.where(checkpoints.c.size <= last)
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query.order_by("size")):
                yield CheckpointRow(*row)

    def checkpoint(self, *, at_most: int | None = None, at_least: int | None = None) -> CheckpointRow | None:
        """Return the largest checkpoint of `at_most` entries, or else the smallest of `at_least`."""
        size = checkpoints.c.size
        query = sa.select(size, checkpoints.c.time_ms, checkpoints.c.note, checkpoints.c.hashes)
        if at_most is not None:
            query = query.where(size <= at_most).order_by(size.desc())
        else:
            query = query.where(size >= (at_least or 0)).order_by(size)
        with self._engine.connect() as connection:
            row = connection.execute(query.limit(1)).one_or_none()
        return None if row is None else CheckpointRow(*row)

    def last_checkpoint(self) -> CheckpointRow | None:
        """Return the newest checkpoint; None if there is none."""
        column = checkpoints.c
        query = sa.select(column.size, column.time_ms, column.note, column.hashes)
        with self._engine.connect() as connection:
            row = connection.execute(query.order_by(checkpoints.c.size.desc()).limit(1)).one_or_none()
        return None if row is None else CheckpointRow(*row)

    @property
    def is_damaged(self) -> bool:
        """Whether damage was found, by this reader or by others of the same store."""
        return self._health.damage is not None

    def note_damage(self, what: str) -> None:
        """Record damage found in the database."""
        self._health.note(damaged(self._name, what.removeprefix("the database is damaged: ")))

    def integrity(self, stopped: Callable[[], bool]) -> list[str]:
        """Return the findings of SQLite's integrity check; [] if there are none, or once `stopped` returns
        True. PostgreSQL checks its pages itself, as they are read, where its data checksums are on.
        """
        return integrity_findings(self._engine, stopped) if self._is_sqlite else []

    def acknowledgements(self) -> Acknowledged:
        """Return the acknowledged outages and incidents by their ids."""
        with self._engine.connect() as connection:
            return read_acknowledgements(connection)

    @functools.cached_property
    def outages(self) -> OutageIndex:
        """The index of the outages on record."""
        return OutageIndex(self)

    @functools.cached_property
    def incidents(self) -> IncidentIndex:
        """The index of the incidents on record."""
        return IncidentIndex(self.outages)

    @functools.cached_property
    def announcements(self) -> AnnouncementLog:
        """The maintenance that is announced on record."""
        return AnnouncementLog(self)

    def kept_outages(self) -> KeptHeads:
        """Return the heads of outages that are kept, and the entry from which on the ledger has more."""
        with self._engine.connect() as connection:
            return read_heads(connection)

    def entries_at(self, indices: Sequence[int]) -> Iterator[Entry]:
        """Yield the entries (not observations) with these indices, in ledger order."""
        query = sa.select(*(entries.c[name] for name in _COLUMNS)).order_by(entries.c.idx)
        with self._engine.connect() as connection:
            for row in connection.execute(query.where(entries.c.idx.in_(list(indices)))):
                yield self._entry(row)

    def kept(self, kind: str, subject: str) -> KeptState | None:
        """Return a state that is kept beside the ledger, None without one that is whole."""
        with self._engine.connect() as connection:
            return read_kept(connection, kind, subject)

    def kept_subjects(self, kind: str) -> list[str]:
        """Return of what states of a kind are kept."""
        with self._engine.connect() as connection:
            return kept_subjects(connection, kind)

    def damaged_states(self) -> list[str]:
        """Return which kept states cannot be read or are not as they were written."""
        with self._engine.connect() as connection:
            return damaged_states(connection)

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
