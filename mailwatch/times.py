"""Times in whole milliseconds: RFC 3339, calendar windows, half-open intervals [start, end), and durations."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

Millis = int
"""Milliseconds since the Unix epoch, UTC."""
Window = tuple[Millis, Millis]
"""[start, end)."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HOUR_MS: Millis = 3_600_000
DAY_MS: Millis = 24 * HOUR_MS

_DATETIME_MIN_MS: Millis = -62_135_596_800_000
_DATETIME_MAX_MS: Millis = 253_402_300_799_999
"""The range of datetime: 0001-01-01T00:00:00.000Z to 9999-12-31T23:59:59.999Z."""


def now() -> Millis:
    """Return the time by the wall clock."""
    return time.time_ns() // 1_000_000


def rfc3339(at: Millis) -> str:
    """Return `at` as RFC 3339 in UTC with milliseconds: 2026-01-22T21:55:00.000Z."""
    moment = datetime.fromtimestamp(at // 1000, UTC)
    # Not strftime, which writes the year 1 as "1".
    return f"{moment.isoformat()[:19]}.{at % 1000:03d}Z"


def rfc3339_or_none(at: Millis | None) -> str | None:
    """Return `at` as `rfc3339` does; None for None."""
    return None if at is None else rfc3339(at)


def parse_rfc3339(text: str) -> Millis:
    """Parse an RFC 3339 time with any offset.

    Raises ValueError, also without an offset, and for a time outside the years 1 to 9999 in UTC, which could not
    be written again.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no UTC offset; write for example {text}Z")
    at = round(moment.timestamp() * 1000)
    if not _DATETIME_MIN_MS <= at <= _DATETIME_MAX_MS:
        raise ValueError(f"{text!r} lies outside of the years 1 to 9999 in UTC")
    return at


def intersect_windows(first: Sequence[Window], second: Sequence[Window]) -> list[Window]:
    """Return the intersection of two lists of windows, each merged by `merge_windows`."""
    found, a, b = [], 0, 0
    while a < len(first) and b < len(second):
        start, end = max(first[a][0], second[b][0]), min(first[a][1], second[b][1])
        if start < end:
            found.append((start, end))
        if first[a][1] <= second[b][1]:
            a += 1
        else:
            b += 1
    return found


def total_length(spans: Iterable[Window]) -> Millis:
    """Return the total length of the spans."""
    return sum(end - start for start, end in spans)


DURATION_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h|d)$"

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(value: object) -> float:
    """Parse a duration to seconds. A bare number is refused, since it has no unit. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write {value}s, or ms, m, h, d")
    # fullmatch with ASCII digits: `$` would accept a line feed, `\d` Arabic-Indic digits.
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a duration; write for example 500ms, 5s, 1m, 2h or 1d")
    # Whole milliseconds, so that 0.1s and 100ms are the same number.
    return round(float(found[1]) * _MILLISECONDS[found[2]]) / 1000


def duration_text(seconds: float) -> str:
    """Return seconds as text, in the largest unit of which they are a whole number."""
    milliseconds = round(seconds * 1000)
    unit = max((u for u in _MILLISECONDS if milliseconds % _MILLISECONDS[u] == 0), key=_MILLISECONDS.__getitem__)
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}" if milliseconds else "0s"


EARLIEST_ASKED_MS: Millis = 0
LATEST_ASKED_MS: Millis = 4_102_444_800_000
"""1970 and 2100: outside this range, not every time zone has local dates, and nothing is on record."""
# ASCII digits: \d would match Arabic-Indic ones too.
_DAY = re.compile(r"([0-9]{4})-([0-9]{2})(?:-([0-9]{2}))?")


def month(year: int, month: int, zone: ZoneInfo) -> Window:
    """Return a calendar month in `zone`, which is an hour shorter or longer if the clocks change in it."""
    return _start_of_day(year, month, 1, zone), _start_of_day(year + month // 12, month % 12 + 1, 1, zone)


def check_bounds(at: Millis, text: str) -> Millis:
    """Return a time that a person requested. Raises ValueError, with the accepted range, out of bounds."""
    if not EARLIEST_ASKED_MS <= at <= LATEST_ASKED_MS:
        raise ValueError(f"{text[:40]!r} must lie between 1970-01-01 and 2100-01-01")
    return at


def parse_moment(text: str, name: str, zone: ZoneInfo) -> Millis:
    """Parse a time, date or month as `parse_window` does. Raises ValueError with `name`."""
    found = _DAY.fullmatch(text)
    try:
        if found is None:
            return check_bounds(parse_rfc3339(text), text)
        return check_bounds(_start_of_day(int(found[1]), int(found[2]), int(found[3] or 1), zone), text)
    except (ValueError, OverflowError) as error:
        # An example says more than Python's own words, which are English and differ by version.
        why = f" ({reason})" if (reason := _no_day(found)) else ""
        if str(error).startswith(repr(text[:40])):
            raise ValueError(f"{name}: {error}") from None
        raise ValueError(
            f"{name}: {text[:40]!r} is not a date or time{why}; "
            "write 2026-01-22T21:55:00+01:00, 2026-01-22 or 2026-01"
        ) from None


def _no_day(found: re.Match[str] | None) -> str:
    """Return why the numbers of a date are no day, "" for what is no date at all."""
    if found is None or int(found[1]) == 0:
        return ""
    return "the month has no such day" if 1 <= int(found[2]) <= 12 else "month must be in 1..12"


def parse_window(text_from: str, text_to: str, zone: ZoneInfo) -> Window:
    """Parse a window written as RFC 3339 times with offset, dates (2026-01-22) or months (2026-01).

    A date stands for its first moment in `zone`, a month for that of its first day. The end is excluded: all of
    January is from 2026-01 to 2026-02. Raises ValueError that names the faulty part.
    """
    start, end = parse_moment(text_from, "from", zone), parse_moment(text_to, "to", zone)
    if end <= start:
        raise ValueError(
            f"to ({text_to}) must be later than from ({text_from}); "
            "the end is not included, so one day ends at the next date"
        )
    return start, end


def merge_windows(windows: Iterable[Window]) -> tuple[Window, ...]:
    """Return windows in order that cover the same time and neither overlap nor touch, without empty ones."""
    found: list[Window] = []
    for start, end in sorted(windows):
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        elif start < end:
            found.append((start, end))
    return tuple(found)


def overlap_length(windows: Iterable[Window], start: Millis, end: Millis) -> Millis:
    """Return the length of the part of [start, end) inside `windows`, which are merged."""
    return sum(max(0, min(end, until) - max(start, begin)) for begin, until in windows)


def subtract_windows(windows: Iterable[Window], start: Millis, end: Millis) -> Iterator[Window]:
    """Yield the parts of [start, end) outside `windows`, which are merged."""
    for begin, until in windows:
        if start < min(begin, end):
            yield start, min(begin, end)
        start = max(start, until)
    if start < end:
        yield start, end


def _start_of_day(year: int, month: int, day: int, zone: ZoneInfo) -> Millis:
    """Return the first moment of a day: if the clocks are set at midnight, the earlier or the only one."""
    return (datetime(year, month, day, tzinfo=zone) - EPOCH) // timedelta(milliseconds=1)
