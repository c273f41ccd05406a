"""What of the record is news. Keys follow from the record alone, so that reading it again makes no second news."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mailwatch.analysis.offline import offline_payloads
from mailwatch.guard.login_backoff import unanswered
from mailwatch.model import Cause, News, Observation, Outcome, Topic
from mailwatch.store import Entry, Reader
from mailwatch.times import Millis

DAY: Millis = 86_400_000
CERTIFICATE_DAYS = (3, 14)
"""How many days before its end a certificate is told of, the nearest first."""
_OUTAGE = ("id", "target", "provider", "kind", "first_bad", "first_good", "duration_ms", "causes", "vantage_point")


def of_entry(reader: Reader, entry: Entry) -> Iterator[News]:
    """Yield what an entry gives to tell."""
    if entry.kind == "outage":
        payload = entry.payload
        facts = {key: payload[key] for key in _OUTAGE}
        if payload["state"] == "unwatched":
            # Never as one that is over: nobody knows whether it is.
            facts |= {"unwatched": True, "last_bad": payload["last_bad"]}
            yield News(key=f"unwatched:{payload['id']}", topic=Topic.OPEN, time=entry.time, facts=facts)
            return
        topic = Topic.OPEN if payload["state"] == "open" else Topic.CLOSE
        if payload.get("proven_afterwards"):
            facts["proven_afterwards"] = True
        yield News(key=f"{topic}:{payload['id']}", topic=topic, time=entry.time, facts=facts)
    elif entry.kind == "guard" and entry.payload.get("online"):
        yield from _offline(reader, entry)
    elif entry.kind == "observation":
        fact = entry.fact
        if isinstance(fact, Observation):
            yield from _credentials(reader, entry, fact)
            yield from _clock(reader, entry, fact)


def _offline(reader: Reader, entry: Entry) -> Iterator[News]:
    """A time offline can only be told when it is over."""
    guards = reader.entries(kinds=["guard"], start_ms=entry.time - 30 * DAY, to_index=entry.index + 1)
    for told in offline_payloads((guard.index, guard.payload) for guard in guards):
        if told["part"] == "line" and told["ledger"]["last"] == entry.index and told["state"] == "closed":
            facts = {key: told[key] for key in ("first_offline", "first_online", "duration_ms")}
            yield News(key=f"offline:{told['first_offline']}", topic=Topic.OFFLINE, time=entry.time, facts=facts)


def _credentials(reader: Reader, entry: Entry, fact: Observation) -> Iterator[News]:
    """One for all rejections between two looks that were up."""
    if fact.outcome is Outcome.UNKNOWN and fact.cause is Cause.CREDENTIALS:
        before = reader.last_index(target=fact.target, outcome=Outcome.UP, before=entry.index)
        key = f"credentials:{fact.target}:{-1 if before is None else before}"
        facts: dict[str, Any] = {"target": fact.target} | ({"unanswered": True} if unanswered(fact) else {})
        yield News(key=key, topic=Topic.CREDENTIALS, time=entry.time, facts=facts)


def _clock(reader: Reader, entry: Entry, fact: Observation) -> Iterator[News]:
    """A certificate seemed out of date, and our clock was wrong or not known to be right; once until it was up."""
    weighed = (fact.facts or {}).get("out_of_date")
    if fact.outcome is Outcome.UNKNOWN and fact.cause is Cause.MONITOR and weighed:
        before = reader.last_index(target=fact.target, outcome=Outcome.UP, before=entry.index)
        key = f"clock:{fact.target}:{-1 if before is None else before}"
        yield News(key=key, topic=Topic.MONITOR, time=entry.time, facts={"target": fact.target, "sign": "clock"})


def of_certificate(fact: Observation, at: Millis) -> Iterator[News]:
    """Yield the warning that the certificate of a look ends soon: once at 14 days and once at 3."""
    until = fact.deciding.tls.not_after if fact.deciding and fact.deciding.tls else None
    if until is None or until <= at:
        return
    for days in CERTIFICATE_DAYS:
        if until - at <= days * DAY:
            facts: dict[str, Any] = {"target": fact.target, "not_after": until, "days": days}
            yield News(
                key=f"certificate:{fact.target}:{until}:{days}", topic=Topic.CERTIFICATE, time=at, facts=facts
            )
            return
