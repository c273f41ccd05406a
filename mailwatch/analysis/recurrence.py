"""The starts of windows by RRULE or cron, in local time without a zone; maintenance.py adds the zone.

dateutil computes RRULE (RFC 5545, 3.3.10), APScheduler's CronTrigger computes cron. Neither gets the time zone:
with a zone, CronTrigger fires twice in the repeated hour, and then for ever at the same time. CronTrigger gets
weekdays as names, since its week begins with Monday as 0. Only rules that begin at most once an hour are accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from dateutil.rrule import rrule, rrulestr

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
_PARTS = (
    *("FREQ", "INTERVAL", "COUNT", "UNTIL", "WKST", "BYSETPOS", "BYMONTH", "BYWEEKNO", "BYYEARDAY"),
    *("BYMONTHDAY", "BYDAY", "BYHOUR", "BYMINUTE"),
)
_WEEK = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_CYCLE_YEARS = 19 * 400
"""A multiple of 400 years, after which the calendar repeats, weekdays included."""
_FIELD = re.compile(r"\*(/[1-9][0-9]?)?|([0-9]{1,2}|[a-z]{3})(-([0-9]{1,2}|[a-z]{3})(/[1-9][0-9]?)?)?")


class InvalidRuleError(ValueError):
    """A rule is invalid. `field`: the part that is wrong."""

    def __init__(self, field: str, what: str) -> None:
        super().__init__(what)
        self.field = field


def canonical_rrule(text: str) -> str:
    """Return an RRULE in canonical form: upper case, FREQ first, then by name. Raises InvalidRuleError."""
    parts: dict[str, str] = {}
    for part in text.upper().removeprefix("RRULE:").split(";"):
        found = re.fullmatch(r"([A-Z]+)=([A-Z0-9,+-]+)", part)
        if not found:
            raise InvalidRuleError("rrule", "is not an RRULE; write for example FREQ=WEEKLY;BYDAY=SU;BYHOUR=3")
        if found[1] not in _PARTS:
            raise InvalidRuleError("rrule", f"{found[1][:20]} is not supported; use {', '.join(_PARTS)}")
        if found[1] in parts:
            raise InvalidRuleError("rrule", f"has {found[1]} twice; keep one")
        parts[found[1]] = found[2]
    if parts.get("FREQ") not in _FREQUENCIES:
        raise InvalidRuleError(
            "rrule", f"needs FREQ, one of {', '.join(_FREQUENCIES)}; write for example FREQ=WEEKLY"
        )
    if "," in parts.get("BYMINUTE", ""):
        raise InvalidRuleError("rrule", "begins more than once an hour; keep one BYMINUTE")
    if "COUNT" in parts and "UNTIL" in parts:
        raise InvalidRuleError("rrule", "has both COUNT and UNTIL; keep one")
    for name in ("INTERVAL", "COUNT"):
        if not re.fullmatch(r"[1-9][0-9]{0,2}", parts.get(name, "1")):
            raise InvalidRuleError("rrule", f"{name} must lie between 1 and 999; correct it")
    if parts["FREQ"] in ("WEEKLY", "DAILY") and re.search(r"[0-9]", parts.get("BYDAY", "")):
        raise InvalidRuleError("rrule", "BYDAY takes a number only with FREQ=MONTHLY or YEARLY; remove it")
    return ";".join(f"{name}={parts[name]}" for name in sorted(parts, key=lambda name: (name != "FREQ", name)))


def rrule_starts(text: str, begin: datetime, first: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the starts in [first, until) of a canonical RRULE with DTSTART `begin`. Raises InvalidRuleError.

    dateutil searches up to the year 9999, for seconds if there is no start. So the search runs in the calendar's
    last cycle.
    """
    for start in _rrule(text, begin).xafter(_shift_years(first, _CYCLE_YEARS), inc=True):
        found = _shift_years(start, -_CYCLE_YEARS)
        if found >= until:
            return
        yield found


