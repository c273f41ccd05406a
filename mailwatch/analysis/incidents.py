"""Incidents: overlapping outages of one provider as one event, with its bounds and stages. Pure.

Two outages belong together if their longest possible periods, [last_good, first_good], overlap: the uncertainty of
their edges, about an interval each, is the only tolerance. An open outage has no end, an unwatched outage ends at
its last failure, and an outage without a last up observation begins at its first failure. So the incidents of a
provider never overlap, each outage belongs to exactly one, and the order of input does not matter. A new outage
that overlaps two incidents merges them, under the id of the older. A target without a provider has its own
incidents. The open outage of a paused target stays open on record, but reaches to its last failure only, as an
unwatched one does: nothing is known of it since, so it neither keeps an incident open nor joins later ones to it.

A provider may recover in steps during one outage: `symptom_changes` dates the changes of its symptom.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.model import Phase
from mailwatch.times import Millis

CONFIRMING_OBSERVATIONS = 3
"""Consecutive observations that confirm a change of symptom; a single one may be noise."""
UNREACHABLE = "unreachable"
_TROUBLE = {
    Phase.AUTH: "login down",
    Phase.MAILBOX: "mail missing",
    Phase.FETCH: "mail missing",
    Phase.SUBMIT: "sending refused",
    Phase.DELIVER: "delivery late",
}

SymptomChange = tuple[Millis, str]
"""The start of a trouble, and the trouble."""


def trouble_of(phase: str | None) -> str:
    """Return what failures in a phase mean for the user."""
    return _TROUBLE.get(Phase(phase), UNREACHABLE) if phase else UNREACHABLE


def symptom_changes(failures: Iterable[tuple[Millis, str | None]]) -> tuple[SymptomChange, ...]:
    """Return each trouble of an outage with the end of the first observation that found it.

    `failures`: end and failed phase of each down observation. The first trouble counts at once; another counts
    from the first of CONFIRMING_OBSERVATIONS consecutive observations that find it.
    """
    history = SymptomHistory()
    for at, phase in failures:
        history = history.feed(at, phase)
    return history.found


@dataclass(frozen=True, slots=True)
class SymptomHistory:
    """The changes of an outage's trouble up to an observation. `candidate`: another trouble, `seen` so often."""

    found: tuple[SymptomChange, ...] = ()
    candidate: SymptomChange | None = None
    seen: int = 0

    def feed(self, at: Millis, phase: str | None) -> SymptomHistory:
        """Return the history with the next down observation: its end, and the failed phase."""
        trouble, candidate = trouble_of(phase), self.candidate
        if not self.found:
            return SymptomHistory(((at, trouble),))
        if trouble == self.found[-1][1]:
            return self if candidate is None else SymptomHistory(self.found)
        if candidate is None or candidate[1] != trouble:
            return SymptomHistory(self.found, (at, trouble), 1)
        if self.seen + 1 == CONFIRMING_OBSERVATIONS:
            return SymptomHistory((*self.found, candidate))
        return SymptomHistory(self.found, candidate, self.seen + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentOutage:
    """One outage of an incident. `order`: its order of recording, lowest first.

    `symptom_changes`: changes of its trouble; empty unless its observations were read. `is_target_paused`: the
    owner has paused its target, which is not probed now.
    """

    order: int
    outage: OutageRecord
    symptom_changes: tuple[SymptomChange, ...] = ()
    is_target_paused: bool = False

    @property
    def id(self) -> str:
        """The outage's id."""
        return self.outage.id

    @property
    def provider(self) -> str:
        """The provider of its target."""
        return self.outage.provider

    @property
    def target(self) -> str:
        """The name of its target."""
        return self.outage.target

    @property
    def begin(self) -> Millis:
        """The earliest time at which it may have begun."""
        return self.outage.begin

    @property
    def first_bad(self) -> Millis:
        """The first time at which its target was observed down."""
        return self.outage.first_bad

    @property
    def is_open(self) -> bool:
        """Whether its target is known to be down: the outage is open, and the target is still probed."""
        return self.outage.state == "open" and not self.is_target_paused

    @property
    def is_paused(self) -> bool:
        """Whether it was open when its target was paused: neither down nor up, as far as is known."""
        return self.outage.state == "open" and self.is_target_paused

    @property
    def until(self) -> Millis | None:
        """The latest time at which it may have ended while its target was probed; None while it is open."""
        return self.outage.last_bad if self.is_paused else self.outage.until

    @property
    def key(self) -> tuple[str, str]:
        """The target together with the vantage point."""
        return self.outage.vantage_point, self.outage.target

    @property
    def trouble(self) -> str:
        """The user's trouble, by the phase in which most probes failed; the earlier phase on a tie."""
        failures = self.outage.phases
        known = [phase.value for phase in Phase if phase.value in failures]
        return trouble_of(max(known, key=lambda phase: failures[phase], default=None))

    def trouble_at(self, at: Millis) -> str:
        """Return the trouble at a time, by the known symptom changes."""
        return next((trouble for since, trouble in reversed(self.symptom_changes) if since <= at), self.trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentStage:
    """What was observed down from `at` until the next stage.

    `trouble`: empty if nothing is down. `no_longer_watched` and `paused`: outages last observed down at `at`,
    whose targets are no longer monitored, or are paused now.
    """

    at: Millis
    targets: int
    channels: Mapping[str, int]
    trouble: tuple[str, ...]
    failed: tuple[IncidentOutage, ...]
    restored: tuple[IncidentOutage, ...]
    no_longer_watched: tuple[IncidentOutage, ...] = ()
    paused: tuple[IncidentOutage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Overlapping outages of one provider, ordered by the time at which they may have begun."""

    provider: str
    members: tuple[IncidentOutage, ...]

    @property
    def outages(self) -> Iterator[OutageRecord]:
        """The outages of the incident's members."""
        return (member.outage for member in self.members)

    @property
    def id(self) -> str:
        """The id, from the outage recorded first, so that it stays the same while the incident grows."""
        return id_of_group(self.members)

    @property
    def last_good(self) -> Millis | None:
        """The earliest time at which the incident may have begun; None if a member was never observed up
        before.
        """
        goods = [outage.last_good for outage in self.outages if outage.last_good is not None]
        return min(goods) if len(goods) == len(self.members) else None

    @property
    def first_bad(self) -> Millis:
        """The first time at which any target was observed down."""
        return min(outage.first_bad for outage in self.outages)

    @property
    def last_bad(self) -> Millis:
        """The last time at which any target was observed down."""
        return max(outage.last_bad for outage in self.outages)

    @property
    def first_good(self) -> Millis | None:
        """The time by which all targets were observed up again; None while any is down or if an end was not
        monitored.
        """
        goods = [outage.first_good for outage in self.outages if outage.first_good is not None]
        return max(goods) if len(goods) == len(self.members) else None

    @property
    def until(self) -> Millis | None:
        """The latest time at which the incident may have ended while monitored; None while a target is down."""
        return until_of_group(self.members)

    @property
    def state(self) -> str:
        """The state: "open", "closed", or "unwatched": over, but not every outage was monitored until its end,
        since its target was removed or paused.
        """
        states = {"unwatched" if member.is_paused else member.outage.state for member in self.members}
        return next(state for state in ("open", "unwatched", "closed") if state in states)

    @property
    def surely_down(self) -> Millis:
        """Milliseconds during which at least one target was surely down, without uncertain time between
        members.
        """
        total, until = 0, self.first_bad
        for outage in sorted(self.outages, key=lambda one: one.first_bad):
            # Over a restart of the machine the minimum duration is less than by the wall clock.
            surely_until = min(outage.last_bad, outage.first_bad + outage.durations.least)
            total += max(0, surely_until - max(outage.first_bad, until))
            until = max(until, surely_until)
        return total

    def stages(self) -> list[IncidentStage]:
        """Return the stages: one for each change in what was down, or in its trouble."""
        changes: dict[Millis, tuple[list[IncidentOutage], ...]] = defaultdict(lambda: ([], [], [], []))
        for member in self.members:
            changes[member.outage.first_bad][0].append(member)
            for turned, _ in member.symptom_changes[1:]:
                changes[turned]  # a separate stage, in which nothing fails and nothing is restored
            if member.until is not None:
                how = 3 if member.is_paused else 2 if member.outage.unwatched else 1
                changes[member.until][how].append(member)
        down: dict[str, IncidentOutage] = {}
        found = []
        for at, (failed, restored, left, paused) in sorted(changes.items()):
            down |= {member.outage.id: member for member in failed}
            for member in (*restored, *left, *paused):
                down.pop(member.outage.id, None)
            seats = {member.key: member for member in down.values()}
            found.append(
                IncidentStage(
                    at=at,
                    targets=len(seats),
                    channels=dict(sorted(Counter(member.outage.kind.value for member in seats.values()).items())),
                    trouble=tuple(sorted({member.trouble_at(at) for member in down.values()})),
                    failed=tuple(failed),
                    restored=tuple(restored),
                    no_longer_watched=tuple(left),
                    paused=tuple(paused),
                )
            )
        return found

    def has_id(self, identity: str) -> bool:
        """Return whether this is the incident's id, or a former one, from another of its outages."""
        return any(incident_id(self.provider, outage.id) == identity for outage in self.outages)

    def matches(self, name: str) -> bool:
        """Return whether `name` is a prefix of this incident's id, of a former id, or of a member's id."""
        return matches_group(self.members, name)


def incident_id(provider: str, first_outage: str) -> str:
    """Return the id of an incident: 12 hex digits."""
    return hashlib.sha256(f"incident\n{provider}\n{first_outage}".encode()).hexdigest()[:12]


class GroupMember(Protocol):
    """What decides to which incident an outage belongs; `order` is that of recording."""

    @property
    def id(self) -> str: ...
    @property
    def provider(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def order(self) -> int: ...
    @property
    def begin(self) -> Millis: ...
    @property
    def first_bad(self) -> Millis: ...
    @property
    def until(self) -> Millis | None: ...


M = TypeVar("M", bound=GroupMember)


def incidents(members: Iterable[IncidentOutage]) -> list[Incident]:
    """Group outages into incidents, oldest first."""
    return [Incident(provider=group[0].provider, members=group) for group in grouped(members)]


def grouped(members: Iterable[M]) -> list[tuple[M, ...]]:
    """Return the outages of each incident by the time at which they may have begun, the oldest incident first."""
    groups: dict[tuple[str, str], list[M]] = defaultdict(list)
    for member in members:
        groups[member.provider, "" if member.provider else member.target].append(member)
    found = [together for group in groups.values() for together in overlapping_groups(group)]
    return sorted(found, key=lambda group: (min(member.first_bad for member in group), id_of_group(group)))


def id_of_group(group: Sequence[GroupMember]) -> str:
    """Return the id of the incident of these outages, from the one recorded first."""
    return incident_id(group[0].provider, min(group, key=lambda member: (member.order, member.id)).id)


def matches_group(group: Iterable[GroupMember], name: str) -> bool:
    """Return whether `name` is a prefix of an incident's id, of a former id, or of a member's id."""
    names = (known for member in group for known in (incident_id(member.provider, member.id), member.id))
    return any(known.startswith(name) for known in names)


def until_of_group(group: Iterable[GroupMember]) -> Millis | None:
    """Return the latest time at which an incident may have ended while monitored; None while a target is down."""
    last: Millis = 0
    for member in group:
        if (until := member.until) is None:
            return None
        last = max(last, until)
    return last


def overlapping_groups(group: Iterable[M]) -> Iterator[tuple[M, ...]]:
    """Yield the outages of each incident among those of one provider, oldest first."""
    joined: list[M] = []
    until: Millis | None = 0
    for member in sorted(group, key=lambda m: (m.begin, m.first_bad, m.id)):
        begin, end = member.begin, member.until
        if joined and until is not None and begin > until:
            yield tuple(joined)
            joined = []
        if not joined:
            until = end
        elif until is not None:
            until = None if end is None else max(until, end)
        joined.append(member)
    if joined:
        yield tuple(joined)
