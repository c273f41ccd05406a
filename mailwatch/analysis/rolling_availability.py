"""The latest 90 days of a target in hours and quarters of a day, in constant memory: about 7 KB."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailwatch.analysis.segments import Segmenter, SegmenterMemory, SegmentState
from mailwatch.model import Fact
from mailwatch.times import DAY_MS, HOUR_MS, Millis, Window, subtract_windows


@dataclass(frozen=True, slots=True)
class AvailabilityRatio:
    """Shares of the observed time, None if nothing was observed. `coverage`: the observed share of the window.

    The window excludes maintenance; the coverage of a window of maintenance only is None.
    """

    lower: float | None
    upper: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class DayAvailability:
    """One day, UTC, in milliseconds. `length`: the part that has passed; the rest divides it."""

    start: Millis
    length: Millis
    up: Millis
    down: Millis
    indeterminate: Millis
    maintenance: Millis


@dataclass(frozen=True, slots=True)
class _PastDays:
    """The days before midnight `until`, with the maintenance that began in them."""

    until: Millis
    excused: Sequence[Window]
    days: Sequence[DayAvailability]


@dataclass(frozen=True, slots=True)
class RingMemory:
    """Milliseconds up, down and indeterminate by bucket, as of a ring."""

    newest: int
    spent: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class AvailabilityMemory:
    """What a rolling availability knows. `rings`: those of hours and quarters of a day, none if never observed."""

    segmenter: SegmenterMemory
    rings: tuple[RingMemory, ...]


def no_maintenance(start: Millis, end: Millis) -> Sequence[Window]:
    """Return no maintenance."""
    return ()


class RollingAvailability:
    """The availability of one target over the last 90 days.

    Windows up to 7 days are counted in whole hours, longer windows in whole quarters of a day. A window begins
    with the bucket that contains its first moment, so it may be up to one bucket longer than requested. `excluded`
    returns the merged maintenance in [start, end); it is called each time.
    """

    __slots__ = ("_excluded", "_past", "_rings", "_segmenter")

    def __init__(
        self,
        *,
        interval: float,
        excluded: Callable[[Millis, Millis], Sequence[Window]] = no_maintenance,
        infer: bool = False,
    ) -> None:
        self._segmenter = Segmenter(interval, infer=infer)
        self._excluded = excluded
        self._rings: tuple[_Ring, ...] = ()
        self._past = _PastDays(0, (), ())

    @property
    def memory(self) -> AvailabilityMemory:
        """What it knows."""
        return AvailabilityMemory(self._segmenter.memory, tuple(ring.memory for ring in self._rings))

    @classmethod
    def of(
        cls,
        memory: AvailabilityMemory,
        *,
        excluded: Callable[[Millis, Millis], Sequence[Window]] = no_maintenance,
    ) -> RollingAvailability:
        """Return an availability that knows that. Raises ValueError, OverflowError or TypeError."""
        made = cls(interval=0, excluded=excluded)
        made._segmenter = Segmenter.of(memory.segmenter)
        if memory.rings:
            made._rings = _new_rings()
            for ring, known in zip(made._rings, memory.rings, strict=True):
                ring.recall(known)
        return made

    def exclude(self, excluded: Callable[[Millis, Millis], Sequence[Window]]) -> None:
        """Leave this maintenance out from now on."""
        self._excluded = excluded

    def feed(self, fact: Fact) -> None:
        """Process the next observation, gap or target change."""
        stretches = self._segmenter.feed(fact)
        self._segmenter.jumps.clear()
        self._segmenter.former_jumps.clear()
        for start, end, share in stretches:
            # Allocated here: a target never observed needs no memory.
            self._rings = self._rings or _new_rings()
            if start < self._past.until:
                self._past = _PastDays(0, (), ())
            for begin, until in subtract_windows(self._excluded(start, end), start, end):
                for ring in self._rings:
                    ring.add(begin, until, share, repeated=fact.clock is not None)

    def ratio(self, window: Millis, now: Millis) -> AvailabilityRatio:
        """Return the availability in the last `window` milliseconds before `now`. Raises ValueError beyond 90
        days.
        """
        for ring in self._rings:
            if window <= ring.longest:
                first = ring.begin(now - window)
                excused = sum(end - start for start, end in self._excluded(first, now))
                return ring.ratio(first, now, excused)
        if self._rings:
            raise ValueError(f"the longest window is {self._rings[-1].longest} ms, not {window}")
        return AvailabilityRatio(None, None, 0.0)

    def days(self, now: Millis) -> list[DayAvailability]:
        """Return the last 90 days, oldest first, including the past part of today.

        The days before today are kept until one of them changes, since the pages ask for them all the time.
        """
        today = now // DAY_MS * DAY_MS
        first = today - 89 * DAY_MS
        excused = self._excluded(first, now)
        before = tuple(window for window in excused if window[0] < today)
        if (self._past.until, self._past.excused) != (today, before):
            days = tuple(self._day(start, DAY_MS, before) for start in range(first, today, DAY_MS))
            self._past = _PastDays(today, before, days)
        return [*self._past.days, self._day(today, now - today, excused)]

    def _day(self, start: Millis, length: Millis, excused: Sequence[Window]) -> DayAvailability:
        spent = self._rings[-1].spent(start, start + DAY_MS - 1) if self._rings else (0, 0, 0)
        maintenance = sum(max(0, min(end, start + length) - max(begin, start)) for begin, end in excused)
        return DayAvailability(start, length, *spent, maintenance)


def _new_rings() -> tuple[_Ring, ...]:
    return _Ring(HOUR_MS, 7 * DAY_MS), _Ring(6 * HOUR_MS, 90 * DAY_MS)


class _Ring:
    """Milliseconds in each state, in buckets of equal length; the newest overwrites the oldest."""

    __slots__ = ("_length", "_newest", "_size", "_spent", "longest")

    def __init__(self, length: Millis, longest: Millis) -> None:
        self.longest = longest
        self._length = length
        # One extra: a window that does not begin with a bucket overlaps one more.
        self._size = longest // length + 1
        self._newest = 0
        self._spent = tuple(array("I", bytes(4 * self._size)) for _ in SegmentState)

    def add(self, start: Millis, end: Millis, state: SegmentState, *, repeated: bool) -> None:
        """Count a segment. `repeated`: the same wall time may come again after the clock was set back, by the
        steady clock.
        """
        while start < end:
            bucket = start // self._length
            until = min(end, (bucket + 1) * self._length)
            self._advance_to(bucket)
            at = bucket % self._size
            most = 2**31 if repeated else self._length
            free = most - sum(spent[at] for spent in self._spent)
            self._spent[state][at] += min(until - start, free)
            start = until

    @property
    def memory(self) -> RingMemory:
        """What it knows."""
        return RingMemory(self._newest, tuple(tuple(spent) for spent in self._spent))

    def recall(self, memory: RingMemory) -> None:
        """Know that. Raises ValueError, OverflowError or TypeError for what is none."""
        if [len(spent) for spent in memory.spent] != [self._size] * len(self._spent):
            raise ValueError("no ring of this size")
        self._newest, self._spent = memory.newest, tuple(array("I", spent) for spent in memory.spent)

    def begin(self, at: Millis) -> Millis:
        """Return the beginning of the bucket that contains `at`."""
        return at // self._length * self._length

    def ratio(self, start: Millis, now: Millis, maintenance: Millis) -> AvailabilityRatio:
        """Return the shares from the bucket beginning at `start` on, less `maintenance` milliseconds."""
        first = start // self._length
        newest = min(now // self._length, self._newest)
        oldest = max(first, self._newest - self._size + 1)
        up, down, undecided = (self._sum(spent, oldest, newest) for spent in self._spent)
        covered, asked = up + down + undecided, now - start - maintenance
        if not covered:
            return AvailabilityRatio(None, None, 0.0 if asked > 0 else None)
        coverage = min(1.0, covered / asked) if asked > 0 else None
        return AvailabilityRatio(up / covered, (up + undecided) / covered, coverage)

    def spent(self, start: Millis, end: Millis) -> tuple[int, int, int]:
        """Return milliseconds up, down and indeterminate in the buckets that contain `start` to `end`."""
        newest = min(end // self._length, self._newest)
        oldest = max(start // self._length, self._newest - self._size + 1)
        up, down, undecided = (self._sum(spent, oldest, newest) for spent in self._spent)
        return up, down, undecided

    def _advance_to(self, bucket: int) -> None:
        """Move the ring so that it includes `bucket`, and clear buckets that are too old.

        A bucket older than the whole ring means that the clock was far ahead before: the ring starts anew.
        """
        if self._newest - self._size < bucket <= self._newest:
            return
        steps = bucket - self._newest
        stale = range(self._newest + 1, bucket + 1) if 0 < steps < self._size else range(self._size)
        for number in stale:
            for spent in self._spent:
                spent[number % self._size] = 0
        self._newest = bucket

    def _sum(self, spent: array[int], oldest: int, newest: int) -> int:
        if newest < oldest:
            return 0
        left, right = oldest % self._size, newest % self._size
        if left <= right:
            return sum(spent[left : right + 1])
        return sum(spent[left:]) + sum(spent[: right + 1])
