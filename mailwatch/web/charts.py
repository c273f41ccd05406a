"""Layout of the pages' charts: an outage as a timeline, and days as bars.

A timeline shows each of an outage's four times, far enough apart to be read. A day has one of five states, shown
by the bar's height and outline as well as its colour. Days run from midnight to midnight, UTC. The first that
applies: `down` if any part was surely down, `unknown` if any part was indeterminate, `maintenance` if any part was
announced, `up` if all observations were up, `nodata` without observations. A narrow bar: less than nine tenths of
the day was observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mailwatch.analysis.rolling_availability import DayAvailability
from mailwatch.times import Millis

_SHAPES = {"up": (6, 18), "down": (0, 24), "unknown": (13, 11), "maintenance": (6, 18), "nodata": (21, 3)}
DAY_WIDTH = 4.0
FULL_COVERAGE = 0.9


@dataclass(frozen=True, slots=True)
class DayBar:
    """The bar of one day, in units of which a day is 4 wide and the chart 24 high."""

    state: str
    date: str
    x: float
    y: float
    width: float
    height: float
    down: float | None
    """Seconds surely down; None if nothing was observed."""
    seen: int
    """Per cent of the day observed, maintenance aside."""


def day_state(day: DayAvailability) -> str:
    """Return the state of a day."""
    if day.down:
        return "down"
    if day.indeterminate:
        return "unknown"
    if day.maintenance:
        return "maintenance"
    return "up" if day.up else "nodata"


def day_bars(days: Iterable[DayAvailability]) -> list[DayBar]:
    """Return the bars of days, laid out from left to right."""
    drawn = []
    for number, day in enumerate(days):
        kind = day_state(day)
        asked = day.length - day.maintenance
        observed = day.up + day.down + day.indeterminate
        share = min(1.0, observed / asked) if asked > 0 else 0.0
        narrow = kind in ("up", "unknown") and share < FULL_COVERAGE
        y, height = _SHAPES[kind]
        date = f"{datetime.fromtimestamp(day.start / 1000, UTC):%Y-%m-%d}"
        drawn.append(
            DayBar(
                kind,
                date,
                number * DAY_WIDTH + (0.9 if narrow else 0),
                y,
                1.4 if narrow else 3.2,
                height,
                day.down / 1000 if observed else None,
                int(share * 100),
            )
        )
    return drawn


WIDTH = 600.0
_EDGE = 70.0
_MIN_DISTANCE = 26.0
TIMES = ("last_good", "first_bad", "last_bad", "first_good")


@dataclass(frozen=True, slots=True)
class TimelineMark:
    """One of an outage's four times and its place on the timeline."""

    name: str
    letter: str
    at: Millis
    x: float


@dataclass(frozen=True, slots=True)
class TimelineSegment:
    """The state between two places on the timeline: up, down or undecided."""

    state: str
    x: float
    width: float


def timeline_marks(times: Sequence[Millis | None]) -> list[TimelineMark]:
    """Place the known times in proportion, at least `_MIN_DISTANCE` apart to stay legible."""
    known = [(name, letter, at) for name, letter, at in zip(TIMES, "abcd", times, strict=True) if at is not None]
    first, last = known[0][2], known[-1][2]
    span = max(1, last - first)
    free = WIDTH - 2 * _EDGE - _MIN_DISTANCE * (len(known) - 1)
    return [
        TimelineMark(name, letter, at, _EDGE + number * _MIN_DISTANCE + free * max(0, at - first) / span)
        for number, (name, letter, at) in enumerate(known)
    ]


def timeline_segments(placed: list[TimelineMark]) -> list[TimelineSegment]:
    """Return the segments between the marks."""
    at = {mark.name: mark.x for mark in placed}
    good, bad, last, end = (at.get(name) for name in TIMES)
    assert bad is not None
    assert last is not None
    parts = [("up", 0.0, good), ("undecided", good or 0.0, bad), ("down", bad, last)]
    if end is None:
        parts.append(("undecided", last, WIDTH))
    else:
        parts += [("undecided", last, end), ("up", end, WIDTH)]
    return [TimelineSegment(state, x, until - x) for state, x, until in parts if until is not None and until > x]
