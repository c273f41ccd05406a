"""Windows of time as people name them, half-open [start, end) in UTC."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from mailwatch.models import Millis, parse_rfc3339

Window = tuple[Millis, Millis]

EARLIEST: Millis = 0
LATEST: Millis = 4_102_444_800_000
"""1970 and 2100: beyond, dates cannot be reckoned with in every time zone, and nothing is on record."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# ASCII digits: \d would take Arabic-Indic ones too.
_DAY = re.compile(r"([0-9]{4})-([0-9]{2})(?:-([0-9]{2}))?")


def month(year: int, month: int, zone: ZoneInfo) -> Window:
    """Return a calendar month of `zone`, which is an hour shorter or longer when the clocks change in it."""
    return _midnight(year, month, 1, zone), _midnight(year + month // 12, month % 12 + 1, 1, zone)


def within_bounds(at: Millis, text: str) -> Millis:
    """Return a time that a person asks for. Raises ValueError, with what is accepted, out of bounds."""
    if not EARLIEST <= at <= LATEST:
        raise ValueError(f"{text[:40]!r} must lie between 1970-01-01 and 2100-01-01")
    return at


def parse_moment(text: str, name: str, zone: ZoneInfo) -> Millis:
    """Read a time, date or month as `parse_window` does. Raises ValueError that names it by `name`."""
    found = _DAY.fullmatch(text)
    try:
        if found is None:
            return within_bounds(parse_rfc3339(text), text)
        return within_bounds(_midnight(int(found[1]), int(found[2]), int(found[3] or 1), zone), text)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            f"{name}: {text[:40]!r} is no time ({error}); write 2026-01-22T21:55:00+01:00, 2026-01-22 or 2026-01"
        ) from None


def parse_window(text_from: str, text_to: str, zone: ZoneInfo) -> Window:
    """Read a window written as RFC 3339 times with offset, dates (2026-01-22) or months (2026-01).

    A date is its first moment in `zone`, a month that of its first day. The end is not included: all of
    January is from 2026-01 to 2026-02. Raises ValueError that names the faulty part.
    """
    start, end = parse_moment(text_from, "from", zone), parse_moment(text_to, "to", zone)
    if end <= start:
        raise ValueError(
            f"to ({text_to}) must be later than from ({text_from}); "
            "the end is not included, so a day goes from its date to the next one's"
        )
    return start, end


def merged(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Return the same time as windows in order that neither overlap nor touch; empty ones are left out."""
    found: list[Window] = []
    for start, end in sorted(windows):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return tuple(found)


def overlap(windows: Iterable[Window], start: Millis, end: Millis) -> Millis:
    """Return how much of [start, end) lies in `windows`, which are merged."""
    return sum(max(0, min(end, until) - max(start, begin)) for begin, until in windows)


def without(windows: Iterable[Window], start: Millis, end: Millis) -> Iterator[Window]:
    """Yield what of [start, end) lies outside of `windows`, which are merged."""
    for begin, until in windows:
        if start < min(begin, end):
            yield start, min(begin, end)
        start = max(start, until)
    if start < end:
        yield start, end


def _midnight(year: int, month: int, day: int, zone: ZoneInfo) -> Millis:
    """The first moment of a day: where clocks are set at midnight, the earlier or the only one there is."""
    return (datetime(year, month, day, tzinfo=zone) - _EPOCH) // timedelta(milliseconds=1)
