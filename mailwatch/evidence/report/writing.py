"""How times, durations and numbers are written for people, in Italian or English."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import ZoneInfo

from mailwatch import catalogue
from mailwatch.models import Millis


@dataclass(frozen=True, slots=True)
class Writing:
    """One way of writing: `tenths` of a second or whole ones."""

    language: str
    zone: ZoneInfo
    tenths: bool

    @classmethod
    def of(cls, payload: dict[str, Any], language: str, zone: ZoneInfo) -> Writing:
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

    def day(self, text: str) -> str:
        """A date, given as 2026-01-28."""
        return f"{date.fromisoformat(text):%d/%m/%Y}"

    def date(self, at: Millis) -> str:
        """The local date of a time."""
        return f"{datetime.fromtimestamp(at // 1000, UTC).astimezone(self.zone):%d/%m/%Y}"

    def share(self, share: float) -> str:
        """A share as per cent; cut, not rounded, so that 100 % is said only of all."""
        return f"{int(share * 100_000) / 1000:.3f} %".replace(".", self.point)

    def both(self, at: Millis) -> str:
        """A time for people: local, with UTC in brackets."""
        utc = datetime.fromtimestamp(at / 1000, UTC)
        return f"{utc.astimezone(self.zone):%d/%m/%Y} {self.clock(at)} ({utc:%H:%M:%S}Z)"

    def clock(self, at: Millis) -> str:
        """The local time of day."""
        local = datetime.fromtimestamp(at // 1000, UTC).astimezone(self.zone)
        return f"{local:%H:%M:%S}" + (f"{self.point}{at % 1000 // 100}" if self.tenths else "")

    def stamp(self, text: str) -> str:
        """An RFC 3339 time as `both` writes it."""
        return self.both(round(datetime.fromisoformat(text).timestamp() * 1000))

    def span(self, millis: int, *, up: bool = False, exact: bool = False) -> str:
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


def pairs(digest: str) -> str:
    """A digest in groups of eight, so that it breaks across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
