"""How long it is from one observation to another, and when they were; no duration is a difference of wall times.

Within a boot the steady clock gives a distance exactly. Over a reboot only the wall clock is left:
the distance is then as uncertain as the wall clock was in both boots (`Epochs`), and never less than the time that
was observed inside the boots. Records from before 2026-11 have no such clock; their wall times are all there is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from mailwatch.model import ClockSpan, Fact, Gap, Observation
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis

Epochs = Mapping[str, tuple[Millis, Millis]]
"""For each boot between which milliseconds since 1970 its clock began: true time minus the clock's reading."""
NO_EPOCHS: Epochs = {}


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as it is on record: the wall clock's, and the reading of the boot's clock, None on old records."""

    wall: Millis
    clock: Millis | None = None
    boot: str = ""

    @property
    def offset(self) -> Millis | None:
        """Wall clock minus boot clock, which only a step changes."""
        return None if self.clock is None else self.wall - self.clock


class ElapsedBounds(NamedTuple):
    """From one moment to another: at least and at most, which is None where it is not known."""

    least: Millis
    most: Millis | None


def fact_start(fact: Observation | Gap) -> Moment:
    """Return when a fact began."""
    wall = fact.start if isinstance(fact, Gap) else fact.started_at
    clock = fact.clock
    return Moment(wall) if clock is None or clock.start is None else Moment(wall, clock.start, clock.boot)


def fact_end(fact: Observation | Gap) -> Moment:
    """Return when a fact ended."""
    wall = fact.end if isinstance(fact, Gap) else fact.ended_at
    return Moment(wall) if fact.clock is None else Moment(wall, fact.clock.end, fact.clock.boot)


def max_spacing(interval: Millis) -> Millis:
    """Return how far apart two observations may be (milliseconds) for the time between them to be observed."""
    return round(interval * 1.5) + 1000


def gap_length(gap: Gap) -> Millis:
    """Return how long a gap was, at least: over a reboot what surely passed, if it is not known what the wall
    clock's error.
    """
    clock = gap.clock
    if clock is None:
        return max(0, gap.end - gap.start)
    if clock.start is not None:
        return clock.end - clock.start
    # It began in an earlier boot, and the clock of this one began at 0 in the middle of it at the latest. Its
    # bound is that of the wall clock at both ends together.
    wall = max(0, gap.end - gap.start)
    return max(min(wall, clock.end), 0 if clock.bound is None else wall - clock.bound)


def elapsed_between(start: Moment, end: Moment, epochs: Epochs = NO_EPOCHS, observed: Millis = 0) -> ElapsedBounds:
    """Return how long it is from `start` to `end`; `observed` is what surely passed in between, inside of boots.

    Of what runs backwards, as wall times of old records may, nothing is left.
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
    """Learn from one more fact, whose wall clock was off by at most its bound. The same object for nothing new."""
    if clock is None or clock.bound is None:
        return epochs
    low, high = wall_end - clock.end - clock.bound, wall_end - clock.end + clock.bound
    before = epochs.get(clock.boot)
    if before is not None:
        if before[0] >= low and before[1] <= high:
            return epochs
        narrowed = max(low, before[0]), min(high, before[1])
        # Two that exclude one another: one was wrong, and there is no way to know which.
        low, high = narrowed if narrowed[0] <= narrowed[1] else (min(low, before[0]), max(high, before[1]))
    return {**epochs, clock.boot: (low, high)}


@dataclass(frozen=True, slots=True)
class Durations:
    """Minimum, maximum, estimate and twice its standard uncertainty (GUM, type B, uniform), in milliseconds."""

    least: Millis
    most: Millis | None
    estimate: Millis | None = None
    uncertainty: Millis | None = None

    def as_payload(self) -> dict[str, int | None]:
        """Return them as the ledger has them."""
        return {"min": self.least, "max": self.most, "estimate": self.estimate, "uncertainty": self.uncertainty}


def outage_durations(
    down: ElapsedBounds, before: ElapsedBounds | None, after: ElapsedBounds | None, whole: ElapsedBounds | None
) -> Durations:
    """Return the durations of an outage.

    `down` is from the first to the last failure, `before` and `after` what lies between these and the last good
    and first good observation, `whole` from one of those to the other; None where there is no such observation.
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
    # Over a reboot: somewhere between the minimum and the maximum.
    most = max(whole.most, down.least)
    return Durations(down.least, most, round((down.least + most) / 2), round((most - down.least) / math.sqrt(3)))


def reference_moment(payload: Mapping[str, Any], first: Fact | None) -> Moment | None:
    """Return the moment by whose wall clock an outage is shown, from its payload and its first observation.

    None on records that have only wall times: what is shown then is what is on record.
    """
    if not isinstance(first, Observation) or first.clock is None or first.clock.start is None:
        return None
    if payload["last_good"] is None:
        return Moment(payload["first_bad"], first.clock.end, first.clock.boot)
    return Moment(payload["last_good"], first.clock.start, first.clock.boot)


class TokenReading(NamedTuple):
    """What a token of an outside authority says of the clocks in one boot.

    It was made at `time`, after the reading `covered` (of the last entry under its checkpoint) and before the
    reading `named` (of the entry that names it); None for what is of another boot or not at hand.
    """

    time: Millis
    boot: str
    covered: Millis | None
    named: Millis | None


def clock_error(anchor: Moment | None, tokens: Iterable[TokenReading]) -> Millis | None:
    """Return by how much the wall clock by which an outage is shown was off at least, by the tokens of its boot.

    `anchor` is a moment of it as it is shown. None without a token of that boot, and on records with wall times
    only.
    """
    if anchor is None or anchor.offset is None:
        return None
    own = [token for token in tokens if token.boot == anchor.boot]
    early = [token.time - token.named - anchor.offset for token in own if token.named is not None]
    late = [anchor.offset - (token.time - token.covered) for token in own if token.covered is not None]
    return max(0, *early, *late) if early or late else None


def by_reference_clock(moment: Moment, reference: Moment | None) -> Millis:
    """Return when a moment was by the wall clock of `reference`, as it is on record without one."""
    return moment.wall if reference is None else on_one_wall_clock(moment, reference, NO_EPOCHS)


def on_one_wall_clock(moment: Moment, reference: Moment, epochs: Epochs) -> Millis:
    """Return when a moment was, on one wall clock for all of an outage.

    That is the wall clock as it went at `reference`, or in another boot as it went there, unless that is known to
    have been wrong: then as it must have gone. A moment at which it was set otherwise is shown as if it had not
    been.
    """
    own = moment.offset
    if own is None or moment.clock is None:
        return moment.wall
    base = own if moment.boot != reference.boot or reference.offset is None else reference.offset
    known = epochs.get(moment.boot)
    if known is not None and not known[0] - STEP_MS <= base <= known[1] + STEP_MS:
        base = (known[0] + known[1]) // 2
    return moment.wall if abs(own - base) <= STEP_MS else moment.clock + base
