"""Announced maintenance: its windows, and the times of their announcements. Pure.

A window counts only from the moment of the entry that announced it: a later announcement hides nothing. An
announcement holds the rules in force from its own moment until the next announcement. So a window announced after
it began counts for its remainder, a window announced after it ended not at all, and a withdrawn window until its
withdrawal. Probes go on and outages are detected all the same; maintenance is only left out of the availability,
and reported beside it.

A window begins by local time in its zone, and has its full duration, whatever the clocks do meanwhile. A start in
the hour skipped by a change to summer time uses the offset before the change, so it comes an hour later by local
time. A start in the repeated hour is the first of the two (RFC 5545, 3.3.5, to which 3.3.10 refers for
recurrences).
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

from mailwatch.analysis.recurrence import (
    InvalidRuleError,
    canonical_cron,
    canonical_rrule,
    cron_starts,
    rrule_starts,
)
from mailwatch.times import EPOCH, Millis, Window, merge_windows

YEARS = range(1970, 2200)
"""The years that a rule may cover."""
_FIRST_WITHIN_YEARS = 10
"""Years within which a rule must fire for the first time."""
_SAMPLE_YEARS = 3
"""Years over which the windows of a rule are compared with each other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrenceRule:
    """The times of maintenance: an RRULE with its `start`, a cron line, or a single window from `start` to `end`.

    `start` and `end`: local times in `timezone`, YYYY-MM-DDTHH:MM:SS. `duration`: length of each window of an
    RRULE or cron line, in milliseconds. All in canonical form (`RecurrenceRule.canonical`): equal meaning, equal
    text.
    """

    timezone: str
    rrule: str = ""
    cron: str = ""
    start: str = ""
    end: str = ""
    duration: Millis = 0

    @classmethod
    def canonical(
        cls,
        *,
        timezone: str,
        rrule: str = "",
        cron: str = "",
        start: str = "",
        end: str = "",
        duration: Millis = 0,
    ) -> RecurrenceRule:
        """Return a rule in canonical form. Raises InvalidRuleError."""
        if [bool(rrule), bool(cron), bool(end)].count(True) != 1:
            raise InvalidRuleError("", "needs one of rrule, cron, or start and end; keep one")
        if not cron and not start:
            what = "its first time" if rrule else "when it begins"
            raise InvalidRuleError("", f"has no start; add start: {what} by local clock, such as 2026-01-04T03:00")
        if cron and start:
            raise InvalidRuleError("start", "does not go with cron; remove it")
        if end and duration:
            raise InvalidRuleError("duration", "follows from start and end; remove it")
        if not end and not duration:
            raise InvalidRuleError("", "has no duration; add for example duration: 2h")
        try:
            ZoneInfo(timezone)
        except (ValueError, OSError, KeyError):
            raise InvalidRuleError(
                "timezone", "is not a time zone; write for example Europe/Rome or UTC"
            ) from None
        return cls(
            timezone=timezone,
            rrule=canonical_rrule(rrule) if rrule else "",
            cron=canonical_cron(cron) if cron else "",
            start=_local(start, "start").isoformat() if start else "",
            end=_local(end, "end").isoformat() if end else "",
            duration=duration,
        )


def check_rule(rule: RecurrenceRule) -> None:
    """Reject a rule that is valid but makes no sense. Raises InvalidRuleError."""
    if rule.end:
        if not _utc(rule.end, rule.timezone) > _utc(rule.start, rule.timezone):
            raise InvalidRuleError("end", "is not after start; correct one of them")
        return
    first = datetime.fromisoformat(rule.start) if rule.start else datetime(YEARS[0], 1, 1)  # noqa: DTZ001
    way = "rrule" if rule.rrule else "cron"
    found = next(_starts(rule, first, first.replace(year=first.year + _FIRST_WITHIN_YEARS, day=1)), None)
    if found is None:
        raise InvalidRuleError(way, f"never fires within {_FIRST_WITHIN_YEARS} years; correct it")
    sample = _starts(rule, found, found.replace(year=found.year + _SAMPLE_YEARS, day=1))
    for start, following in pairwise(sample):
        if following - start <= timedelta(milliseconds=rule.duration):
            hours = (following - start) / timedelta(hours=1)
            raise InvalidRuleError(
                "duration", f"must be shorter than the {hours:g} h between two windows; shorten it"
            )


