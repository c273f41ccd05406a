"""Outage records: of what the detector found, and made by hand."""

from __future__ import annotations

from typing import Any

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject, outage_payload
from mailwatch.analysis.public_json import outage_json
from mailwatch.model import Kind
from mailwatch.times import Millis

SUBJECT = OutageSubject(provider="lab", kind=Kind.IMAP, vantage_point="here")


def record_of(
    outage: Outage, provider: str = "lab", kind: Kind = Kind.IMAP, vantage_point: str = "here"
) -> OutageRecord:
    return OutageRecord.of(outage, OutageSubject(provider=provider, kind=kind, vantage_point=vantage_point))


def payload_of(
    outage: Outage, provider: str = "lab", kind: Kind = Kind.IMAP, vantage_point: str = "here"
) -> dict[str, Any]:
    return {**outage_payload(record_of(outage, provider, kind, vantage_point))}


def json_of(
    outage: Outage, provider: str = "lab", kind: Kind = Kind.IMAP, vantage_point: str = "here"
) -> dict[str, Any]:
    return {**outage_json(record_of(outage, provider, kind, vantage_point))}


def made_record(
    first_bad: Millis, last_bad: Millis, first_good: Millis | None = None, **more: Any
) -> OutageRecord:
    """An outage made by hand, with its certain time as the minimum duration."""
    facts: dict[str, Any] = {
        "id": "0123456789ab",
        "target": "lab-imap",
        "provider": SUBJECT.provider,
        "kind": SUBJECT.kind,
        "vantage_point": SUBJECT.vantage_point,
        "last_good": None,
        "first_bad": first_bad,
        "last_bad": last_bad,
        "first_good": first_good,
        "down": 3,
        "up": 0,
        "unknown": 0,
        "largest_gap": 0,
        "unobserved": 0,
        "causes": {"timeout": 3},
        "phases": {"connect": 3},
        "replies": (),
        "first_index": 0,
        "last_index": 0,
        "first_detail": "",
        "durations": Durations(last_bad - first_bad, None),
    }
    return OutageRecord(**{**facts, **more})
