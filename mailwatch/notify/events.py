"""The notifications of ledger entries. Keys depend on the record alone: rereading them notifies no one twice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from mailwatch.analysis.observed_downtime import observed_downtime
from mailwatch.analysis.offline import offline_periods
from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.analysis.storage_budget import StorageBudget
from mailwatch.guard.login_backoff import unanswered
from mailwatch.model import Cause, EventType, Notification, Observation, Outcome
from mailwatch.notify.incident_events import IncidentStep
from mailwatch.settings import Channel
from mailwatch.store import Entry, Reader
from mailwatch.store.unobserved import unobserved_windows
from mailwatch.times import DAY_MS, Millis, Window

CERTIFICATE_WARNING_DAYS = (3, 14)
"""Days before a certificate expires at which a warning is sent, the nearest first."""
DISK_WARNING_DAYS = (3, 14)
"""Days before the ledger fills its disk at which a warning is sent, the nearest first."""
MAX_DISK_DAYS = 365
"""Days from which on it says nothing when the ledger fills its disk."""


def notifications_of(reader: Reader, entry: Entry) -> Iterator[Notification]:
    """Yield the notifications of an entry."""
    if entry.kind == "outage":
        outage = outage_from_payload(entry.payload)
        yield _outage(outage, entry.time, unobserved_windows(reader, outage) if outage.state != "open" else ())
    elif entry.kind == "guard" and entry.payload.get("online"):
        yield from _offline(reader, entry)
    elif entry.kind == "quorum":
        yield _confirmed(entry)
    elif entry.kind == "observation":
        fact = entry.fact
        if isinstance(fact, Observation):
            yield from _credentials(reader, entry, fact)
            yield from _clock(reader, entry, fact)


def _outage(outage: OutageRecord, at: Millis, unobserved: Sequence[Window]) -> Notification:
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
    down = observed_downtime([outage], {outage.id: unobserved})
    if down.unobserved:
        least = min(outage.durations.least, down.observed)
        # The middle of bounds that contain the unobserved time would count half of it.
        facts["duration_ms"] = {"min": least, "max": None, "estimate": None, "uncertainty": None}
        facts["unobserved_ms"] = down.unobserved
    if outage.state == "unwatched":
        # Not as an outage that ended: that is unknown.
        facts |= {"unwatched": True, "last_bad": outage.last_bad}
        return Notification(key=f"unwatched:{outage.id}", event_type=EventType.OPEN, time=at, facts=facts)
    if outage.proven_afterwards:
        facts["proven_afterwards"] = True
    topic = EventType.OPEN if outage.state == "open" else EventType.CLOSE
    return Notification(key=f"{topic}:{outage.id}", event_type=topic, time=at, facts=facts)


def _confirmed(entry: Entry) -> Notification:
    payload = entry.payload
    facts: dict[str, object] = {
        "channel": f"{payload.get('target') or payload.get('provider')} ({payload['kind']})",
        "down": sum(one["sight"] == "down" for one in payload["members"]),
        "count": len(payload["members"]),
        "k": payload["k"],
        "first_bad": payload.get("since"),
    }
    if not payload["confirmed"]:
        facts["confirmed_over"] = True
    key = f"{EventType.CONFIRMED}:{entry.index}"
    return Notification(key=key, event_type=EventType.CONFIRMED, time=entry.time, facts=facts)


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


def disk_notifications(
    free: int, is_low: bool, budget: StorageBudget | None, at: Millis
) -> Iterator[Notification]:
    """Yield a warning once a day while `free` bytes are few; else one 14 days before the ledger fills its disk,
    and one 3 days before.
    """
    facts: dict[str, object] = {"free": free // 1_000_000}
    left = None if budget is None else budget.days_until_full
    if budget is not None and budget.bytes_a_day is not None and left is not None and left < MAX_DISK_DAYS:
        facts |= {"days": math.floor(left), "daily": math.ceil(budget.bytes_a_day / 1e6)}
    if is_low:
        yield Notification(key=f"disk:{at // DAY_MS}", event_type=EventType.DISK, time=at, facts=facts)
        return
    for days in DISK_WARNING_DAYS:
        if left is not None and left < days:
            key = f"disk:{days}:{at // (30 * DAY_MS)}"
            yield Notification(key=key, event_type=EventType.DISK, time=at, facts={**facts, "full": True})
            return


def has_type(channel: Channel, notification: Notification) -> bool:
    """Return whether a channel wants this type of event; of an outage it gets either itself or its incident."""
    event_type, facts = notification.event_type, notification.facts
    if event_type not in (EventType.OPEN, EventType.CLOSE) or EventType.INCIDENT not in channel.on:
        return event_type in channel.on
    # What an incident does not tell.
    return bool(facts.get("unwatched") or facts.get("proven_afterwards"))


def opening_keys(outage: str) -> tuple[str, ...]:
    """Return the keys of the notifications that an outage opened."""
    return f"{EventType.OPEN}:{outage}", f"{EventType.INCIDENT}:{IncidentStep.DOWN}:{outage}"


def wants_reminders(channel: Channel) -> bool:
    """Return whether a channel reports outages, and so may be reminded of them."""
    return bool(channel.on & {EventType.INCIDENT, EventType.OPEN})
