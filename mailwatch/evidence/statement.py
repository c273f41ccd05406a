"""What is claimed, as outage.json: the outage, the rules that make it one, and where it stands in the ledger.

Everything here but `service` and `claim` follows from the entries of the bundle; `mailwatch verify` computes it
again. `service` is what the config says of the target today, `claim` what the owner says.
"""

from __future__ import annotations

from typing import Any

from mailwatch import __version__
from mailwatch.evidence.gather import NoCase, Range
from mailwatch.models import Millis, rfc3339
from mailwatch.outages import Rules, payload_json, written_rules

FORMAT = "mailwatch-evidence/1"
STATED_FROM: Millis = 1_000
"""Tokens have whole seconds."""


def statement(
    payload: dict[str, Any], rules: Rules, found: Range, origin: str, service: dict[str, Any] | None
) -> dict[str, Any]:
    """Return the claim of one outage, `payload` as the ledger has it. Raises NoCase for an open one cut short."""
    if payload["ledger"]["first"] < found.start.size or payload["ledger"]["last"] >= found.end.size:
        raise NoCase("the outage reaches beyond the range; ask again after the next checkpoint")
    return {
        "format": FORMAT,
        "made_by": f"MailWatch {__version__}",
        "ledger": origin,
        "as_of": rfc3339(found.end.time_ms),
        "outage": payload_json(payload),
        "replies": payload["replies"],
        "first_detail": payload["first_detail"],
        "rules": written_rules(rules),
        "range": {"first": found.start.size, "end": found.end.size},
        "outside_times": outside_times(found, payload["ledger"]["first"], payload["ledger"]["last"]),
        **clock_error(found),
        "service": service,
    }


def clock_error(found: Range) -> dict[str, float]:
    """State by how many seconds the wall clock was off at the tokens, if it was more than a second at one of them.

    What is on record about when a token was asked for and answered, compared with its own time.
    """
    off = max((token.off for token in found.tokens), default=0)
    return {"clock_error": off / 1000} if off > STATED_FROM else {}


def outside_times(found: Range, first: int, last: int) -> dict[str, str | None]:
    """Between which times of others the entries `first` to `last` were written; None on a side without a token."""
    not_before: list[Millis] = [token.time for token in found.tokens if token.entry <= first]
    not_after: list[Millis] = [token.time for token in found.tokens if token.checkpoint > last]
    return {
        "not_before": rfc3339(max(not_before)) if not_before else None,
        "not_after": rfc3339(min(not_after)) if not_after else None,
    }
