"""Another node's steady clock on ours: what each message proves of the difference. Pure but for its memory.

A message is sent before it is taken. So each message from us shows the least, and each to us the most, by which
our clock may be ahead of the other's; NTP's smallest round trip is the best pair of these. What a message proved
holds on, but for the drift of two quartz clocks since.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace

from mailwatch.model import Attempt, ClockSpan, ConnectivityResult, Observation
from mailwatch.times import Millis

KEPT = 64
"""How many messages in each direction are remembered."""
DRIFT = 200e-6
"""By how much two clocks may part, at most: quartz is within 100 ppm, and so is NTP's slewing mostly."""
MAX_ERROR_MS: Millis = 250
"""An error from which on the difference is not known closely enough to be used."""


@dataclass(frozen=True, slots=True)
class ClockDifference:
    """Our steady clock minus the other's: between `least` and `most` milliseconds."""

    least: Millis
    most: Millis

    @property
    def middle(self) -> Millis:
        """The best guess."""
        return (self.least + self.most) // 2


@dataclass(slots=True)
class ClockRelation:
    """What is known of one node's clock, of one run of it. All readings are whole milliseconds, rounded down."""

    _least: deque[tuple[Millis, Millis]] = field(default_factory=lambda: deque(maxlen=KEPT))
    _most: deque[tuple[Millis, Millis]] = field(default_factory=lambda: deque(maxlen=KEPT))
    """(when, bound): our reading, and what was proved then."""

    def sent(self, here: Millis, there: Millis) -> None:
        """Note that what we sent at `here` was taken at `there`, by the other's clock."""
        # Both readings are rounded down: the true one of the other's may be a millisecond later.
        self._least.append((here, here - there - 1))

    def taken(self, there: Millis, here: Millis) -> None:
        """Note that what the other sent at `there`, by its clock, was taken here at `here`."""
        self._most.append((here, here - there + 1))

    def difference(self, here: Millis) -> ClockDifference | None:
        """Return the difference at `here`, by our clock; None if it is not known closely enough."""
        if not self._least or not self._most:
            return None
        least = max(bound - _drift(here - at) for at, bound in self._least)
        most = min(bound + _drift(here - at) for at, bound in self._most)
        if least > most:
            # One of the clocks went otherwise than clocks go: a suspend that it does not count.
            self._least.clear()
            self._most.clear()
            return None
        return ClockDifference(least, most) if most - least <= 2 * MAX_ERROR_MS else None


def _drift(age: Millis) -> Millis:
    return math.ceil(max(0, age) * DRIFT)


@dataclass(frozen=True, slots=True)
class Exchanged:
    """One job and its result, on our clocks: sent and taken on the steady one, which is of `boot`.

    `offset` is our wall clock minus our steady one, `bound` the bound of the wall clock's error.
    """

    boot: str
    sent: Millis
    taken: Millis
    offset: Millis
    bound: Millis | None


def on_our_clocks(
    observation: Observation, their_offset: Millis, difference: ClockDifference | None, by: Exchanged
) -> Observation:
    """Return another node's observation with all its times on our clocks.

    `their_offset`: their wall clock minus their steady one when they probed. The probe lies within our own span
    from sending the job to taking its result, whatever their clock says. The span of the steady clock is wider by
    the error of the difference, on both sides: what follows from it as "at least" and "at most" holds.
    """
    theirs = observation.clock
    if difference is None or theirs is None or theirs.start is None:
        start, end, middle = by.sent, by.taken, None
    else:
        start = min(max(theirs.start + difference.least, by.sent), by.taken)
        end = max(min(theirs.end + difference.most, by.taken), start)
        middle = difference.middle
    if middle is None:
        # Only that it was in between is known: the end is as late as it can be.
        shift = by.taken + by.offset - observation.ended_at
        error = by.taken - by.sent
    else:
        assert difference is not None
        shift = middle + by.offset - their_offset
        error = (difference.most - difference.least + 1) // 2
    first, last = by.sent + by.offset, by.taken + by.offset

    def wall(at: Millis) -> Millis:
        return min(max(at + shift, first), last)

    return replace(
        observation,
        started_at=wall(observation.started_at),
        ended_at=wall(observation.ended_at),
        attempts=tuple(_moved(attempt, shift, first, last) for attempt in observation.attempts),
        guard=None if observation.guard is None else _answer_moved(observation.guard, shift),
        clock=ClockSpan(by.boot, start, end, None if by.bound is None else by.bound + error),
    )


def _moved(attempt: Attempt, shift: Millis, first: Millis, last: Millis) -> Attempt:
    start = min(max(attempt.started_at + shift, first), last)
    return replace(attempt, started_at=start, ended_at=max(start, min(attempt.ended_at + shift, last)))


def _answer_moved(answer: ConnectivityResult, shift: Millis) -> ConnectivityResult:
    answered = None if answer.answered_at is None else answer.answered_at + shift
    return replace(answer, asked_at=answer.asked_at + shift, answered_at=answered)
