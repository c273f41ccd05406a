"""Response times in buckets of equal length: medians and 95th percentiles of the whole and of each phase. Pure.

A failure has no response time: a bucket without an up observation has counts and nothing else, so a gap in the
record stays a gap in a chart. All values are whole microseconds.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from mailwatch.ledger.payloads import AttemptPayload, ObservationPayload
from mailwatch.model import Outcome, Phase
from mailwatch.times import DAY_MS, HOUR_MS, Millis

PHASES = tuple(phase.value for phase in Phase)


class Period(StrEnum):
    """A period that ends now, in 84 to 180 buckets."""

    DAY = "24h"
    WEEK = "7d"
    MONTH = "30d"
    QUARTER = "90d"

    @property
    def length(self) -> Millis:
        """The length of the period."""
        return _LENGTHS[self][0]

    @property
    def bucket(self) -> Millis:
        """The length of one of its buckets."""
        return _LENGTHS[self][1]

    def start(self, at: Millis) -> Millis:
        """Return the start of the first bucket of the period that ends with the bucket of `at`."""
        return at // self.bucket * self.bucket + self.bucket - self.length


_LENGTHS: Mapping[Period, tuple[Millis, Millis]] = {
    Period.DAY: (DAY_MS, HOUR_MS // 6),
    Period.WEEK: (7 * DAY_MS, HOUR_MS),
    Period.MONTH: (30 * DAY_MS, 4 * HOUR_MS),
    Period.QUARTER: (90 * DAY_MS, 12 * HOUR_MS),
}


@dataclass(frozen=True, slots=True)
class Spread:
    """A median, and the 95th percentile by the nearest rank, in microseconds."""

    median: int
    p95: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """What the observations in a bucket show. `total` is None without an up observation."""

    up: int = 0
    down: int = 0
    unknown: int = 0
    total: Spread | None = None
    phases: Mapping[str, Spread] = field(default_factory=dict)
    """By phase, in their order, of the up observations that have it."""

    @property
    def observed(self) -> int:
        """The number of its observations."""
        return self.up + self.down + self.unknown


NOTHING = Bucket()


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseHistory:
    """The buckets of a period, oldest first, from `start` on; None for one that is not read yet."""

    period: Period
    start: Millis
    buckets: Sequence[Bucket | None]

    @property
    def is_complete(self) -> bool:
        """Whether all its buckets are read."""
        return None not in self.buckets

    @property
    def end(self) -> Millis:
        """The end of the last bucket."""
        return self.start + self.period.length


def bucket_of(observations: Iterable[ObservationPayload]) -> Bucket:
    """Return the bucket of observations, in any order. Raises KeyError or TypeError for a malformed payload."""
    counts = dict.fromkeys(Outcome, 0)
    totals: list[int] = []
    spent: dict[str, list[int]] = {phase: [] for phase in PHASES}
    up = Outcome.UP.value
    for payload in observations:
        if payload["outcome"] != up:
            counts[Outcome(payload["outcome"])] += 1
            continue
        phases = _phases(payload["attempts"])
        total = 0
        for phase, microseconds in phases.items():
            spent[phase].append(microseconds)
            total += microseconds
        totals.append(total or (payload["end"] - payload["start"]) * 1000)
    return Bucket(
        up=len(totals),
        down=counts[Outcome.DOWN],
        unknown=counts[Outcome.UNKNOWN],
        total=spread(totals) if totals else None,
        phases={phase: spread(found) for phase, found in spent.items() if found},
    )


def spread(values: list[int]) -> Spread:
    """Return the spread of at least one value."""
    values.sort()
    return Spread(round(statistics.median(values)), values[-(-len(values) * 95 // 100) - 1])


def _phases(attempts: Sequence[AttemptPayload]) -> Mapping[str, int]:
    """Return the microseconds of the deciding attempt of an up observation: its last one that did not fail."""
    for attempt in reversed(attempts):
        if "cause" not in attempt:
            return attempt["phases_us"]
    return attempts[-1]["phases_us"] if attempts else {}
