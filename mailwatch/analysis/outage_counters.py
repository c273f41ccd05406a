"""What an outage counts, in a size that does not grow with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mailwatch.analysis.elapsed import NO_EPOCHS, Epochs, Moment, distance, end_of, known_epochs, reach, start_of
from mailwatch.model import Gap, Observation
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis

REPLIES = 5
"""How many of the server's latest distinct words an outage keeps."""


@dataclass(frozen=True, slots=True)
class Look:
    """What an outage needs to know of one of its four observations."""

    index: int
    target: str
    start: Moment
    end: Moment
    detail: str
    passed: Millis = 0
    """The tally's `passed` at its start."""

    @classmethod
    def of(cls, index: int, fact: Observation, tally: Tally) -> Look:
        """Refer to an observation that `tally` has taken in."""
        start = start_of(fact)
        return cls(index, fact.target, start, end_of(fact), fact.detail, tally.passed_at(start))


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What was seen since the last good observation, in a size that does not grow with the outage.

    1. `seen_until` is the end of the last conclusive observation, `blind_until` that of what followed it unseen.
    2. `epochs` are what is known of the wall clock in each boot, `latest` the last moment of all.
    3. `passed` is the time since the first moment that surely passed inside of boots. `stepped` is by how much the
       wall clock was set, in all, and `reboots` how often the machine was restarted; all in milliseconds.
    """

    last_index: int = 0
    down: int = 0
    up: int = 0
    unknown: int = 0
    causes: Mapping[str, int] = field(default_factory=dict)
    phases: Mapping[str, int] = field(default_factory=dict)
    replies: tuple[str, ...] = ()
    seen_until: Moment | None = None
    blind_until: Moment | None = None
    epochs: Epochs = field(default_factory=dict)
    latest: Moment | None = None
    passed: Millis = 0
    stepped: Millis = 0
    reboots: int = 0
    interval: Millis | None = None
    """The interval in force at the last conclusive observation, None where the record does not say."""
    _offset: Millis | None = None
    _largest: Millis = 0
    _unobserved: Millis = 0
    _rebooted: tuple[tuple[Moment, Moment], ...] = ()
    _unseen: tuple[tuple[Moment, Moment], ...] = ()
    """Of the longest stretch, and of the unobserved time, what lies over a reboot: how long that is may come out
    only later, when the wall clock's error is known."""

    @property
    def largest_gap(self) -> Millis:
        """The longest stretch from the end of a conclusive observation to the start of the next."""
        return max(self._largest, *(_length(*each, self.epochs) for each in self._rebooted), 0)

    @property
    def unobserved(self) -> Millis:
        """The total length of the stretches that hold an unknown observation or a gap."""
        return self._unobserved + sum(_length(*each, self.epochs) for each in self._unseen)

    def _spent(self, since: Moment, counted: Moment, until: Moment) -> Tally:
        """Take in a stretch from `since`, of which all from `counted` on is to be counted as unobserved."""
        told = self
        if _over_a_reboot(since, until):
            others = tuple(each for each in self._rebooted if each[0] != since)
            told = replace(told, _rebooted=(*others, (since, until)))
        else:
            told = replace(told, _largest=max(self._largest, _length(since, until, NO_EPOCHS)))
        if _over_a_reboot(counted, until):
            return replace(told, _unseen=(*told._unseen, (counted, until)))
        return replace(told, _unobserved=told._unobserved + _length(counted, until, NO_EPOCHS))

    @classmethod
    def after(cls, index: int, good: Observation) -> Tally:
        """Begin with a good observation."""
        end = end_of(good)
        epochs = known_epochs(NO_EPOCHS, good.clock, good.ended_at)
        return cls(
            last_index=index, seen_until=end, epochs=epochs, latest=end, interval=good.interval, _offset=end.offset
        )

    def lived(self, fact: Observation | Gap) -> Tally:
        """Take in how the clocks went until the end of a fact."""
        end, latest = end_of(fact), self.latest
        if end.clock is None:
            return replace(self, latest=end)
        epochs = known_epochs(self.epochs, fact.clock, end.wall)
        if latest is None or latest.clock is None:
            return replace(self, epochs=epochs, latest=end, _offset=end.offset)
        if latest.boot != end.boot:
            return replace(self, epochs=epochs, latest=end, reboots=self.reboots + 1, _offset=end.offset)
        stepped, offset = self.stepped, self._offset
        assert end.offset is not None
        if offset is None or abs(end.offset - offset) > STEP_MS:
            stepped += 0 if offset is None else abs(end.offset - offset)
            offset = end.offset
        passed = self.passed + max(0, end.clock - latest.clock)
        latest = end if end.clock >= latest.clock else latest
        return replace(self, epochs=epochs, latest=latest, passed=passed, stepped=stepped, _offset=offset)

    def passed_at(self, moment: Moment) -> Millis:
        """Return `passed` as it was at a moment not far from the latest."""
        if self.latest is None or self.latest.clock is None or moment.clock is None:
            return self.passed
        if self.latest.boot != moment.boot:
            return self.passed
        return self.passed + moment.clock - self.latest.clock

    def blind(self, index: int, fact: Observation | Gap) -> Tally:
        """Take in a gap or an unknown observation."""
        unknown = self.unknown + isinstance(fact, Observation)
        told = replace(self.lived(fact), last_index=index, unknown=unknown)
        if self.seen_until is None:
            return told
        until = end_of(fact)
        counted = self.seen_until if self.blind_until is None else self.blind_until
        return replace(told._spent(self.seen_until, counted, until), blind_until=_later(counted, until))

    def seen(self, index: int, look: Observation) -> Tally:
        """Take in the time since the last conclusive observation, without counting this one."""
        told = self.lived(look)
        start, end = start_of(look), end_of(look)
        since = start if self.seen_until is None else self.seen_until
        apart = _length(since, start, told.epochs)
        counted = self.blind_until
        if counted is None:
            # Too far apart for its interval: the time is not observed, also where no gap is on record.
            known = None if look.interval is None else reach(max(look.interval, self.interval or 0))
            counted = since if known is not None and apart > known else start
        return replace(
            told._spent(since, counted, start),
            last_index=index,
            seen_until=_later(since, end),
            blind_until=None,
            interval=look.interval,
        )

    def failed(self, index: int, look: Observation) -> Tally:
        """Take in a failed observation."""
        words = [word for attempt in look.attempts[-1:] for word in attempt.replies[-1:]]
        return replace(
            self.seen(index, look),
            down=self.down + 1,
            causes=_counted(self.causes, look.cause),
            phases=_counted(self.phases, look.failed_phase),
            replies=tuple([word for word in self.replies if word not in words] + words)[-REPLIES:],
        )

    def forgiven(self) -> Tally:
        """Forget the failed observations, which led to nothing."""
        return replace(self, down=0, causes={}, phases={}, replies=())


NOTHING = Tally()
"""The tally before anything was seen."""


def _over_a_reboot(start: Moment, end: Moment) -> bool:
    return start.clock is not None and end.clock is not None and start.boot != end.boot


def _length(start: Moment, end: Moment, epochs: Epochs) -> Millis:
    """Return how long it was at most, so that no recovery is hidden; over a reboot that nobody can date by
    wall.
    """
    apart = distance(start, end, epochs)
    return apart.most if apart.most is not None else max(apart.least, end.wall - start.wall)


def _later(one: Moment, other: Moment) -> Moment:
    """Return the later of two moments, the second of which is on record later."""
    if one.clock is not None and other.clock is not None:
        return one if one.boot == other.boot and one.clock > other.clock else other
    return one if one.wall > other.wall else other


def _counted(counts: Mapping[str, int], name: str | None) -> Mapping[str, int]:
    return counts if name is None else {**counts, str(name): counts.get(name, 0) + 1}
