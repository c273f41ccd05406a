"""Queries of incidents: grouped by the index of outages (outage_index.py); only the asked part is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from mailwatch.analysis.incident_json import IncidentJson, incident_json
from mailwatch.analysis.incidents import (
    Incident,
    IncidentOutage,
    grouped,
    incident_id,
    until_of_group,
)
from mailwatch.store import Reader
from mailwatch.store.acknowledgements import acknowledged_incident
from mailwatch.store.outage_index import OutageHead
from mailwatch.store.outage_queries import (
    ALL,
    NO_LIVE_OUTAGES,
    Live,
    Part,
    acknowledgement_json,
    current_forms,
    records_of,
)
from mailwatch.store.symptom_states import read_symptoms
from mailwatch.store.unobserved import paused_since
from mailwatch.times import Millis


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


Group = tuple[IncidentMember, ...]
"""The outages of one incident."""


def incidents(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
    paused: Collection[str] | None = None,
    part: Part = ALL,
) -> list[Incident]:
    """Return the incidents, newest first; only those that overlap [start, end), if given.

    `paused`: the targets that are paused now; None to read from the record whether they are.
    """
    groups = incident_groups(reader, only_open=only_open, start=start, end=end, live=live, paused=paused)
    return incidents_of(reader, part.of(groups, ids_of_group), live)


def incident_groups(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
    paused: Collection[str] | None = None,
) -> list[Group]:
    """Return the outages of each incident, newest first, by their heads alone."""
    found = []
    for group in reversed(grouped(_members(reader, live, paused))):
        over = until_of_group(group)
        if only_open and not any(member.is_open for member in group):
            continue
        if start is not None and over is not None and over <= start:
            continue
        if end is not None and min(member.first_bad for member in group) >= end:
            continue
        found.append(group)
    return found


def incident(
    reader: Reader, identity: str, live: Live = NO_LIVE_OUTAGES, paused: Collection[str] | None = None
) -> Incident | None:
    """Return one incident by its id, or by a former one, with each outage's symptom changes; None if unknown."""
    for group in incident_groups(reader, live=live, paused=paused):
        if identity in ids_of_group(group):
            return with_symptoms(reader, incidents_of(reader, [group], live)[0])
    return None


def ids_of_group(group: Group) -> list[str]:
    """Return the id of an incident, and those that it ever had."""
    return [incident_id(member.provider, member.id) for member in group]


def _members(reader: Reader, live: Live, paused: Collection[str] | None) -> Iterator[IncidentMember]:
    for head in reader.outages.heads():
        if head.state != "open":
            yield IncidentMember(head, False, head.until)
            continue
        is_paused = paused_since(reader, head.target) is not None if paused is None else head.target in paused
        # The open outage of a paused target reaches to its last failure.
        until = records_of(reader, [head], live)[0].last_bad if is_paused else None
        yield IncidentMember(head, is_paused, until)


def incidents_of(reader: Reader, groups: Iterable[Group], live: Live = NO_LIVE_OUTAGES) -> list[Incident]:
    """Return the incidents of groups, in the given order."""
    wanted = list(groups)
    heads = [member.head for group in wanted for member in group]
    current = current_forms(reader, reader.outages.records(heads), live, None)
    records = {record.id: record for record in current}
    return [
        Incident(
            provider=group[0].provider,
            members=tuple(
                IncidentOutage(order=one.order, outage=records[one.id], is_target_paused=one.is_paused)
                for one in group
            ),
        )
        for group in wanted
    ]


def with_symptoms(reader: Reader, incident: Incident) -> Incident:
    """Return the incident with each outage's symptom changes, by the kept ones and what came after them."""
    members = (
        replace(member, symptom_changes=read_symptoms(reader, member.outage).history.found)
        for member in incident.members
    )
    return replace(incident, members=tuple(members))


def incidents_with_acknowledgements(reader: Reader, found: Iterable[Incident]) -> list[IncidentJson]:
    """Return incidents in the JSON of the API, with what the owner acknowledged."""
    known, written = reader.acknowledgements(), []
    for incident in found:
        json = incident_json(incident)
        if (acknowledgement := acknowledged_incident(incident, known)) is not None:
            json["acknowledged"] = acknowledgement_json(acknowledgement)
        written.append(json)
    return written
