"""Messages of a round trip that are on their way: accepted and not seen yet. Pure; what the ledger says is all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mailwatch.models import Millis, Observation
from mailwatch.probes.roundtrip.message import Mark

LOST_AFTER: Millis = 7 * 24 * 3_600_000
"""A queue gives up within five days (RFC 5321, section 4.5.4.1), and then somebody has to clear it."""
ON_THE_WAY = frozenset({"queued", "missing", "login", "unsure"})
"""The stages after which a message may still come."""
_ENDS = ("late", "lost", "bounced")


@dataclass(frozen=True, slots=True)
class Outstanding:
    """`sent` are on their way, oldest first; `told` are on record as arrived and may still lie in the mailbox."""

    sent: dict[str, Mark] = field(default_factory=dict)
    told: frozenset[str] = frozenset()

    @classmethod
    def recall(cls, looks: Iterable[Observation]) -> Outstanding:
        """Learn from the looks on record, oldest first."""
        found = cls()
        for look in looks:
            found = found.after(look)
        return found

    def after(self, look: Observation) -> Outstanding:
        """Return what is on its way after one more look."""
        facts: dict[str, Any] = look.facts or {}
        ended = {entry["token"] for name in _ENDS for entry in facts.get(name, ())}
        sent = {token: mark for token, mark in self.sent.items() if token not in ended}
        message = facts.get("message")
        if message and facts.get("stage") in ON_THE_WAY:
            clock = message.get("clock"), message.get("boot", "")
            sent[message["token"]] = Mark(message["token"], message["sent_at"], *clock)
        told = self.told | {entry["token"] for entry in facts.get("late", ())}
        if "left" in facts:
            told |= {entry["token"] for entry in facts.get("stray", ())}
            told |= {message["token"]} if message and facts.get("stage") == "served" else set()
        return Outstanding(sent, told - set(facts.get("cleaned", ())))

    def overdue(self, at: Millis) -> list[Mark]:
        """Return those that are given up."""
        return [mark for mark in self.sent.values() if mark.age(at) > LOST_AFTER]
