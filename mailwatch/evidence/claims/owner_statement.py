"""The `owner_claim` of outage.json: what the owner says, by which rule it is read, and the reading.

What the owner says is not measured and cannot be checked; format.py checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailwatch.analysis.sla import rule_payload
from mailwatch.config.catalogue import sla
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims.evaluate import evaluate, sla_outage
from mailwatch.evidence.claims.format import owner_fee

ADVICE = "no legal advice"


def owner_claim(section: ClaimSection, outage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claim of an outage in its public JSON."""
    owner = section.model_dump(mode="json", exclude_none=True, exclude={"targets", "accounts", "provider", "sla"})
    if not owner["notified"]:
        del owner["notified"]
    claim_json: dict[str, Any] = {"note": ADVICE, "stated_by_owner": owner}
    rule = sla.rule(section.sla) if section.sla else None
    if rule is None:
        return claim_json
    reading = evaluate(rule, outage["kind"], [sla_outage(outage)], owner_fee(owner))
    return claim_json | {"rule": {"key": rule.key, **rule_payload(rule)}, "reading": reading}
