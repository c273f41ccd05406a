"""Rolling availability in a memory that does not grow: about 7 KB for each target."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mailwatch.models import Fact, Millis
from mailwatch.service_level.stretches import Share, Walk
from mailwatch.windows import Window, without

HOUR: Millis = 3_600_000
DAY: Millis = 24 * HOUR


@dataclass(frozen=True, slots=True)
class Ratio:
    """Shares of the observed time, None when there is none; `coverage` is its share of the window.

    The window is without maintenance; the coverage of one that is nothing but maintenance is None.
    """

    lower: float | None
    upper: float | None
    coverage: float | None


@dataclass(frozen=True, slots=True)
class Day:
    """One day, UTC, in milliseconds: `length` of it has passed, and of that so much was up, down, undecided."""

    start: Millis
    length: Millis
    up: Millis
    down: Millis
    undecided: Millis
    maintenance: Millis


def nothing_excluded(start: Millis, end: Millis) -> Sequence[Window]:
    """No maintenance at all."""
    return ()


class Buckets:
    """The looks of one target over the last 90 days.

    Windows up to 7 days are counted in whole hours, longer ones in whole quarters of a day. A window begins
    with the bucket that its first moment falls in, so that it is up to one bucket longer than asked for.
    `excluded` gives the maintenance in [start, end), merged; it is asked anew each time.
    """

    __slots__ = ("_excluded", "_rings", "_walk")

    def __init__(
        self,
        *,
        interval: float,
        excluded: Callable[[Millis, Millis], Sequence[Window]] = nothing_excluded,
        infer: bool = False,
    ) -> None:
        self._walk = Walk(interval, infer=infer)
        self._excluded = excluded
        self._rings: tuple[_Ring, ...] = ()

    def add(self, fact: Fact) -> None:
        """Take in the next observation, gap or change of what is watched."""
        stretches = self._walk.add(fact)
        self._walk.jumps.clear()
        for start, end, share in stretches:
            # A target that was never observed needs no memory.
            self._rings = self._rings or (_Ring(HOUR, 7 * DAY), _Ring(6 * HOUR, 90 * DAY))
            for begin, until in without(self._excluded(start, end), start, end):
                for ring in self._rings:
                    ring.add(begin, until, share, twice=fact.clock is not None)

    def ratio(self, window: Millis, now: Millis) -> Ratio:
        """Return the availability of the last `window` milliseconds before `now`; at most 90 days."""
        for ring in self._rings:
            if window <= ring.longest:
                first = ring.begin(now - window)
                excused = sum(end - start for start, end in self._excluded(first, now))
                return ring.ratio(first, now, excused)
        if self._rings:
            raise ValueError(f"the longest window is {self._rings[-1].longest} ms, not {window}")
        return Ratio(None, None, 0.0)

    def days(self, now: Millis) -> list[Day]:
        """Return the last 90 days, oldest first, today included as far as it has come."""
        today = now // DAY * DAY
        first = today - 89 * DAY
        excused = self._excluded(first, now)
        told = []
        for start in range(first, today + 1, DAY):
            length = min(DAY, now - start)
            spent = self._rings[-1].spent(start, start + DAY - 1) if self._rings else (0, 0, 0)
            maintenance = sum(max(0, min(end, start + length) - max(begin, start)) for begin, end in excused)
            told.append(Day(start, length, *spent, maintenance))
        return told


class _Ring:
    """Milliseconds of each share in buckets of one length, the oldest overwritten by the newest."""

    __slots__ = ("_length", "_newest", "_size", "_spent", "longest")

    def __init__(self, length: Millis, longest: Millis) -> None:
        self.longest = longest
        self._length = length
        # One more: a window that does not begin with a bucket touches one more.
        self._size = longest // length + 1
        self._newest = 0
        self._spent = tuple(array("I", bytes(4 * self._size)) for _ in Share)

    def add(self, start: Millis, end: Millis, share: Share, *, twice: bool) -> None:
        """Count a stretch. After the clock was set back the same time comes `twice`, if a steady clock says so."""
        while start < end:
            bucket = start // self._length
            until = min(end, (bucket + 1) * self._length)
            self._turn(bucket)
            at = bucket % self._size
            most = 2**31 if twice else self._length
            free = most - sum(spent[at] for spent in self._spent)
            self._spent[share][at] += min(until - start, free)
            start = until

    def begin(self, at: Millis) -> Millis:
        """Return when the bucket of `at` begins."""
        return at // self._length * self._length

    def ratio(self, start: Millis, now: Millis, excused: Millis) -> Ratio:
        """Return the shares from the bucket that begins at `start` on; `excused` of that time is left out."""
        first = start // self._length
        newest = min(now // self._length, self._newest)
        oldest = max(first, self._newest - self._size + 1)
        up, down, undecided = (self._sum(spent, oldest, newest) for spent in self._spent)
        covered, asked = up + down + undecided, now - start - excused
        if not covered:
            return Ratio(None, None, 0.0 if asked > 0 else None)
        coverage = min(1.0, covered / asked) if asked > 0 else None
        return Ratio(up / covered, (up + undecided) / covered, coverage)

    def spent(self, start: Millis, end: Millis) -> tuple[int, int, int]:
        """Return milliseconds up, down and undecided in the buckets from that of `start` to that of `end`."""
        newest = min(end // self._length, self._newest)
        oldest = max(start // self._length, self._newest - self._size + 1)
        up, down, undecided = (self._sum(spent, oldest, newest) for spent in self._spent)
        return up, down, undecided

    def _turn(self, bucket: int) -> None:
        """Make `bucket` one that is held, forgetting those that are too old.

        A bucket older than all that is held means that the clock was far ahead: the ring begins anew.
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
