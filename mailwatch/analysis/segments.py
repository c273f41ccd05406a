"""What the observations of a target say of the time around them.

Time is known only between two conclusive observations (up or down) that follow each other within the interval:

    up, up       surely up
    down, down   surely down
    one of each  undecided: it changed somewhere in between
    otherwise    not observed: an unknown observation or a gap lies between, or they are too far apart

The time that an observation itself takes is decided by its two sides: surely when both agree with it, undecided
when one is a change, else not observed. Between observations of the same answer no change is assumed; how long a
change could have hidden there is shown by the largest gap of an outage.

How long a segment is, the steady clock says; it ends where the wall clock was at its end. Each pair
of observations is judged by the interval that was in force then. Where none is on record (before 2026-11), the
record itself gives it: good observations are due at even distances.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise
from typing import Any

from mailwatch.analysis.elapsed import Moment, elapsed_between, fact_end, fact_start, max_spacing
from mailwatch.model import Fact, Gap, Outcome, TargetChange, TargetEvent
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis


class SegmentState(IntEnum):
    """What a stretch of observed time counts as; time that is not observed has no share."""

    UP = 0
    DOWN = 1
    INDETERMINATE = 2


Segment = tuple[Millis, Millis, SegmentState]
_INTERVAL_TOLERANCE_MS: Millis = 5
"""Milliseconds by which two distances between due times may differ and still be the interval."""


class Segmenter:
    """Divides the time of one target, fact by fact in the ledger's order.

    `interval` (seconds) is in force until the record says another, in a change of what is watched or with an
    observation; with `infer` it is a guess that counts only until the record gives one.
    """

    __slots__ = (
        "_before",
        "_due",
        "_end",
        "_infer",
        "_latest",
        "_length",
        "_offset",
        "_reach",
        "_reached",
        "_run",
        "_spacing",
        "_started",
        "_state",
        "jumps",
    )  # fmt: skip

    def __init__(self, interval: float, *, infer: bool = False) -> None:
        self._reach = self._reached = max_spacing(round(interval * 1000))
        """How far apart two observations may be: by the interval now, and by the one of the latest observation."""
        self._infer = infer
        self._due: Millis | None = None
        self._spacing: Millis | None = None
        self._state: SegmentState | None = None
        self._started: Millis = 0
        self._length: Millis = 0
        self._end = Moment(0)
        self._before: SegmentState | None = None
        self._run: Moment | None = None
        """Since when nothing but up observations was taken in that are not returned yet."""
        self._offset: Millis | None = None
        self._latest: Moment | None = None
        self.jumps: list[tuple[Millis, Millis]] = []
        """Where the wall clock was set: from what it showed to where it was then. Emptied by the reader."""

    def feed_up(self, payload: dict[str, Any]) -> bool:
        """Take in a good observation, as the ledger has it, amid good ones, which decides what an `feed` would.

        It is returned by `flush`, or by the next `feed`. False when it is not amid up observations: then nothing
        is done.
        """
        if self._state is not SegmentState.UP or self._before is not SegmentState.UP:
            return False
        start, end, clock, here = payload["start"], payload["end"], payload.get("clock"), self._end
        if clock is None:
            begun, moment = Moment(start), Moment(end)
            apart = start - here.wall
            if here.clock is not None:
                return False
        else:
            begun, moment = Moment(start, clock["start"], clock["boot"]), Moment(end, clock["end"], clock["boot"])
            if here.clock is None or here.boot != moment.boot:
                return False
            if self._offset is None or abs(start - clock["start"] - self._offset) > STEP_MS:
                return False
            if _is_set_between(begun, moment):
                return False
            apart = clock["start"] - here.clock
        interval = payload.get("interval")
        longest = self._reach if interval is None else max_spacing(interval)
        if not 0 <= apart <= max(longest, self._reached):
            return False
        if interval is not None:
            self._reach, self._infer = longest, False
        if self._infer:
            self._infer_interval(payload["scheduled"])
        if self._run is None:
            self._run = Moment(self._started, None if here.clock is None else here.clock - self._length, here.boot)
        self._started, self._length = start, _between(begun, moment)
        self._end = self._latest = moment
        self._reached = self._reach
        return True

    def flush(self) -> list[Segment]:
        """Return what up observations decided and was not returned yet: one segment up to the latest one's
        start.
        """
        run = self._run
        if run is None:
            return []
        self._run = None
        if run.clock is None or self._end.clock is None:
            return [(run.wall, self._started, SegmentState.UP)]
        return [(self._started - (self._end.clock - self._length - run.clock), self._started, SegmentState.UP)]

    def feed(self, fact: Fact) -> list[Segment]:
        """Return the stretches that `fact` decides: up to its start, its own time being still undecided."""
        settled = self.flush()
        if isinstance(fact, TargetChange):
            return settled + self._on_target_change(fact)
        start, end = fact_start(fact), fact_end(fact)
        self._note_clock_jumps(start, end)
        if isinstance(fact, Gap) or fact.outcome is Outcome.UNKNOWN:
            segments = self._close_observation(None)
            self._state = self._before = None
            return settled + segments
        if fact.interval is not None:
            self._reach, self._infer = max_spacing(fact.interval), False
        if self._infer:
            self._infer_interval(fact.scheduled_at if fact.outcome is Outcome.UP else None)
        share = SegmentState.UP if fact.outcome is Outcome.UP else SegmentState.DOWN
        between: SegmentState | None = None
        apart = self._elapsed_since_latest(start)
        if self._state is not None and apart is not None and 0 <= apart <= max(self._reach, self._reached):
            between = share if share is self._state else SegmentState.INDETERMINATE
        segments = settled + self._close_observation(between)
        if between is not None and apart is not None:
            segments.append((start.wall - apart, start.wall, between))
        self._state, self._before = share, between
        self._started, self._length, self._end = start.wall, _between(start, end), end
        self._offset, self._reached = start.offset, self._reach
        return segments

    def _on_target_change(self, change: TargetChange) -> list[Segment]:
        self._reach, self._infer = max_spacing(change.settings.interval), False
        if change.event in (TargetEvent.CONTINUE, TargetEvent.CHANGE):
            return []
        segments = self._close_observation(None)
        self._state = self._before = None
        self._reached = self._reach
        return segments

    def _elapsed_since_latest(self, start: Moment) -> Millis | None:
        """How long it is from the latest observation; None over a reboot, where nothing was observed."""
        here = self._end
        if here.clock is None or start.clock is None:
            return start.wall - here.wall
        return start.clock - here.clock if here.boot == start.boot else None

    def _note_clock_jumps(self, start: Moment, end: Moment) -> None:
        """Note where the wall clock was set since the latest fact, and where while this one went on."""
        latest, self._latest = self._latest, end
        if latest is not None:
            self._note_clock_jump(latest, start)
        self._note_clock_jump(start, end)

    def _note_clock_jump(self, earlier: Moment, later: Moment) -> None:
        if (
            earlier.boot == later.boot
            and earlier.clock is not None
            and later.clock is not None
            and _is_set_between(earlier, later)
        ):
            self.jumps.append((earlier.wall, later.wall - (later.clock - earlier.clock)))

    def _infer_interval(self, due_time: Millis | None) -> None:
        """Find the interval where it is not on record: good observations in a row are due at even distances."""
        before, self._due = self._due, due_time
        spacing = None if before is None or due_time is None else due_time - before
        if (
            spacing is not None
            and self._spacing is not None
            and abs(spacing - self._spacing) <= _INTERVAL_TOLERANCE_MS < spacing
        ):
            self._reach = max_spacing(spacing)
        self._spacing = spacing

    def _close_observation(self, after: SegmentState | None) -> list[Segment]:
        """The time that the latest observation itself took, now that both of its sides are known."""
        sides = (self._before, after)
        ended = self._started + self._length
        if SegmentState.INDETERMINATE in sides:
            return [(self._started, ended, SegmentState.INDETERMINATE)]
        if self._state is None or None in sides:
            return []
        return [(self._started, ended, self._state)]


INTERVAL_SAMPLE_SIZE = 50
"""Due times by which the usual interval is found."""
FALLBACK_INTERVAL_MS: Millis = 60_000
"""The interval of a target that was observed once, where it decides nothing."""


def usual_interval(due_times: Sequence[Millis]) -> Millis:
    """Return the distance between due times, in their order, that is the most frequent; of equals the shortest."""
    apart = Counter(later - earlier for earlier, later in pairwise(due_times) if later > earlier)
    return min(apart, key=lambda each: (-apart[each], each), default=FALLBACK_INTERVAL_MS)


def _is_set_between(earlier: Moment, later: Moment) -> bool:
    """Whether the wall clock was set in between. False where the boot's clock was not read."""
    before, after = earlier.offset, later.offset
    return before is not None and after is not None and abs(after - before) > STEP_MS


def _between(start: Moment, end: Moment) -> Millis:
    if start.clock is None or end.clock is None:
        return end.wall - start.wall
    return elapsed_between(start, end).least
