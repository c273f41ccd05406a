"""Days as bars: which of five states a day is in, told by the bar's height and outline as well as its colour.

Days go from midnight to midnight, UTC. A day is `down` when anything in it was surely down, `unknown` when it was
undecided at some time, `maintenance` when some of it was announced, `up` when all that was seen was up, and
`nodata` when nothing was seen. A narrow bar: less than nine tenths of it was seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from mailwatch.service_level import Day

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
