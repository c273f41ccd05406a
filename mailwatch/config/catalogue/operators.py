"""The companies behind providers, for letters and reports. `operators.tsv` names the source and day of each fact.

A wrong company in a legal letter is worse than a blank: what no source gave is None, and what was not seen in the
company's own terms for this mail is not `checked`.

>>> operator("libero").legal_name.value, operator("libero").pec
('Italiaonline S.p.A.', None)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import resources

COLUMNS = ("key", "fact", "value", "source_url", "seen_on", "checked")
FACTS = ("legal_name", "registered_office", "tax_code", "pec", "complaints")
_CHECKED = {"yes": True, "no": False}


@dataclass(frozen=True, slots=True)
class OperatorFact:
    """A fact about a company, where and when it was seen, and whether that was the company's own terms."""

    value: str
    source_url: str
    seen_on: date
    checked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """The company that a provider's mail is a contract with. Facts that no source gave are None."""

    key: str
    legal_name: OperatorFact | None = None
    registered_office: OperatorFact | None = None
    tax_code: OperatorFact | None = None
    pec: OperatorFact | None = None
    complaints: OperatorFact | None = None

    @property
    def addressee(self) -> str | None:
        """The legal name that documents may print: one that the company's own text gives, or None."""
        return self.legal_name.value if self.legal_name is not None and self.legal_name.checked else None

    def facts(self) -> tuple[OperatorFact, ...]:
        """Return the known facts: name, office, tax code, PEC, complaints."""
        every = (self.legal_name, self.registered_office, self.tax_code, self.pec, self.complaints)
        return tuple(fact for fact in every if fact is not None)


@cache
def operators() -> Mapping[str, Operator]:
    """Load the companies, once, by the keys of their providers."""
    return parse(resources.files(__package__ or "").joinpath("operators.tsv").read_text(encoding="utf-8"))


def operator(key: str | None) -> Operator | None:
    """Return the company behind a provider, or None."""
    return operators().get(key or "")


def parse(text: str) -> Mapping[str, Operator]:
    """Parse tab-separated facts. Raises ValueError with the line number."""
    found: dict[str, dict[str, OperatorFact]] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        cells = tuple(line.split("\t"))
        if not line or line.startswith("#") or cells == COLUMNS:
            continue
        try:
            key, name, fact = _row(cells)
            if name in found.setdefault(key, {}):
                raise ValueError(f"{key} has two values of {name}")
            found[key][name] = fact
        except ValueError as error:
            raise ValueError(f"operators line {number}: {error}") from error
    return {key: Operator(key=key, **facts) for key, facts in found.items()}


def _row(cells: tuple[str, ...]) -> tuple[str, str, OperatorFact]:
    if len(cells) != len(COLUMNS) or not all(cells):
        raise ValueError(f"expected {len(COLUMNS)} columns without blanks, got {len(cells)}")
    key, name, value, source_url, seen_on, checked = cells
    if name not in FACTS:
        raise ValueError(f"{name} is no fact; use one of {', '.join(FACTS)}")
    if not source_url.startswith("https://") or checked not in _CHECKED:
        raise ValueError("the source is an https address, and checked is yes or no")
    return key, name, OperatorFact(value, source_url, date.fromisoformat(seen_on), _CHECKED[checked])
