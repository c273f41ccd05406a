"""Packs old entries: re-encodes the observations and gaps of a perfect subtree by target, without loss.

1. `Packer.prepare` encodes a range and decodes it again: each text must be the same, and the leaves of what was
   decoded must give the subtree's root. It only reads, in any thread.
2. `write_pack` writes the runs and reads them back.
3. `Sweeper.sweep` (sweeping.py) compares each row with its copy in a committed run, and deletes it.

Each step is a transaction of its own. A crash between two leaves an entry as a row, or as a row and in a run,
which readers take for one entry, and never as neither. The trigger of the table `entries` allows no other row to
go.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import sqlalchemy as sa
import zstandard

from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.ledger.merkle import leaf_hash, perfect_root
from mailwatch.store.errors import DAMAGE_ADVICE, StoreDamagedError
from mailwatch.store.packs import PackReader, decompressor, raw_dictionary
from mailwatch.store.reader import Reader
from mailwatch.store.run_format import (
    LEVEL,
    MAX_RUN_ENTRIES,
    OUTCOMES,
    WITHHELD_CONTENTS,
    PackableRow,
    Row,
    Run,
    RunDamagedError,
    RunEncoder,
    packable,
)
from mailwatch.store.schema import checkpoints, entries, packs, runs
from mailwatch.store.selection import PACKED_KINDS, WITHHELD
from mailwatch.times import DAY_MS, HOUR_MS, Millis

SMALL_LEVEL, LARGE_LEVEL = 12, 16
LARGE_ENTRIES_A_DAY = 100_000
KEPT_BESIDE_MS: Millis = HOUR_MS
"""Milliseconds before the first and after the last failure of an outage of which observations stay rows."""
KEPT_WITHIN_MS: Millis = DAY_MS
"""Milliseconds of an outage from its first failure on of which observations stay rows."""
FOLLOWING_ENTRIES = 1000
DICTIONARY_BYTES, DICTIONARY_PACKS = 16_384, 64
"""A dictionary has at most so many bytes, and serves so many packs."""
# As texts: to build such a statement and its key takes longer than to read the forty rows of a target.
_IN_ORDER = sa.text(
    "SELECT idx, header, kind, target FROM entries WHERE idx >= :begin AND idx < :end ORDER BY idx"
)
_OF_TARGET = sa.text(
    "SELECT idx, kind, time_ms, target, number, outcome, header, payload FROM entries "
    "WHERE target = :target AND idx >= :begin AND idx < :end AND kind IN ('observation', 'gap') "
    "ORDER BY idx LIMIT :limit"
)
_WITHHELD = sa.text(
    "SELECT idx, kind, time_ms, target, number, outcome, header, payload FROM entries "
    "WHERE idx >= :begin AND idx < :end AND kind = 'withheld' ORDER BY idx LIMIT :limit"
)


def level_for(entries_a_day: float) -> int:
    """Return the level of the packs of a ledger that grows by so many entries a day."""
    return LARGE_LEVEL if entries_a_day >= LARGE_ENTRIES_A_DAY else SMALL_LEVEL


@dataclass(frozen=True, slots=True)
class PackRange:
    """The perfect subtree of the entries [first, end)."""

    first: int
    level: int

    @property
    def end(self) -> int:
        """The index after its last entry."""
        return self.first + (1 << self.level)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedRun:
    """A row of the table `runs`, without its pack."""

    target: str
    first: int
    last: int
    count: int
    low_ms: Millis
    high_ms: Millis
    contents: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PreparedPack:
    """A pack that was encoded and compared with its rows, and is not written yet."""

    range: PackRange
    root: bytes
    dictionary_of: int
    dictionary: bytes | None
    runs: tuple[PreparedRun, ...]

    @property
    def count(self) -> int:
        """How many entries its runs hold; the others stay rows."""
        return sum(run.count for run in self.runs)


class KeptWindows:
    """When observations of a target stay rows: around its outages, which evidence reads most."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, OutageRecord]] = {}
        self._merged: dict[str, MergedWindows] = {}
        self._next_index = 0

    def update(self, reader: Reader) -> None:
        """Read the outages recorded since. One that cannot be read, as a hub's member may send, has no windows."""
        size = reader.size()
        for entry in reader.entries(kinds=["outage"], from_index=self._next_index, to_index=size):
            with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
                record = outage_from_payload(entry.payload)
                # Raises TypeError for times that are none.
                list(_windows_of(record))
                self.add(record)
        self._next_index = size

    def add(self, record: OutageRecord) -> None:
        """Take over an outage as it is on record now."""
        self._records.setdefault(record.target, {})[record.id] = record
        self._merged.pop(record.target, None)

    def of(self, target: str) -> MergedWindows:
        """Return the windows of a target. The middle of a long outage is in none."""
        if (known := self._merged.get(target)) is None:
            windows: list[tuple[Millis, Millis]] = []
            for record in self._records.get(target, {}).values():
                windows += _windows_of(record)
            known = self._merged[target] = MergedWindows(windows)
        return known


