"""Stretches: good observations of one target, one after the other, as columns out of a run.

Nearly all that packs hold is the same observation again: the target was up, and only times and durations differ. A
replay needs four of its numbers. Read as columns they cost a tenth of what a JSON text each costs.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

import orjson

from mailwatch.ledger.payloads import ObservationPayload
from mailwatch.model import Outcome
from mailwatch.store.entry_rows import RawEntry
from mailwatch.store.packs import LoadedPack, PackReader
from mailwatch.store.run_format import GroupColumns, Run, RunDamagedError
from mailwatch.store.selection import Selection
from mailwatch.times import Millis

SHORTEST = 4
"""Observations of a stretch; fewer are sooner read one by one."""
_MARK = 900_000_000_000_000
"""Stands for a number of a column in the text of a payload; no time and no reading of a clock is near it."""
_MARK_DIGITS = str(_MARK)[:-4]
_TEXT_MARK = "\u2063column "
"""Stands for a text of a column."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Good observations of one target. All columns have a value for each; times in milliseconds.

    `boot` of their clock ("" without one), `interval` (milliseconds, None if it is not on record) and whether they
    logged in with a secret are the same for all. `clock_starts`, `clock_ends`: by the steady clock, None where it
    was not read. `peers`: the addresses of all attempts, with their ports.
    """

    target: str
    boot: str
    interval: Millis | None
    with_secret: bool
    indices: Sequence[int]
    times: Sequence[Millis]
    starts: Sequence[Millis]
    ends: Sequence[Millis]
    clock_starts: Sequence[Millis] | None
    clock_ends: Sequence[Millis] | None
    peers: frozenset[str]
    columns: GroupColumns
    offset: int
    """Of the first, in the columns."""

    def payload(self, at: int) -> ObservationPayload:
        """Return a whole payload."""
        return cast(ObservationPayload, orjson.loads(self.columns.text(self.offset + at)))


class _Group(NamedTuple):
    """The good observations of a group, as in Stretch. `peers`: the addresses that all of its rows have, and the
    columns of those that differ.
    """

    columns: GroupColumns
    boot: str
    interval: Millis | None
    with_secret: bool
    starts: Sequence[int]
    ends: Sequence[int]
    clock_starts: Sequence[int] | None
    clock_ends: Sequence[int] | None
    peers: tuple[frozenset[str], list[list[str]]]


class _Span(NamedTuple):
    """Rows of one group that follow each other: positions in the run, and the first one's in the group."""

    begin: int
    end: int
    group: _Group
    offset: int


class RunStretches:
    """Which rows of a run are in stretches. Raises RunDamagedError."""

    def __init__(self, run: Run) -> None:
        self.run = run
        groups = [
            _good_group(columns) if head[:2] == ["observation", Outcome.UP.value] else None
            for columns, head in zip(run.groups, run.heads, strict=True)
        ]
        self._spans: list[_Span] = []
        begin, offsets = 0, [0] * len(groups)
        for member, rows in groupby(run.members):
            end = begin + sum(1 for _ in rows)
            if (group := groups[member]) is not None:
                self._spans.append(_Span(begin, end, group, offsets[member]))
            offsets[member] += end - begin
            begin = end

    def parts(self, low: int, high: int) -> Iterator[range | Stretch]:
        """Yield what is at the positions [low, high): stretches, and other positions."""
        for span in self._spans:
            begin, end = max(low, span.begin), min(high, span.end)
            if end - begin >= SHORTEST:
                if low < begin:
                    yield range(low, begin)
                yield self._stretch(span, begin, end)
                low = end
        if low < high:
            yield range(low, high)

    def _stretch(self, span: _Span, begin: int, end: int) -> Stretch:
        run, group, shift = self.run, span.group, span.offset - span.begin
        inside = slice(begin + shift, end + shift)
        starts, ends, (fixed, columns) = group.clock_starts, group.clock_ends, group.peers
        return Stretch(
            run.target, group.boot, group.interval, group.with_secret, run.indices[begin:end],
            run.times[begin:end], group.starts[inside], group.ends[inside],
            None if starts is None else starts[inside], None if ends is None else ends[inside],
            fixed.union(*(column[inside] for column in columns)) - {""}, group.columns, inside.start,
        )  # fmt: skip


def _good_group(columns: GroupColumns) -> _Group | None:
    """Return the columns of a group by what they are; None if something that matters differs from row to row."""
    if any(_MARK_DIGITS in piece or _TEXT_MARK in piece for piece in columns.pieces):
        return None
    marks = [
        _MARK + number if slot == "%d" else f'"{_TEXT_MARK}{number}"' for number, slot in enumerate(columns.slots)
    ]
    form = GroupColumns(1, columns.pieces, columns.slots, [[mark] for mark in marks], [])
    try:
        return _read_group(orjson.loads(form.texts()[0]), columns)
    except (KeyError, TypeError, ValueError, AttributeError):
        # Whatever it is, it is read row by row, which says what is wrong.
        return None


