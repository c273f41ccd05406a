"""The texts of the pages in English and Italian, and the formats of times, durations and shares.

en.yaml and it.yaml have the same keys; a test enforces it. No figure claims more than is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from mailwatch import i18n
from mailwatch.i18n import LANGUAGES, accepted_language
from mailwatch.times import Millis, parse_rfc3339, rfc3339

COOKIE = "mailwatch_lang"


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
def template_environment(language: str) -> Environment:
    """Return the template environment of a language, with its texts and formats."""
    made = Environment(
        loader=PackageLoader("mailwatch.web"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals["w"] = texts(language)
    made.filters.update(utc=format_utc, exact=format_exact, iso=iso)
    made.filters["span"] = lambda seconds, up=False: format_duration(language, seconds, up)
    made.filters["share"] = lambda ratio, up=False: format_share(language, ratio, up)
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


def format_duration(language: str, seconds: float, up: bool = False) -> str:
    """Format a duration, rounded down or `up`: 1 d 2 h 3 min, in Italian 1 g 2 h 3 min."""
    return i18n.format_duration(seconds, up, language)


def format_share(language: str, ratio: float | None, up: bool = False) -> str:
    """Format a share in per cent, rounded down or `up`: rounding down never gives 100 for less than all."""
    if ratio is None:
        return "–"
    if ratio in (0, 1):
        return f"{ratio * 100:.0f} %"
    return f"{i18n.percent_of(ratio, 3, up=up).replace('.', i18n.decimal_point(language))} %"
