"""The texts of the reports and the letter, and the formats of names and digests.

it.yaml and en.yaml have the same keys; a test enforces it.
"""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo

from mailwatch.analysis.outage import Outage
from mailwatch.config import catalogue
from mailwatch.i18n import Formatter, Texts, load_texts

Rows = list[list[str]]
"""Rows of a table, with equal numbers of cells."""
MAX_TENTHS_MS = 600_000
"""Tenths of a second matter in shorter outages only."""


@cache
def texts(language: str, report: str = "") -> Texts:
    """Return the texts in a language; `causes`, `phases` and `reasons` are keyed by enum values (mailwatch.model).

    `report`: "" for an outage report; "period" and "joint" add their own texts to these.
    """
    if not report:
        return load_texts("mailwatch.evidence.report", f"{language}.yaml")
    return texts(language).with_texts(load_texts("mailwatch.evidence.report", f"{report}.{language}.yaml"))


def letter_texts(language: str) -> Texts:
    """Return the texts of the letter."""
    return load_texts("mailwatch.evidence.letter", f"{language}.yaml")


def outage_formatter(outage: Outage, language: str, zone: ZoneInfo) -> Formatter:
    """Return the formatter for one outage."""
    end = outage.first_good or outage.last_bad
    return Formatter(language, zone, end - outage.first_bad < MAX_TENTHS_MS)


def provider_name(key: str | None) -> str:
    """Return the common name of a catalogue provider; the key itself, or a dash, for others."""
    known = catalogue.by_key(key or "")
    return known.name if known else key or "–"


def digest_groups(digest: str) -> str:
    """Return a digest in groups of eight digits, so that it can break across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
