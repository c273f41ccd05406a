"""The texts of the reports and the letter, and the formats of names and digests.

it.yaml and en.yaml have the same keys; a test enforces it.
"""

from __future__ import annotations

from functools import cache
from zoneinfo import ZoneInfo

from mailwatch.analysis.outage import Outage
from mailwatch.config import catalogue
from mailwatch.config.catalogue.operators import Operator, operator
from mailwatch.i18n import Formatter, Texts, load_texts

Rows = list[list[str]]
"""Rows of a table, with equal numbers of cells."""
MAX_TENTHS_MS = 10_000
"""Whole seconds say too little of shorter outages only; the exact times are in the annex."""


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


def provider_and_company(key: str | None, w: Texts) -> str:
    """Return the common name of a provider, with its company where the company's own terms were seen."""
    company = operator(key)
    name = provider_name(key)
    if company is None or company.addressee is None:
        return name
    return w["provider_company"].format(name=name, company=company.addressee)


def company_text(company: Operator, w: Texts) -> str:
    """Return a company in one line: name, office and tax code, as far as they are known."""
    parts = [fact.value for fact in (company.legal_name, company.registered_office) if fact is not None]
    if company.tax_code is not None:
        parts.append(w["company_tax_code"].format(code=company.tax_code.value))
    return ", ".join(parts)


def operator_text(key: str | None, writing: Formatter) -> str:
    """Return what the catalogue knows of a provider's company, with the sources; "" if nothing."""
    company = operator(key)
    if company is None:
        return ""
    w = texts(writing.language)
    return w["company_from"].format(company=company_text(company, w), source=sources_text(company, writing))


def sources_text(company: Operator, writing: Formatter) -> str:
    """Return the sources of what is known of a company, each with the day on which it was seen."""
    seen = {fact.source_url: writing.format_date(fact.seen_on) for fact in company.facts()}
    w = texts(writing.language)
    return "; ".join(w["company_seen"].format(source=source, date=day) for source, day in seen.items())


def mailbox_of(target: str) -> str | None:
    """Return the address of a target of an account (`mario@libero.it/imap`); None for other names.

    >>> mailbox_of("mario@libero.it/imap"), mailbox_of("office webmail")
    ('mario@libero.it', None)
    """
    name = target.rpartition("/")[0] or target
    return name if "@" in name else None


def digest_groups(digest: str) -> str:
    """Return a digest in groups of eight digits, so that it can break across lines."""
    return " ".join(digest[at : at + 8] for at in range(0, len(digest), 8))
