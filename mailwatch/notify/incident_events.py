"""The notifications of incidents: how many mailboxes of a provider are down, since when, and when all are back.

An incident follows from the outages on record up to an entry. Its notifications replace each other: only the
latest of those that wait is sent (incident_rows.py), so that a provider with thirty targets down is one message.

A start reads the outages that are open. Those that are over are read when an incident may have them: it has all
that overlap one of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from mailwatch.analysis.incidents import Incident, IncidentOutage, incidents
from mailwatch.analysis.observed_downtime import observed_downtime
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject, outage_from_payload
from mailwatch.model import RESUMED, EventType, Notification, Outcome, TargetChange
from mailwatch.store import Entry, Reader
from mailwatch.store.outage_lists import OutageHead
from mailwatch.times import Millis, Window

MAX_NAMES = 10
"""The number of targets that a message names."""
MAX_CAUSES = 2
"""The number of causes that a message names."""


class IncidentStep(StrEnum):
    """What changed in an incident."""

    DOWN = "down"
    """A target went down."""
    LESS = "less"
    """A target works again, and others do not."""
    OVER = "over"
    """The last target works again."""
    REMIND = "remind"
    """Nothing: it is still open."""


Watched = Callable[[], Mapping[str, OutageSubject]]
"""Returns the watched targets by name: who runs them, and whose account they use."""
Paused = Callable[[], Collection[str]]
"""Returns the names of the targets that are paused."""
InMaintenance = Callable[[str, Millis], bool]
"""Returns whether a target was in announced maintenance at a time."""
Unobserved = Callable[[OutageRecord], Sequence[Window]]
"""Returns the times without observations within an outage."""


def _nothing_unobserved(_outage: OutageRecord) -> Sequence[Window]:
    return ()


_Apart = tuple[str, str]
"""What only the outages of one incident have in common: the provider, or the target without one."""


def _apart(outage: OutageRecord) -> _Apart:
    return outage.provider, "" if outage.provider else outage.target


@dataclass(slots=True)
class IncidentFollower:
    """The outages on record up to an entry, by provider; a target without a provider stands by itself."""

    watched: Watched
    in_maintenance: InMaintenance
    unobserved: Unobserved = _nothing_unobserved
    paused: Paused = frozenset
    next_index: int = 0
    """The index of the first entry that was not read yet."""
    resumed: set[str] = field(default_factory=set)
    """Targets that are probed again after a pause, of which nothing is known yet."""
    _groups: dict[_Apart, dict[str, IncidentOutage]] = field(default_factory=dict)
    _reader: Reader | None = None
    """Where outages are read that are over; None if all were followed."""
    _read_from: dict[_Apart, Millis] = field(default_factory=dict)
    """Of each provider, all outages that may have ended at that time or later were read; without one, the open."""

    def catch_up(self, reader: Reader, to_index: int) -> None:
        """Read the outages that are open by the entries before `to_index`."""
        if to_index <= self.next_index:
            return
        if self.next_index == 0:
            self._reader, self.next_index = reader, to_index
            lists = reader.outages.lists()
            # What changed since was open then.
            changed = (head for head in lists.newest_first if head.index >= to_index)
            self._read({head.id: head for head in (*lists.select(state="open"), *changed)}.values())
            return
        for entry in reader.entries(kinds=["outage"], from_index=self.next_index, to_index=to_index):
            self._add(entry.index, outage_from_payload(entry.payload))
        self.next_index = to_index

    def _read(self, heads: Iterable[OutageHead]) -> None:
        """Add outages as the entries before `next_index` give them."""
        assert self._reader is not None
        known = [head for head in heads if head.opened < self.next_index]
        settled = [head for head in known if head.index < self.next_index]
        for head, (outage, _) in zip(settled, self._reader.outages.records(settled), strict=True):
            self._put(head.opened, outage)
        for head in known:
            if head.index >= self.next_index:
                entries = self._reader.entries(
                    target=head.target, kinds=["outage"], from_index=head.opened, to_index=self.next_index
                )
                for entry in entries:
                    if entry.payload["id"] == head.id:
                        self._put(head.opened, outage_from_payload(entry.payload))

    def _read_since(self, apart: _Apart, since: Millis) -> None:
        """Add the outages of a provider, or of a target without one, that may have ended since then."""
        assert self._reader is not None
        provider, target = apart
        lists, group = self._reader.outages.lists(), self._groups.get(apart, {})
        self._read(
            head
            for one, heads in lists.by_target.items()
            if one.provider == provider and (provider or one.target == target)
            for head in heads
            if head.id not in group and (head.until is None or head.until >= since)
        )
        self._read_from[apart] = since

    def follow(self, entry: Entry) -> Notification | None:
        """Add an entry of an outage, and take note of a pause that ends; return what to notify of its incident."""
        if entry.kind == "outage":
            return self._follow_outage(entry)
        if entry.kind == "watch" and isinstance(change := entry.fact, TargetChange):
            # While it was paused, its messages said so, and not that it is down.
            (self.resumed.add if change.reason == RESUMED else self.resumed.discard)(change.target)
        elif entry.kind == "observation" and entry.target in self.resumed:
            return self._follow_probe(entry, entry.target)
        return None

    def _follow_outage(self, entry: Entry) -> Notification | None:
        outage = outage_from_payload(entry.payload)
        self._add(entry.index, outage)
        self.next_index = entry.index + 1
        if is_separate(outage):
            return None
        incident = self._incident_of(outage)
        if outage.state == "open":
            step = IncidentStep.DOWN
        else:
            step = IncidentStep.LESS if incident.state == "open" else IncidentStep.OVER
        return self._notification(incident, step, f"{EventType.INCIDENT}:{step}:{outage.id}", entry.time)

    def _follow_probe(self, entry: Entry, target: str) -> Notification | None:
        """Return that an outage goes on after a pause, which has no entry of its own."""
        outcome = entry.payload["outcome"]
        if outcome != Outcome.UNKNOWN:
            self.resumed.discard(target)
        if outcome != Outcome.DOWN:
            return None
        for group in list(self._groups.values()):
            for outage in [member.outage for member in group.values()]:
                if outage.target == target and outage.state == "open":
                    incident = self._incident_of(outage)
                    key = f"{EventType.INCIDENT}:{IncidentStep.DOWN}:{outage.id}:{entry.index}"
                    return self._notification(incident, IncidentStep.DOWN, key, entry.time)
        return None

    def _incident_of(self, outage: OutageRecord) -> Incident:
        apart = _apart(outage)
        while True:
            found = incidents(self._as_of_now(self._groups[apart].values()))
            incident = next(one for one in found if any(other.id == outage.id for other in one.outages))
            since = min(other.begin for other in incident.outages)
            if self._reader is None or since >= self._read_from.get(apart, since + 1):
                return incident
            self._read_since(apart, since)

    def reminder(self, incident: Incident, number: int, at: Millis) -> Notification:
        """Return the notification that an incident is still open, for the `number`-th time."""
        key = f"{EventType.INCIDENT}:{IncidentStep.REMIND}:{incident.id}:{number}"
        return self._notification(incident, IncidentStep.REMIND, key, at)

    def open_incidents(self) -> list[Incident]:
        """Return the incidents that are open by the entries read so far."""
        found: list[Incident] = []
        for group in list(self._groups.values()):
            seen = set[str]()
            for member in self._as_of_now(group.values()):
                if member.is_open and member.id not in seen:
                    found.append(self._incident_of(member.outage))
                    seen |= {outage.id for outage in found[-1].outages}
        return found

    def _as_of_now(self, members: Iterable[IncidentOutage]) -> list[IncidentOutage]:
        """Return the outages with what their owner has paused now: that changes without an entry of an outage."""
        paused = self.paused()
        return [
            replace(member, is_target_paused=True) if member.outage.target in paused else member
            for member in members
        ]

    def _add(self, index: int, outage: OutageRecord) -> None:
        if (before := self._groups.get(_apart(outage), {}).get(outage.id)) is not None:
            self._put(before.order, outage)
            return
        head = None if self._reader is None else self._reader.outages.get(outage.id)
        self._put(index if head is None else head.opened, outage)

    def _put(self, order: int, outage: OutageRecord) -> None:
        group = self._groups.setdefault(_apart(outage), {})
        group[outage.id] = IncidentOutage(order=order, outage=outage)

    def _notification(self, incident: Incident, step: IncidentStep, key: str, at: Millis) -> Notification:
        facts = incident_facts(incident, step, self.watched(), self.unobserved)
        if step is IncidentStep.DOWN and all(self.in_maintenance(o.target, o.first_bad) for o in incident.outages):
            facts["maintenance"] = True
        return Notification(key=key, event_type=EventType.INCIDENT, time=at, facts=facts)


def incident_facts(
    incident: Incident,
    step: IncidentStep,
    watched: Mapping[str, OutageSubject],
    unobserved: Unobserved = _nothing_unobserved,
) -> dict[str, object]:
    """Return the facts of an incident for its message: what is down by the record, or what was.

    What was down when its target was paused is neither: it is counted by itself.
    """
    still = [member.outage for member in incident.members if member.is_open]
    seen = [member.outage for member in incident.members if not (member.outage.unwatched or member.is_paused)]
    # Without any, a target was paused while its outage was being written.
    concerned = still or seen or list(incident.outages)
    paused = [member.outage for member in incident.members if member.is_paused]
    facts = {
        "id": incident.id,
        "step": step.value,
        "provider": incident.provider,
        "first_bad": min(outage.first_bad for outage in concerned),
        "causes": _causes(concerned),
        "vantage_point": concerned[-1].vantage_point,
        **_amounts(concerned, watched),
    }
    if paused:
        facts["paused"] = _count_paused(paused, concerned, by_account="mailboxes_all" in facts)
    if len(incident.members) == 1:
        facts["outage"] = incident.members[0].outage.id
    if step is IncidentStep.OVER:
        facts |= {
            "first_good": max(o.first_good or o.last_bad for o in concerned),
            **_lasted(incident, concerned, unobserved),
        }
    return facts


def _count_paused(paused: list[OutageRecord], concerned: list[OutageRecord], by_account: bool) -> int:
    """Return how many mailboxes or targets are paused of which nothing is among those that concern the message."""
    names, others = ({one.account if by_account else one.target for one in each} for each in (paused, concerned))
    return len(names - others)


def _lasted(incident: Incident, concerned: list[OutageRecord], unobserved: Unobserved) -> dict[str, object]:
    """Return how long an incident surely lasted, without the time in which nothing was observed."""
    alone = concerned[0].durations if len(incident.members) == 1 else None
    least = alone.least if alone else incident.surely_down
    down = observed_downtime(incident.outages, {outage.id: unobserved(outage) for outage in incident.outages})
    if not down.unobserved:
        return {"duration_ms": {"min": least, "estimate": alone.estimate if alone else None}}
    # The middle of bounds that contain the unobserved time would count half of it.
    shorter = {"min": min(least, down.observed), "estimate": None}
    return {"duration_ms": shorter, "unobserved_ms": down.unobserved}


def _causes(outages: Iterable[OutageRecord]) -> list[str]:
    """Return the causes of most of the outages, the most frequent first."""
    main = Counter(
        max(outage.causes, key=lambda cause: outage.causes[cause]) for outage in outages if outage.causes
    )
    return [cause for cause, _ in main.most_common(MAX_CAUSES)]


def _amounts(outages: list[OutageRecord], watched: Mapping[str, OutageSubject]) -> dict[str, object]:
    """Return how many of how many are concerned: mailboxes if each target has a login, else targets."""
    concerned = {outage.target: outage.account for outage in outages}
    provider = outages[0].provider
    siblings = {
        name: subject.account
        for name, subject in watched.items()
        if subject.provider == provider and (provider or name in concerned)
    } | concerned
    names = sorted(concerned)
    facts: dict[str, object] = {
        "targets": names[:MAX_NAMES],
        "targets_down": len(names),
        "targets_all": len(siblings),
    }
    if all(siblings.values()):
        accounts = set(concerned.values())
        facts |= {"mailboxes_down": len(accounts), "mailboxes_all": len(set(siblings.values()))}
        if sum(account in accounts for account in siblings.values()) > len(names):
            # Not all that is watched of these mailboxes is down: the kinds say what is.
            facts["kinds"] = sorted({outage.kind.value for outage in outages})
    return facts


def is_separate(outage: OutageRecord) -> bool:
    """Return whether an outage has a message of its own: it neither went down now, nor is it known to be back."""
    return outage.proven_afterwards or outage.unwatched
