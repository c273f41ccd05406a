"""The counters of an outage, in constant size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mailwatch.analysis.elapsed import (
    NO_EPOCHS,
    Epochs,
    Moment,
    elapsed_between,
    fact_end,
    fact_start,
    max_spacing,
    refine_epochs,
)
from mailwatch.model import Gap, Observation
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis

MAX_REPLIES = 5
"""Most distinct server replies that an outage keeps, the latest ones."""


@dataclass(frozen=True, slots=True)
class ObservationRef:
    """The facts that an outage keeps of one of its four observations."""

    index: int
    target: str
    start: Moment
    end: Moment
    detail: str
    elapsed: Millis = 0
    """`OutageCounters.elapsed` at the observation's start."""

    @classmethod
    def of(cls, index: int, fact: Observation, counters: OutageCounters) -> ObservationRef:
        """Return the reference to an observation that `counters` includes."""
        start = fact_start(fact)
        return cls(index, fact.target, start, fact_end(fact), fact.detail, counters.elapsed_at(start))


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageCounters:
    """Counters since the last good observation, in a size that does not grow with the outage.

    1. `observed_until`: end of the last conclusive observation. `unknown_until`: end of the unknown observations
       or gaps after it.
    2. `epochs`: bounds of the wall clock in each boot. `latest`: the latest moment.
    3. `elapsed`: milliseconds that surely passed within boots since the first moment. `stepped`: milliseconds by
       which the wall clock was set in all. `reboots`: number of restarts of the machine.
    """

    last_index: int = 0
    down: int = 0
    up: int = 0
    unknown: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    replies: tuple[str, ...] = ()
    observed_until: Moment | None = None
    unknown_until: Moment | None = None
    epochs: Epochs = field(default_factory=dict)
    latest: Moment | None = None
    elapsed: Millis = 0
    stepped: Millis = 0
    reboots: int = 0
    interval: Millis | None = None
    """The interval in force at the last conclusive observation, None if not on record."""
    _offset: Millis | None = None
    _largest: Millis = 0
    _unobserved: Millis = 0
    _gaps_over_reboots: tuple[tuple[Moment, Moment], ...] = ()
    _unobserved_over_reboots: tuple[tuple[Moment, Moment], ...] = ()
    """The parts of the longest gap, and of the unobserved time, that span a reboot: their length may become known
    only later, with the wall clock's error.
    """

    @property
    def largest_gap(self) -> Millis:
        """The longest time from the end of a conclusive observation to the start of the next."""
        return max(self._largest, *(_max_length(*each, self.epochs) for each in self._gaps_over_reboots), 0)

    @property
    def unobserved(self) -> Millis:
        """The total time between conclusive observations with an unknown observation or a gap between them."""
        return self._unobserved + sum(_max_length(*each, self.epochs) for each in self._unobserved_over_reboots)

    def add_unobserved(self, since: Moment, counted: Moment, until: Moment) -> OutageCounters:
        """Add a period from `since` to `until`, of which the part from `counted` on is unobserved."""
        counters = self
        if _spans_reboot(since, until):
            others = tuple(each for each in self._gaps_over_reboots if each[0] != since)
            counters = replace(counters, _gaps_over_reboots=(*others, (since, until)))
        else:
            counters = replace(counters, _largest=max(self._largest, _max_length(since, until, NO_EPOCHS)))
        if _spans_reboot(counted, until):
            return replace(counters, _unobserved_over_reboots=(*self._unobserved_over_reboots, (counted, until)))
        return replace(counters, _unobserved=self._unobserved + _max_length(counted, until, NO_EPOCHS))

    @classmethod
    def after(cls, index: int, good: Observation) -> OutageCounters:
        """Return the counters after a good observation."""
        end = fact_end(good)
        epochs = refine_epochs(NO_EPOCHS, good.clock, good.ended_at)
        return cls(
            last_index=index,
            observed_until=end,
            epochs=epochs,
            latest=end,
            interval=good.interval,
            _offset=end.offset,
        )

    def advance_clocks(self, fact: Observation | Gap) -> OutageCounters:
        """Advance the clocks to the end of a fact."""
        end, latest = fact_end(fact), self.latest
        if end.clock is None:
            return replace(self, latest=end)
        epochs = refine_epochs(self.epochs, fact.clock, end.wall)
        if latest is None or latest.clock is None:
            return replace(self, epochs=epochs, latest=end, _offset=end.offset)
        if latest.boot != end.boot:
            return replace(self, epochs=epochs, latest=end, reboots=self.reboots + 1, _offset=end.offset)
        stepped, offset = self.stepped, self._offset
        assert end.offset is not None
        if offset is None or abs(end.offset - offset) > STEP_MS:
            stepped += 0 if offset is None else abs(end.offset - offset)
            offset = end.offset
        passed = self.elapsed + max(0, end.clock - latest.clock)
        latest = end if end.clock >= latest.clock else latest
        return replace(self, epochs=epochs, latest=latest, elapsed=passed, stepped=stepped, _offset=offset)

    def elapsed_at(self, moment: Moment) -> Millis:
        """Return `elapsed` at a moment close to the latest."""
        if self.latest is None or self.latest.clock is None or moment.clock is None:
            return self.elapsed
        if self.latest.boot != moment.boot:
            return self.elapsed
        return self.elapsed + moment.clock - self.latest.clock

    def skip_unknown(self, index: int, fact: Observation | Gap) -> OutageCounters:
        """Add a gap or an unknown observation."""
        unknown = self.unknown + isinstance(fact, Observation)
        counters = replace(self.advance_clocks(fact), last_index=index, unknown=unknown)
        if self.observed_until is None:
            return counters
        until = fact_end(fact)
        counted = self.observed_until if self.unknown_until is None else self.unknown_until
        return replace(
            counters.add_unobserved(self.observed_until, counted, until), unknown_until=_later_of(counted, until)
        )

    def add_observed_time(self, index: int, observation: Observation) -> OutageCounters:
        """Add the time since the last conclusive observation, without counting `observation` itself."""
        counters = self.advance_clocks(observation)
        start, end = fact_start(observation), fact_end(observation)
        since = start if self.observed_until is None else self.observed_until
        apart = _max_length(since, start, counters.epochs)
        counted = self.unknown_until
        if counted is None:
            # Too far apart for the interval: the time is unobserved even if no gap is on record.
            known = (
                None
                if observation.interval is None
                else max_spacing(max(observation.interval, self.interval or 0))
            )
            counted = since if known is not None and apart > known else start
        return replace(
            counters.add_unobserved(since, counted, start),
            last_index=index,
            observed_until=_later_of(since, end),
            unknown_until=None,
            interval=observation.interval,
        )

    def count_failure(self, index: int, observation: Observation) -> OutageCounters:
        """Add a failed observation."""
        words = [word for attempt in observation.attempts[-1:] for word in attempt.replies[-1:]]
        return replace(
            self.add_observed_time(index, observation),
            down=self.down + 1,
            causes=_incremented(self.causes, observation.cause),
            phases=_incremented(self.phases, observation.failed_phase),
            replies=tuple([word for word in self.replies if word not in words] + words)[-MAX_REPLIES:],
        )

    def reset_failures(self) -> OutageCounters:
        """Forget the failed observations, which opened no outage."""
        return replace(self, down=0, causes={}, phases={}, replies=())


EMPTY_COUNTERS = OutageCounters()
"""The counters before any observation."""


def _spans_reboot(start: Moment, end: Moment) -> bool:
    return start.clock is not None and end.clock is not None and start.boot != end.boot


def _max_length(start: Moment, end: Moment, epochs: Epochs) -> Millis:
    """Return the longest possible time between two moments, so that no recovery is hidden; by the wall clock over
    a reboot without a known bound.
    """
    apart = elapsed_between(start, end, epochs)
    return apart.most if apart.most is not None else max(apart.least, end.wall - start.wall)


def _later_of(one: Moment, other: Moment) -> Moment:
    """Return the later of two moments; `other` was recorded later."""
    if one.clock is not None and other.clock is not None:
        return one if one.boot == other.boot and one.clock > other.clock else other
    return one if one.wall > other.wall else other


def _incremented(counts: Mapping[str, int], name: str | None) -> Mapping[str, int]:
    return counts if name is None else {**counts, str(name): counts.get(name, 0) + 1}
