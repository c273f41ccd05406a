"""Announced maintenance: when it is, and since when it was announced. Pure.

A window counts only from the moment of the record that announced it (notices.py): what is added afterwards hides
nothing. Looks go on and outages are detected all the same; maintenance is only left out of the availability, and
told beside it.

The windows of one rule, in UTC.

A window begins by the wall clock of its place, and lasts as long as it is told, whatever the clocks do meanwhile.
A start in the hour that a change of the clocks leaves out is meant by the offset before the change, so it comes an
hour later by the clock on the wall; one in the hour that comes twice is the first of the two (RFC 5545, 3.3.5, to
which 3.3.10 refers for recurrences).

Which time was announced as maintenance before it came.

A notice says which rules are in force, from its own moment until the next notice. So a window counts from the
moment at which it was announced, at the earliest: one that is announced while it lasts counts for the rest of it,
one that is announced afterwards not at all, and one that is withdrawn counts until then.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch.analysis.recurrence import WrongRule, canonical_cron, canonical_rrule, cron_starts, rrule_starts
from mailwatch.times import Millis, Window, merged

YEARS = range(1970, 2200)
"""The years that a rule may be about."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LATE = 10
"""Years within which a rule must fire for the first time."""
_SAMPLE = 3
"""Years over which the windows of a rule are compared with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """One of: an RRULE with its `start`, a cron line, or a single window from `start` to `end`.

    `start` and `end` are local times of `timezone`, YYYY-MM-DDTHH:MM:SS; `duration` is that of each window of a
    RRULE or cron line. All in canonical form (`When.of`): what means the same is written the same.
    """

    timezone: str
    rrule: str = ""
    cron: str = ""
    start: str = ""
    end: str = ""
    duration: Millis = 0

    @classmethod
    def of(
        cls,
        *,
        timezone: str,
        rrule: str = "",
        cron: str = "",
        start: str = "",
        end: str = "",
        duration: Millis = 0,
    ) -> When:
        """Bring a rule into canonical form. Raises WrongRule."""
        if [bool(rrule), bool(cron), bool(end)].count(True) != 1:
            raise WrongRule("", "needs one of rrule, cron, or start and end; keep one")
        if not cron and not start:
            what = "its first time" if rrule else "when it begins"
            raise WrongRule("", f"has no start; add start: {what} by local clock, such as 2026-01-04T03:00")
        if cron and start:
            raise WrongRule("start", "is not for cron; remove it")
        if end and duration:
            raise WrongRule("duration", "follows from start and end; remove it")
        if not end and not duration:
            raise WrongRule("", "has no duration; add for example duration: 2h")
        try:
            ZoneInfo(timezone)
        except (ValueError, OSError, KeyError):
            raise WrongRule("timezone", "is not a time zone; write for example Europe/Rome or UTC") from None
        return cls(
            timezone=timezone,
            rrule=canonical_rrule(rrule) if rrule else "",
            cron=canonical_cron(cron) if cron else "",
            start=_local(start, "start").isoformat() if start else "",
            end=_local(end, "end").isoformat() if end else "",
            duration=duration,
        )


def check(when: When) -> None:
    """Find what is legal and yet cannot be meant. Raises WrongRule."""
    if when.end:
        if not _utc(when.end, when.timezone) > _utc(when.start, when.timezone):
            raise WrongRule("end", "is not after start; correct one of them")
        return
    first = datetime.fromisoformat(when.start) if when.start else datetime(YEARS[0], 1, 1)  # noqa: DTZ001
    way = "rrule" if when.rrule else "cron"
    found = next(_starts(when, first, first.replace(year=first.year + _LATE, day=1)), None)
    if found is None:
        raise WrongRule(way, f"never fires within {_LATE} years; correct it")
    sample = _starts(when, found, found.replace(year=found.year + _SAMPLE, day=1))
    for start, following in pairwise(sample):
        if following - start <= timedelta(milliseconds=when.duration):
            hours = (following - start) / timedelta(hours=1)
            raise WrongRule("duration", f"must be shorter than the {hours:g} h between two windows; shorten it")


def windows(when: When, start: Millis, end: Millis) -> Iterator[Window]:
    """Yield the windows that share time with [start, end), in the order of their starts; they are not cut."""
    if when.end:
        candidates: Iterator[Window] = iter([(_utc(when.start, when.timezone), _utc(when.end, when.timezone))])
    else:
        day = timedelta(days=1)
        first = (_EPOCH + timedelta(milliseconds=max(0, start - when.duration)) - day).year
        last = YEARS[-1] if end >= _END else (_EPOCH + timedelta(milliseconds=max(0, end)) + day).year
        years = range(max(first, YEARS[0]), min(last, YEARS[-1]) + 1)
        candidates = (window for year in years for window in _of_year(when, year))
    return ((begin, until) for begin, until in candidates if begin < end and until > start)


_END = (datetime(YEARS[-1], 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=512)
def _of_year(when: When, year: int) -> tuple[Window, ...]:
    """The windows that begin in a year, by local time."""
    starts = _starts(when, datetime(year, 1, 1), datetime(year + 1, 1, 1))  # noqa: DTZ001
    begins = sorted(_utc(start.isoformat(), when.timezone) for start in starts)
    return tuple((begin, begin + when.duration) for begin in begins)


def _starts(when: When, first: datetime, until: datetime) -> Iterator[datetime]:
    if when.cron:
        return cron_starts(when.cron, first, until)
    return rrule_starts(when.rrule, datetime.fromisoformat(when.start), first, until)


def _local(text: str, field: str) -> datetime:
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?", text):
            raise ValueError
        at = datetime.fromisoformat(text)
    except ValueError:
        raise WrongRule(field, "is not a local time; write for example 2026-01-04T03:00") from None
    if at.year not in YEARS:
        raise WrongRule(field, f"must lie between {YEARS[0]} and {YEARS[-1]}; correct it")
    return at


def _utc(local: str, timezone: str) -> Millis:
    # fold is 0: the offset before a change, and the first of two.
    at = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(timezone))
    return (at.astimezone(UTC) - _EPOCH) // timedelta(milliseconds=1)


_WHEN = ("timezone", "rrule", "cron", "start", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule as it is announced. `targets` are opaque ids, None means all targets.

    `providers` were named in the config; their targets at that time are in `targets`.
    """

    name: str
    when: When
    targets: frozenset[str] | None = None
    providers: tuple[str, ...] = ()

    def covers(self, target: str) -> bool:
        """Whether it is about the target of that opaque id."""
        return self.targets is None or target in self.targets

    def payload(self) -> dict[str, Any]:
        """Write it in canonical form, for the record. What is not said is left out."""
        told: dict[str, Any] = {"name": self.name}
        told |= {key: getattr(self.when, key) for key in _WHEN if getattr(self.when, key)}
        if self.when.duration:
            told["duration_ms"] = self.when.duration
        if self.targets is not None:
            told["targets"] = sorted(self.targets)
        return told | {"providers": sorted(self.providers)} if self.providers else told

    @classmethod
    def read(cls, payload: dict[str, Any]) -> Rule:
        """Read what `payload` wrote. Raises WrongRule, KeyError or TypeError for anything else."""
        when = When.of(duration=payload.get("duration_ms", 0), **{k: payload[k] for k in _WHEN if k in payload})
        targets = frozenset(payload["targets"]) if "targets" in payload else None
        return cls(name=payload["name"], when=when, targets=targets, providers=tuple(payload.get("providers", ())))


@dataclass(frozen=True, slots=True)
class Notice:
    """From `at` on these rules are in force."""

    at: Millis
    rules: tuple[Rule, ...]


@dataclass(frozen=True, slots=True)
class Notices:
    """All that was announced, in the order of the record."""

    notices: tuple[Notice, ...] = ()

    def of(self, target: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance of a target in [start, end): cut to it, in order, apart from each other."""
        if not self.notices:
            return ()
        return merged(
            (max(begin, since), min(finish, until))
            for since, until, rules in self._terms(start, end)
            for rule in rules
            if rule.covers(target)
            for begin, finish in windows(rule.when, since, until)
        )

    def _terms(self, start: Millis, end: Millis) -> Iterator[tuple[Millis, Millis, tuple[Rule, ...]]]:
        """The parts of [start, end) in which the same rules were in force."""
        for number, notice in enumerate(self.notices):
            over = self.notices[number + 1].at if number + 1 < len(self.notices) else end
            since, until = max(start, notice.at), min(end, over)
            if since < until and notice.rules:
                yield since, until, notice.rules