def _read_group(payload: Mapping[str, Any], columns: GroupColumns) -> _Group | None:
    numbers = partial(_numbers, columns)
    clock, interval, login, secret = (payload.get(key) for key in ("clock", "interval", "login", "secret"))
    boot = "" if clock is None else clock["boot"]
    if any(_column_of(one) is not None for one in (boot, interval, login, secret)):
        return None
    if (
        payload["outcome"] != Outcome.UP.value
        or not isinstance(boot, str)
        or not (interval is None or type(interval) is int)
        or type(payload["scheduled"]) is not int
    ):
        return None
    return _Group(
        columns,
        boot,
        interval,
        bool(login and secret),
        numbers(payload["start"]),
        numbers(payload["end"]),
        None if clock is None else numbers(clock["start"]),
        None if clock is None else numbers(clock["end"]),
        _peers(columns, [attempt["peer"] for attempt in payload["attempts"]]),
    )


def _column_of(value: object) -> int | None:
    """Return the number of the column that a value stands for; None for a value of all rows."""
    if type(value) is int and value >= _MARK:
        return value - _MARK
    if isinstance(value, str) and value.startswith(_TEXT_MARK):
        return int(value.removeprefix(_TEXT_MARK))
    return None


def _numbers(columns: GroupColumns, value: object) -> Sequence[int]:
    """Return the whole number of each row that a value stands for. Raises TypeError for others."""
    number = _column_of(value)
    if number is not None and columns.slots[number] == "%d":
        return columns.columns[number]
    if type(value) is not int or number is not None:
        raise TypeError("is no whole number")
    return [value] * columns.count


def _peers(columns: GroupColumns, values: Sequence[object]) -> tuple[frozenset[str], list[list[str]]]:
    """Return the addresses of the attempts, "" for none. Raises TypeError, ValueError for others."""
    fixed: set[str] = set()
    differing: list[list[str]] = []
    for value in values:
        number = _column_of(value)
        if number is None:
            fixed.add(_address(value))
        else:
            known = {text: _address(orjson.loads(text)) for text in set(columns.columns[number])}
            differing.append([known[text] for text in columns.columns[number]])
    return frozenset(fixed), differing


def _address(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise TypeError("is no address")
    return value


Part = RawEntry | Stretch
_raw: Callable[[Any], RawEntry] = itemgetter(0, 1, 2, 3, 6, 7)


def parts(rows: Iterable[RawEntry], reader: PackReader, wanted: Selection) -> Iterator[Part]:
    """Merge rows with what packs hold of a range: stretches, and entries without their headers.

    Between two rows, the parts of different targets are in the order of their last entries, so those of one target
    are in ledger order. Raises StoreDamagedError.
    """
    remaining = iter(rows)
    row = next(remaining, None)
    for pack, low, high in reader.loaded(wanted):
        while row is not None and row[0] < low:
            yield row
            row = next(remaining, None)
        between = _PackParts(pack)
        while row is not None and row[0] < high:
            yield from between.of(low, row[0])
            yield row
            # The entry may also be in a run, until it is swept.
            low = row[0] + 1
            row = next(remaining, None)
        yield from between.of(low, high)
    if row is not None:
        yield from chain((row,), remaining)


class _PackParts:
    """The parts of one pack."""

    def __init__(self, pack: LoadedPack) -> None:
        self._pack = pack
        self._runs: list[tuple[Any, RunStretches]] = []

    def of(self, low: int, high: int) -> list[Part]:
        """Return the parts with indexes in [low, high)."""
        if low >= high:
            return []
        found: list[tuple[int, Part]] = []
        for run_row, stretches in self._loaded():
            run = stretches.run
            if run.indices[0] >= high or run.indices[-1] < low:
                continue
            positions = bisect_left(run.indices, low), bisect_left(run.indices, high)
            try:
                for part in stretches.parts(*positions):
                    if isinstance(part, Stretch):
                        found.append((part.indices[-1], part))
                    else:
                        found += ((row.idx, _raw(row)) for row in run.rows(part, headers=False))
            except RunDamagedError as error:
                raise self._pack.reader.damaged(run_row, error) from None
        found.sort(key=itemgetter(0))
        return [part for _, part in found]

    def _loaded(self) -> list[tuple[Any, RunStretches]]:
        if not self._runs:
            for run_row, run in self._pack.runs():
                try:
                    self._runs.append((run_row, RunStretches(run)))
                except RunDamagedError as error:
                    raise self._pack.reader.damaged(run_row, error) from None
        return self._runs
