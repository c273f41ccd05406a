"""What the looks at a target say of the time around them.

Time is known only between two conclusive looks (up or down) that follow each other on the beat:

    up, up       surely up
    down, down   surely down
    one of each  undecided: it changed somewhere in between
    otherwise    not observed: an unknown look or a gap lies between, or they are too far apart

The time that a look itself takes is decided by its two sides: surely when both agree with it, undecided when
one is a change, else not observed. Between looks of the same answer no change is assumed; how long a change
could have hidden there is told by the largest gap of an outage.
"""

from __future__ import annotations

from enum import IntEnum

from mailwatch.models import Gap, Millis, Observation, Outcome


class Share(IntEnum):
    """What a stretch of observed time counts as; time that is not observed has no share."""

    UP = 0
    DOWN = 1
    UNDECIDED = 2


Stretch = tuple[Millis, Millis, Share]


class Walk:
    """Divides the time of one target, fact by fact in the ledger's order. `interval` is in seconds."""

    __slots__ = ("_before", "_ended", "_reach", "_run", "_share", "_started")

    def __init__(self, interval: float) -> None:
        # As far apart as the monitor lets two looks be before it records a gap.
        self._reach = round((interval * 1.5 + 1) * 1000)
        self._share: Share | None = None
        self._started: Millis = 0
        self._ended: Millis = 0
        self._before: Share | None = None
        self._run: Millis | None = None
        """Since when nothing but good looks was taken in that are not told of yet."""

    def good(self, start: Millis, end: Millis) -> bool:
        """Take in a good look from `start` to `end` amid good ones, which decides what an `add` would.

        It is told by `settle`, or by the next `add`. False when it is not amid good ones: then nothing is done.
        """
        if self._share is not Share.UP or self._before is not Share.UP:
            return False
        if not 0 <= start - self._ended <= self._reach:
            return False
        if self._run is None:
            self._run = self._started
        self._started, self._ended = start, end
        return True

    def settle(self) -> list[Stretch]:
        """Return what good looks decided that was not told yet: one stretch up to the start of the latest."""
        if self._run is None:
            return []
        told: list[Stretch] = [(self._run, self._started, Share.UP)]
        self._run = None
        return told

    def add(self, fact: Observation | Gap) -> list[Stretch]:
        """Return the stretches that `fact` decides: up to its start, its own time being still undecided."""
        settled = self.settle()
        if isinstance(fact, Gap) or fact.outcome is Outcome.UNKNOWN:
            told = self._own(None)
            self._share = self._before = None
            return settled + told
        share = Share.UP if fact.outcome is Outcome.UP else Share.DOWN
        between: Share | None = None
        if self._share is not None and 0 <= fact.started_at - self._ended <= self._reach:
            between = share if share is self._share else Share.UNDECIDED
        told = settled + self._own(between)
        if between is not None:
            told.append((self._ended, fact.started_at, between))
        self._share, self._before = share, between
        self._started, self._ended = fact.started_at, fact.ended_at
        return told

    def _own(self, after: Share | None) -> list[Stretch]:
        """The time that the latest look itself took, now that both of its sides are known."""
        sides = (self._before, after)
        if Share.UNDECIDED in sides:
            return [(self._started, self._ended, Share.UNDECIDED)]
        if self._share is None or None in sides:
            return []
        return [(self._started, self._ended, self._share)]
