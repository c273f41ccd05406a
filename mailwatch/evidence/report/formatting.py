"""The texts of a report, and how times, durations and numbers are written for people, in Italian or English.

it.yaml and en.yaml have the same keys; a test keeps it so.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

import yaml

from mailwatch.config import catalogue
from mailwatch.times import Millis, parse_rfc3339

LANGUAGES = ("en", "it")


@cache
def texts(language: str, report: str = "", package: str = "mailwatch.evidence.report") -> dict[str, Any]:
    """Return the texts of a language; `causes`, `phases` and `reasons` by the values of the models.

    `report`: "" is the report of an outage; another ("period", "joint") has its own words on top of these.
    """
    name = f"{report}.{language}.yaml" if report else f"{language}.yaml"
    text = (resources.files(package) / name).read_text(encoding="utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return texts(language) | loaded if report else loaded


MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""06/07/2026 is in July for some who read English and in June for others; 6 Jul 2026 is the same for all."""


@dataclass(frozen=True, slots=True)
class Formatter:
    """One way of writing: `tenths` of a second or whole ones."""

    language: str
    zone: ZoneInfo
    tenths: bool

    @classmethod
    def for_outage(cls, payload: dict[str, Any], language: str, zone: ZoneInfo) -> Formatter:
        """Choose how to write of one outage."""
        end = payload["first_good"] or payload["last_bad"]
        # In a short outage the tenths of a second matter; in a long one they only disturb.
        return cls(language, zone, end - payload["first_bad"] < 600_000)

    @property
    def point(self) -> str:
        """The decimal point."""
        return "," if self.language == "it" else "."

    def number(self, text: str) -> str:
        """A decimal number, given with a point."""
        return text.replace(".", self.point)

    def format_date(self, text: str) -> str:
        """A date, given as 2026-01-28."""
        return self._day(dt.date.fromisoformat(text))

    def local_date(self, at: Millis) -> str:
        """The local date of a time."""
        return self._day(self._utc(at).astimezone(self.zone))

    def format_share(self, share: float, *, up: bool = False) -> str:
        """A share as per cent, cut or `up` to the next thousandth: 100 % means all and nothing less."""
        exact = Decimal(repr(share)) * 100
        return f"{exact.quantize(Decimal('0.001'), ROUND_CEILING if up else ROUND_FLOOR)} %".replace(
            ".", self.point
        )

    def local_and_utc(self, at: Millis, *, up: bool = False) -> str:
        """A time for people: local, with UTC in brackets, and its date where that is another one.

        It is cut to what is shown of it, or `up` to the next: what began by then did so by the time shown.
        """
        utc = self._utc(self._rounded(at, up))
        local = utc.astimezone(self.zone)
        other = "" if utc.date() == local.date() else f"{self._day(utc, year=utc.year != local.year)} "
        # No line is to end between a time and its zone.
        bracket = f"({other}{self._time(utc)} UTC)".replace(" ", "\u00a0")
        return f"{self._day(local)} {self._time(local)} {bracket}"

    def format_time(self, at: Millis, *, up: bool = False) -> str:
        """The local time of day."""
        return self._time(self._utc(self._rounded(at, up)).astimezone(self.zone))

    def local_and_utc_of(self, text: str, *, up: bool = False) -> str:
        """An RFC 3339 time as `local_and_utc` writes it."""
        return self.local_and_utc(parse_rfc3339(text), up=up)

    def _rounded(self, at: Millis, up: bool) -> Millis:
        unit = 100 if self.tenths else 1000
        return (-(-at // unit) if up else at // unit) * unit

    def _utc(self, at: Millis) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at)

    def _day(self, day: dt.date, *, year: bool = True) -> str:
        if self.language == "it":
            return f"{day:%d/%m/%Y}" if year else f"{day:%d/%m}"
        return f"{day.day} {MONTH_NAMES[day.month - 1]}" + (f" {day.year}" if year else "")

    def _time(self, at: datetime) -> str:
        return f"{at:%H:%M:%S}" + (f"{self.point}{at.microsecond // 100_000}" if self.tenths else "")

    def format_duration(self, millis: int, *, up: bool = False, exact: bool = False) -> str:
        """A duration for people, cut to what is shown of it, or `up` to the next: at least never says too much.

        Tenths of a second below a minute, seconds below an hour and if `exact`, else minutes.
        """
        unit = 100 if millis < 60_000 else 1000 if exact or millis < 3_600_000 else 60_000
        millis = (-(-millis // unit) if up else millis // unit) * unit
        if millis < 60_000:
            return f"{millis / 1000:.1f} s".replace(".", self.point)
        minutes, seconds = divmod(millis // 1000, 60)
        if minutes < 60:
            return f"{minutes} min {seconds:02d} s"
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        day = ("giorno" if days == 1 else "giorni") if self.language == "it" else ("day" if days == 1 else "days")
        text = f"{days} {day} {hours} h {minutes:02d} min" if days else f"{hours} h {minutes:02d} min"
        return f"{text} {seconds:02d} s" if exact else text


def provider_name(key: str | None) -> str:
    """What people call a provider of the catalogue; its key, or a dash, where it is none."""
    known = catalogue.by_key(key or "")
    return known.name if known else key or "–"


def digest_groups(digest: str) -> str:
    """A digest in groups of eight, so that it breaks across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
