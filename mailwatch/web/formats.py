"""How pages write times, durations and shares: each language's own way, and never saying more than is known."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined

from mailwatch import lasting
from mailwatch.models import Millis, parse_rfc3339, rfc3339
from mailwatch.web.words import words


@cache
def drawing(language: str) -> Environment:
    """Return what draws the pages of a language: its words and its ways of writing."""
    made = Environment(
        loader=PackageLoader("mailwatch.web"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    made.globals["w"] = words(language)
    made.filters.update(utc=utc, exact=exact, iso=iso)
    made.filters["span"] = lambda seconds, up=False: span(language, seconds, up)
    made.filters["share"] = lambda ratio, up=False: share(language, ratio, up)
    return made


def iso(at: Millis | str) -> str:
    """Write a time as RFC 3339, whichever way it is given."""
    return at if isinstance(at, str) else rfc3339(at)


def utc(at: Millis | str) -> str:
    """Write a time for people, to the second."""
    millis = parse_rfc3339(at) if isinstance(at, str) else at
    return f"{datetime.fromtimestamp(millis // 1000, UTC):%Y-%m-%d %H:%M:%S}"


def exact(at: Millis) -> str:
    """Write a time for people, to the millisecond."""
    return f"{utc(at)}.{at % 1000:03d}"


def span(language: str, seconds: float, up: bool = False) -> str:
    """Write a duration, cut down or rounded `up`: 1 d 2 h 3 min, and in Italian 1 g 2 h 3 min."""
    told = lasting.span(seconds, up)
    return told.replace(" d", " g").replace(".", ",") if language == "it" else told


def share(language: str, ratio: float | None, up: bool = False) -> str:
    """Write a share in per cent, cut down or rounded `up`: what is not all is never cut to 100."""
    if ratio is None:
        return "–"
    if ratio in (0, 1):
        return f"{ratio * 100:.0f} %"
    told = f"{(math.ceil if up else math.floor)(ratio * 100_000) / 1000:.3f} %"
    return told.replace(".", ",") if language == "it" else told
