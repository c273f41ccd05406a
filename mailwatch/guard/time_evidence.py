"""Bounds the true time independently of the wall clock, and attributes certificates that are out of date.

Time servers, the kernel, the certificates and answers of controls, and timestamp tokens each state that the true
time lay in a window at one reading of the steady clock. The majority counts, as in NTP (Marzullo's algorithm; RFC
5905, section 11.2.1). A lower bound (the date of this program, the record, tokens on record) does not vote: it
cuts the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

from mailwatch.times import Millis

DRIFT = 1e-4
"""The largest drift of a computer's clock, as a share of the elapsed time: its oscillator keeps 100 ppm."""
TRUSTED_ERROR_MS: Millis = 60_000
"""Milliseconds: the accuracy needed of our clock if the dates of a certificate cannot be read."""
RELEASED_AT_MS: Millis = 1_795_478_400_000
"""2026-11-24: no true time is earlier than this release. Raised at each release.

Not taken from files: their times come from the clock of the installing machine.
"""


@dataclass(frozen=True, slots=True)
class TrueTimeBounds:
    """The true time lies in [earliest, latest]; None: no bound is known.

    `sources` names the agreeing sources, sorted. `contradicted`: no majority agrees, so nothing is known.
    """

    earliest: Millis | None = None
    latest: Millis | None = None
    sources: tuple[str, ...] = ()
    contradicted: bool = False


@dataclass(frozen=True, slots=True)
class _Window:
    """A statement: the true time lay in [earliest, latest] at the reading `at` of the steady clock."""

    at: Millis
    earliest: Millis
    latest: Millis

    def at_reading(self, reading: Millis) -> tuple[Millis, Millis]:
        elapsed = reading - self.at
        drift = math.ceil(abs(elapsed) * DRIFT)
        return self.earliest + elapsed - drift, self.latest + elapsed + drift


class TimeEvidence:
    """Statements about the true time in this boot, the newest of each source, by readings of monotonic.py."""

    def __init__(self) -> None:
        self._windows: dict[str, _Window] = {}
        self._floors: dict[str, Millis] = {"program": RELEASED_AT_MS}

    def add_window(self, source: str, at: Millis, earliest: Millis, latest: Millis) -> None:
        """Add the statement that the true time lay in [earliest, latest] at the reading `at`."""
        self._windows[source] = _Window(at, earliest, latest)

    def forget(self, source: str) -> None:
        """Drop the window of a source that states nothing any more."""
        self._windows.pop(source, None)

    def add_floor(self, source: str, earliest: Millis) -> None:
        """Add a lower bound of the true time, for now and later."""
        self._floors[source] = max(earliest, self._floors.get(source, earliest))

    def bounds_at(self, reading: Millis) -> TrueTimeBounds:
        """Return the bounds of the true time at a reading."""
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
    """Return the largest set of windows that share a moment; the start of one of them is such a moment."""
    return max(
        ({source for source, (a, b) in windows.items() if a <= moment <= b} for moment, _ in windows.values()),
        key=len,
    )


class ExpiryFault(StrEnum):
    """The party at fault for a certificate that is out of date."""

    PROVIDER = "provider"
    CLOCK = "clock"
    UNKNOWN = "unknown"


def expiry_fault(
    not_before: Millis | None, not_after: Millis | None, known: TrueTimeBounds, wall: Millis
) -> ExpiryFault:
    """Compare the dates between which a whole certificate chain is valid with the true time.

    `known` is for the moment at which our clock, showing `wall`, called the chain out of date.

    1. The whole window lies where the chain is not valid: the provider's fault, however wrong our clock is.
    2. The whole window lies where the chain is valid: our clock is proven wrong.
    3. Otherwise unknown, and so not the provider's fault.
    """
    earliest, latest = known.earliest, known.latest
    if known.contradicted:
        return ExpiryFault.UNKNOWN
    if not_before is None or not_after is None:
        # How far the chain is out of date is unknown, so our clock must be right to within a minute.
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
    # The chain has become valid: a clock before that is behind. Only a window shows that it still is.
    return (
        ExpiryFault.CLOCK
        if wall < not_before or (latest is not None and latest <= not_after)
        else ExpiryFault.UNKNOWN
    )
