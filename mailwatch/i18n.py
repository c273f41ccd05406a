"""Texts, and formats of durations, shares, dates and times, by language, for all that people read.

Texts are in YAML files beside the code that prints them, one file a language, all with the same keys. A lower
bound is rounded down to the printed precision, and an upper bound is rounded up: no figure claims more than is
known.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from importlib import resources
from typing import Literal, get_args
from zoneinfo import ZoneInfo

from mailwatch.times import Millis, parse_rfc3339

Language = Literal["it", "en"]
LANGUAGES: tuple[str, ...] = get_args(Language)
"""The languages of all texts and documents. Where none is requested, it is English."""


class Texts:
    """The texts of one language by key: a text, a section with texts of its own, or lines.

    A key without a value of the requested kind raises KeyError.
    """

    __slots__ = ("loaded",)

    def __init__(self, loaded: Mapping[str, object]) -> None:
        self.loaded = loaded

    def __getitem__(self, key: str) -> str:
        """Return the text of a key."""
        found = self.loaded[key]
        if not isinstance(found, str):
            raise KeyError(f"{key} is not a text")
        return found

    def __contains__(self, key: object) -> bool:
        """Return whether the key has a text, a section or lines."""
        return key in self.loaded

    def keys(self) -> Collection[str]:
        """Return the keys of all texts, sections and lines."""
        return self.loaded.keys()

    def get(self, key: str, otherwise: str) -> str:
        """Return the text of a key, or `otherwise` if there is none."""
        return self[key] if key in self else otherwise  # noqa: SIM401  This is `get`.

    def section(self, key: str) -> Texts:
        """Return the texts below a key."""
        found = self.loaded[key]
        if not isinstance(found, dict):
            raise KeyError(f"{key} is not a section")
        return Texts(found)

    def is_section(self, key: str) -> bool:
        """Return whether a key has texts below it."""
        return isinstance(self.loaded[key], dict)

    def lines(self, key: str) -> list[str]:
        """Return the lines of a key."""
        found = self.loaded[key]
        if not isinstance(found, list):
            raise KeyError(f"{key} has no lines")
        return [str(line) for line in found]

    def single(self) -> dict[str, str]:
        """Return the texts outside of sections, for a template."""
        return {key: text for key, text in self.loaded.items() if isinstance(text, str)}

    def with_texts(self, other: Texts) -> Texts:
        """Return these texts, overridden by those of another file."""
        return Texts({**self.loaded, **other.loaded})


@cache
def load_texts(package: str, file: str) -> Texts:
    """Load a YAML file of texts from a package."""
    import yaml  # Reading YAML takes time, and a health check needs no text of a file.

    loaded: dict[str, object] = yaml.safe_load((resources.files(package) / file).read_text(encoding="utf-8"))
    return Texts(loaded)


def environment_language(environment: Mapping[str, str]) -> str:
    """Return the language of a POSIX environment: Italian if it requests that, else English."""
    named = next((environment[key] for key in ("LC_ALL", "LC_MESSAGES", "LANG") if environment.get(key)), "")
    return "it" if named.startswith("it") else "en"


def accepted_language(header: str) -> str:
    """Return the language that a browser prefers by Accept-Language (RFC 9110, section 12.5.4), else English."""
    best, weight = "en", 0.0
    for part in header[:400].split(","):
        tag, _, quality = part.strip().partition(";q=")
        language = tag.strip().lower().partition("-")[0]
        try:
            value = float(quality or 1)
        except ValueError:
            continue
        if language in LANGUAGES and value > weight:
            best, weight = language, value
    return best


def decimal_point(language: str) -> str:
    """Return the decimal separator of a language."""
    return "," if language == "it" else "."


def round_to(number: int, unit: int, *, up: bool) -> int:
    """Round to a multiple of `unit`: down, or `up` to the next."""
    return (-(-number // unit) if up else number // unit) * unit


def format_duration(seconds: float, round_up: bool = False, language: str = "en") -> str:
    """Format a duration: 12 ms, 3.4 s, 5 min 3 s, 2 h 5 min, 3 d 4 h 7 min; in Italian 3,4 s and 3 g 4 h 7 min.

    A minimum is rounded down and a maximum up (`round_up`), so that neither claims too much.
    """
    text = _format_duration(seconds, round_up)
    return text.replace(" d", " g").replace(".", ",") if language == "it" else text


def _format_duration(seconds: float, round_up: bool) -> str:
    if seconds == 0:
        return "0 s"
    if seconds < 1:
        millis = math.ceil(seconds * 1000) if round_up else math.floor(seconds * 1000)
        return f"{millis} ms" if millis else "<1 ms"
    millis = round(seconds * 1000)
    for below, step in ((60_000, 100), (3_600_000, 1000), (math.inf, 60_000)):
        if millis < below:
            millis = round_to(millis, step, up=round_up)
            break
    if millis < 60_000:
        return f"{millis / 1000:.1f} s"
    whole = millis // 1000
    units = ((whole // 86_400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s"))
    return " ".join(f"{count} {unit}" for count, unit in units if count)


def percent_of(share: float, decimals: int, *, up: bool = False) -> str:
    """Format a share between 0 and 1 as per cent, without the sign: rounded down to `decimals`, or `up`.

    A share below 1 is never rounded down to 100.
    """
    # Its shortest text: the float's own noise would make 0.9 slightly more than that.
    exact = Decimal(repr(share)) * 100
    return str(exact.quantize(Decimal(1).scaleb(-decimals), ROUND_CEILING if up else ROUND_FLOOR))


MONTH_NAMES = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
"""06/07/2026 is in July for some readers of English, in June for others; 6 Jul 2026 is unambiguous."""


@dataclass(frozen=True, slots=True)
class Formatter:
    """The formats of a report or a letter: language, time zone, and `tenths` of a second or whole ones."""

    language: str
    zone: ZoneInfo
    tenths: bool

    def number(self, text: str) -> str:
        """Return a decimal number, given with a point, in the language's form."""
        return text.replace(".", decimal_point(self.language))

    def format_date(self, day: dt.date, *, year: bool = True) -> str:
        """Return a date, with or without its year."""
        if self.language == "it":
            return f"{day:%d/%m/%Y}" if year else f"{day:%d/%m}"
        return f"{day.day} {MONTH_NAMES[day.month - 1]}" + (f" {day.year}" if year else "")

    def local_date(self, at: Millis) -> str:
        """Return the local date of a time."""
        return self.format_date(_utc(at).astimezone(self.zone))

    def format_share(self, share: float, *, up: bool = False) -> str:
        """Return a share as per cent, rounded down, or `up`, to a thousandth: 100 % means exactly all."""
        return f"{self.number(percent_of(share, 3, up=up))} %"

    def format_page_share(self, share: float, *, up: bool = False) -> str:
        """Return a share for a page, rounded down, or `up`: below 99 % a tenth of a per cent is enough."""
        if share < 0.99:
            return f"{self.number(percent_of(share, 1, up=up))} %"
        return self.format_share(share, up=up)

    def local_and_utc(self, at: Millis, *, up: bool = False) -> str:
        """Return a time as local time, with UTC in brackets, and the UTC date if it differs; once if they agree.

        It is rounded down to the printed precision, or `up`: what began by then also began by the printed time.
        """
        utc = _utc(self._rounded(at, up))
        local = utc.astimezone(self.zone)
        if not local.utcoffset():
            return f"{self.format_date(local)} {self._time(local)}\u00a0UTC"
        other = "" if utc.date() == local.date() else f"{self.format_date(utc, year=utc.year != local.year)} "
        # No line may break between a time and its zone.
        bracket = f"({other}{self._time(utc)} UTC)".replace(" ", "\u00a0")
        return f"{self.format_date(local)} {self._time(local)} {bracket}"

    def format_time(self, at: Millis, *, up: bool = False) -> str:
        """Return the local time of day."""
        return self._time(_utc(self._rounded(at, up)).astimezone(self.zone))

    def local_and_utc_of(self, text: str, *, up: bool = False) -> str:
        """Return an RFC 3339 time in the format of `local_and_utc`."""
        return self.local_and_utc(parse_rfc3339(text), up=up)

    def format_duration(self, millis: int, *, up: bool = False, exact: bool = False) -> str:
        """Return a duration, rounded down to the printed precision, or `up`, so that it never claims too much.

        Tenths of a second below a second, and below a minute if `tenths`; seconds below an hour and if `exact`,
        else minutes.
        """
        fine = millis < (60_000 if self.tenths else 1000)
        unit = 100 if fine else 1000 if exact or millis < 3_600_000 else 60_000
        millis = round_to(millis, unit, up=up)
        if millis < 60_000:
            return self.number(f"{millis / 1000:.1f} s") if millis % 1000 or self.tenths else f"{millis // 1000} s"
        minutes, seconds = divmod(millis // 1000, 60)
        if minutes < 60:
            return f"{minutes} min {seconds:02d} s"
        hours, minutes = divmod(minutes, 60)
        days, hours = divmod(hours, 24)
        day = ("giorno" if days == 1 else "giorni") if self.language == "it" else ("day" if days == 1 else "days")
        text = f"{days} {day} {hours} h {minutes:02d} min" if days else f"{hours} h {minutes:02d} min"
        return f"{text} {seconds:02d} s" if exact else text

    def is_utc(self, year: int) -> bool:
        """Return whether the zone's time is UTC all through a year."""
        return not any(datetime(year, month, 1, tzinfo=self.zone).utcoffset() for month in (1, 7))

    def _rounded(self, at: Millis, up: bool) -> Millis:
        return round_to(at, 100 if self.tenths else 1000, up=up)

    def _time(self, at: datetime) -> str:
        tenth = f"{decimal_point(self.language)}{at.microsecond // 100_000}" if self.tenths else ""
        return f"{at:%H:%M:%S}{tenth}"


def _utc(at: Millis) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=at)
