"""The texts of the pages in English and Italian, and the formats of times, durations and shares.

en.yaml and it.yaml have the same keys; a test enforces it. No figure claims more than is known.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from typing import Annotated, Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from pydantic import AfterValidator

from mailwatch import i18n
from mailwatch.config import catalogue
from mailwatch.i18n import LANGUAGES, accepted_language
from mailwatch.phrases import translated
from mailwatch.times import Millis, parse_rfc3339, rfc3339
from mailwatch.web.outage_rows import row_renderer

COOKIE = "mailwatch_lang"
THEME_COOKIE = "mailwatch_theme"
THEMES = ("light", "dark")
"""The themes that a visitor can choose; without a choice the visitor's system decides."""
NO_BREAK = "\u00a0"
_UTC = ("UTC", "Etc/UTC", "Etc/UCT", "UCT", "Etc/Universal", "Universal", "Etc/Zulu", "Zulu")


def texts(language: str) -> Mapping[str, Any]:
    """Return the texts in a language, for the templates."""
    return i18n.load_texts("mailwatch.web", f"{language}.yaml").loaded


def choose_language(requested: str, remembered: str, accepted: str) -> str:
    """Return the language requested, remembered in the cookie, or accepted by the browser (RFC 9110, 12.5.4)."""
    for wanted in (requested, remembered):
        if wanted in LANGUAGES:
            return wanted
    return accepted_language(accepted)