def _rrule(text: str, begin: datetime) -> rrule:
    kept = [part for part in text.split(";") if not part.startswith("UNTIL=")]
    try:
        made = rrulestr(";".join(kept), dtstart=_shift_years(begin, _CYCLE_YEARS))
        assert isinstance(made, rrule)
        if len(kept) < text.count(";") + 1:
            ends = re.search(r"UNTIL=([0-9]{8})(?:T([0-9]{6}))?(?=;|$)", text)
            if ends is None:
                raise ValueError("UNTIL is a local time such as 20261231T235959")
            end = datetime.strptime(ends[1] + (ends[2] or "235959"), "%Y%m%d%H%M%S")  # noqa: DTZ007
            made = made.replace(until=_shift_years(end, _CYCLE_YEARS))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, OverflowError) as error:
        raise InvalidRuleError("rrule", f"is not an RRULE ({error}); see RFC 5545, 3.3.10") from None
    return made


def _shift_years(at: datetime, years: int) -> datetime:
    return at.replace(year=at.year + years)


def canonical_cron(text: str) -> str:
    """Return a cron line of five fields in canonical form, with weekdays as names. Raises InvalidRuleError."""
    fields = text.lower().split()
    if len(fields) != 5:
        raise InvalidRuleError(
            "cron", 'must have five fields: minute, hour, day, month, weekday; write "0 3 * * 0"'
        )
    for field in fields:
        if not all(_FIELD.fullmatch(item) for item in field.split(",")):
            raise InvalidRuleError(
                "cron", f"'{field[:40]}' cannot be read; use numbers, names, *, a-b, a-b/n, */n"
            )
    minute, hour, day, month, weekday = fields
    if not re.fullmatch(r"[0-9]{1,2}", minute):
        raise InvalidRuleError("cron", "begins more than once an hour; write one minute")
    if day != "*" and weekday != "*":
        # Vixie cron requires either of the two to match, other crons both.
        raise InvalidRuleError(
            "cron", "means day of month and day of week differently to different crons; use rrule"
        )
    canonical = " ".join((minute, hour, day, month, "*" if weekday == "*" else _weekdays(weekday)))
    _trigger(canonical)
    return canonical


def _weekdays(field: str) -> str:
    days: set[int] = set()
    for item in field.split(","):
        bounds, _, step = item.partition("/")
        if bounds == "*":
            bounds = "0-6"
        first, _, last = bounds.partition("-")
        begin, end = _weekday(first), _weekday(last or first)
        end = 7 if end == 0 < begin else end
        if end < begin:
            raise InvalidRuleError("cron", f"'{item}' runs backwards; write the days one by one")
        days |= {day % 7 for day in range(begin, end + 1, int(step or 1))}
    return ",".join(_WEEK[day] for day in sorted(days))


def _weekday(text: str) -> int:
    if text in _WEEK:
        return _WEEK.index(text)
    if text.isdigit() and int(text) <= 7:
        return int(text)
    raise InvalidRuleError(
        "cron", f"'{text}' is not a day of the week; use 0 to 7, 0 and 7 being Sunday, or sun to sat"
    )


def _trigger(canonical: str) -> CronTrigger:
    # Imported on first use: few configs have a cron line, and each command reads the config.
    from apscheduler.triggers.cron import CronTrigger

    names = ("minute", "hour", "day", "month", "day_of_week")
    try:
        return CronTrigger(**dict(zip(names, canonical.split(), strict=True)), second="0", timezone=UTC)
    except ValueError as error:
        raise InvalidRuleError("cron", f"is not a cron line ({error}); correct it") from None


def cron_starts(canonical: str, first: datetime, until: datetime) -> Iterator[datetime]:
    """Yield the starts in [first, until) of a canonical cron line."""
    trigger = _trigger(canonical)
    at = first.replace(tzinfo=UTC)
    while (found := trigger.get_next_fire_time(None, at)) is not None:
        start: datetime = found.replace(tzinfo=None)
        if start >= until:
            return
        yield start
        at = found + timedelta(minutes=1)
