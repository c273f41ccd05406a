"""Counts a member of a hub once whose ledger was closed and continued by a successor.

The first entry of a successor names the ledgers before it, and each of these appointed the next one with its own
key (ledger/succession.py). Only that is believed: who claims to go on for another without its signature replaces
nobody, and does not count itself. A ledger whose key was lost could not appoint anyone, so it stays a member of
its own until it is removed.

Of several that one ledger appointed, the one that joined first counts.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mailwatch.ledger.succession import KIND, SuccessionError, predecessors
from mailwatch.store import Entry, Reader, StoreError
from mailwatch.store.errors import DatabaseAwayError
from mailwatch.store.hub_register import HubMember
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place
from mailwatch.store.selection import WITHHELD
from mailwatch.times import Millis


@dataclass(frozen=True, slots=True)
class Descent:
    """Which ledgers one goes on for, by their keys, as these signed. `why`: it says so wrongly; "" if not."""

    keys: tuple[str, ...] = ()
    why: str = ""


class Successions:
    """The successions among the members of a hub. A first entry never changes, so each is read once."""

    def __init__(self, hub: Path | Place) -> None:
        self._hub = hub
        self._known: dict[str, Descent] = {}

    def counted(self, members: Iterable[HubMember]) -> dict[str, Millis]:
        """Return when each member that counts pushed last, by the name of its ledger; 0 before that.

        Raises DatabaseAwayError.
        """
        there = [one for one in members if one.revoked_at is None]
        replaced = self.replaced(there)
        return {one.origin: one.pushed_at or 0 for one in there if one.origin not in replaced}

    def replaced(self, members: Sequence[HubMember]) -> dict[str, str]:
        """Return which ledgers do not count: each with the name of the member that counts in its place, "" for one
        that claims wrongly to be a successor. Raises DatabaseAwayError.
        """
        descents = {one.origin: self.descent(one) for one in members}
        found = {one.origin: "" for one in members if descents[one.origin].why}
        believed = [one for one in members if one.origin not in found]
        for group in _groups(believed, descents):
            before = {key for one in group for key in descents[one.origin].keys}
            newest = [one for one in group if one.key not in before] or group
            chosen = min(newest, key=lambda one: (one.joined_at, one.origin))
            found |= {one.origin: chosen.name for one in group if one is not chosen}
        return found

    def descent(self, member: HubMember) -> Descent:
        """Return the ledgers that a member goes on for; none where it cannot be read. Raises DatabaseAwayError."""
        if member.origin not in self._known:
            try:
                first = self._first(member) if member.size else None
            except DatabaseAwayError:
                raise
            except StoreError:
                # The audit names it.
                first = None
            if first is None:
                return Descent()
            self._known[member.origin] = _descent(member, first)
        return self._known[member.origin]

    def _first(self, member: HubMember) -> Entry | None:
        try:
            opened = contextlib.closing(Reader.open(member_place(self._hub, member.origin)))
        except FileNotFoundError:
            return None
        with opened as reader:
            return next(iter(list(reader.entries(to_index=1))), None)


def _groups(members: Sequence[HubMember], descents: dict[str, Descent]) -> list[list[HubMember]]:
    """Return the members that one ledger connects, in groups of at least two."""
    groups: list[tuple[set[str], list[HubMember]]] = []
    for one in members:
        keys, group = {one.key, *descents[one.origin].keys}, [one]
        for other in [other for other in groups if other[0] & keys]:
            groups.remove(other)
            keys, group = keys | other[0], group + other[1]
        groups.append((keys, group))
    return [group for _, group in groups if len(group) > 1]


def _descent(member: HubMember, first: Entry) -> Descent:
    if first.kind == WITHHELD:
        is_successor = json.loads(first.header)["kind"] == KIND
        return Descent(why="it withholds whom it goes on for") if is_successor else Descent()
    if first.kind != KIND:
        return Descent()
    try:
        links = predecessors(first.payload, member.key)
    except SuccessionError as error:
        return Descent(why=str(error))
    keys = list[str]()
    for link in reversed(links):
        if not link.appointed:
            break
        keys.append(link.key)
    return Descent(tuple(keys))
