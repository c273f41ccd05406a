"""The reading side: any number of readers, in any process, while one process writes."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa

from mailwatch.ledger.payloads import FACT_KINDS, fact_from
from mailwatch.model import Fact, Outcome
from mailwatch.store.errors import (
    StoreDamagedError,
    StoreError,
    StoreHealth,
    StoreUnavailableError,
    damaged,
    entry_mismatch,
)
from mailwatch.store.first_start import check_not_missing, ledger_exists
from mailwatch.store.schema import checkpoints, database, engine, entries
from mailwatch.times import Millis

_COLUMNS = ("idx", "kind", "time_ms", "target", "number", "header", "payload")
UNREADABLE = (OSError, StoreError, sa.exc.SQLAlchemyError, ValueError, KeyError)
"""Exceptions of reading a ledger that is missing, forbidden or invalid."""
MAX_INTEGRITY_FINDINGS = 20
"""Most findings to request from SQLite's integrity check."""
PROGRESS_STEPS = 100_000
"""Steps of SQLite's virtual machine between two chances to stop its integrity check."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A committed entry. `header` and `text` (the payload): canonical JSON. `target`: the clear name."""

    index: int
    kind: str
    time: Millis
    target: str | None
    number: int | None
    header: str
    text: str

    @property
    def payload(self) -> dict[str, Any]:
        """The payload, parsed at each access."""
        parsed: dict[str, Any] = orjson.loads(self.text)
        return parsed

    @property
    def target_id(self) -> str:
        """The opaque target id in the header, "" without a target."""
        return orjson.loads(self.header)["target"] or ""

    @property
    def fact(self) -> Fact | None:
        """The recorded observation, gap or target change; None for other kinds."""
        return fact_from(self.kind, self.payload) if self.kind in FACT_KINDS else None


