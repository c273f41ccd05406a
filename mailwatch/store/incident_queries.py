"""Queries of incidents: grouped by the index of outages (outage_index.py); only the asked part is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from mailwatch.analysis.incident_json import IncidentJson, incident_json
from mailwatch.analysis.incidents import Incident, IncidentOutage
from mailwatch.store import Reader
from mailwatch.store.acknowledgements import acknowledged_incident
from mailwatch.store.incident_index import IncidentGroup, IncidentLists
from mailwatch.store.outage_queries import (
    ALL,
    NO_LIVE_OUTAGES,
    Live,
    Part,
    acknowledgement_json,
    current_forms,
    records_of,
)
from mailwatch.store.symptom_states import symptom_changes_of
from mailwatch.store.unobserved import paused_since
from mailwatch.times import Millis


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
    lists = reader.incidents.lists(paused_outages(reader, live, paused))
    groups = listed_groups(lists, only_open=only_open, start=start, end=end)
    return incidents_of(reader, part_of_groups(lists, groups, part), live)


def incident_groups(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
    paused: Collection[str] | None = None,
) -> Sequence[IncidentGroup]:
    """Return the outages of each incident, newest first, by their heads alone."""
    lists = reader.incidents.lists(paused_outages(reader, live, paused))
    return listed_groups(lists, only_open=only_open, start=start, end=end)


def listed_groups(
    lists: IncidentLists, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
) -> Sequence[IncidentGroup]:
    """Return the same of lists that were asked for already."""
    found = lists.newest_first
    if not only_open and start is None and end is None:
        return found
    return [
        group
        for group in found
        if (group.is_open or not only_open)
        and (start is None or group.until is None or group.until > start)
        and (end is None or group.first_bad < end)
    ]


def part_of_groups(lists: IncidentLists, groups: Sequence[IncidentGroup], part: Part) -> Sequence[IncidentGroup]:
    """Return a part of a list of incidents. Raises NotInListError."""

    def place_of(identity: str) -> int | None:
        group = lists.get(identity)
        return groups.index(group) if group is not None and group in groups else None

    return part.of(groups, place_of)


def paused_outages(reader: Reader, live: Live, paused: Collection[str] | None) -> dict[str, Millis]:
    """Return the last failure in each open outage whose target is paused, by the outage's id.

    `paused`: the targets that are paused now; None to read from the record whether they are.
    """
    found = {}
    for head in reader.outages.lists().select(state="open"):
        if paused_since(reader, head.target) is not None if paused is None else head.target in paused:
            known = live.get(head.id) or records_of(reader, [head])[0]
            found[head.id] = known.last_bad
    return found


def incident_group(
    reader: Reader, identity: str, live: Live = NO_LIVE_OUTAGES, paused: Collection[str] | None = None
) -> IncidentGroup | None:
    """Return the outages of an incident by its id, or by a former one; None if unknown."""
    return reader.incidents.lists(paused_outages(reader, live, paused)).get(identity)


def incident_of_outage(
    reader: Reader, outage: str, live: Live = NO_LIVE_OUTAGES, paused: Collection[str] | None = None
) -> IncidentGroup | None:
    """Return the incident that an outage is part of, by its id; None if unknown."""
    return reader.incidents.lists(paused_outages(reader, live, paused)).of_outage.get(outage)


def incident(
    reader: Reader, identity: str, live: Live = NO_LIVE_OUTAGES, paused: Collection[str] | None = None
) -> Incident | None:
    """Return one incident by its id, or by a former one, with each outage's symptom changes; None if unknown."""
    group = incident_group(reader, identity, live, paused)
    return None if group is None else with_symptoms(reader, incidents_of(reader, [group], live)[0])


def incidents_of(reader: Reader, groups: Iterable[IncidentGroup], live: Live = NO_LIVE_OUTAGES) -> list[Incident]:
    """Return the incidents of groups, in the given order."""
    wanted = list(groups)
    heads = [member.head for group in wanted for member in group.members]
    current = current_forms(reader, reader.outages.records(heads), live, None)
    records = {record.id: record for record in current}
    return [
        Incident(
            provider=group.provider,
            members=tuple(
                IncidentOutage(order=one.order, outage=records[one.id], is_target_paused=one.is_paused)
                for one in group.members
            ),
        )
        for group in wanted
    ]


def with_symptoms(reader: Reader, incident: Incident) -> Incident:
    """Return the incident with each outage's symptom changes."""
    members = (
        replace(member, symptom_changes=symptom_changes_of(reader, member.outage)) for member in incident.members
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
