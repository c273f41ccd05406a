"""The time between observations, and their times on one clock; no duration is a difference of wall times.

Within a boot the steady clock gives exact durations. Over a reboot only the wall clock remains: the duration is
then as uncertain as the wall clock was in both boots (`Epochs`), and never less than the time observed within the
boots. Records from before 2026-11 have wall times only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, TypedDict

from mailwatch.model import ClockSpan, Fact, Gap, Observation
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis

Epochs = Mapping[str, tuple[Millis, Millis]]
"""For each boot, bounds in milliseconds since 1970 of the start of its clock: true time minus clock reading."""
NO_EPOCHS: Epochs = {}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time on record: the wall clock's, and the reading of the boot's steady clock, None on old records."""

    wall: Millis
    clock: Millis | None = None
    boot: str = ""

    @property
    def offset(self) -> Millis | None:
        """Wall clock minus steady clock; only a step of the wall clock changes it."""
        return None if self.clock is None else self.wall - self.clock


class ElapsedBounds(NamedTuple):
    """Bounds of the time between two moments; `most` is None if unknown."""

    least: Millis
    most: Millis | None


def fact_start(fact: Observation | Gap) -> Moment:
    """Return the moment at which a fact began."""
    wall = fact.start if isinstance(fact, Gap) else fact.started_at
    clock = fact.clock
    return Moment(wall) if clock is None or clock.start is None else Moment(wall, clock.start, clock.boot)


def fact_end(fact: Observation | Gap) -> Moment:
    """Return the moment at which a fact ended."""
    wall = fact.end if isinstance(fact, Gap) else fact.ended_at
    return Moment(wall) if fact.clock is None else Moment(wall, fact.clock.end, fact.clock.boot)


@lru_cache(64)
def max_spacing(interval: Millis) -> Millis:
    """Return the longest time (milliseconds) between two observations that counts as observed."""
    return round(interval * 1.5) + 1000


def gap_length(gap: Gap) -> Millis:
    """Return the minimum length of a gap; over a reboot only what surely passed, if the wall clock's error is
    unknown.
    """
    clock = gap.clock
    if clock is None:
        return max(0, gap.end - gap.start)
    if clock.start is not None:
        return clock.end - clock.start
    # The gap began in an earlier boot, so this boot's clock began at 0 during the gap: `clock.end` of it surely
    # passed. `bound` is the error of the wall clock at both ends together.
    wall = max(0, gap.end - gap.start)
    return max(min(wall, clock.end), 0 if clock.bound is None else wall - clock.bound)


def elapsed_between(start: Moment, end: Moment, epochs: Epochs = NO_EPOCHS, observed: Millis = 0) -> ElapsedBounds:
    """Return bounds of the time from `start` to `end`. `observed`: milliseconds that surely passed within boots.

    A negative time, possible with wall times of old records, counts as 0.
    """
    if start.clock is None or end.clock is None:
        apart = max(0, end.wall - start.wall)
        return ElapsedBounds(apart, apart)
    if start.boot == end.boot:
        apart = max(0, end.clock - start.clock)
        return ElapsedBounds(apart, apart)
    here, there = epochs.get(start.boot), epochs.get(end.boot)
    if here is None or there is None:
        return ElapsedBounds(observed, None)
    least = max(observed, end.clock + there[0] - start.clock - here[1])
    return ElapsedBounds(least, max(least, end.clock + there[1] - start.clock - here[0]))


def refine_epochs(epochs: Epochs, clock: ClockSpan | None, wall_end: Millis) -> Epochs:
    """Narrow the epochs by a fact whose wall clock was off by at most its bound. Returns the same object if
    unchanged.
    """
    if clock is None or clock.bound is None:
        return epochs
    low, high = wall_end - clock.end - clock.bound, wall_end - clock.end + clock.bound
    before = epochs.get(clock.boot)
    if before is not None:
        if before[0] >= low and before[1] <= high:
            return epochs
        narrowed = max(low, before[0]), min(high, before[1])
        # If the two exclude each other, one is wrong and it is unknown which: keep both.
        low, high = narrowed if narrowed[0] <= narrowed[1] else (min(low, before[0]), max(high, before[1]))
    return {**epochs, clock.boot: (low, high)}