def windows_of_rule(rule: RecurrenceRule, start: Millis, end: Millis) -> Iterator[Window]:
    """Yield the windows that overlap [start, end), uncut, ordered by start."""
    if rule.end:
        candidates: Iterator[Window] = iter([(_utc(rule.start, rule.timezone), _utc(rule.end, rule.timezone))])
    else:
        day = timedelta(days=1)
        first = (EPOCH + timedelta(milliseconds=max(0, start - rule.duration)) - day).year
        last = YEARS[-1] if end >= _END else (EPOCH + timedelta(milliseconds=max(0, end)) + day).year
        years = range(max(first, YEARS[0]), min(last, YEARS[-1]) + 1)
        candidates = (window for year in years for window in _of_year(rule, year))
    return ((begin, until) for begin, until in candidates if begin < end and until > start)


_END = (datetime(YEARS[-1], 1, 1, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


@lru_cache(maxsize=512)
def _of_year(rule: RecurrenceRule, year: int) -> tuple[Window, ...]:
    """Return the windows that begin in a year of local time."""
    starts = _starts(rule, datetime(year, 1, 1), datetime(year + 1, 1, 1))  # noqa: DTZ001
    begins = sorted(_utc(start.isoformat(), rule.timezone) for start in starts)
    return tuple((begin, begin + rule.duration) for begin in begins)


def _starts(rule: RecurrenceRule, first: datetime, until: datetime) -> Iterator[datetime]:
    if rule.cron:
        return cron_starts(rule.cron, first, until)
    return rrule_starts(rule.rrule, datetime.fromisoformat(rule.start), first, until)


def _local(text: str, field: str) -> datetime:
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(:[0-9]{2})?", text):
            raise ValueError
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRuleError(field, "is not a local time; write for example 2026-01-04T03:00") from None
    if at.year not in YEARS:
        raise InvalidRuleError(field, f"must lie between {YEARS[0]} and {YEARS[-1]}; correct it")
    return at


def _utc(local: str, timezone: str) -> Millis:
    # fold=0: the offset before a skipped hour, and the first of two repeated hours.
    at = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo(timezone))
    return (at.astimezone(UTC) - EPOCH) // timedelta(milliseconds=1)


_WHEN = ("timezone", "rrule", "cron", "start", "end")


@dataclass(frozen=True, slots=True, kw_only=True)
class MaintenanceRule:
    """One announced rule. `targets`: opaque target ids, None for all targets.

    `providers`: those named in the config; their targets at the time are in `targets`.
    """

    name: str
    recurrence: RecurrenceRule
    targets: frozenset[str] | None = None
    providers: tuple[str, ...] = ()

    def covers(self, target: str) -> bool:
        """Return whether the rule covers the target with that opaque id."""
        return self.targets is None or target in self.targets

    def payload(self) -> dict[str, Any]:
        """Return the rule in canonical form, for the ledger. Unset fields are left out."""
        fields: dict[str, Any] = {"name": self.name}
        fields |= {key: getattr(self.recurrence, key) for key in _WHEN if getattr(self.recurrence, key)}
        if self.recurrence.duration:
            fields["duration_ms"] = self.recurrence.duration
        if self.targets is not None:
            fields["targets"] = sorted(self.targets)
        return fields | {"providers": sorted(self.providers)} if self.providers else fields

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> MaintenanceRule:
        """Parse the output of `payload`. Raises InvalidRuleError, KeyError or TypeError for anything else."""
        when = RecurrenceRule.canonical(
            duration=payload.get("duration_ms", 0), **{k: payload[k] for k in _WHEN if k in payload}
        )
        targets = frozenset(payload["targets"]) if "targets" in payload else None
        return cls(
            name=payload["name"], recurrence=when, targets=targets, providers=tuple(payload.get("providers", ()))
        )


@dataclass(frozen=True, slots=True)
class Announcement:
    """The rules in force from `at` on."""

    at: Millis
    rules: tuple[MaintenanceRule, ...]


@dataclass(frozen=True, slots=True)
class Announcements:
    """All announcements, in ledger order."""

    announcements: tuple[Announcement, ...] = ()

    def windows_of(self, target: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance windows of a target in [start, end): cut to it, ordered and merged."""
        if not self.announcements:
            return ()
        return merge_windows(
            (max(begin, since), min(finish, until))
            for since, until, rules in self._validity_periods(start, end)
            for rule in rules
            if rule.covers(target)
            for begin, finish in windows_of_rule(rule.recurrence, since, until)
        )

    def _validity_periods(
        self, start: Millis, end: Millis
    ) -> Iterator[tuple[Millis, Millis, tuple[MaintenanceRule, ...]]]:
        """Yield the parts of [start, end) with their rules in force."""
        for number, notice in enumerate(self.announcements):
            over = self.announcements[number + 1].at if number + 1 < len(self.announcements) else end
            since, until = max(start, notice.at), min(end, over)
            if since < until and notice.rules:
                yield since, until, notice.rules