@cache
def template_environment(language: str, zone: ZoneInfo) -> Environment:
    """Return the template environment of a language, with its texts, its formats, and local times in `zone`."""
    made = Environment(
        loader=PackageLoader("mailwatch.web"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals.update(w=texts(language), asset=asset)
    made.filters.update(utc=format_utc, exact=format_exact, iso=iso, breakable=breakable, provider=provider_name)
    made.filters["path_part"] = path_part
    made.filters["local"] = lambda at: format_local(language, zone, at)
    made.filters["local_exact"] = lambda at: format_local(language, zone, at, exact=True)
    made.filters["brief"] = lambda at, now: format_brief(language, zone, at, now)
    made.filters["translated"] = lambda message: translated(str(message), language)
    made.filters["minute"] = lambda at, now: format_brief(language, zone, at, now, seconds=False)
    made.filters["local_minute"] = lambda at: format_local_minute(language, zone, at)
    made.filters["stretch"] = lambda start, end: format_stretch(language, zone, start, end)
    made.filters["tick"] = lambda at, form: format_tick(language, zone, at, form)
    made.filters["is_past_day"] = lambda at, now: is_past_day(zone, at, now)
    made.filters["span"] = lambda seconds, up=False: format_duration(language, seconds, up)
    made.filters["share"] = lambda ratio, up=False, decimals=3: format_share(language, ratio, up, decimals)
    made.filters["count"] = lambda number: format_count(language, number)
    made.filters["outage_row"] = row_renderer(made)
    made.filters["megabytes"] = lambda size: format_megabytes(language, size)
    return made


def iso(at: Millis | str) -> str:
    """Return a time as RFC 3339 text; text is returned as it is."""
    return at if isinstance(at, str) else rfc3339(at)


def format_utc(at: Millis | str) -> str:
    """Format a time in UTC for people, to the second."""
    millis = parse_rfc3339(at) if isinstance(at, str) else at
    return f"{datetime.fromtimestamp(millis // 1000, UTC):%Y-%m-%d %H:%M:%S}"


def format_exact(at: Millis) -> str:
    """Format a time in UTC for people, to the millisecond."""
    return f"{format_utc(at)}.{at % 1000:03d}"


def format_local(language: str, zone: ZoneInfo, at: Millis | str, *, exact: bool = False) -> str:
    """Format a time in `zone` for people, to the second, or `exact` to the millisecond: no line breaks in it."""
    millis = parse_rfc3339(at) if isinstance(at, str) else at
    fraction = f"{i18n.decimal_point(language)}{millis % 1000:03d}" if exact else ""
    moment = _local(zone, millis)
    return f"{_date(language, moment)} {moment:%H:%M:%S}{fraction}".replace(" ", NO_BREAK)


def format_local_minute(language: str, zone: ZoneInfo, at: Millis) -> str:
    """Format a time in `zone` for people, to the minute: no line breaks in it."""
    moment = _local(zone, at)
    return f"{_date(language, moment)} {moment:%H:%M}".replace(" ", NO_BREAK)


def format_stretch(language: str, zone: ZoneInfo, start: Millis, end: Millis) -> str:
    """Format a stretch of time in `zone` for people, to the minute; the date of its end only if it is another."""
    first, last = _local(zone, start), _local(zone, end)
    until = f"{last:%H:%M}" if first.date() == last.date() else format_local_minute(language, zone, end)
    return f"{format_local_minute(language, zone, start)}–{until}"


def format_tick(language: str, zone: ZoneInfo, at: Millis, form: str) -> str:
    """Format a time on an axis in `zone`: of a day (`form` 24h) the hour, of a week (7d) the day of the week too,
    else the date.
    """
    moment = _local(zone, at)
    if form == "24h":
        return f"{moment:%H:%M}"
    date = _date(language, moment, year=False)
    return f"{texts(language)['weekdays'][moment.weekday()]} {moment.day}" if form == "7d" else date


def format_brief(language: str, zone: ZoneInfo, at: Millis | str, now: Millis, *, seconds: bool = True) -> str:
    """Format a time in `zone`: its time of day on the day of `now`, else its date."""
    millis = parse_rfc3339(at) if isinstance(at, str) else at
    moment, today = _local(zone, millis), _local(zone, now)
    if moment.date() == today.date():
        return f"{moment:%H:%M:%S}" if seconds else f"{moment:%H:%M}"
    return _date(language, moment, year=moment.year != today.year).replace(" ", NO_BREAK)


def is_past_day(zone: ZoneInfo, at: Millis, now: Millis) -> bool:
    """Return whether a time is not on the day of `now` in `zone`."""
    return _local(zone, at).date() != _local(zone, now).date()


def zone_text(zone: ZoneInfo, at: Millis) -> str:
    """Return the name of a zone with its offset at a time: Europe/Rome (UTC+1)."""
    offset = _local(zone, at).utcoffset()
    minutes = round(offset.total_seconds() / 60) if offset else 0
    if not minutes:
        return "UTC" if zone.key in _UTC else f"{zone.key} (UTC)"
    hours, rest = divmod(abs(minutes), 60)
    return f"{zone.key} (UTC{'+' if minutes > 0 else '-'}{hours}{f':{rest:02d}' if rest else ''})"


def zone_key(zone: ZoneInfo) -> str:
    """Return the name of a zone; UTC has more than one."""
    return "UTC" if zone.key in _UTC else zone.key


def _local(zone: ZoneInfo, millis: Millis) -> datetime:
    return datetime.fromtimestamp(millis // 1000, zone)


def _date(language: str, moment: datetime, *, year: bool = True) -> str:
    return i18n.Formatter(language, ZoneInfo("UTC"), tenths=False).format_date(moment.date(), year=year)


def breakable(name: str) -> Markup:
    """Return a name that a line may break only after its signs, never within a word."""
    return Markup("<wbr>").join(escape(part) for part in re.findall(r"[^@./_-]*[@./_-]+|[^@./_-]+$", name))


def path_part(name: str) -> str:
    """Return a target's name as the end of an address, which `TargetInPath` reads.

    Browsers resolve the parts `.` and `..` (RFC 3986, 5.2.4): in a name with such a part the slashes are escaped,
    so that it is a single part, and a name that is nothing else gets a slash before it.
    """
    dotted = {".", ".."} & set(name.split("/"))
    return quote("/" + name if _DOTS.fullmatch(name) else name, safe="" if dotted else "/")


def _from_path(name: str) -> str:
    return name[1:] if name.startswith("/") and _DOTS.fullmatch(name) else name


_DOTS = re.compile(r"/*\.\.?")
TargetInPath = Annotated[str, AfterValidator(_from_path)]
"""A target's name in the path of a request, as `path_part` writes it."""


def provider_name(key: str) -> str:
    """Return the name of a provider as it writes it; the key itself for one outside the catalogue."""
    known = catalogue.by_key(key) if key else None
    return known.name if known else key


@cache
def asset(name: str) -> str:
    """Return the path of a static file, with a digest of its content: browsers may keep it for long."""
    content = (resources.files("mailwatch.web") / "static" / name).read_bytes()
    return f"static/{name}?v={hashlib.sha256(content).hexdigest()[:8]}"


def format_count(language: str, number: int) -> str:
    """Format a number with a separator of thousands."""
    return f"{number:,}".replace(",", "." if language == "it" else ",")


def format_megabytes(language: str, size: float) -> str:
    """Format a number of bytes in MB, from 10 MB on without decimals."""
    if size >= 9_950_000:
        return f"{format_count(language, round(size / 1e6))}{NO_BREAK}MB"
    return f"{size / 1e6:.1f}".replace(".", i18n.decimal_point(language)) + f"{NO_BREAK}MB"


def format_duration(language: str, seconds: float, up: bool = False) -> str:
    """Format a duration, rounded down or `up`: 1 d 2 h 3 min, in Italian 1 g 2 h 3 min."""
    return i18n.format_duration(seconds, up, language).replace(" ", NO_BREAK)


def format_share(language: str, ratio: float | None, up: bool = False, decimals: int = 3) -> str:
    """Format a share in per cent, rounded down or `up`: rounding down never gives 100 for less than all."""
    if ratio is None:
        return "–"
    if ratio in (0, 1):
        return f"{ratio * 100:.0f}{NO_BREAK}%"
    percent = i18n.percent_of(ratio, decimals, up=up).replace(".", i18n.decimal_point(language))
    return f"{percent}{NO_BREAK}%"
