"""What is claimed, as outage.json: the outage, the rules that make it one, and where it stands in the ledger.

Everything here but `service` and `claim` follows from the entries of the bundle; `mailwatch verify` computes it
again. `service` is what the config says of the target today, `claim` what the owner says.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from mailwatch import __version__
from mailwatch.analysis.elapsed import Moment, TokenReading, clock_error
from mailwatch.analysis.outage import payload_json
from mailwatch.evidence.ledger_range import NoCase, Range, TokenFile
from mailwatch.ledger.payloads import written_rules
from mailwatch.model import Rules
from mailwatch.store import Reader
from mailwatch.times import Millis, rfc3339

FORMAT = "mailwatch-evidence/1"
STATED_FROM: Millis = 1_000
"""Tokens have whole seconds."""


def statement(
    payload: dict[str, Any],
    rules: Rules,
    found: Range,
    origin: str,
    service: dict[str, Any] | None,
    error: Millis,
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
        **stated_error(error),
        "service": service,
    }


def stated_error(error: Millis) -> dict[str, float]:
    """State by how many seconds the wall clock of the times was off by the tokens, if it was more than one."""
    return {"clock_error": error / 1000} if error > STATED_FROM else {}


def error_of(reader: Reader, found: Range, anchors: Iterable[Moment | None]) -> Millis:
    """Return by how much the wall clock by which outages are shown was off, by the tokens around them.

    `anchors` is a moment of each (elapsed.py). By what is on record of when a token was asked for and answered,
    where an outage's boot has none, or where there is no outage.
    """
    readings = [_reading(reader, token) for token in found.tokens]
    errors = [clock_error(anchor, readings) for anchor in anchors]
    asked = max((token.off for token in found.tokens), default=0)
    return max((asked if error is None else error for error in errors), default=asked)


def _reading(reader: Reader, token: TokenFile) -> TokenReading:
    (named,) = reader.entries(from_index=token.entry, to_index=token.entry + 1)
    (covered,) = reader.entries(from_index=token.checkpoint - 1, to_index=token.checkpoint)
    after, before = orjson.loads(covered.header), orjson.loads(named.header)
    boot = before.get("boot", "")
    same = bool(boot) and after.get("boot") == boot
    return TokenReading(token.time, boot, after["clock"] if same else None, before.get("clock"))


def outside_times(found: Range, first: int, last: int) -> dict[str, str | None]:
    """Between which times of others the entries `first` to `last` were written; None on a side without a token."""
    not_before: list[Millis] = [token.time for token in found.tokens if token.entry <= first]
    not_after: list[Millis] = [token.time for token in found.tokens if token.checkpoint > last]
    return {
        "not_before": rfc3339(max(not_before)) if not_before else None,
        "not_after": rfc3339(min(not_after)) if not_after else None,
    }
