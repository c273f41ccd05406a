"""The `claim` of outage.json: the owner's statement, the rule, and the result by the rule.

The owner's statement is not measured and cannot be verified; evaluate.py verifies the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.sla import Rule, rule_payload
from mailwatch.config.catalogue import sla
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims.evaluate import Fee, SlaReading, evaluate, owner_fee, sla_outage

ADVICE = "no legal advice"


@dataclass(frozen=True, slots=True)
class OwnerClaim:
    """The owner's statement about the contract, the rule that applies, if any, and the result by it."""

    owner: ClaimSection
    rule: Rule | None = None
    reading: SlaReading | None = None

    @property
    def fee(self) -> Fee | None:
        """The fee of the service. Raises ValueError if it is not an amount for a month or a year."""
        return owner_fee(self._owner_json())

    def as_json(self) -> dict[str, object]:
        """Return the claim in the form of outage.json."""
        result: dict[str, object] = {"note": ADVICE, "stated_by_owner": self._owner_json()}
        if self.rule is None or self.reading is None:
            return result
        rule = {"key": self.rule.key, **rule_payload(self.rule)}
        return result | {"rule": rule, "reading": self.reading.as_json()}

    def _owner_json(self) -> dict[str, object]:
        what_applies = {"targets", "accounts", "provider", "sla"}
        owner = self.owner.model_dump(mode="json", exclude_none=True, exclude=what_applies)
        if not owner["notified"]:
            del owner["notified"]
        return owner


def owner_claim(section: ClaimSection, outage: OutageRecord) -> OwnerClaim:
    """Return the claim for an outage."""
    rule = sla.rule(section.sla) if section.sla else None
    if rule is None:
        return OwnerClaim(section)
    reading = evaluate(rule, outage.kind, [sla_outage(outage)], OwnerClaim(section).fee)
    return OwnerClaim(section, rule, reading)
