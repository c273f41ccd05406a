"""Incidents: outages of one provider that overlap, as one event with its bounds and its course. Pure.

Two outages belong together when their longest possible times, [last_good, first_good], share a moment: the
uncertainty of their edges, about an interval each, is all the tolerance there is. An open outage reaches on
without end, one that was watched no longer to its last failure, and one without a last up observation begins at
its first failure. So the incidents of a provider never touch, each outage lies in exactly one, and the order in
which they are given does not matter. When an outage appears that touches two incidents they are one, under the
name of the older. A target without a provider has incidents of its own.

A provider comes back by degrees, and an outage goes on through them: `symptom_changes` says when its symptom
changed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.model import Phase
from mailwatch.times import Millis

CONFIRMING_OBSERVATIONS = 3
"""Observations in a row that make a change; one alone may be noise."""
UNREACHABLE = "unreachable"
_TROUBLE = {
    Phase.AUTH: "login down",
    Phase.MAILBOX: "mail missing",
    Phase.FETCH: "mail missing",
    Phase.SUBMIT: "sending refused",
    Phase.DELIVER: "delivery late",
}

SymptomChange = tuple[Millis, str]
"""From when on, and what the trouble is."""


def trouble_of(phase: str | None) -> str:
    """Say what it means for the user that probes fail in a phase."""
    return _TROUBLE.get(Phase(phase), UNREACHABLE) if phase else UNREACHABLE


def symptom_changes(failures: Iterable[tuple[Millis, str | None]]) -> tuple[SymptomChange, ...]:
    """Return each trouble of an outage with the end of the first observation that showed it.

    `failures` are the down observations: when each ended, and the phase in which it failed. The first trouble
    counts at once,
    another from the first of three observations in a row that show it.
    """
    found: list[SymptomChange] = []
    candidate: SymptomChange | None = None
    seen = 0
    for at, phase in failures:
        trouble = trouble_of(phase)
        if not found:
            found.append((at, trouble))
        elif trouble == found[-1][1]:
            candidate = None
        elif candidate is None or candidate[1] != trouble:
            candidate, seen = (at, trouble), 1
        else:
            seen += 1
            if seen == CONFIRMING_OBSERVATIONS:
                found.append(candidate)
                candidate = None
    return tuple(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentOutage:
    """One outage of an incident. `order` is its place on record: the lower, the earlier it was recorded.

    `account` is a digest of the login ("" where there is none or it is not known); `phases` count where the probes
    failed. `unwatched`: its target was watched no longer before it was over. `maintenance` is how many
    milliseconds of the certain time lie in announced maintenance. `symptom_changes` say how its trouble changed;
    they are empty unless its observations, from entry `first_index` to `last_index` of the ledger, were read.
    """

    order: int
    outage_id: str
    target: str
    kind: str
    provider: str
    vantage_point: str
    account: str
    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    proven_afterwards: bool = False
    least: Millis | None = None
    """Its minimum duration, if that is less than the wall clock says, as over a restart of the machine."""
    unwatched: bool = False
    maintenance: Millis = 0
    first_index: int = 0
    last_index: int = 0
    symptom_changes: tuple[SymptomChange, ...] = ()

    @classmethod
    def from_payload(cls, order: int, payload: Mapping[str, Any]) -> IncidentOutage:
        """Make it from an outage's payload in the ledger."""
        keys = ("target", "kind", "provider", "vantage_point", "last_good", "first_bad", "last_bad", "first_good")
        return cls(
            order=order,
            outage_id=payload["id"],
            account=payload.get("account", ""),
            causes=payload["causes"],
            phases=payload["phases"],
            proven_afterwards=payload.get("proven_afterwards", False),
            least=payload.get("duration_ms", {}).get("min"),
            unwatched=payload.get("state") == "unwatched",
            maintenance=payload.get("maintenance_ms", 0),
            first_index=payload["ledger"]["first"],
            last_index=payload["ledger"]["last"],
            **{key: payload[key] for key in keys},
        )

    @property
    def begin(self) -> Millis:
        """The earliest moment at which it may have begun, as far as there are observations."""
        return self.first_bad if self.last_good is None else self.last_good

    @property
    def until(self) -> Millis | None:
        """Until when it may have lasted as far as it was watched; None while it is open."""
        return self.last_bad if self.unwatched else self.first_good

    @property
    def state(self) -> str:
        """Return "open", "closed" or "unwatched"."""
        if self.unwatched:
            return "unwatched"
        return "open" if self.first_good is None else "closed"

    @property
    def key(self) -> tuple[str, str]:
        """What was down: a target as one vantage point sees it."""
        return self.vantage_point, self.target

    @property
    def trouble(self) -> str:
        """What was wrong for its user, by the phase in which most probes failed; of equals the earlier one."""
        known = [phase.value for phase in Phase if phase.value in self.phases]
        return trouble_of(max(known, key=lambda phase: self.phases[phase], default=None))

    def trouble_at(self, at: Millis) -> str:
        """What was wrong at a time, as far as the turns are known."""
        return next((trouble for since, trouble in reversed(self.symptom_changes) if since <= at), self.trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentStage:
    """How much was down from `at` until the next stage, as far as seen.

    `trouble` is empty when nothing is seen down. `no_longer_watched` are those that were seen down last then, and
    whose target was watched no longer.
    """

    at: Millis
    targets: int
    channels: Mapping[str, int]
    trouble: tuple[str, ...]
    failed: tuple[IncidentOutage, ...]
    restored: tuple[IncidentOutage, ...]
    no_longer_watched: tuple[IncidentOutage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Outages of one provider that overlap, by the time at which they may have begun."""

    provider: str
    members: tuple[IncidentOutage, ...]

    @property
    def id(self) -> str:
        """Its name, after the outage that was recorded first: it stays while the incident grows."""
        return incident_id(self.provider, min(self.members, key=lambda m: (m.order, m.outage_id)).outage_id)

    @property
    def last_good(self) -> Millis | None:
        """The earliest moment at which it may have begun; None when one member was never seen up before."""
        goods = [member.last_good for member in self.members if member.last_good is not None]
        return min(goods) if len(goods) == len(self.members) else None

    @property
    def first_bad(self) -> Millis:
        """When something was first seen down."""
        return min(member.first_bad for member in self.members)

    @property
    def last_bad(self) -> Millis:
        """When something was last seen down."""
        return max(member.last_bad for member in self.members)

    @property
    def first_good(self) -> Millis | None:
        """When all of it had been seen up again; None while something is down, or where its end was not
        watched.
        """
        goods = [member.first_good for member in self.members if member.first_good is not None]
        return max(goods) if len(goods) == len(self.members) else None

    @property
    def until(self) -> Millis | None:
        """Until when it may have lasted as far as it was watched; None while something is open."""
        ends = [member.until for member in self.members if member.until is not None]
        return max(ends) if len(ends) == len(self.members) else None

    @property
    def state(self) -> str:
        """Return "open", "closed", or "unwatched": over, but not all of it was watched until its end."""
        states = {member.state for member in self.members}
        return next(state for state in ("open", "unwatched", "closed") if state in states)

    @property
    def surely_down(self) -> Millis:
        """How long at least one of its targets was surely down: what may lie between two members is left out."""
        total, until = 0, self.first_bad
        for member in sorted(self.members, key=lambda m: m.first_bad):
            surely_until = member.last_bad
            if member.least is not None:
                surely_until = min(surely_until, member.first_bad + member.least)
            total += max(0, surely_until - max(member.first_bad, until))
            until = max(until, surely_until)
        return total

    def stages(self) -> list[IncidentStage]:
        """Return each change in what was down, from a first failure to the first up observation, and in its
        trouble.
        """
        changes: dict[Millis, tuple[list[IncidentOutage], list[IncidentOutage], list[IncidentOutage]]]
        changes = defaultdict(lambda: ([], [], []))
        for member in self.members:
            changes[member.first_bad][0].append(member)
            for turned, _ in member.symptom_changes[1:]:
                changes[turned]  # a change of its own, in which nothing fails and nothing is restored
            if member.until is not None:
                changes[member.until][2 if member.unwatched else 1].append(member)
        down: dict[str, IncidentOutage] = {}
        found = []
        for at, (failed, restored, left) in sorted(changes.items()):
            down |= {member.outage_id: member for member in failed}
            for member in (*restored, *left):
                down.pop(member.outage_id, None)
            seats = {member.key: member for member in down.values()}
            found.append(
                IncidentStage(
                    at=at,
                    targets=len(seats),
                    channels=dict(sorted(Counter(member.kind for member in seats.values()).items())),
                    trouble=tuple(sorted({member.trouble_at(at) for member in down.values()})),
                    failed=tuple(failed),
                    restored=tuple(restored),
                    no_longer_watched=tuple(left),
                )
            )
        return found

    def matches(self, name: str) -> bool:
        """Whether `name` begins this incident's id, one that it had before it grew, or that of a member."""
        names = (n for m in self.members for n in (incident_id(self.provider, m.outage_id), m.outage_id))
        return any(known.startswith(name) for known in names)


def incident_id(provider: str, first_outage: str) -> str:
    """Name an incident: 12 hex digits."""
    return hashlib.sha256(f"incident\n{provider}\n{first_outage}".encode()).hexdigest()[:12]


def incidents(members: Iterable[IncidentOutage]) -> list[Incident]:
    """Group outages into incidents, oldest first."""
    groups: dict[tuple[str, str], list[IncidentOutage]] = defaultdict(list)
    for member in members:
        groups[member.provider, "" if member.provider else member.target].append(member)
    found = [
        Incident(provider=provider, members=together)
        for (provider, _), group in groups.items()
        for together in _overlapping_groups(group)
    ]
    return sorted(found, key=lambda incident: (incident.first_bad, incident.id))


def _overlapping_groups(group: list[IncidentOutage]) -> Iterator[tuple[IncidentOutage, ...]]:
    joined: list[IncidentOutage] = []
    until: Millis | None = 0
    for member in sorted(group, key=lambda m: (m.begin, m.first_bad, m.outage_id)):
        if joined and until is not None and member.begin > until:
            yield tuple(joined)
            joined = []
        if not joined:
            until = member.until
        elif until is not None:
            until = None if member.until is None else max(until, member.until)
        joined.append(member)
    yield tuple(joined)
