"""Availability: how much of the time a service was up, as an interval with its coverage, since no data is no data.

segments.py divides time into segments. Announced maintenance is left out of the window and reported beside it. The
surely down time of an outage never exceeds its minimum, and surely down plus indeterminate time never exceeds its
maximum. rolling_availability.py keeps the latest 90 days of a target in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.segments import ClockJump, GoodObservations, Segment, Segmenter
from mailwatch.ledger.payloads import ObservationPayload
from mailwatch.model import Fact, Observation, Outcome
from mailwatch.times import Millis, Window, overlap_length, subtract_windows


class _HasFact(Protocol):
    """An entry of the ledger about one target."""

    @property
    def fact(self) -> Fact: ...


class _OutageTimes(Protocol):
    """The four times of an outage and its durations; a Protocol, since this module does not import outage.py."""

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
class SecondsRange:
    """A range of seconds."""

    lower: float
    upper: float

    @property
    def middle(self) -> float:
        """The middle of the range, as the estimate."""
        return round((self.lower + self.upper) / 2, 3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """The availability of one target in a window. Times in milliseconds; `mttr` and `mtbf` in seconds.

    `window`: its true length, since a clock set forward skips a part and a clock set back repeats a part.
    `maintenance`: the part of the window that is left out.
    """

    window: Millis
    up: Millis
    down: Millis
    indeterminate: Millis
    observations: dict[Outcome, int]
    maintenance: Millis = 0
    mttr: SecondsRange | None = None
    mtbf: SecondsRange | None = None

    @property
    def covered(self) -> Millis:
        """The observed time."""
        return self.up + self.down + self.indeterminate

    @property
    def lower(self) -> float | None:
        """The share of the observed time in which the service was surely up."""
        return self.up / self.covered if self.covered else None

    @property
    def upper(self) -> float | None:
        """The share of the observed time in which the service was possibly up."""
        return (self.up + self.indeterminate) / self.covered if self.covered else None

    @property
    def coverage(self) -> float | None:
        """The observed share of the window without maintenance; None if the window is all maintenance."""
        if self.window <= self.maintenance:
            return None
        return min(1.0, self.covered / (self.window - self.maintenance))

    def as_json(self) -> dict[str, Any]:
        """Return the JSON of evidence; durations in seconds. Old bundles are verified against it."""
        json = {
            "availability": {"lower": self.lower, "upper": self.upper},
            "coverage": self.coverage,
            "downtime": {"min": self.down / 1000, "max": (self.down + self.indeterminate) / 1000},
            "observations": {outcome.value: self.observations[outcome] for outcome in Outcome},
            "unobserved": max(0, self.window - self.maintenance - self.covered) / 1000,
            "mttr": self.mttr.middle if self.mttr else None,
            "mtbf": self.mtbf.middle if self.mtbf else None,
        }
        return json | {"maintenance": self.maintenance / 1000} if self.maintenance else json

    def public_json(self) -> dict[str, Any]:
        """Return the JSON of `mailwatch availability --json` and the API.

        Without observations the downtime is unknown, neither zero nor bounded.
        """
        json = self.as_json()
        return json if self.covered else json | {"downtime": {"min": None, "max": None}, "mtbf": None}


def availability(
    events: Iterable[_HasFact],
    start: Millis,
    end: Millis,
    *,
    interval: float,
    outages: Iterable[_OutageTimes] = (),
    excluded: Sequence[Window] = (),
) -> Availability:
    """Return the availability of one target in [start, end), from its events in ledger order.

    Events just outside the window decide its edges. `interval`: the target's interval in seconds; time between
    observations further apart than 1.5 intervals plus one second is not observed. `outages`: for the mean time to
    repair (of outages that ended in the window and have both ends) and between failures (time up per outage begun
    in it). `excluded`: the target's merged maintenance, which may reach beyond the window. Its time is not
    counted, nor is an outage entirely within it; observations are counted all the same. Raises ValueError if the
    window is empty.
    """
    meter = AvailabilityMeter(start, end, interval=interval, excluded=excluded)
    for event in events:
        meter.feed(event.fact)
    return meter.result(outages)


class AvailabilityMeter:
    """Computes the availability of one target in [start, end), fact by fact, in constant memory.

    Facts just outside the window decide its edges. `excluded`: as for `availability`. Raises ValueError if the
    window is empty.
    """

    __slots__ = (
        "_end",
        "_excluded",
        "_from",
        "_observations",
        "_segmenter",
        "_spent",
        "_start",
        "_steady",
        "_stepped",
        "_ups",
    )

    def __init__(
        self, start: Millis, end: Millis, *, interval: float, excluded: Sequence[Window] = (), infer: bool = False
    ) -> None:
        if end <= start:
            raise ValueError(f"the window is empty: its end {end} is not after its start {start}")
        self._start, self._end, self._from = start, end, start
        self._excluded = excluded
        self._segmenter, self._observations = Segmenter(interval, infer=infer), dict.fromkeys(Outcome, 0)
        self._ups = 0
        """Good observations in the window that `feed_up` counted."""
        self._spent, self._steady = [0, 0, 0], False
        self._stepped = [0, 0]
        """Milliseconds that steps of the clock skipped: all, and those that versions up to 0.2.0 noticed."""

    def feed(self, fact: Fact) -> list[Segment]:
        """Process the next fact in ledger order; return the segments of the window that it decides."""
        if isinstance(fact, Observation) and self._start <= fact.started_at < self._end:
            self._observations[fact.outcome] += 1
        segments = self._count(self._segmenter.feed(fact))
        self._steady = fact.clock is not None
        for jumps, formerly in ((self._segmenter.jumps, False), (self._segmenter.former_jumps, True)):
            self._stepped[formerly] += sum(self._length_in_window(jump) for jump in jumps)
            jumps.clear()
        return segments

    def _length_in_window(self, jump: ClockJump) -> Millis:
        """Return how much of the window a jump skipped; negative for a step back, which repeats time."""
        before, after = jump
        length = overlap_length([(min(jump), max(jump))], self._start, self._end)
        return length if after > before else -length

    def feed_up(self, payload: ObservationPayload) -> bool:
        """Process a good observation like `Segmenter.feed_up`; call `flush` before `result`."""
        if not self._segmenter.feed_up(payload):
            return False
        if self._start <= payload["start"] < self._end:
            self._ups += 1
        return True

    def feed_ups(self, stretch: GoodObservations, at: int) -> int:
        """Process good observations like `Segmenter.feed_ups`; call `flush` before `result`."""
        taken = self._segmenter.feed_ups(stretch, at)
        if taken:
            starts = stretch.starts[at : at + taken]
            whole = self._start <= min(starts) and max(starts) < self._end
            self._ups += taken if whole else sum(self._start <= start < self._end for start in starts)
        return taken

    @property
    def far_pairs_share(self) -> float:
        """Share of the pairs of good observations with nothing between that the interval on record keeps apart."""
        far = self._segmenter.far_pairs
        return far / (far + self._segmenter.near_pairs) if far else 0.0

    def flush(self) -> list[Segment]:
        """Count the segments that good observations decided, and return them like `feed`."""
        return self._count(self._segmenter.flush())

    def _count(self, segments: list[Segment]) -> list[Segment]:
        counted = []
        for begun, ended, share in segments:
            # Without a steady clock, time repeated by setting the clock back is not counted twice.
            begun, ended = max(begun, self._start if self._steady else self._from), min(ended, self._end)
            if begun < ended:
                left = subtract_windows(self._excluded, begun, ended)
                self._spent[share] += sum(until - since for since, until in left)
                self._from = ended
                counted.append((begun, ended, share))
        return counted

    def result(
        self, outages: Iterable[_OutageTimes] = (), ended: Millis | None = None, *, formerly: bool = False
    ) -> Availability:
        """Return the availability so far. `outages`: as for `availability`.

        `formerly`: as version 0.2.0 stated it, which missed steps of the clock within an observation or a gap.

        `ended`: the end of the record. It may be before the record's latest time if the clock was set back: time
        that the clock never reached again is not part of the window.
        """
        up, down, undecided = self._spent
        start, end, excluded = self._start, self._end, self._excluded
        known = [o for o in outages if not any(b <= o.first_bad and o.last_bad <= e for b, e in excluded)]
        return Availability(
            window=(end if ended is None else min(end, ended)) - start - self._stepped[formerly],
            up=up,
            down=down,
            indeterminate=undecided,
            observations=self._observations | {Outcome.UP: self._observations[Outcome.UP] + self._ups},
            maintenance=overlap_length(excluded, start, end),
            mttr=_mttr(known, start, end),
            mtbf=_mtbf(known, start, end, up, undecided),
        )


def _mttr(outages: list[_OutageTimes], start: Millis, end: Millis) -> SecondsRange | None:
    spans = [
        (o.durations.least, o.durations.most)
        for o in outages
        if o.durations.most is not None and o.first_good is not None and start <= o.first_good < end
    ]
    if not spans:
        return None
    return SecondsRange(*(sum(span) / len(spans) / 1000 for span in zip(*spans, strict=True)))


def _mtbf(
    outages: list[_OutageTimes], start: Millis, end: Millis, up: Millis, indeterminate: Millis
) -> SecondsRange | None:
    begun = sum(start <= o.first_bad < end for o in outages)
    return SecondsRange(up / begun / 1000, (up + indeterminate) / begun / 1000) if begun else None
