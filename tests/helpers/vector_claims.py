"""Vectors of claims: rules of providers, and their reading for an outage."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.sla import read_rule
from mailwatch.evidence.bundle import pretty_json
from mailwatch.evidence.claims.evaluate import evaluate, owner_fee, sla_outage
from mailwatch.store import Reader, queries
from mailwatch.times import Millis
from tests.helpers.bundle_files import Files
from tests.helpers.ledger_factory import MINUTE
from tests.helpers.vector_cases import Change, in_json, put
from tests.helpers.vector_ledger import VectorLedger

NEW_YEAR: Millis = 1_798_758_000_000
"""Midnight in Rome."""
OWNER: dict[str, Any] = {"fee": {"amount": "119.90", "currency": "EUR", "period": "year"}, "plan": "all"}
MONTHLY: dict[str, Any] = {
    "key": "lab", "name": "Lab", "source_url": "https://example.org/sla", "seen_on": "2026-11-30",
    "verified": True, "channels": ["imap", "smtp"], "target": "99.99", "minimum_minutes": 1,
    "single_event_percent": "50",
    "tiers": [
        {"below": "99.99", "percent": "12.5"}, {"below": "99.98", "percent": "25"}, {"below": "90", "days": 10},
    ],
    "deadline": {"month_end": 1}, "definition": {"en": "time down", "it": "tempo"},
}  # fmt: skip
LONGER: dict[str, Any] = {
    "key": "lab", "name": "Lab", "source_url": "https://example.org/sla", "seen_on": "2026-11-30",
    "verified": False, "target": "99.9", "window": "quadrimestre", "scheduled_excluded": True,
    "tiers": [{"below": "99.999", "percent": "10"}], "deadline": {"days": 30, "after": "outage"},
}  # fmt: skip


def claim_of(rule: dict[str, Any], owner: dict[str, Any], outage: OutageRecord) -> dict[str, Any]:
    """The claim of an outage, with the reading of a rule."""
    read = read_rule(rule["key"], {key: value for key, value in rule.items() if key != "key"})
    reading = evaluate(read, outage.kind, [sla_outage(outage)], owner_fee(owner)).as_json()
    return {"stated_by_owner": owner, "rule": rule, "reading": reading}


def _claimed(ledger: VectorLedger, rule: dict[str, Any]) -> Files:
    files = ledger.outage()
    with contextlib.closing(Reader.open(ledger.folder)) as reader:
        record = max(queries.outage_records(reader), key=lambda one: one.first_index)
    stated = json.loads(files["outage.json"])
    stated["claim"] = claim_of(rule, OWNER, record)
    return files | {"outage.json": pretty_json(stated)}


def _monthly(ledger: VectorLedger) -> Files:
    """Over the end of a year."""
    ledger.at = NEW_YEAR - 8 * MINUTE
    ledger.offset = ledger.at - 2_000_000
    ledger.observe("++" + "-" * 18 + "+-++")
    return _claimed(ledger, MONTHLY)


def _longer(ledger: VectorLedger) -> Files:
    ledger.observe("+---++")
    return _claimed(ledger, LONGER)


GOOD: dict[str, tuple[Callable[[VectorLedger], Files], str]] = {
    "claim": (_monthly, "a rule by the month is read for an outage over the end of a year"),
    "claim-quadrimestre": (_longer, "a rule by four months, without channels, not verified"),
}
BAD: dict[str, tuple[str, Change, str, str]] = {
    "claim-down": (
        "claim",
        in_json("outage.json", put("claim/reading/windows/0/counted/down/min", 60)),
        "outage",
        "a minute more counts by the rule",
    ),
    "claim-amount": (
        "claim",
        in_json("outage.json", put("claim/reading/windows/1/counted/tier/surely/amount", "9.99")),
        "outage",
        "more money is read out of the rule",
    ),
    "claim-deadline": (
        "claim-quadrimestre",
        in_json("outage.json", put("claim/reading/windows/0/deadline", "2027-03-31")),
        "outage",
        "the deadline is later than the rule's",
    ),
    "claim-rule": (
        "claim",
        in_json("outage.json", put("claim/rule/target", "50")),
        "outage",
        "the reading is that of another rule",
    ),
}
