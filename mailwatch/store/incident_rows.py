"""The lines of the list of incidents, by the heads of their outages and the few entries that decide times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.store import Reader
from mailwatch.store.incident_index import IncidentGroup, IncidentMember
from mailwatch.store.outage_queries import NO_LIVE_OUTAGES, Live, records_of
from mailwatch.times import Millis

STATES = ("open", "unwatched", "closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentRow:
    """An incident as a list shows it. `target` and `kind`: of the outage that may have begun first.

    `least` and `most`: its bounds in milliseconds as in its JSON, `most` None while it is open or where an end was
    not seen. `targets`: how many were down, and how many of them are `paused` since.
    """

    id: str
    provider: str
    target: str
    kind: str
    state: str
    first_bad: Millis
    least: Millis
    most: Millis | None
    targets: int
    paused: int


def incident_rows(
    reader: Reader, groups: Sequence[IncidentGroup], live: Live = NO_LIVE_OUTAGES
) -> list[IncidentRow]:
    """Return the rows of these incidents. Raises StoreError."""
    needed = {member.id: member.head for group in groups for member in _deciding(group)}
    records = {record.id: record for record in records_of(reader, needed.values(), live)}
    return [_row(group, records) for group in groups]


def _deciding(group: IncidentGroup) -> Iterator[IncidentMember]:
    """Yield the outages that may have the last failure, and those that may have no good observation before them.

    No outage fails after its end, and each fails at its beginning: one that ends before another begins does not
    have the last failure.
    """
    latest = max(member.first_bad for member in group.members)
    for member in group.members:
        if member.until is None or member.until >= latest or member.begin == member.first_bad:
            yield member


def _row(group: IncidentGroup, records: Mapping[str, OutageRecord]) -> IncidentRow:
    members = group.members
    known = [records[member.id] for member in members if member.id in records]
    states, ends = set[str](), list[Millis]()
    for member in members:
        # An open outage may have ended since its entry.
        record = records.get(member.id)
        states.add("unwatched" if member.is_paused else record.state if record else member.head.state)
        if (end := record.first_good if record else member.head.until) is not None:
            ends.append(end)
    state = next(state for state in STATES if state in states)
    has_begin = all(record.last_good is not None for record in known)
    return IncidentRow(
        id=group.id,
        provider=group.provider,
        target=members[0].target,
        kind=members[0].head.kind,
        state=state,
        first_bad=group.first_bad,
        least=max(record.last_bad for record in known) - group.first_bad,
        most=max(ends) - min(member.begin for member in members) if state == "closed" and has_begin else None,
        targets=len({member.target for member in members}),
        paused=len({member.target for member in members if member.is_paused}),
    )
