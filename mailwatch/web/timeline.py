"""An outage on a line: where each of its four times is drawn, with room for each to be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Millis

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
