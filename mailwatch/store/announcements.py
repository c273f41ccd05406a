"""Announced maintenance on record: each start and reload states it, as the rules in the config give it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from mailwatch.analysis.maintenance import Announcement, Announcements, MaintenanceRule
from mailwatch.ledger.canonical_json import canonical, digest

if TYPE_CHECKING:
    from mailwatch.store.reader import Reader


def maintenance_payload(rules: tuple[MaintenanceRule, ...]) -> dict[str, Any]:
    """Return the payload in which a start or reload announces `rules`; {} without rules."""
    if not rules:
        return {}
    rule_payloads = [rule.payload() for rule in rules]
    return {"maintenance": {"rules": rule_payloads, "digest": digest(canonical(rule_payloads))}}


class AnnouncementLog:
    """The announcements on record with their times; each entry is read once. For any number of threads."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._lock = threading.Lock()
        self._announced = Announcements(())
        self._next = 0

    def current(self) -> Announcements:
        """Return what is announced now. Raises StoreError.

        An announcement is never dated before the entry that precedes it, so that setting the clock back cannot
        backdate it.
        """
        with self._lock:
            found = list(self._announced.announcements)
            following = self._next
            for entry in self._reader.entries(kinds=["node"], from_index=following):
                following = entry.index + 1
                rules = tuple(
                    MaintenanceRule.from_payload(rule)
                    for rule in entry.payload.get("maintenance", {}).get("rules", ())
                )
                if rules != (found[-1].rules if found else ()):
                    before = next(self._reader.entries(from_index=max(0, entry.index - 1), limit=1))
                    found.append(Announcement(max(entry.time, before.time), rules))
            if following != self._next:
                self._announced, self._next = Announcements(tuple(found)), following
            return self._announced


def read_announcements(reader: Reader) -> Announcements:
    """Read the announcements on record with their times. Raises StoreError."""
    return reader.announcements.current()
