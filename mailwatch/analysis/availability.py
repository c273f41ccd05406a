"""How much of the time a service was up: an interval with its coverage, since no data is no data.

Time is divided by segments.py. Announced maintenance is left out: the window is what remains, and the maintenance
is reported beside it. The surely down time of an outage is never more than its minimum, and surely down plus
indeterminate never more than its maximum. rolling_availability.py keeps the latest 90 days of a target in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.segments import Segment, Segmenter
from mailwatch.model import Fact, Observation, Outcome
from mailwatch.times import Millis, Window, overlap_length, subtract_windows


class _HasFact(Protocol):
    """An entry of the ledger about one target."""

    @property
    def fact(self) -> Fact: ...


class _OutageTimes(Protocol):
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
class SecondsRange:
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
        """The observed share of the window without maintenance; None when there is nothing but maintenance."""
        if self.window <= self.maintenance:
            return None
        return min(1.0, self.covered / (self.window - self.maintenance))

    def as_json(self) -> dict[str, Any]:
        """Return it as evidence states it; durations in seconds. Bundles of the past are checked against this."""
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
        """Return it in the JSON of `mailwatch availability --json` and the API.

        Where nothing was observed downtime is not known: neither that there was none, nor how much at most.
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
    """Return the availability of one target in [start, end), from its events in the ledger's order.

    Events just outside the window decide its edges. `interval` (seconds) is the target's: observations further
    apart than one and a half of it, and a second, say nothing of the time between them. `outages` are for the mean
    times to repair (of those that ended in the window and have both ends) and between failures (the time up for
    each that began in it). `excluded` is the target's maintenance, merged; it may reach beyond the window. Its
    time is not counted, nor is an outage that lies in it as a whole; observations are counted all the same. Raises
    ValueError when the window is empty.
    """
    meter = AvailabilityMeter(start, end, interval=interval, excluded=excluded)
    for event in events:
        meter.feed(event.fact)
    return meter.result(outages)


class AvailabilityMeter:
    """The account of one target in [start, end), fact by fact, in a memory that does not grow.

    Facts just outside the window decide its edges; `excluded` is as for `availability`. Raises ValueError when the
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
    )

    def __init__(
        self, start: Millis, end: Millis, *, interval: float, excluded: Sequence[Window] = (), infer: bool = False
    ) -> None:
        if end <= start:
            raise ValueError(f"the window is empty: its end {end} is not after its start {start}")
        self._start, self._end, self._from = start, end, start
        self._excluded = excluded
        self._segmenter, self._observations = Segmenter(interval, infer=infer), dict.fromkeys(Outcome, 0)
        self._spent, self._stepped, self._steady = [0, 0, 0], 0, False

    def feed(self, fact: Fact) -> list[Segment]:
        """Take in the next fact in the ledger's order; return the stretches of the window that it decides."""
        if isinstance(fact, Observation) and self._start <= fact.started_at < self._end:
            self._observations[fact.outcome] += 1
        segments = self._count(self._segmenter.feed(fact))
        self._steady = fact.clock is not None
        for before, after in self._segmenter.jumps:
            # Forward: that time never was. Back: it was twice.
            sign = 1 if after > before else -1
            self._stepped += sign * overlap_length(
                [(min(before, after), max(before, after))], self._start, self._end
            )
        self._segmenter.jumps.clear()
        return segments

    def feed_up(self, payload: dict[str, Any]) -> bool:
        """Take in a good observation as `Segmenter.feed_up` does; to be settled before reading."""
        if not self._segmenter.feed_up(payload):
            return False
        if self._start <= payload["start"] < self._end:
            self._observations[Outcome.UP] += 1
        return True

    def flush(self) -> list[Segment]:
        """Count what good observations decided, and return it as `feed` does."""
        return self._count(self._segmenter.flush())

    def _count(self, segments: list[Segment]) -> list[Segment]:
        counted = []
        for begun, ended, share in segments:
            # On records without a steady clock the same time is not counted twice after the clock was set back.
            begun, ended = max(begun, self._start if self._steady else self._from), min(ended, self._end)
            if begun < ended:
                left = subtract_windows(self._excluded, begun, ended)
                self._spent[share] += sum(until - since for since, until in left)
                self._from = ended
                counted.append((begun, ended, share))
        return counted

    def result(self, outages: Iterable[_OutageTimes] = (), ended: Millis | None = None) -> Availability:
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
            indeterminate=undecided,
            observations=dict(self._observations),
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
