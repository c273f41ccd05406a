"""The incidents on record, by the heads of their outages; only what a changed outage may touch is grouped again.

The incidents of a provider do not overlap: an outage that begins after the end of an incident cannot join it, nor
any before it. So a change regroups the incidents from the first one that it may touch, which are one or two.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from types import MappingProxyType

from mailwatch.analysis.incidents import (
    SymptomChange,
    id_of_group,
    incident_id,
    overlapping_groups,
    until_of_group,
)
from mailwatch.store.outage_index import OutageIndex
from mailwatch.store.outage_lists import OutageHead, OutageLists
from mailwatch.times import Millis

MANY_CHANGES = 50
"""Changed incidents above which all are sorted again."""


@dataclass(frozen=True, slots=True)
class IncidentMember:
    """An outage of an incident by its head. `until`: as of the incident's outage."""

    head: OutageHead
    is_paused: bool
    until: Millis | None

    @property
    def id(self) -> str:
        """The outage's id."""
        return self.head.id

    @property
    def provider(self) -> str:
        """The provider of its target."""
        return self.head.provider

    @property
    def target(self) -> str:
        """The name of its target."""
        return self.head.target

    @property
    def order(self) -> int:
        """The entry in which it was recorded first."""
        return self.head.opened

    @property
    def begin(self) -> Millis:
        """The earliest time at which it may have begun."""
        return self.head.begin

    @property
    def first_bad(self) -> Millis:
        """The first time at which its target was observed down."""
        return self.head.first_bad

    @property
    def is_open(self) -> bool:
        """Whether its target is known to be down."""
        return self.head.state == "open" and not self.is_paused

    @property
    def state(self) -> str:
        """The state that it gives to the incident: that of a paused target is over, but its end was not seen."""
        return "unwatched" if self.is_paused else self.head.state

    @property
    def apart(self) -> tuple[str, str]:
        """What only the outages of one incident have in common: the provider, or the target without one."""
        return self.head.provider, "" if self.head.provider else self.head.target


@dataclass(frozen=True, slots=True, eq=False)
class IncidentGroup:
    """The outages of one incident, by the time at which they may have begun. `until`: its latest possible end."""

    members: Sequence[IncidentMember]
    id: str
    first_bad: Millis
    until: Millis | None
    is_open: bool

    @classmethod
    def of(cls, members: Sequence[IncidentMember]) -> IncidentGroup:
        """Return the incident of these outages."""
        return cls(
            members=members,
            id=id_of_group(members),
            first_bad=min(member.first_bad for member in members),
            until=until_of_group(members),
            is_open=any(member.is_open for member in members),
        )

    @property
    def place(self) -> tuple[Millis, str]:
        """Its place in a list, the oldest first."""
        return self.first_bad, self.id

    @property
    def provider(self) -> str:
        """The provider, "" without one."""
        return self.members[0].provider

    @property
    def ids(self) -> list[str]:
        """The ids that it ever had."""
        return [incident_id(member.provider, member.id) for member in self.members]


@dataclass(frozen=True, slots=True)
class IncidentLists:
    """All incidents at one moment. `of_outage`: by the ids of their outages."""

    newest_first: Sequence[IncidentGroup] = ()
    of_outage: Mapping[str, IncidentGroup] = field(default_factory=dict)
    ids: Collection[str] = frozenset()
    """The id of each."""
    _outages: Mapping[str, str] = field(default_factory=dict)

    def get(self, identity: str) -> IncidentGroup | None:
        """Return an incident by its id, or by a former one."""
        return self.of_outage.get(self._outages.get(identity, ""))


_PLACE = attrgetter("place")
_NEVER: Millis = 2**62


def _end(group: IncidentGroup) -> Millis:
    return _NEVER if group.until is None else group.until


@dataclass(slots=True)
class _Change:
    """What changed among the outages that may be in one incident."""

    first: Millis
    fresh: dict[str, IncidentMember] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)


