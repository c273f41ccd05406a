"""The response times of one target over the last day, as 48 medians of half an hour, in constant memory."""

from __future__ import annotations

import statistics
from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from mailwatch.model import Fact, Observation, Outcome
from mailwatch.times import DAY_MS, Millis

SLOT_MS: Millis = 1_800_000
SLOTS = DAY_MS // SLOT_MS
MAX_SAMPLES = 120
"""Samples kept of the newest half hour. With more, each new one replaces the oldest."""
_NONE = 0
"""No sample; a response time of less than a millisecond counts as one."""


def response_time(observation: Observation) -> Millis | None:
    """Return the response time in milliseconds; None unless the observation is up.

    It is the time of the deciding attempt in all its phases, or from begin to end where no phase is recorded.
    """
    attempt = observation.deciding_attempt
    if observation.outcome is not Outcome.UP:
        return None
    spent = sum(attempt.phases.values()) / 1000 if attempt else 0
    return max(1, round(spent or observation.ended_at - observation.started_at))


@dataclass(frozen=True, slots=True)
class ResponseMemory:
    """What a response series knows, as of `ResponseSeries`."""

    medians: tuple[int, ...]
    newest: int
    samples: tuple[int, ...]
    count: int


class ResponseSeries:
    """The medians of half hours. A half hour without an up observation has none, as a failure has no response
    time.
    """

    __slots__ = ("_count", "_medians", "_newest", "_samples")

    def __init__(self) -> None:
        self._medians: array[int] | None = None
        self._newest = 0
        self._samples = array("I")
        self._count = 0

    @property
    def memory(self) -> ResponseMemory:
        """What it knows."""
        return ResponseMemory(tuple(self._medians or ()), self._newest, tuple(self._samples), self._count)

    @classmethod
    def of(cls, memory: ResponseMemory) -> ResponseSeries:
        """Return a series that knows that. Raises ValueError, OverflowError or TypeError for what is none."""
        made = cls()
        if memory.medians:
            if len(memory.medians) != SLOTS or len(memory.samples) > MAX_SAMPLES:
                raise ValueError("no response series")
            made._medians = array("I", memory.medians)
        made._newest, made._samples, made._count = memory.newest, array("I", memory.samples), memory.count
        return made

    def feed(self, fact: Fact) -> None:
        """Process the next fact; all but up observations leave the series unchanged."""
        if not isinstance(fact, Observation) or (spent := response_time(fact)) is None:
            return
        if self._medians is None:
            self._medians = array("I", bytes(4 * SLOTS))
        slot = fact.started_at // SLOT_MS
        if slot != self._newest and not self._advance_to(slot):
            return
        if len(self._samples) < MAX_SAMPLES:
            self._samples.append(min(spent, 2**32 - 1))
        else:
            self._samples[self._count % MAX_SAMPLES] = min(spent, 2**32 - 1)
        self._count += 1
        self._medians[slot % SLOTS] = round(statistics.median(self._samples))

    def medians(self, now: Millis) -> Sequence[Millis | None]:
        """Return the medians of the 48 half hours up to `now`, oldest first; None for one without a sample."""
        last = now // SLOT_MS
        medians = self._medians
        if medians is None:
            return (None,) * SLOTS
        known = range(self._newest - SLOTS + 1, self._newest + 1)
        return tuple(
            (medians[slot % SLOTS] or None) if slot in known else None
            for slot in range(last - SLOTS + 1, last + 1)
        )

    def _advance_to(self, slot: int) -> bool:
        """Begin a half hour, and clear those between; return False for an earlier one that is over.

        One older than the whole day means that the clock was far ahead before: the series starts anew.
        """
        assert self._medians is not None
        if self._newest - SLOTS < slot < self._newest:
            return False
        steps = slot - self._newest
        for stale in range(self._newest + 1, slot + 1) if 0 < steps < SLOTS else range(SLOTS):
            self._medians[stale % SLOTS] = _NONE
        self._newest, self._samples, self._count = slot, array("I"), 0
        return True
