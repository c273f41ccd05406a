"""The form of the `claim` of outage.json, for the modules that make, check or print it; it needs no config.

The reading follows from the outage, the rule and the fee that stand beside it, and `check_claim` computes it
again.
Whether the rule is the provider's, only its source shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from mailwatch.analysis.sla import read_rule
from mailwatch.evidence.claims.evaluate import Fee, evaluate, sla_outage


def owner_fee(owner: Mapping[str, Any]) -> Fee | None:
    """Read the fee of what the owner says. Raises ValueError."""
    given = owner.get("fee")
    if given is None:
        return None
    try:
        made = Fee(Decimal(given["amount"]), str(given["currency"]), str(given["period"]))
    except (KeyError, TypeError, ValueError, InvalidOperation):
        raise ValueError("the fee is no amount, currency and period") from None
    # The exponent: exact arithmetic with 1e-99999999 would never end.
    exponent = made.amount.as_tuple().exponent
    if (
        not isinstance(exponent, int)
        or exponent < -2
        or not 0 <= made.amount <= 1_000_000
        or made.period not in ("month", "year")
    ):
        raise ValueError("the fee is no amount of a month or a year")
    return made


def check_claim(claim: Mapping[str, Any], outage: Mapping[str, Any]) -> str:
    """Return in words what of a claim was checked. Raises ValueError when the reading does not follow."""
    if not isinstance(claim, dict) or not isinstance(claim.get("stated_by_owner"), dict):
        raise ValueError("it does not say what the owner states")
    if claim.keys() - {"note", "stated_by_owner", "rule", "reading"} or ("rule" in claim) != ("reading" in claim):
        raise ValueError("it is not a statement, a rule and its result")
    if "rule" not in claim:
        return "a statement of the owner, not a measurement"
    given = claim["rule"]
    if not isinstance(given, dict) or not isinstance(given.get("key"), str):
        raise ValueError("its rule has no key")
    rule = read_rule(given["key"], {key: value for key, value in given.items() if key != "key"})
    found = evaluate(rule, str(outage["kind"]), [sla_outage(outage)], owner_fee(claim["stated_by_owner"]))
    if claim["reading"] != found:
        raise ValueError(f"the result does not follow from the outage and the rule {rule.key[:40]}")
    doubt = "" if rule.verified else ", which is not verified"
    return (
        "a statement of the owner, not a measurement; its result follows from the outage and the rule "
        f"{rule.key[:40]}{doubt}"
    )
