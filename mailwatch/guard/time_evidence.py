"""What is known of the true time, whatever the wall clock shows; and whose failure a certificate out of date is.

Time servers, the kernel, the certificates and answers of controls, and timestamp tokens say that the true time lay
in a window at one reading of the steady clock. What most of them agree on counts, as in NTP
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
TRUSTED_ERROR_MS: Millis = 60_000
"""Milliseconds. So right a clock must be known to be where the dates of a certificate cannot be read."""
RELEASED_AT_MS: Millis = 1_795_478_400_000
"""2026-11-24: this program is not older, so no true time is earlier. Raised at releases.

Not taken from files: the clock of the machine that installs them gives them their times.
"""


@dataclass(frozen=True, slots=True)
class TrueTimeBounds:
    """The true time lies in [earliest, latest]; None: no bound is known.

    `sources` names the sources that agree on it, sorted. `contradicted`: no majority agrees, so that nothing is
    known.
    """

    earliest: Millis | None = None
    latest: Millis | None = None
    sources: tuple[str, ...] = ()
    contradicted: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """The true time lay in [earliest, latest] at the reading `at` of the steady clock."""

    at: Millis
    earliest: Millis
    latest: Millis

    def at_reading(self, reading: Millis) -> tuple[Millis, Millis]:
        elapsed = reading - self.at
        drift = math.ceil(abs(elapsed) * DRIFT)
        return self.earliest + elapsed - drift, self.latest + elapsed + drift


class TimeEvidence:
    """Statements of this boot about the true time, the newest of each source, by readings of monotonic.py."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._floors: dict[str, Millis] = {"program": RELEASED_AT_MS}

    def add_window(self, source: str, at: Millis, earliest: Millis, latest: Millis) -> None:
        """Take in that at the reading `bounds_at` the true time lay in [earliest, latest]."""
        self._windows[source] = _Window(at, earliest, latest)

    def forget(self, source: str) -> None:
        """Drop what a source stated of the window: it states nothing any more."""
        self._windows.pop(source, None)

    def add_floor(self, source: str, earliest: Millis) -> None:
        """Take in that the true time is not earlier than that, now and later."""
        self._floors[source] = max(earliest, self._floors.get(source, earliest))

    def bounds_at(self, reading: Millis) -> TrueTimeBounds:
        """Return what is known of the true time at a reading."""
        floor = max(self._floors.values())
        windows = {source: window.at_reading(reading) for source, window in self._windows.items()}
        if not windows:
            return TrueTimeBounds(earliest=floor, sources=_names(self._floors, floor))
        agreeing = _largest_agreement(windows)
        if 2 * len(agreeing) <= len(windows):
            return TrueTimeBounds(contradicted=True, sources=tuple(sorted(windows)))
        earliest = max(windows[source][0] for source in agreeing)
        latest = min(windows[source][1] for source in agreeing)
        if floor > latest:
            return TrueTimeBounds(
                contradicted=True, sources=tuple(sorted({*agreeing, *_names(self._floors, floor)}))
            )
        return TrueTimeBounds(max(earliest, floor), latest, tuple(sorted(agreeing)))


def _names(floors: dict[str, Millis], floor: Millis) -> tuple[str, ...]:
    return tuple(sorted(source for source, earliest in floors.items() if earliest == floor))


def _largest_agreement(windows: dict[str, tuple[Millis, Millis]]) -> set[str]:
    """Return the largest set of windows that share a moment; such a moment is the beginning of one of them."""
    return max(
        ({source for source, (a, b) in windows.items() if a <= moment <= b} for moment, _ in windows.values()),
        key=len,
    )


class ExpiryFault(StrEnum):
    """Whose failure a certificate out of date is."""

    PROVIDER = "provider"
    CLOCK = "clock"
    UNKNOWN = "unknown"


def expiry_fault(
    not_before: Millis | None, not_after: Millis | None, known: TrueTimeBounds, wall: Millis
) -> ExpiryFault:
    """Weigh the dates between which all certificates of a chain are valid against the true time.

    `known` is of the moment at which our clock, which showed `wall`, called them out of date.

    1. The whole window lies where they are not valid: the provider's, however far our clock is off.
    2. The whole window lies where they are valid: our clock is shown wrong.
    3. Else it is unknown, and what is unknown is not the provider's.
    """
    earliest, latest = known.earliest, known.latest
    if known.contradicted:
        return ExpiryFault.UNKNOWN
    if not_before is None or not_after is None:
        # It is not known by how much it is out of date: our clock must be right to within a minute.
        right = (
            earliest is not None
            and latest is not None
            and wall - TRUSTED_ERROR_MS <= earliest
            and latest <= wall + TRUSTED_ERROR_MS
        )
        return ExpiryFault.PROVIDER if right else ExpiryFault.UNKNOWN
    if (earliest is not None and earliest > not_after) or (latest is not None and latest < not_before):
        return ExpiryFault.PROVIDER
    if earliest is None or earliest < not_before:
        return ExpiryFault.UNKNOWN
    # It is valid by now. Whether it still is, only a window can say; that our clock is behind is shown.
    return (
        ExpiryFault.CLOCK
        if wall < not_before or (latest is not None and latest <= not_after)
        else ExpiryFault.UNKNOWN
    )
