"""An outage as measured: its four times and its observations (as recorded: outage_record.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mailwatch.analysis.elapsed import (
    Durations,
    ElapsedBounds,
    Moment,
    elapsed_between,
    on_one_wall_clock,
    outage_durations,
)
from mailwatch.analysis.outage_counters import ObservationRef, OutageCounters
from mailwatch.times import Millis

OutageState = Literal["open", "closed", "unwatched"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A measured period in which a target was down; open while `first_good` is None.

    1. `down`, `up` and `unknown` count the observations between the last good and the first good one; without a
       last good one, from the first bad one on. Failures that an answer reset before the outage opened do not
       count.
    2. `largest_gap`: longest time from the end of a conclusive observation (up or down) to the start of the next.
       A shorter recovery cannot be excluded.
    3. `unobserved`: total length of such times with an unknown observation or a gap between, each counted whole,
       since it is not known how much of it would have been observed.
    4. `causes` and `phases` count the down observations; `replies`: the server's latest replies in them.
    5. `proven_afterwards`: its observations were unknown at the time (login_outages.py).
    6. `durations`: by the steady clock. `clock`: what happened to the wall clock, None on records without a steady
       clock (analysis/elapsed.py).
    7. `unwatched`: monitoring of the target ended during the outage, so its end is unknown.
    """

    id: str
    target: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    down: int
    up: int
    unknown: int
    largest_gap: Millis
    unobserved: Millis
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    replies: tuple[str, ...]
    first_index: int
    last_index: int
    first_detail: str
    durations: Durations
    proven_afterwards: bool = False
    unwatched: bool = False
    clock: ClockFacts | None = None
    anchor: Moment | None = None
    """The first failure as displayed, with its steady clock; None on records with wall times only."""

    @property
    def state(self) -> OutageState:
        """The state: "open", "closed", or "unwatched" if monitoring of its target ended first."""
        if self.unwatched:
            return "unwatched"
        return "open" if self.first_good is None else "closed"

    @property
    def begin(self) -> Millis:
        """The earliest time at which the outage may have begun, by the observations."""
        return self.first_bad if self.last_good is None else self.last_good

    @property
    def until(self) -> Millis | None:
        """The latest time at which the outage may have ended while monitored; None while it is open."""
        return self.last_bad if self.unwatched else self.first_good

    def touches(self, start: Millis | None, end: Millis | None) -> bool:
        """Return whether the outage may overlap [start, end) while monitored; None is no bound."""
        over = self.until
        return (start is None or over is None or over > start) and (end is None or self.first_bad < end)


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """Events of the wall clock since the last good observation.

    It was set by `stepped` milliseconds in all, and the machine was restarted `reboots` times. `is_wall`: no
    steady clock is on record, and the durations were widened by the steps of the wall clock.
    """

    stepped: Millis
    reboots: int
    is_wall: bool = False


@dataclass(frozen=True, slots=True)
class OutageBounds:
    """The four times of an outage, on one wall clock, with the durations between them."""

    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    durations: Durations
    clock: ClockFacts | None
    anchor: Moment | None


def outage_bounds(
    good: ObservationRef | None,
    bad: ObservationRef,
    last: ObservationRef,
    end: ObservationRef | None,
    counters: OutageCounters,
) -> OutageBounds:
    """Return the bounds from the last good, first bad, last bad and first good observation."""
    epochs = counters.epochs
    observed = last.elapsed - bad.elapsed - ((bad.end.clock or 0) - (bad.start.clock or 0))
    down = elapsed_between(bad.end, last.start, epochs, max(0, observed))
    first_bad = on_one_wall_clock(bad.end, bad.end, epochs)
    # A single failure ends after it began, so the minimum is 0.
    last_bad = max(on_one_wall_clock(last.start, bad.end, epochs), first_bad)
    last_good = None if good is None else min(on_one_wall_clock(good.start, bad.end, epochs), first_bad)
    first_good = None if end is None else max(on_one_wall_clock(end.end, bad.end, epochs), last_bad)
    clock = (
        None if bad.end.clock is None or last.end.clock is None else ClockFacts(counters.stepped, counters.reboots)
    )
    anchor = None if clock is None else Moment(first_bad, bad.end.clock, bad.end.boot)
    if clock is None:
        # Wall times only: differences of the four times, which anyone can check.
        before = None if last_good is None else ElapsedBounds(first_bad - last_good, first_bad - last_good)
        after = None if first_good is None else ElapsedBounds(first_good - last_bad, first_good - last_bad)
        whole = None if last_good is None or first_good is None else ElapsedBounds(0, first_good - last_good)
        down = ElapsedBounds(last_bad - first_bad, last_bad - first_bad)
    else:
        before = None if good is None else elapsed_between(good.start, bad.end, epochs)
        after = None if end is None else elapsed_between(last.start, end.end, epochs)
        if bad.index == last.index and after is not None and end is not None:
            after = elapsed_between(bad.end, end.end, epochs)
        whole = None if good is None or end is None else elapsed_between(good.start, end.end, epochs)
    return OutageBounds(
        last_good, first_bad, last_bad, first_good, outage_durations(down, before, after, whole), clock, anchor
    )


def outage_id(kind: str, first_bad: ObservationRef) -> str:
    """Return the id of an outage, from its first failure: 12 hex digits, the same in every replay."""
    return outage_id_of(kind, first_bad.target, first_bad.index, first_bad.start.wall)


def outage_id_of(kind: str, target: str, index: int, start: Millis) -> str:
    """Return the id of an outage whose first failure is entry `index`, begun at `start`. `kind`: "" or
    PROVEN_AFTERWARDS.
    """
    text = "\n".join(filter(None, (kind, target, str(index), str(start))))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