class DurationsPayload(TypedDict):
    """Durations in a payload, in milliseconds (`Durations`)."""

    min: Millis
    max: Millis | None
    estimate: Millis | None
    uncertainty: Millis | None


@dataclass(frozen=True, slots=True)
class Durations:
    """Minimum, maximum, estimate and twice its standard uncertainty (GUM, type B, uniform), in milliseconds."""

    least: Millis
    most: Millis | None
    estimate: Millis | None = None
    uncertainty: Millis | None = None

    def as_payload(self) -> DurationsPayload:
        """Return the durations as a ledger payload."""
        return {"min": self.least, "max": self.most, "estimate": self.estimate, "uncertainty": self.uncertainty}


def outage_durations(
    down: ElapsedBounds, before: ElapsedBounds | None, after: ElapsedBounds | None, whole: ElapsedBounds | None
) -> Durations:
    """Return the durations of an outage.

    `down`: from the first to the last failure. `before`: from the last good observation to the first failure.
    `after`: from the last failure to the first good observation. `whole`: from the last good to the first good
    observation. None if there is no such observation.
    """
    if whole is None or before is None or after is None:
        return Durations(down.least, None)
    if whole.most is None:
        return Durations(down.least, None)
    if down.least == down.most and before.least == before.most and after.least == after.most:
        return Durations(
            down.least,
            whole.most,
            round((2 * down.least + before.least + after.least) / 2),
            round(2 * math.sqrt((before.least**2 + after.least**2) / 12)),
        )
    # Over a reboot: uniform between the minimum and the maximum.
    most = max(whole.most, down.least)
    return Durations(down.least, most, round((down.least + most) / 2), round((most - down.least) / math.sqrt(3)))


def reference_moment(last_good: Millis | None, first_bad: Millis, first: Fact | None) -> Moment | None:
    """Return the moment whose wall clock an outage is displayed by, from its times and its first observation.

    None on records with wall times only, which are displayed as recorded.
    """
    if not isinstance(first, Observation) or first.clock is None or first.clock.start is None:
        return None
    if last_good is None:
        return Moment(first_bad, first.clock.end, first.clock.boot)
    return Moment(last_good, first.clock.start, first.clock.boot)


class TokenReading(NamedTuple):
    """A timestamp token of an outside authority as evidence about the clocks in one boot.

    It was made at `time`, after the clock reading `covered` (of the last entry under its checkpoint) and before
    the reading `named` (of the entry that names it). None if of another boot or not available.
    """

    time: Millis
    boot: str
    covered: Millis | None
    named: Millis | None


def clock_error(anchor: Moment | None, tokens: Iterable[TokenReading]) -> Millis | None:
    """Return the least possible error of the wall clock that an outage is displayed by, from the tokens of its
    boot.

    `anchor`: a moment of the outage as displayed. None without a token of that boot, and on records with wall
    times only.
    """
    if anchor is None or anchor.offset is None:
        return None
    own = [token for token in tokens if token.boot == anchor.boot]
    early = [token.time - token.named - anchor.offset for token in own if token.named is not None]
    late = [anchor.offset - (token.time - token.covered) for token in own if token.covered is not None]
    return max(0, *early, *late) if early or late else None


def by_reference_clock(moment: Moment, reference: Moment | None) -> Millis:
    """Return the time of a moment on the wall clock of `reference`; its recorded wall time without a reference."""
    return moment.wall if reference is None else on_one_wall_clock(moment, reference, NO_EPOCHS)


def on_one_wall_clock(moment: Moment, reference: Moment, epochs: Epochs) -> Millis:
    """Return the time of a moment on the one wall clock used for a whole outage.

    That is the wall clock as set at `reference`, or in another boot as set there, unless the epochs show that it
    was wrong: then the corrected clock. A moment after a step of the clock is displayed as if there had been no
    step.
    """
    own = moment.offset
    if own is None or moment.clock is None:
        return moment.wall
    base = own if moment.boot != reference.boot or reference.offset is None else reference.offset
    known = epochs.get(moment.boot)
    if known is not None and not known[0] - STEP_MS <= base <= known[1] + STEP_MS:
        base = (known[0] + known[1]) // 2
    return moment.wall if abs(own - base) <= STEP_MS else moment.clock + base
