"""What is known of the true time, whatever the wall clock shows; and whose failure a certificate out of date is.

Time servers, the kernel, the certificates and answers of controls, and timestamp tokens say that the true time lay
in a window at one reading of the clock that nobody can set. What most of them agree on counts, as in NTP
(Marzullo's algorithm; RFC 5905, section 11.2.1). What only says "not earlier than" (the date of this program, the
record, tokens on record) is no vote: it cuts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mailwatch.times import Millis

DRIFT = 1e-4
"""By how much of the time since then a computer's clock may have drifted: its oscillator keeps 100 ppm."""
RIGHT: Millis = 60_000
"""Milliseconds. So right a clock must be known to be where the dates of a certificate cannot be read."""
WRITTEN: Millis = 1_795_478_400_000
"""2026-11-24: this program is not older, so no true time is earlier. Raised at releases.

Not taken from files: the clock of the machine that installs them gives them their times.
"""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The true time lies in [earliest, latest]; None: no bound is known.

    `by` names the sources that agree on it, sorted. `contradicted`: no majority agrees, so that nothing is known.
    """

    earliest: Millis | None = None
    latest: Millis | None = None
    by: tuple[str, ...] = ()
    contradicted: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """The true time lay in [earliest, latest] at the reading `at` of the clock that nobody can set."""

    at: Millis
    earliest: Millis
    latest: Millis

    def seen_from(self, reading: Millis) -> tuple[Millis, Millis]:
        elapsed = reading - self.at
        drift = math.ceil(abs(elapsed) * DRIFT)
        return self.earliest + elapsed - drift, self.latest + elapsed + drift


class TimeEvidence:
    """Statements of this boot about the true time, the newest of each source, by readings of monotonic.py."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._not_before: dict[str, Millis] = {"program": WRITTEN}

    def learn(self, source: str, at: Millis, earliest: Millis, latest: Millis) -> None:
        """Take in that at the reading `at` the true time lay in [earliest, latest]."""
        self._windows[source] = _Window(at, earliest, latest)

    def forget(self, source: str) -> None:
        """Drop what a source said of the window: it says nothing any more."""
        self._windows.pop(source, None)

    def at_least(self, source: str, earliest: Millis) -> None:
        """Take in that the true time is not earlier than that, now and later."""
        self._not_before[source] = max(earliest, self._not_before.get(source, earliest))

    def at(self, reading: Millis) -> Bounds:
        """Return what is known of the true time at a reading."""
        floor = max(self._not_before.values())
        windows = {source: window.seen_from(reading) for source, window in self._windows.items()}
        if not windows:
            return Bounds(earliest=floor, by=_names(self._not_before, floor))
        agreeing = _most(windows)
        if 2 * len(agreeing) <= len(windows):
            return Bounds(contradicted=True, by=tuple(sorted(windows)))
        earliest = max(windows[source][0] for source in agreeing)
        latest = min(windows[source][1] for source in agreeing)
        if floor > latest:
            return Bounds(contradicted=True, by=tuple(sorted({*agreeing, *_names(self._not_before, floor)})))
        return Bounds(max(earliest, floor), latest, tuple(sorted(agreeing)))


def _names(floors: dict[str, Millis], floor: Millis) -> tuple[str, ...]:
    return tuple(sorted(source for source, earliest in floors.items() if earliest == floor))


def _most(windows: dict[str, tuple[Millis, Millis]]) -> set[str]:
    """Return the largest set of windows that share a moment; such a moment is the beginning of one of them."""
    return max(
        ({source for source, (a, b) in windows.items() if a <= moment <= b} for moment, _ in windows.values()),
        key=len,
    )


class Blame(StrEnum):
    """Whose failure a certificate out of date is."""

    PROVIDER = "provider"
    CLOCK = "clock"
    UNKNOWN = "unknown"


def blame(not_before: Millis | None, not_after: Millis | None, known: Bounds, wall: Millis) -> Blame:
    """Weigh the dates between which all certificates of a chain are valid against the true time.

    `known` is of the moment at which our clock, which showed `wall`, said that they are out of date.

    1. The whole window lies where they are not valid: the provider's, however far our clock is off.
    2. The whole window lies where they are valid: our clock is shown wrong.
    3. Else it is unknown, and what is unknown is not the provider's.
    """
    earliest, latest = known.earliest, known.latest
    if known.contradicted:
        return Blame.UNKNOWN
    if not_before is None or not_after is None:
        # By how much it is out of date cannot be told: our clock must be right, as people call it.
        right = earliest is not None and latest is not None and wall - RIGHT <= earliest and latest <= wall + RIGHT
        return Blame.PROVIDER if right else Blame.UNKNOWN
    if (earliest is not None and earliest > not_after) or (latest is not None and latest < not_before):
        return Blame.PROVIDER
    if earliest is None or earliest < not_before:
        return Blame.UNKNOWN
    # It is valid by now. Whether it still is, only a window can say; that our clock is behind is shown.
    return Blame.CLOCK if wall < not_before or (latest is not None and latest <= not_after) else Blame.UNKNOWN
