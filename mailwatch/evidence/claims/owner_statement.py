"""The `claim` of outage.json: what the owner says, by which rule it is read, and the reading.

What the owner says is not measured and cannot be checked; format.py checks the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mailwatch.analysis.sla import written_rule
from mailwatch.config.catalogue import sla
from mailwatch.config.schema_claims import ClaimSection
from mailwatch.evidence.claims.evaluate import read, stretch
from mailwatch.evidence.claims.format import fee

ADVICE = "no legal advice"


def claim(section: ClaimSection, outage: Mapping[str, Any]) -> dict[str, Any]:
    """Return the claim of an outage in its public JSON."""
    said = section.model_dump(mode="json", exclude_none=True, exclude={"targets", "accounts", "provider", "sla"})
    if not said["notified"]:
        del said["notified"]
    told: dict[str, Any] = {"note": ADVICE, "stated_by_owner": said}
    rule = sla.rule(section.sla) if section.sla else None
    if rule is None:
        return told
    reading = read(rule, outage["kind"], [stretch(outage)], fee(said))
    return told | {"rule": {"key": rule.key, **written_rule(rule)}, "reading": reading}
