"""The notifications of ledger entries. Keys depend on the record alone: rereading notifies nobody twice."""

from __future__ import annotations

from collections.abc import Iterator

from mailwatch.analysis.offline import offline_periods
from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.guard.login_backoff import unanswered
from mailwatch.model import Cause, EventType, Notification, Observation, Outcome
from mailwatch.store import Entry, Reader
from mailwatch.times import DAY_MS, Millis

CERTIFICATE_WARNING_DAYS = (3, 14)
"""Days before a certificate expires at which a warning is sent, the nearest first."""


def notifications_of(reader: Reader, entry: Entry) -> Iterator[Notification]:
    """Yield the notifications of an entry."""
    if entry.kind == "outage":
        yield _outage(outage_from_payload(entry.payload), entry.time)
    elif entry.kind == "guard" and entry.payload.get("online"):
        yield from _offline(reader, entry)
    elif entry.kind == "observation":
        fact = entry.fact
        if isinstance(fact, Observation):
            yield from _credentials(reader, entry, fact)
            yield from _clock(reader, entry, fact)


def _outage(outage: OutageRecord, at: Millis) -> Notification:
    facts: dict[str, object] = {
        "id": outage.id,
        "target": outage.target,
        "provider": outage.provider,
        "kind": outage.kind.value,
        "first_bad": outage.first_bad,
        "first_good": outage.first_good,
        "duration_ms": outage.durations.as_payload(),
        "causes": dict(outage.causes),
        "vantage_point": outage.vantage_point,
    }
    if outage.state == "unwatched":
        # Not as an outage that ended: that is unknown.
        facts |= {"unwatched": True, "last_bad": outage.last_bad}
        return Notification(key=f"unwatched:{outage.id}", event_type=EventType.OPEN, time=at, facts=facts)
    if outage.proven_afterwards:
        facts["proven_afterwards"] = True
    topic = EventType.OPEN if outage.state == "open" else EventType.CLOSE
    return Notification(key=f"{topic}:{outage.id}", event_type=topic, time=at, facts=facts)


def _offline(reader: Reader, entry: Entry) -> Iterator[Notification]:
    """Yield an offline period, which can only be reported when it is over."""
    guards = reader.entries(kinds=["guard"], start_ms=entry.time - 30 * DAY_MS, to_index=entry.index + 1)
    for period in offline_periods((guard.index, guard.payload) for guard in guards):
        if period.part == "line" and period.last_index == entry.index and period.state == "closed":
            facts: dict[str, object] = {
                "first_offline": period.first_offline,
                "first_online": period.first_online,
                "duration_ms": period.durations.as_payload(),
            }
            yield Notification(
                key=f"offline:{period.first_offline}",
                event_type=EventType.OFFLINE,
                time=entry.time,
                facts=facts,
            )


def _credentials(reader: Reader, entry: Entry, fact: Observation) -> Iterator[Notification]:
    """Yield one notification for all rejections between two up observations."""
    if fact.outcome is Outcome.UNKNOWN and fact.cause is Cause.CREDENTIALS:
        before = reader.last_index(target=fact.target, outcome=Outcome.UP, before=entry.index)
        key = f"credentials:{fact.target}:{-1 if before is None else before}"
        facts: dict[str, object] = {"target": fact.target} | ({"unanswered": True} if unanswered(fact) else {})
        yield Notification(key=key, event_type=EventType.CREDENTIALS, time=entry.time, facts=facts)


def _clock(reader: Reader, entry: Entry, fact: Observation) -> Iterator[Notification]:
    """Yield one notification until the next up observation: certificate out of date, our clock unverified."""
    weighed = (fact.facts or {}).get("out_of_date")
    if fact.outcome is Outcome.UNKNOWN and fact.cause is Cause.MONITOR and weighed:
        before = reader.last_index(target=fact.target, outcome=Outcome.UP, before=entry.index)
        key = f"clock:{fact.target}:{-1 if before is None else before}"
        yield Notification(
            key=key, event_type=EventType.MONITOR, time=entry.time, facts={"target": fact.target, "sign": "clock"}
        )


def certificate_notifications(fact: Observation, at: Millis) -> Iterator[Notification]:
    """Yield a warning that the certificate of an observation expires soon: at 14 days and at 3, once each."""
    until = fact.deciding_attempt.tls.not_after if fact.deciding_attempt and fact.deciding_attempt.tls else None
    if until is None or until <= at:
        return
    for days in CERTIFICATE_WARNING_DAYS:
        if until - at <= days * DAY_MS:
            facts: dict[str, object] = {"target": fact.target, "not_after": until, "days": days}
            yield Notification(
                key=f"certificate:{fact.target}:{until}:{days}",
                event_type=EventType.CERTIFICATE,
                time=at,
                facts=facts,
            )
            return
