"""How much of the time a service was up: an interval with its coverage, since no data is no data.

Time is divided by stretches.py. Announced maintenance is left out: the window is what remains, and the maintenance
is told beside it. The surely down time of an outage is never more than its minimum, and
surely down plus undecided never more than its maximum.

Rolling availability in a memory that does not grow: about 7 KB for each target.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.segments import Share, Stretch, Walk
from mailwatch.model import Fact, Observation, Outcome
from mailwatch.times import Millis, Window, overlap, without

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


class _Event(Protocol):
    """An entry of the ledger about one target."""

    @property
    def fact(self) -> Fact: ...


class _Outage(Protocol):
    """The four times of an outage and its durations; this module stands beside `outages`, not upon it."""

    @property
    def last_good(self) -> Millis | None: ...
    @property
    def first_bad(self) -> Millis: ...
    @property
    def last_bad(self) -> Millis: ...
    @property
    def first_good(self) -> Millis | None: ...
    @property
    def durations(self) -> Durations: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds, at least and at most."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The estimate."""
        return round((self.lower + self.upper) / 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """What is known of one target in a window. Times are milliseconds; `mttr` and `mtbf` seconds.

    `window` is how long it truly was: a clock that was set forward in it left a part out, one that was set back
    went through a part twice. `maintenance` is the part of the window that is left out.
    """

    window: Millis
    up: Millis
    down: Millis
    undecided: Millis
    looks: dict[Outcome, int]
    maintenance: Millis = 0
    mttr: Bounds | None = None
    mtbf: Bounds | None = None

    @property
    def covered(self) -> Millis:
        """The observed time."""
        return self.up + self.down + self.undecided

    @property
    def lower(self) -> float | None:
        """The share of the observed time in which the service was surely up."""
        return self.up / self.covered if self.covered else None

    @property
    def upper(self) -> float | None:
        """The share of the observed time in which the service was possibly up."""
        return (self.up + self.undecided) / self.covered if self.covered else None

    @property
    def coverage(self) -> float | None:
        """The observed share of the window without maintenance; None when there is nothing but maintenance."""
        if self.window <= self.maintenance:
            return None
        return min(1.0, self.covered / (self.window - self.maintenance))

    def as_json(self) -> dict[str, Any]:
        """Return it as evidence states it; durations in seconds. Bundles of the past are checked against this."""
        told = {
            "availability": {"lower": self.lower, "upper": self.upper},
            "coverage": self.coverage,
            "downtime": {"min": self.down / 1000, "max": (self.down + self.undecided) / 1000},
            "observations": {outcome.value: self.looks[outcome] for outcome in Outcome},
            "unobserved": max(0, self.window - self.maintenance - self.covered) / 1000,
            "mttr": self.mttr.middle if self.mttr else None,
            "mtbf": self.mtbf.middle if self.mtbf else None,
        }
        return told | {"maintenance": self.maintenance / 1000} if self.maintenance else told

    def as_told(self) -> dict[str, Any]:
        """Return it as `mailwatch availability --json` and the API tell it.

        Where nothing was observed nobody knows of downtime: neither that there was none, nor how much at most.
        """
        told = self.as_json()
        return told if self.covered else told | {"downtime": {"min": None, "max": None}, "mtbf": None}


def availability(
    events: Iterable[_Event],
    start: Millis,
    end: Millis,
    *,
    interval: float,
    outages: Iterable[_Outage] = (),
    excluded: Sequence[Window] = (),
) -> Availability:
    """Return the availability of one target in [start, end), from its events in the ledger's order.

    Events just outside the window decide its edges. `interval` (seconds) is the beat: looks further apart
    than one and a half of it, and a second, say nothing of the time between them. `outages` are for the
    mean times to repair (of those that ended in the window and have both ends) and between failures (the
    time up for each that began in it). `excluded` is the target's maintenance, merged; it may reach beyond the
    window. Its time is not counted, nor is an outage that lies in it as a whole; looks are counted all the same.
    Raises ValueError when the window is empty.
    """
    meter = Meter(start, end, interval=interval, excluded=excluded)
    for event in events:
        meter.add(event.fact)
    return meter.read(outages)


class Meter:
    """The account of one target in [start, end), fact by fact, in a memory that does not grow.

    Facts just outside the window decide its edges; `excluded` is as for `availability`. Raises ValueError when the
    window is empty.
    """

    __slots__ = ("_end", "_excluded", "_from", "_looks", "_spent", "_start", "_steady", "_stepped", "_walk")

    def __init__(
        self, start: Millis, end: Millis, *, interval: float, excluded: Sequence[Window] = (), infer: bool = False
    ) -> None:
        if end <= start:
            raise ValueError(f"the window is empty: its end {end} is not after its start {start}")
        self._start, self._end, self._from = start, end, start
        self._excluded = excluded
        self._walk, self._looks = Walk(interval, infer=infer), dict.fromkeys(Outcome, 0)
        self._spent, self._stepped, self._steady = [0, 0, 0], 0, False

    def add(self, fact: Fact) -> list[Stretch]:
        """Take in the next fact in the ledger's order; return the stretches of the window that it decides."""
        if isinstance(fact, Observation) and self._start <= fact.started_at < self._end:
            self._looks[fact.outcome] += 1
        told = self._count(self._walk.add(fact))
        self._steady = fact.clock is not None
        for before, after in self._walk.jumps:
            # Forward: that time never was. Back: it was twice.
            sign = 1 if after > before else -1
            self._stepped += sign * overlap([(min(before, after), max(before, after))], self._start, self._end)
        self._walk.jumps.clear()
        return told

    def good(self, payload: dict[str, Any]) -> bool:
        """Take in a good observation as `Walk.good` does; to be settled before reading."""
        if not self._walk.good(payload):
            return False
        if self._start <= payload["start"] < self._end:
            self._looks[Outcome.UP] += 1
        return True

    def settle(self) -> list[Stretch]:
        """Count what good observations decided, and return it as `add` does."""
        return self._count(self._walk.settle())

    def _count(self, decided: list[Stretch]) -> list[Stretch]:
        told = []
        for begun, ended, share in decided:
            # On records without a steady clock the same time is not counted twice after the clock was set back.
            begun, ended = max(begun, self._start if self._steady else self._from), min(ended, self._end)
            if begun < ended:
                left = without(self._excluded, begun, ended)
                self._spent[share] += sum(until - since for since, until in left)
                self._from = ended
                told.append((begun, ended, share))
        return told

    def read(self, outages: Iterable[_Outage] = (), ended: Millis | None = None) -> Availability:
        """Return the account as it stands; `outages` as for `availability`.

        `ended` is where the record ends. That may lie before its latest time, when the clock was set back: what
        the clock never showed again is no part of the window.
        """
        up, down, undecided = self._spent
        start, end, excluded = self._start, self._end, self._excluded
        known = [o for o in outages if not any(b <= o.first_bad and o.last_bad <= e for b, e in excluded)]
        return Availability(
            window=(end if ended is None else min(end, ended)) - start - self._stepped,
            up=up,
            down=down,
            undecided=undecided,
            looks=dict(self._looks),
            maintenance=overlap(excluded, start, end),
            mttr=_mttr(known, start, end),
            mtbf=_mtbf(known, start, end, up, undecided),
        )


def _mttr(outages: list[_Outage], start: Millis, end: Millis) -> Bounds | None:
    spans = [
        (o.durations.least, o.durations.most)
        for o in outages
        if o.durations.most is not None and o.first_good is not None and start <= o.first_good < end
    ]
    if not spans:
        return None
    return Bounds(*(sum(span) / len(spans) / 1000 for span in zip(*spans, strict=True)))


def _mtbf(outages: list[_Outage], start: Millis, end: Millis, up: Millis, undecided: Millis) -> Bounds | None:
    begun = sum(start <= o.first_bad < end for o in outages)
    return Bounds(up / begun / 1000, (up + undecided) / begun / 1000) if begun else None
