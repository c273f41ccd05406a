"""The claims section: the owner's data about a contract, and the provider's promise that applies to it.

Names of people appear here and in the owner's report and letter, nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema, model_validator

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.config.catalogue import sla
from mailwatch.config.errors import ConfigProblem, FieldError, KeyPath
from mailwatch.config.types import Address, Label, Section, Text
from mailwatch.config.yaml_file import YamlDocument


def _day(value: object) -> date:
    try:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
            raise ValueError
        return date.fromisoformat(value)
    except ValueError:
        raise FieldError("is not a date; write for example 2026-01-28") from None


def _amount(value: object) -> Decimal:
    try:
        # YAML made a binary fraction of it; its shortest form is what the owner wrote.
        number = Decimal(str(value)) if isinstance(value, int | float | str) else Decimal("NaN")
    except InvalidOperation:
        number = Decimal("NaN")
    if isinstance(value, bool) or not number.is_finite() or not 0 <= number <= 1_000_000 or number * 100 % 1:
        raise FieldError("is not an amount; write for example 9.99")
    return number


def _currency(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Z]{3}", value):
        raise FieldError("is not a currency; write its three letters, for example EUR")
    return value


def _promise(value: object) -> str:
    if not isinstance(value, str) or sla.rule(value) is None:
        near = get_close_matches(str(value).casefold(), list(sla.rules()), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"use one of {', '.join(sla.rules())}, or remove it"
        raise FieldError(f"is not in the catalogue; {hint}")
    return value


Day = Annotated[
    date,
    BeforeValidator(_day),
    PlainSerializer(lambda day: day.isoformat(), return_type=str),
    WithJsonSchema({"type": "string", "format": "date"}),
]
Amount = Annotated[
    Decimal,
    BeforeValidator(_amount),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": ["number", "string"], "examples": [9.99]}),
]
Currency = Annotated[str, BeforeValidator(_currency)]
Promise = Annotated[str, BeforeValidator(_promise)]
Words = Annotated[str, Field(min_length=1, max_length=2000)]


class HolderSection(Section):
    """The contract holder."""

    name: Annotated[Text, Field(min_length=1)]
    """Name and surname, or the company."""
    tax_code: Text | None = None
    """Codice fiscale or VAT number."""
    address: Text | None = None
    """The address of the holder."""
    email: Address | None = None
    """Where the answer may go; better not the mailbox that was down."""
    pec: Address | None = None
    """A certified mailbox, if there is one."""


class FeeSection(Section):
    """What the service costs."""

    amount: Amount
    """The amount for one period, with tax; 0 for a free mailbox."""
    currency: Currency = "EUR"
    """Three letters."""
    period: Literal["month", "year"]
    """The period of the amount."""


class NotifiedSection(Section):
    """One message to the provider."""

    date: Day
    """When it was sent."""
    means: Annotated[Text, Field(min_length=1)]
    """PEC, registered letter, form, telephone."""
    to: Text | None = None
    """The recipient: an address, an office."""
    reference: Text | None = None
    """Ticket or receipt number."""
    answer: Words | None = None
    """The answer, and its date."""


class ClaimSection(Section):
    """A contract, and what it covers: targets, accounts or a provider; the first match applies."""

    targets: Annotated[tuple[Label, ...], Field(min_length=1)] | None = None
    """Names of targets."""
    accounts: Annotated[tuple[Address, ...], Field(min_length=1)] | None = None
    """Addresses of accounts, with all their channels."""
    provider: Label | None = None
    """Everything at a provider that no other claim names."""
    holder: HolderSection | None = None
    """The contract holder."""
    plan: Text | None = None
    """The name of the plan; "free" is one."""
    contract_number: Text | None = None
    """Contract or customer number."""
    fee: FeeSection | None = None
    """What it costs."""
    since: Day | None = None
    """The date the contract began."""
    sla: Promise | None = None
    """Which promise of the catalogue applies: docs/how-to/claims.md."""
    notified: tuple[NotifiedSection, ...] = ()
    """What was sent to the provider, and what it answered."""

    @model_validator(mode="after")
    def _for_something(self) -> Self:
        if self.targets is None and self.accounts is None and self.provider is None:
            raise FieldError("covers nothing; add targets, accounts or provider")
        return self


def find_claim(claims: tuple[ClaimSection, ...], outage: OutageRecord) -> ClaimSection | None:
    """Return the claim for the target of an outage: by target name, account or provider."""
    target, account = outage.target, outage.target.rpartition("/")[0]
    for fits in (
        lambda claim: target in (claim.targets or ()),
        lambda claim: account in (claim.accounts or ()),
        lambda claim: claim.provider is not None and claim.provider == outage.provider,
    ):
        for claim in claims:
            if fits(claim):
                return claim
    return None


def duplicate_claims(document: YamlDocument, claims: tuple[ClaimSection, ...]) -> Iterator[ConfigProblem]:
    """Yield a problem for each name that two claims cover."""
    seen: dict[tuple[str, str], KeyPath] = {}
    for number, claim in enumerate(claims):
        named = [("targets", one) for one in claim.targets or ()] + [("accounts", a) for a in claim.accounts or ()]
        for field, name in [*named, *([("provider", claim.provider)] if claim.provider else [])]:
            place: KeyPath = ("claims", number, field)
            if (field, name) in seen:
                first = document.line(seen[field, name])
                yield document.problem(place, f"'{name}' already has a claim on line {first}; keep one")
            seen.setdefault((field, name), place)
