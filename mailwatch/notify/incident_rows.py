"""Which of the waiting notifications of an incident is sent, and when: the latest, when no more come for a while.

All targets of a provider go down within their interval, not at once. So the message waits for `group` seconds
after the latest one, and at most `MAX_WAIT_FACTOR` times as long after the first. That some targets are back and
others are not is sent only when that has stayed so for `SETTLED_SECONDS`: mostly the others follow at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailwatch.model import EventType
from mailwatch.notify.incident_events import IncidentStep
from mailwatch.store import OutboxMessage
from mailwatch.times import Millis

MAX_WAIT_FACTOR = 6.0
SETTLED_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class LatestRows:
    """The rows that may be sent, and by number the earlier rows that each stands for."""

    messages: list[OutboxMessage]
    replaced: dict[int, list[OutboxMessage]]

    def first_put(self, message: OutboxMessage) -> Millis:
        """Return since when a row waits: like the first of those that it stands for."""
        earlier = self.replaced.get(message.number)
        return earlier[0].put_at if earlier else message.put_at

    def replaced_numbers(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """Return the numbers of the rows for which these stand, without their own."""
        return [row.number for message in messages for row in self.replaced.get(message.number, ())]


def latest_rows(messages: Sequence[OutboxMessage], group: float, at: Millis) -> LatestRows:
    """Return the rows that may be sent at `at`: of each incident only the latest, if it has waited enough."""
    rows: dict[str, list[OutboxMessage]] = {}
    for message in messages:
        if message.notification.event_type is EventType.INCIDENT:
            rows.setdefault(_incident(message), []).append(message)
    sent = {together[-1].number for together in rows.values() if _wait(together, group, at) <= 0}
    found = [
        message
        for message in messages
        if message.notification.event_type is not EventType.INCIDENT or message.number in sent
    ]
    return LatestRows(found, {together[-1].number: together[:-1] for together in rows.values()})


def _incident(message: OutboxMessage) -> str:
    return str(message.notification.facts.get("id") or message.notification.key)


def _wait(rows: Sequence[OutboxMessage], group: float, at: Millis) -> float:
    """Return the seconds until an incident's latest row may be sent; none after a clock that was set back."""
    first, latest = (at - rows[0].put_at) / 1000, (at - rows[-1].put_at) / 1000
    if not group or first < 0 or latest < 0:
        return 0.0
    if all(row.notification.facts.get("step") == IncidentStep.LESS for row in rows):
        return SETTLED_SECONDS - latest
    return min(group - latest, group * MAX_WAIT_FACTOR - first)
