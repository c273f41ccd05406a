"""An outage on a line: where each of its four times is drawn, with room for each to be read.

Days as bars: which of five states a day is in, told by the bar's height and outline as well as its colour.

Days go from midnight to midnight, UTC. A day is `down` when anything in it was surely down, `unknown` when it was
undecided at some time, `maintenance` when some of it was announced, `up` when all that was seen was up, and
`nodata` when nothing was seen. A narrow bar: less than nine tenths of it was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from mailwatch.analysis.availability import Day
from mailwatch.times import Millis

_SHAPES = {"up": (6, 18), "down": (0, 24), "unknown": (13, 11), "maintenance": (6, 18), "nodata": (21, 3)}
STEP = 4.0
ENOUGH = 0.9


@dataclass(frozen=True, slots=True)
class Bar:
    """A day to draw, in units of which a day has 4 and the height is 24."""

    state: str
    date: str
    x: float
    y: float
    width: float
    height: float
    down: float | None
    """Seconds surely down; None where nothing was seen."""
    seen: int
    """Per cent of the day, as far as it has come."""


def state(day: Day) -> str:
    """Name the state of a day."""
    if day.down:
        return "down"
    if day.undecided:
        return "unknown"
    if day.maintenance:
        return "maintenance"
    return "up" if day.up else "nodata"


def bars(days: Iterable[Day]) -> list[Bar]:
    """Lay days out from left to right."""
    drawn = []
    for number, day in enumerate(days):
        kind = state(day)
        asked = day.length - day.maintenance
        looked = day.up + day.down + day.undecided
        seen = min(1.0, looked / asked) if asked > 0 else 0.0
        narrow = kind in ("up", "unknown") and seen < ENOUGH
        y, height = _SHAPES[kind]
        date = f"{datetime.fromtimestamp(day.start / 1000, UTC):%Y-%m-%d}"
        drawn.append(Bar(kind, date, number * STEP + (0.9 if narrow else 0), y, 1.4 if narrow else 3.2, height,
                         day.down / 1000 if looked else None, int(seen * 100)))  # fmt: skip
    return drawn


WIDTH = 600.0
_EDGE = 70.0
_APART = 26.0
TIMES = ("last_good", "first_bad", "last_bad", "first_good")


@dataclass(frozen=True, slots=True)
class Mark:
    """One time and its place."""

    name: str
    letter: str
    at: Millis
    x: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """What lies between two places: up, down or undecided."""

    state: str
    x: float
    width: float


def marks(outage: Mapping[str, Any]) -> list[Mark]:
    """Place the times that are known, in proportion, yet never closer together than they can be told apart."""
    known = [(name, "abcd"[number], outage[name]) for number, name in enumerate(TIMES) if outage[name] is not None]
    first, last = known[0][2], known[-1][2]
    span = max(1, last - first)
    free = WIDTH - 2 * _EDGE - _APART * (len(known) - 1)
    return [
        Mark(name, letter, at, _EDGE + number * _APART + free * max(0, at - first) / span)
        for number, (name, letter, at) in enumerate(known)
    ]


def stretches(outage: Mapping[str, Any], placed: list[Mark]) -> list[Stretch]:
    """Fill the line between the marks."""
    at = {mark.name: mark.x for mark in placed}
    good, bad, last, end = (at.get(name) for name in TIMES)
    assert bad is not None
    assert last is not None
    told = [("up", 0.0, good), ("undecided", good or 0.0, bad), ("down", bad, last)]
    if end is None:
        told.append(("undecided", last, WIDTH))
    else:
        told += [("undecided", last, end), ("up", end, WIDTH)]
    return [Stretch(state, x, until - x) for state, x, until in told if until is not None and until > x]