class IncidentIndex:
    """Groups the outages of an index. For any number of threads; it follows at each question."""

    def __init__(self, outages: OutageIndex) -> None:
        self._outages = outages
        self._lock = threading.Lock()
        self._seen: OutageLists | None = None
        self._paused: Mapping[str, Millis] = {}
        self._members: dict[str, IncidentMember] = {}
        self._groups: dict[tuple[str, str], list[IncidentGroup]] = {}
        """Those of each provider, oldest first."""
        self._oldest_first: list[IncidentGroup] = []
        self._ids: dict[str, str] = {}
        """The outage of each id that an incident may ever have."""
        self._lists = IncidentLists()
        self.symptoms: dict[tuple[str, int, int], tuple[SymptomChange, ...]] = {}
        """Those read of outages that are over, by the id and the first and last entry (symptom_states.py)."""

    def lists(self, paused: Mapping[str, Millis] = MappingProxyType({})) -> IncidentLists:
        """Return the incidents that are on record now.

        `paused`: the last failure in each open outage whose target is paused now.
        """
        with self._lock:
            outages = self._outages.lists()
            if outages is not self._seen or paused != self._paused:
                self._follow(outages, paused)
            return self._lists

    def _follow(self, outages: OutageLists, paused: Mapping[str, Millis]) -> None:
        known = self._members
        changed = {
            head.id
            for head in outages.newest_first
            if (before := known.get(head.id)) is None or before.head is not head
        }
        changed |= {each for each in paused.keys() | self._paused.keys() if each in outages.by_id}
        changes: dict[tuple[str, str], _Change] = {}
        for identity in changed:
            self._note(changes, known.get(identity), _member(outages.by_id[identity], paused))
        removed, made = list[IncidentGroup](), list[IncidentGroup]()
        for apart, change in changes.items():
            old, new = self._regroup(apart, change)
            removed += old
            made += new
        self._sort(removed, made)
        of_outage = dict(self._lists.of_outage)
        of_outage.update((member.id, group) for group in made for member in group.members)
        newest_first = self._oldest_first[::-1]
        self._lists = IncidentLists(newest_first, of_outage, {group.id for group in newest_first}, self._ids)
        self._seen, self._paused = outages, dict(paused)

    def _note(
        self,
        changes: dict[tuple[str, str], _Change],
        before: IncidentMember | None,
        after: IncidentMember,
    ) -> None:
        if before is not None:
            change = changes.setdefault(before.apart, _Change(before.begin))
            change.first = min(change.first, before.begin)
            if before.apart != after.apart:
                change.gone.add(before.id)
        change = changes.setdefault(after.apart, _Change(after.begin))
        change.first = min(change.first, after.begin)
        change.fresh[after.id] = self._members[after.id] = after
        self._ids[incident_id(after.provider, after.id)] = after.id

    def _regroup(
        self, apart: tuple[str, str], change: _Change
    ) -> tuple[Sequence[IncidentGroup], Sequence[IncidentGroup]]:
        """Group again what a change may touch; return the incidents that there were, and those that there are."""
        groups = self._groups.setdefault(apart, [])
        first = bisect_left(groups, change.first, key=_end)
        before = groups[first:]
        members = {member.id: member for group in before for member in group.members} | change.fresh
        for identity in change.gone:
            members.pop(identity, None)
        groups[first:] = [IncidentGroup.of(group) for group in overlapping_groups(members.values())]
        return before, groups[first:]

    def _sort(self, removed: Sequence[IncidentGroup], made: Iterable[IncidentGroup]) -> None:
        made = list(made)
        if len(removed) + len(made) > MANY_CHANGES:
            everything = (group for groups in self._groups.values() for group in groups)
            self._oldest_first = sorted(everything, key=_PLACE)
            return
        for group in removed:
            del self._oldest_first[bisect_left(self._oldest_first, group.place, key=_PLACE)]
        for group in made:
            insort(self._oldest_first, group, key=_PLACE)


def _member(head: OutageHead, paused: Mapping[str, Millis]) -> IncidentMember:
    last_bad = paused.get(head.id) if head.state == "open" else None
    # The open outage of a paused target reaches to its last failure.
    return IncidentMember(head, last_bad is not None, head.until if last_bad is None else last_bad)
