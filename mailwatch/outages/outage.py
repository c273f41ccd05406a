"""An outage as a fact: what is kept of it, and how it is told."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.models import Kind, Millis, rfc3339
from mailwatch.outages.tally import Look

DURATIONS = ("min", "max", "estimate", "uncertainty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """A measured time in which a target was down; open while `first_good` is None.

    1. `down`, `up` and `unknown` count the looks between the last good and the first good one; without a
       last good one, from the first bad one on. Failures that were answered before they opened it do not count.
    2. `largest_gap` is the longest stretch from the end of a conclusive look (up or down) to the start of
       the next: a shorter recovery cannot be excluded.
    3. `unobserved` is the total length of those stretches that hold an unknown look or a gap, each counted
       whole: nobody can say how long before and after it we would have seen nothing.
    4. `causes` and `phases` count the bad looks; `replies` are the last words of the server on them.
    5. `proven_afterwards`: the looks were unknown when they were taken (proven.py).
    """

    id: str
    target: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    down: int
    up: int
    unknown: int
    largest_gap: Millis
    unobserved: Millis
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    replies: tuple[str, ...]
    first_index: int
    last_index: int
    first_detail: str
    proven_afterwards: bool = False


def outage_id(kind: str, bad: Look) -> str:
    """Name an outage after its first bad look: 12 hex digits that any replay gives again."""
    text = "\n".join(filter(None, (kind, bad.target, str(bad.index), str(bad.start))))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def outage_payload(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage as the ledger keeps it: whole numbers only, since floats have no canonical form."""
    payload = {
        "id": outage.id,
        "target": outage.target,
        "provider": provider,
        "kind": kind.value,
        "vantage_point": vantage_name,
        "state": "open" if outage.first_good is None else "closed",
        "last_good": outage.last_good,
        "first_bad": outage.first_bad,
        "last_bad": outage.last_bad,
        "first_good": outage.first_good,
        "duration_ms": durations(outage.last_good, outage.first_bad, outage.last_bad, outage.first_good),
        "observations": {"down": outage.down, "up": outage.up, "unknown": outage.unknown},
        "largest_gap_ms": outage.largest_gap,
        "unobserved_ms": outage.unobserved,
        "causes": dict(sorted(outage.causes.items())),
        "phases": dict(sorted(outage.phases.items())),
        "ledger": {"first": outage.first_index, "last": outage.last_index},
        "replies": list(outage.replies),
        "first_detail": outage.first_detail,
    }
    return payload | {"proven_afterwards": True} if outage.proven_afterwards else payload


def payload_json(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a payload of the ledger into the public JSON: times in RFC 3339, durations in seconds.

    `maintenance_ms`, which records.py adds, is how much of the minimum duration was announced as maintenance.
    """
    return {
        **{key: payload[key] for key in ("id", "target", "provider", "kind", "vantage_point", "state")},
        **{key: _time(payload[key]) for key in ("last_good", "first_bad", "last_bad", "first_good")},
        "duration": {key: _seconds(payload["duration_ms"][key]) for key in DURATIONS},
        "observations": payload["observations"],
        "largest_gap": _seconds(payload["largest_gap_ms"]),
        "unobserved": _seconds(payload["unobserved_ms"]),
        **{key: payload[key] for key in ("causes", "phases", "ledger")},
        **{key: payload[key] for key in ("proven_afterwards",) if key in payload},
        **({"maintenance": _seconds(payload["maintenance_ms"])} if payload.get("maintenance_ms") else {}),
    }


def outage_json(outage: Outage, provider: str, kind: Kind, vantage_name: str) -> dict[str, Any]:
    """Return the outage as `mailwatch outages --json` and the API tell it."""
    return payload_json(outage_payload(outage, provider, kind, vantage_name))


def durations(good: Millis | None, bad: Millis, last: Millis, end: Millis | None) -> dict[str, int | None]:
    """Return minimum, maximum, estimate and twice its standard uncertainty (GUM, type B, uniform).

    From last good, first bad, last bad and first good, in milliseconds.
    """
    if good is None or end is None:
        return {"min": last - bad, "max": None, "estimate": None, "uncertainty": None}
    return {
        "min": last - bad,
        "max": end - good,
        "estimate": round((end + last - bad - good) / 2),
        "uncertainty": round(2 * math.sqrt(((bad - good) ** 2 + (end - last) ** 2) / 12)),
    }


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)


def _seconds(millis: Millis | None) -> float | None:
    return None if millis is None else millis / 1000
