"""The statement outage.json: the outage, the rules that define it, and its place in the ledger.

Everything but `service` and `claim` follows from the entries of the bundle, and `mailwatch verify` recomputes it.
`service`: the target in today's config. `claim`: the owner's statement.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import orjson

from mailwatch import __version__
from mailwatch.analysis.elapsed import Moment, TokenReading, clock_error
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import outage_json
from mailwatch.evidence.ledger_range import EvidenceError, LedgerRange, TokenFile
from mailwatch.evidence.stated import AuthorityJson, OutageStatement, OutsideTimesJson, ServiceJson
from mailwatch.evidence.witnesses import cosigned_clock_error
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import Rules
from mailwatch.store import Reader
from mailwatch.times import Millis, rfc3339

FORMAT = "mailwatch-evidence/1"
MIN_STATED_ERROR_MS: Millis = 1_000
"""Smallest clock error that is stated: tokens have whole seconds."""


def outage_statement(
    record: OutageRecord,
    rules: Rules,
    range_: LedgerRange,
    origin: str,
    service: ServiceJson | None,
    error: Millis,
    rules_before: Rules | None = None,
) -> OutageStatement:
    """Return the statement of one outage. Raises EvidenceError if it extends beyond the signed range.

    `rules`: those of its latest entry. `rules_before`: those at the beginning of the range.
    """
    if record.first_index < range_.start.size or record.last_index >= range_.end.size:
        raise EvidenceError("the outage extends beyond the signed range; try again after the next checkpoint")
    stated = {
        "format": FORMAT,
        "made_by": f"MailWatch {__version__}",
        "ledger": origin,
        "as_of": rfc3339(range_.end.time_ms),
        "outage": outage_json(record),
        "replies": list(record.replies),
        "first_detail": record.first_detail,
        "rules": rules_payload(rules),
        **({} if rules_before in (None, rules) else {"rules_before": rules_payload(rules_before)}),
        "range": {"first": range_.start.size, "end": range_.end.size},
        "outside_times": outside_times(range_, record.first_index, record.last_index),
        **authorities_statement(token.signer for token in range_.tokens),
        **error_statement(error),
        "service": service,
    }
    return cast(OutageStatement, stated)


def authorities_statement(signers: Iterable[tuple[str, str]]) -> dict[str, list[AuthorityJson]]:
    """Return who signed the tokens, each once, by their certificates; {} without tokens."""
    known = sorted(set(signers))
    return {"authorities": [{"signer": signer, "issuer": issuer} for signer, issuer in known]} if known else {}


def error_statement(error: Millis) -> dict[str, float]:
    """Return the wall clock's error in seconds, by outside clocks, if more than one second; else {}."""
    return {"clock_error": error / 1000} if error > MIN_STATED_ERROR_MS else {}


def clock_error_of(reader: Reader, range_: LedgerRange, anchors: Iterable[Moment | None]) -> Millis:
    """Return the error of the wall clock that outages are displayed by, from the tokens around them; without a
    token, from the cosignatures.

    `anchors`: a moment of each outage (elapsed.py). If an outage's boot has no token, or there is no outage, the
    error follows from the recorded request and answer times of the tokens.
    """
    if not range_.tokens:
        return cosigned_clock_error(reader, range_.start.size, range_.end.size)
    readings = [_token_reading(reader, token) for token in range_.tokens]
    errors = [clock_error(anchor, readings) for anchor in anchors]
    asked = max((token.clock_error for token in range_.tokens), default=0)
    return max((asked if error is None else error for error in errors), default=asked)


def _token_reading(reader: Reader, token: TokenFile) -> TokenReading:
    (named,) = reader.entries(from_index=token.entry, to_index=token.entry + 1)
    (covered,) = reader.entries(from_index=token.checkpoint - 1, to_index=token.checkpoint)
    after, before = orjson.loads(covered.header), orjson.loads(named.header)
    boot = before.get("boot", "")
    same = bool(boot) and after.get("boot") == boot
    return TokenReading(token.time, boot, after["clock"] if same else None, before.get("clock"))


def outside_times(range_: LedgerRange, first: int, last: int) -> OutsideTimesJson:
    """Return the outside times that bound the writing of entries `first` to `last`; None on a side without a
    token.
    """
    not_before: list[Millis] = [token.time for token in range_.tokens if token.entry <= first]
    not_after: list[Millis] = [token.time for token in range_.tokens if token.checkpoint > last]
    return {
        "not_before": rfc3339(max(not_before)) if not_before else None,
        "not_after": rfc3339(min(not_after)) if not_after else None,
    }
