"""The texts of the reports and the letter, and how they write names and digests.

it.yaml and en.yaml have the same keys; a test keeps it so.
"""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo

from mailwatch.analysis.outage import Outage
from mailwatch.config import catalogue
from mailwatch.i18n import Formatter, Texts, load_texts

Rows = list[list[str]]
"""Rows of a table, each of the same number of cells."""
MAX_TENTHS_MS = 600_000
"""In a shorter outage the tenths of a second matter; in a longer one they only disturb."""


@cache
def texts(language: str, report: str = "") -> Texts:
    """Return the texts of a language; `causes`, `phases` and `reasons` by the values of the models.

    `report`: "" is the report of an outage; another ("period", "joint") has its own words on top of these.
    """
    if not report:
        return load_texts("mailwatch.evidence.report", f"{language}.yaml")
    return texts(language).with_texts(load_texts("mailwatch.evidence.report", f"{report}.{language}.yaml"))


def letter_texts(language: str) -> Texts:
    """Return the texts of the letter."""
    return load_texts("mailwatch.evidence.letter", f"{language}.yaml")


def outage_formatter(outage: Outage, language: str, zone: ZoneInfo) -> Formatter:
    """Choose how to write of one outage."""
    end = outage.first_good or outage.last_bad
    return Formatter(language, zone, end - outage.first_bad < MAX_TENTHS_MS)


def provider_name(key: str | None) -> str:
    """What people call a provider of the catalogue; its key, or a dash, where it is none."""
    known = catalogue.by_key(key or "")
    return known.name if known else key or "–"


def digest_groups(digest: str) -> str:
    """A digest in groups of eight, so that it breaks across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