RawEntry = tuple[int, str, Millis, str | None, str, str]
"""An entry as a tuple: index, kind, time, clear name of the target, header and payload."""


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A signed checkpoint, its time, and the compact range from which the tree grows on."""

    size: int
    time_ms: Millis
    note: str
    hashes: bytes = b""


def entry_from_row(row: Sequence[Any]) -> Entry:
    """Return an entry from its columns, which must match its header. Raises StoreDamagedError.

    Compared as text, in a fraction of the time of parsing: in a canonical header each key occurs once.
    """
    entry = Entry(*row)
    try:
        sealed_payload = hashlib.sha256(entry.text.encode()).hexdigest()
        number = "null" if entry.number is None else entry.number
        says = f'"index":{entry.index},"kind":"{entry.kind}","number":{number},"payload":"{sealed_payload}",'
        fits = says in entry.header and f'"time":{entry.time},' in entry.header
    except (AttributeError, TypeError, UnicodeError):
        fits = False
    if not fits:
        raise entry_mismatch(row[0])
    return entry


def _is_consistent(row: Sequence[Any]) -> bool:
    """Return whether the header of a `RawEntry` has the digest of its payload."""
    try:
        return f'"payload":"{hashlib.sha256(row[5].encode()).hexdigest()}"' in row[4]
    except (AttributeError, TypeError, UnicodeError):
        return False


class Reader:
    """Queries of the ledger; sees only committed entries.

    Each query raises StoreDamagedError if the disk does not hold what was written, and StoreUnavailableError.
    """

    def __init__(self, made: sa.Engine, health: StoreHealth | None = None) -> None:
        self._engine = made
        self._path = Path(made.url.database or "")
        self._health = health or StoreHealth()

    @classmethod
    def open(cls, data_dir: Path, health: StoreHealth | None = None) -> Reader:
        """Open a data_dir for reading.

        Raises FileNotFoundError if there is no ledger yet, LedgerMissingError if there was one.
        """
        check_not_missing(data_dir)
        path, health = database(data_dir), health or StoreHealth()
        if path.exists() and path.stat().st_size > 0:
            made = engine(data_dir, read_only=True, health=health)
            try:
                if ledger_exists(data_dir, made):
                    return cls(made, health)
            except StoreError:
                # The query that fails will report the error.
                return cls(made, health)
            made.dispose()
        raise FileNotFoundError(f"{data_dir} contains no ledger yet; `mailwatch run` creates it")

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
            low, high = self._bounds(target, start_ms, end_ms)
            query = query.where(column.idx.between(low, high))
        time = sa.literal_column("+time_ms") if target is not None else column.time_ms
        if start_ms is not None:
            query = query.where(time >= start_ms)
        if end_ms is not None:
            query = query.where(time < end_ms)
        if from_index is not None:
            query = query.where(column.idx >= from_index)
        if to_index is not None:
            query = query.where(column.idx < to_index)
        query = query.order_by(column.idx.desc() if descending else column.idx).limit(limit)
        with self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=1000).execute(query):
                yield self._entry(row) if checked else Entry(*row)

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
        column = entries.c
        query = sa.select(*(column[name] for name in _COLUMNS)).where(column.target == target)
        first = sa.select(sa.func.min(column.idx)).where(column.kind == kind, sa.text("kind <> 'observation'"))
        # Use the index by target: the index by kind would scan the entries of all other targets.
        query = query.where(sa.literal_column("+kind") == kind, column.idx >= first.scalar_subquery())
        query = query.order_by(column.idx.desc()).limit(1)
        if at_most is not None:
            query = query.where(column.idx <= at_most)
        with self._engine.connect() as connection:
            row = connection.execute(query).one_or_none()
        return None if row is None else self._entry(row)

    def between(self, target: str, start_ms: Millis, end_ms: Millis) -> tuple[int, int]:
        """Return the index of a target's first entry in that time, and one past its last; (0, 0) for none."""
        low, high = self._bounds(target, start_ms, end_ms)
        return (low, high + 1) if high >= low >= 0 else (0, 0)

    def latest_time(self, from_index: int, to_index: int) -> Millis:
        """Return the latest time of those entries; the last entry's time may be earlier if the clock was set back.
        Raises ValueError if there are none.
        """
        query = sa.select(sa.func.max(entries.c.time_ms)).where(entries.c.idx.between(from_index, to_index - 1))
        if (found := self._scalar(query)) is None:
            raise ValueError(f"there are no entries from {from_index} to {to_index}")
        return found

    def _bounds(self, target: str, start_ms: Millis | None, end_ms: Millis | None) -> tuple[int, int]:
        column = entries.c
        query = sa.select(sa.func.min(column.idx), sa.func.max(column.idx)).where(column.target == target)
        if start_ms is not None:
            query = query.where(column.time_ms >= start_ms)
        if end_ms is not None:
            query = query.where(column.time_ms < end_ms)
        with self._engine.connect() as connection:
            low, high = connection.execute(query).one()
        return (0, -1) if low is None else (low, high)

    def raw_entries(self, from_index: int, to_index: int) -> Iterator[RawEntry]:
        """Yield entries as stored, in half the time of `entries`."""
        column = entries.c
        names = ("idx", "kind", "time_ms", "target", "header", "payload")
        query = sa.select(*(column[name] for name in names)).order_by(column.idx)
        query = query.where(column.idx >= from_index, column.idx < to_index)
        with self._engine.connect() as connection:
            for part in connection.execution_options(yield_per=1000).execute(query).partitions():
                for row in part:
                    if not _is_consistent(row):
                        self._health.note(error := entry_mismatch(row[0]))
                        raise error
                yield from part

    def last_index(self, *, target: str, outcome: Outcome, before: int | None = None) -> int | None:
        """Return the index of the newest observation with that outcome, before index `before` if given."""
        column = entries.c
        query = sa.select(column.idx).where(column.target == target, column.outcome == outcome.value)
        if before is not None:
            query = query.where(column.idx < before)
        return self._scalar(query.order_by(column.idx.desc()).limit(1))

    def targets(self) -> list[str]:
        """Return the names of all targets on record, each found by one index lookup."""
        column, found = entries.c, list[str]()
        with self._engine.connect() as connection:
            while True:
                after = column.target > found[-1] if found else column.target.is_not(None)
                name = connection.execute(sa.select(sa.func.min(column.target)).where(after)).scalar()
                if name is None:
                    return found
                found.append(name)

    def size(self) -> int:
        """Return the number of committed entries."""
        newest = self._scalar(sa.select(sa.func.max(entries.c.idx)))
        return 0 if newest is None else newest + 1

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

    def _scalar(self, query: sa.Select[tuple[Any]]) -> int | None:
        with self._engine.connect() as connection:
            return connection.execute(query).scalar()

    @property
    def is_damaged(self) -> bool:
        """Whether damage was found, by this reader or by others of the same store."""
        return self._health.damage is not None

    def note_damage(self, what: str) -> None:
        """Record damage found in the database."""
        self._health.note(damaged(self._path, what.removeprefix("the database is damaged: ")))

    def integrity(self, stopped: Callable[[], bool]) -> list[str]:
        """Return the findings of SQLite's integrity check; [] if there are none, or once `stopped` returns
        True.
        """
        with self._engine.connect() as connection:
            raw = connection.connection.dbapi_connection
            assert isinstance(raw, sqlite3.Connection)
            raw.set_progress_handler(lambda: int(stopped()), PROGRESS_STEPS)
            try:
                found = (
                    connection.exec_driver_sql(f"PRAGMA integrity_check({MAX_INTEGRITY_FINDINGS})").scalars().all()
                )
            except StoreUnavailableError:
                if stopped():
                    return []
                raise
            finally:
                raw.set_progress_handler(None, 0)
        lines = [line.strip() for text in found for line in str(text).splitlines()]
        return [line for line in lines if line != "ok" and not line.startswith("***")][:MAX_INTEGRITY_FINDINGS]

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()