def _windows_of(record: OutageRecord) -> Iterator[tuple[Millis, Millis]]:
    begin, end = record.first_bad, record.first_bad + KEPT_WITHIN_MS
    if record.state != "open":
        end = min(end, record.last_bad)
        yield record.last_bad - KEPT_BESIDE_MS, record.last_bad + KEPT_BESIDE_MS
    yield begin - KEPT_BESIDE_MS, end + KEPT_BESIDE_MS


class MergedWindows:
    """Windows of time, of which there may be ten thousand; both ends are inclusive."""

    def __init__(self, windows: Iterable[tuple[Millis, Millis]]) -> None:
        self._begins: list[Millis] = []
        self._ends: list[Millis] = []
        for begin, end in sorted(windows):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def include(self, at: Millis) -> bool:
        """Return whether a time is in one of the windows."""
        place = bisect_right(self._begins, at)
        return place > 0 and at <= self._ends[place - 1]


class Packer:
    """Prepares packs. One serves for the life of a process: it remembers outages and the forms of payloads."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._kept = KeptWindows()
        self._encoder = RunEncoder()

    def next_range(self, before_ms: Millis, level: int) -> PackRange | None:
        """Return the range to pack next; None if there is none.

        It is the perfect subtree after the last pack, of `level` or less where that is not aligned. Its entries
        are older than `before_ms`, and under a signed checkpoint. Raises StoreError.
        """
        with self._reader.snapshot() as connection:
            first = PackReader(connection).end()
            if first:
                level = min(level, (first & -first).bit_length() - 1)
            found = PackRange(first, level)
            signed = connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar() or 0
            return found if found.end <= signed and _is_old(connection, found, before_ms) else None

    def prepare(self, wanted: PackRange, pause: Callable[[], None] = lambda: None) -> PreparedPack:
        """Encode the entries of a range and compare them with what is decoded again.

        It takes some 50 µs an entry, and calls `pause` after every few thousand rows at most. Raises StoreError;
        StoreDamagedError for a range with a missing entry.
        """
        self._kept.update(self._reader)
        leaves, targets = self._leaves(wanted, pause)
        dictionary_of, dictionary, is_new = self._dictionary(wanted, targets)
        compressor = zstandard.ZstdCompressor(
            level=LEVEL, write_checksum=True, dict_data=raw_dictionary(dictionary) if dictionary else None
        )
        coder = _Coder(self._encoder, compressor, decompressor(dictionary or None))
        made: list[PreparedRun] = []
        for target in targets:
            windows = self._kept.of(target)
            for segment in _segments(self._rows(wanted, target), windows):
                for part in _parts(segment):
                    made += coder.encode(part)
                    pause()
        # Equal leaves give an equal root.
        for index, leaf in coder.leaves.items():
            if leaves[index - wanted.first] != leaf:
                raise StoreDamagedError(f"the packed entries from {wanted.first} on do not give their root")
        return PreparedPack(
            range=wanted, root=perfect_root(leaves), dictionary_of=dictionary_of,
            dictionary=dictionary if is_new else None, runs=tuple(made),
        )  # fmt: skip

    def _leaves(self, wanted: PackRange, pause: Callable[[], None]) -> tuple[list[bytes], list[str]]:
        """Return the leaf hashes of a range, and the targets with something to pack; "" for withheld entries."""
        leaves: list[bytes] = []
        targets: dict[str, None] = {}
        while len(leaves) < 1 << wanted.level:
            begin = wanted.first + len(leaves)
            part = {"begin": begin, "end": min(begin + MAX_RUN_ENTRIES, wanted.end)}
            with self._reader.snapshot() as connection:
                found = connection.execute(_IN_ORDER, part).all()
            for index, header, kind, target in found:
                if index != wanted.first + len(leaves):
                    break
                leaves.append(leaf_hash(header.encode()))
                if target is not None and kind in PACKED_KINDS:
                    targets[target] = None
                elif kind == WITHHELD:
                    targets[""] = None
            if begin + len(found) != wanted.first + len(leaves) or not found:
                what = f"entry {wanted.first + len(leaves)} is missing"
                raise StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what)
            pause()
        return leaves, list(targets)

    def _rows(self, wanted: PackRange, target: str, limit: int | None = None) -> Iterator[Row]:
        """Yield the observations and gaps of a target in a range, a slice at a time; of "" what is withheld."""
        begin, query = wanted.first, _OF_TARGET if target else _WITHHELD
        while True:
            part = {"target": target, "begin": begin, "end": wanted.end, "limit": limit or MAX_RUN_ENTRIES}
            with self._reader.snapshot() as connection:
                found = connection.execute(query, part).all()
            yield from map(Row._make, found)
            if limit is not None or len(found) < MAX_RUN_ENTRIES:
                return
            begin = found[-1].idx + 1

    def _dictionary(self, wanted: PackRange, targets: Sequence[str]) -> tuple[int, bytes, bool]:
        """Return the pack whose dictionary to use, the dictionary, and whether it is this pack's own."""
        if (wanted.first >> wanted.level) % DICTIONARY_PACKS:
            column = packs.c
            newest = sa.select(column.first, column.dictionary).where(column.dictionary.is_not(None))
            with self._reader.snapshot() as connection:
                known = connection.execute(newest.order_by(column.first.desc()).limit(1)).one_or_none()
            if known and known.dictionary and (wanted.first - known.first) >> wanted.level <= DICTIONARY_PACKS:
                return known.first, known.dictionary, False
        pieces: dict[bytes, None] = {}
        for target in targets:
            rows = list(filter(None, map(packable, self._rows(wanted, target, limit=50))))
            if rows:
                pieces[self._encoder.encode(rows).form] = None
            if sum(map(len, pieces)) > DICTIONARY_BYTES:
                break
        # What is likely to match best goes to the end, which is the cheapest to refer to.
        return wanted.first, b"\n".join(reversed(pieces))[-DICTIONARY_BYTES:], True


