"""Layout of the pages' charts: an outage as a timeline, days as bars, and response times as a line.

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
from itertools import groupby

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


def is_thin(day: DayAvailability) -> bool:
    """Return whether less than nine tenths of a day without failure was observed, maintenance aside."""
    return day_state(day) in ("up", "unknown") and _share_seen(day) < FULL_COVERAGE


def _share_seen(day: DayAvailability) -> float:
    asked = day.length - day.maintenance
    return min(1.0, (day.up + day.down + day.indeterminate) / asked) if asked > 0 else 0.0


def day_bars(days: Iterable[DayAvailability]) -> list[DayBar]:
    """Return the bars of days, laid out from left to right."""
    drawn = []
    for number, day in enumerate(days):
        kind, narrow = day_state(day), is_thin(day)
        y, height = _SHAPES[kind]
        drawn.append(
            DayBar(
                kind,
                f"{datetime.fromtimestamp(day.start / 1000, UTC):%Y-%m-%d}",
                number * DAY_WIDTH + (0.9 if narrow else 0),
                y,
                1.4 if narrow else 3.2,
                height,
                day.down / 1000 if day.up + day.down + day.indeterminate else None,
                int(_share_seen(day) * 100),
            )
        )
    return drawn


@dataclass(frozen=True, slots=True)
class BarPath:
    """All bars of one state as one path: each run of equal days is a line, drawn as dashes of a day each."""

    state: str
    is_thin: bool
    """Whether less than nine tenths of these days was observed."""
    path: str


_LETTERS = {"up": "u", "down": "d", "unknown": "k", "maintenance": "m", "nodata": "n"}


def bar_paths(days: Iterable[DayAvailability]) -> tuple[list[BarPath], str]:
    """Return the bars of days as paths, a tenth of the size of a rectangle for each; and the days as text, for
    the script that names the day under the pointer.

    The text "u44 d1.3600 u45" has a state, a number of days, and of a single day down its seconds.
    """
    lines: dict[tuple[str, bool], list[str]] = {}
    runs: list[str] = []
    first = 0
    for (state, thin, down), run in groupby((day_state(day), is_thin(day), day.down) for day in days):
        count = sum(1 for _ in run)
        x, (y, height) = first * DAY_WIDTH, _SHAPES[state]
        path = lines.setdefault((state, thin), [])
        if state == "maintenance":
            shape = f"{y + 0.4:g}h2.4v{height - 0.8:g}h-2.4z"
            path += [f"M{x + number * DAY_WIDTH + 0.4:g} {shape}" for number in range(count)]
        else:
            # The last dash ends with its day.
            begin, width = (x + 0.9, 1.4) if thin else (x, 3.2)
            path.append(f"M{begin:g} {y + height / 2:g}h{(count - 1) * DAY_WIDTH + width:g}")
        runs += [f"d1.{down // 1000}"] * count if state == "down" else [f"{_LETTERS[state]}{count}"]
        first += count
    return [BarPath(state, thin, "".join(path)) for (state, thin), path in lines.items()], " ".join(runs)


SPARK_WIDTH, SPARK_HEIGHT = 94, 20


def spark_path(series: Sequence[Millis | None]) -> str:
    """Return the path of a line of response times from zero up, two units for each; "" if none is known.

    A gap interrupts the line, and a point between two gaps is a short stroke.
    """
    most = max((value for value in series if value is not None), default=0)
    path: list[str] = []
    before: Millis | None = None
    for number, value in enumerate(series):
        if value is not None:
            y = SPARK_HEIGHT - 1 - (SPARK_HEIGHT - 2) * value / max(most, 1)
            path.append(f"{'M' if before is None else 'L'}{2 * number} {round(y, 1):g}")
            after = series[number + 1] if number + 1 < len(series) else None
            if before is None and after is None:
                path.append("h.1")
        before = value
    return "".join(path)


WIDTH = 400.0
_EDGE = 92.0
"""Room for the time of the outer marks."""
_MIN_DISTANCE = 22.0
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
