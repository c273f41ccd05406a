"""Segments: what the observations of a target prove about the time around them.

Time is known only between two conclusive observations (up or down) that follow each other within the interval:

    up, up       surely up
    down, down   surely down
    one of each  undecided: the state changed in between
    otherwise    not observed: an unknown observation or a gap lies between, or they are too far apart

The time of an observation itself is decided by its two sides: surely if both agree with it, undecided if one is a
change, else not observed. Between equal observations no change is assumed; the largest gap of an outage bounds the
length of a hidden change.

The length of a segment is by the steady clock, its end by the wall clock at that time. A run of good observations
is one segment (`feed_up`): the two clocks are rounded to milliseconds each on its own, so the segments of its
pairs would lie a millisecond apart or overlap by one. Each pair of observations is judged by the interval then in
force. If none is on record (before 2026-11), it is inferred: good observations
are due at even intervals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Protocol

from mailwatch.analysis.elapsed import Moment, elapsed_between, fact_end, fact_start, max_spacing
from mailwatch.ledger.payloads import ObservationPayload
from mailwatch.model import Fact, Gap, Outcome, TargetChange, TargetEvent
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis


class SegmentState(IntEnum):
    """The state of a segment of observed time; unobserved time has no segment."""

    UP = 0
    DOWN = 1
    INDETERMINATE = 2


Segment = tuple[Millis, Millis, SegmentState]
_INTERVAL_TOLERANCE_MS: Millis = 5
"""Most milliseconds by which two spacings of due times may differ and still be the interval."""


ClockJump = tuple[Millis, Millis]
"""A step of the wall clock: (time before, time after)."""


class GoodObservations(Protocol):
    """Good observations of one target that follow each other, as columns; times in milliseconds.

    `boot`, `interval` and whether they logged in with a secret are the same for all; `interval` is None if it is
    not on record. The columns of the steady clock are None where it was not read.
    """

    @property
    def indices(self) -> Sequence[int]: ...
    @property
    def times(self) -> Sequence[Millis]: ...
    @property
    def starts(self) -> Sequence[Millis]: ...
    @property
    def ends(self) -> Sequence[Millis]: ...
    @property
    def clock_starts(self) -> Sequence[Millis] | None: ...
    @property
    def clock_ends(self) -> Sequence[Millis] | None: ...
    @property
    def boot(self) -> str: ...
    @property
    def interval(self) -> Millis | None: ...
    @property
    def with_secret(self) -> bool: ...

    def payload(self, at: int) -> ObservationPayload: ...


@dataclass(frozen=True, slots=True)
class SegmenterMemory:
    """What a segmenter knows between two facts, as of `Segmenter`."""

    reach: Millis
    reached: Millis
    infer: bool
    due: Millis | None
    spacing: Millis | None
    state: int | None
    started: Millis
    length: Millis
    end: Moment
    before: int | None
    offset: Millis | None
    latest: Moment | None


class Segmenter:
    """Divides the time of one target into segments, fact by fact in ledger order.

    `interval` (seconds) is in force until a target change or an observation states another; with `infer` it is
    only a guess, replaced by an inferred interval.
    """

    __slots__ = (
        "_before",
        "_boot",
        "_clock",
        "_due",
        "_formerly_taken",
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
        "_wall",
        "far_pairs",
        "former_jumps",
        "jumps",
        "near_pairs",
    )  # fmt: skip

    def __init__(self, interval: float, *, infer: bool = False) -> None:
        self._reach = self._reached = max_spacing(round(interval * 1000))
        """Longest observed spacing: by the current interval, and by the interval at the latest observation."""
        self._infer = infer
        self._due: Millis | None = None
        self._spacing: Millis | None = None
        self._state: SegmentState | None = None
        self._started: Millis = 0
        self._length: Millis = 0
        # The end of the latest observation, taken apart: a Moment for each of half a million a year would take as
        # long as the rest of `feed_up`.
        self._wall: Millis = 0
        self._clock: Millis | None = None
        self._boot = ""
        self._before: SegmentState | None = None
        self._run: Moment | None = None
        """Start of a run of up observations whose segment is not yet returned."""
        self._offset: Millis | None = None
        self._latest: Moment | None = None
        self._formerly_taken = False
        """Whether version 0.2.0 would have processed the next fact by `feed_up`."""
        self.near_pairs = self.far_pairs = 0
        """Pairs of good observations with nothing between, within the interval and beyond it."""
        self.jumps: list[ClockJump] = []
        """Steps of the wall clock. Cleared by the reader."""
        self.former_jumps: list[ClockJump] = []
        """Those that versions up to 0.2.0 noted: they missed steps within an observation or a gap."""

    @property
    def _end(self) -> Moment:
        """The end of the latest observation."""
        return Moment(self._wall, self._clock, self._boot)

    @_end.setter
    def _end(self, moment: Moment) -> None:
        self._wall, self._clock, self._boot = moment.wall, moment.clock, moment.boot

    @property
    def memory(self) -> SegmenterMemory:
        """What it knows, between facts given to `feed` alone."""
        state, before = (None if one is None else int(one) for one in (self._state, self._before))
        return SegmenterMemory(
            self._reach, self._reached, self._infer, self._due, self._spacing, state, self._started, self._length,
            self._end, before, self._offset, self._latest,
        )  # fmt: skip

    @classmethod
    def of(cls, memory: SegmenterMemory) -> Segmenter:
        """Return a segmenter that knows that. Raises ValueError for a state that there is not."""
        made = cls(0, infer=memory.infer)
        made._reach, made._reached = memory.reach, memory.reached
        made._due, made._spacing = memory.due, memory.spacing
        made._state, made._before = (
            None if one is None else SegmentState(one) for one in (memory.state, memory.before)
        )
        made._started, made._length, made._end = memory.started, memory.length, memory.end
        made._offset, made._latest = memory.offset, memory.latest
        return made

    def feed_up(self, payload: ObservationPayload) -> bool:
        """Process the ledger payload of a good observation that continues a run of good ones.

        The run is one segment, returned by `flush` or the next `feed`; milliseconds may fall on another side of a
        window's edge than with `feed`. A step of the clock within the observation ends the run; before it, its
        offset is compared with that of the run. Returns False, and does nothing, if it continues no run.
        docs/reference/format.md has the rule; the caller knows whether an outage is open.
        """
        if self._state is not SegmentState.UP or self._before is not SegmentState.UP:
            return False
        start, end, clock, before = payload["start"], payload["end"], payload.get("clock"), self._clock
        if clock is None:
            if before is not None:
                return False
            apart, length, over = start - self._wall, end - start, None
            is_set = False
        else:
            begun, over = clock["start"], clock["end"]
            if before is None or self._boot != clock["boot"] or self._offset is None:
                return False
            offset = start - begun
            if abs(offset - self._offset) > STEP_MS:
                return False
            apart, length = begun - before, max(0, over - begun)
            is_set = abs(end - over - offset) > STEP_MS
        interval = payload.get("interval")
        longest = self._reach if interval is None else max_spacing(interval)
        if apart < 0 or (apart > longest and apart > self._reached):
            return False
        if is_set:
            self._formerly_taken = True
            return False
        if interval is not None:
            self._reach, self._infer = longest, False
        if self._infer:
            self._infer_interval(payload["scheduled"])
        if self._run is None:
            self._run = Moment(self._started, None if before is None else before - self._length, self._boot)
        self._started, self._length = start, length
        self._wall, self._clock = end, over
        self._reached = self._reach
        self.near_pairs += 1
        return True

    def feed_ups(self, stretch: GoodObservations, at: int) -> int:
        """Process observations of a stretch from `at` on like `feed_up`, which would return True for them; return
        how many. The next one may be given to `feed_up` or `feed`, which decide about it.
        """
        boot, interval = stretch.boot, stretch.interval
        if self._state is not SegmentState.UP or self._before is not SegmentState.UP or self._infer:
            return 0
        begun, over, offset = stretch.clock_starts, stretch.clock_ends, self._offset
        longest = self._reach if interval is None else max_spacing(interval)
        if begun is None or over is None or self._clock is None or self._boot != boot or offset is None:
            return 0
        # Within the stretch each reach is the same; only before its first it may be another one.
        reach = max(longest, self._reached)
        before, number = self._clock, at
        low, high = offset - STEP_MS, offset + STEP_MS
        for start, end, ticked, ended in zip(
            stretch.starts[at:], stretch.ends[at:], begun[at:], over[at:], strict=True
        ):
            apart, shift = ticked - before, start - ticked
            if not (0 <= apart <= reach and low <= shift <= high and -STEP_MS <= end - ended - shift <= STEP_MS):
                break
            before, reach = ended, longest
            number += 1
        if number == at:
            return 0
        if interval is not None:
            self._reach = longest
        if self._run is None:
            self._run = Moment(self._started, self._clock - self._length, self._boot)
        last = number - 1
        self._started, self._length = stretch.starts[last], max(0, over[last] - begun[last])
        self._wall, self._clock = stretch.ends[last], over[last]
        self._reached = self._reach
        self.near_pairs += number - at
        return number - at

    def flush(self) -> list[Segment]:
        """Return the pending segment of a run of up observations, up to the start of the latest; [] if none."""
        run = self._run
        if run is None:
            return []
        self._run, self._latest = None, self._end
        if run.clock is None or self._clock is None:
            return [(run.wall, self._started, SegmentState.UP)]
        return [(self._started - (self._clock - self._length - run.clock), self._started, SegmentState.UP)]

    def feed(self, fact: Fact) -> list[Segment]:
        """Return the segments that `fact` decides, up to its start; its own time is still open."""
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
        if self._state is share is SegmentState.UP:
            self.near_pairs += between is not None
            self.far_pairs += between is None
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
        """Return the time since the latest observation; None over a reboot, when nothing was observed."""
        here = self._end
        if here.clock is None or start.clock is None:
            return start.wall - here.wall
        return start.clock - here.clock if here.boot == start.boot else None

    def _note_clock_jumps(self, start: Moment, end: Moment) -> None:
        """Note where the wall clock was set since the latest fact, and where within this one."""
        latest, self._latest = self._latest, end
        formerly_taken, self._formerly_taken = self._formerly_taken, False
        if latest is not None:
            if _is_set_between(latest, start):
                self.jumps.append(_jump(latest, start))
            if _is_set_between(latest, end) and start.clock is not None and not formerly_taken:
                self.former_jumps.append(_jump(latest, start))
        if _is_set_between(start, end):
            self.jumps.append(_jump(start, end))

    def _infer_interval(self, due_time: Millis | None) -> None:
        """Infer an interval that is not on record: consecutive good observations are due at even intervals."""
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
        """Return the segment of the latest observation itself, now that both its sides are known."""
        sides = (self._before, after)
        ended = self._started + self._length
        if SegmentState.INDETERMINATE in sides:
            return [(self._started, ended, SegmentState.INDETERMINATE)]
        if self._state is None or None in sides:
            return []
        return [(self._started, ended, self._state)]


INTERVAL_SAMPLE_SIZE = 50
"""Number of due times from which the usual interval is inferred."""
FALLBACK_INTERVAL_MS: Millis = 60_000
"""The interval of a target observed only once, for which it decides nothing."""


def usual_interval(due_times: Sequence[Millis]) -> Millis:
    """Return the most frequent spacing of ordered due times; the shortest on a tie."""
    apart = Counter(later - earlier for earlier, later in pairwise(due_times) if later > earlier)
    return min(apart, key=lambda each: (-apart[each], each), default=FALLBACK_INTERVAL_MS)


def _is_set_between(earlier: Moment, later: Moment) -> bool:
    """Whether the wall clock was set in between. False over a reboot, and where the boot's clock was not read."""
    before, after = earlier.offset, later.offset
    return (
        earlier.boot == later.boot and before is not None and after is not None and abs(after - before) > STEP_MS
    )


def _jump(earlier: Moment, later: Moment) -> ClockJump:
    """Return the jump between two moments of one boot, as seen from the later one."""
    return earlier.wall, later.wall - ((later.clock or 0) - (earlier.clock or 0))


def _between(start: Moment, end: Moment) -> Millis:
    if start.clock is None or end.clock is None:
        return end.wall - start.wall
    return elapsed_between(start, end).least