@dataclass(slots=True)
class _Coder:
    """Encodes rows, decodes them again, and keeps out what is not the same then."""

    encoder: RunEncoder
    compressor: zstandard.ZstdCompressor
    decompressor: zstandard.ZstdDecompressor
    leaves: dict[int, bytes] = field(default_factory=dict)
    """The leaf hashes of all rows as decoded."""

    def encode(self, given: Sequence[PackableRow]) -> list[PreparedRun]:
        """Return runs with those of the rows that are decoded to the byte."""
        data = self.encoder.encode(given).compress(self.compressor)
        rows = [one.row for one in given]
        times = [row.time_ms for row in rows]
        made = PreparedRun(
            target=rows[0].target or "", first=rows[0].idx, last=rows[-1].idx, count=len(rows), low_ms=min(times),
            high_ms=max(times), contents=_contents(rows), data=data,
        )  # fmt: skip
        try:
            again = self.decode(made)
        except RunDamagedError:
            again = []
        if again == rows:
            self.leaves.update((row.idx, leaf_hash(row.header.encode())) for row in again)
            return [made]
        if len(rows) == 1:
            return []
        middle = len(rows) // 2
        return self.encode(given[:middle]) + self.encode(given[middle:])

    def decode(self, made: PreparedRun) -> list[Row]:
        """Return the rows of a run. Raises RunDamagedError."""
        run = Run(made.data, self.decompressor)
        return list(run.rows(range(run.count)))


def _contents(rows: Sequence[Row]) -> int:
    if rows[0].kind == WITHHELD:
        return WITHHELD_CONTENTS
    found = 0
    for outcome in {row.outcome for row in rows}:
        found |= OUTCOMES[outcome]
    return found


def _is_old(connection: sa.Connection, wanted: PackRange, before_ms: Millis) -> bool:
    """Return whether all entries of a range are older, by their own time or that of an entry soon after them.

    An entry written after them was later, whatever a clock that ran ahead says of them.
    """
    column = entries.c
    latest = sa.select(sa.func.max(column.time_ms)).where(column.idx >= wanted.first, column.idx < wanted.end)
    if (connection.execute(latest).scalar() or 0) < before_ms:
        return True
    after = sa.select(sa.func.min(column.time_ms))
    after = after.where(column.idx >= wanted.end, column.idx < wanted.end + FOLLOWING_ENTRIES)
    following: Millis | None = connection.execute(after).scalar()
    return following is not None and following < before_ms


def _segments(rows: Iterator[Row], windows: MergedWindows) -> Iterator[list[PackableRow]]:
    """Yield the rows that go into packs, parted where one stays a row, so that no run spans it."""
    segment: list[PackableRow] = []
    for row in rows:
        one = packable(row)
        if one is not None and not windows.include(row.time_ms):
            segment.append(one)
        elif segment:
            yield segment
            segment = []
    if segment:
        yield segment


def _parts(segment: Sequence[PackableRow]) -> Iterator[Sequence[PackableRow]]:
    """Part a segment into runs of about the same length."""
    many = -(-len(segment) // MAX_RUN_ENTRIES)
    for number in range(many):
        yield segment[len(segment) * number // many : len(segment) * (number + 1) // many]


def write_pack(connection: sa.Connection, prepared: PreparedPack) -> None:
    """Write a pack in the transaction of `connection`, and read it back; its rows stay for now.

    About 10 ms for 4,096 entries and 100 ms for 65,536. Raises StoreError, ValueError for a range that is not the
    one after the last pack.
    """
    if PackReader(connection).end() != prepared.range.first:
        raise ValueError(f"{prepared.range} does not follow the last pack")
    pack = {
        "first": prepared.range.first, "level": prepared.range.level, "root": prepared.root,
        "count": prepared.count, "swept": 0, "dictionary_of": prepared.dictionary_of,
        "dictionary": prepared.dictionary,
    }  # fmt: skip
    connection.execute(sa.insert(packs), [pack])
    written = [
        {
            "target": run.target, "first": run.first, "last": run.last, "pack": prepared.range.first,
            "count": run.count, "low_ms": run.low_ms, "high_ms": run.high_ms, "contents": run.contents,
            "data": run.data,
        }
        for run in prepared.runs
    ]  # fmt: skip
    if written:
        connection.execute(sa.insert(runs), written)
    query = sa.select(runs.c.target, runs.c.first, runs.c.data).where(runs.c.pack == prepared.range.first)
    there = {(target, first): data for target, first, data in connection.execute(query)}
    if there != {(run.target, run.first): run.data for run in prepared.runs}:
        raise StoreDamagedError("a pack is not what was written")


def pack_next(packer: Packer, store: Packing, before_ms: Millis, level: int) -> PreparedPack | None:
    """Pack the next range that is old enough, and sweep; return the pack, None if there is none.

    For commands and tests: the monitor does the steps by themselves. Raises StoreError.
    """
    wanted = packer.next_range(before_ms, level)
    prepared = None if wanted is None else packer.prepare(wanted)
    if prepared is not None:
        store.save_pack(prepared)
    while store.sweep_packs():
        pass
    return prepared


class Packing(Protocol):
    """What writes packs: a Store."""

    def save_pack(self, prepared: PreparedPack) -> None:
        """Write a pack."""

    def sweep_packs(self, limit: int = ...) -> int:
        """Read packs, or delete rows that they hold; return how many entries that were, 0 for none left."""
