"""The outages and incidents for the pages and the API: by their index, with what is open now from memory."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import replace

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import OutageJson, public_outage_json
from mailwatch.monitor.outage_detail import outage_detail
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.store import Reader, Tokens, queries
from mailwatch.store.incident_index import IncidentLists
from mailwatch.store.incident_queries import part_of_groups, paused_outages
from mailwatch.store.incident_rows import incident_rows
from mailwatch.store.outage_lists import OutageLists, RecordedTarget
from mailwatch.store.queries import ALL, OutageFilter, Part
from mailwatch.times import Millis
from mailwatch.web.read_model import (
    ALL_OUTAGES,
    IncidentListing,
    Named,
    OutageDetail,
    OutageListing,
    OutageNeighbours,
    OutageQuery,
    SharedIncident,
    own_name,
)


class RecordedOutages:
    """The part of the read model that is about outages and incidents."""

    def __init__(self, monitor: Pipeline, reader: Reader, tokens: Tokens) -> None:
        self._monitor, self._reader, self._tokens = monitor, reader, tokens

    def outages(
        self, query: OutageQuery = ALL_OUTAGES, part: Part = ALL, named: Named = own_name
    ) -> list[OutageJson]:
        """Return a part of the recorded outages, newest first. `named`: how the query names a target."""
        return self._outages(self._reader.outages.lists(), query, part, named)

    def count_outages(self, query: OutageQuery = ALL_OUTAGES, named: Named = own_name) -> int:
        """Return how many recorded outages match the query."""
        lists = self._reader.outages.lists()
        return len(_filter(query, lists, named).of(lists))

    def list_outages(self, query: OutageQuery, part: Part, named: Named = own_name) -> OutageListing:
        """Return a part of the recorded outages for a page."""
        lists = self._reader.outages.lists()
        return OutageListing(
            outages=self._outages(lists, query, part, named),
            count=len(_filter(query, lists, named).of(lists)),
            providers=sorted({target.provider for target in lists.by_target} - {""}),
        )

    def _outages(self, lists: OutageLists, query: OutageQuery, part: Part, named: Named) -> list[OutageJson]:
        asked, live = _filter(query, lists, named), open_outages(self._monitor)
        found = queries.listed_outages(self._reader, lists, asked, live, part)
        return queries.with_acknowledgements(self._reader, found)

    def outage_subjects(self) -> Collection[RecordedTarget]:
        """Return the targets that have outages on record."""
        return self._reader.outages.lists().by_target.keys()

    def outage_ids(self) -> Collection[str]:
        """Return the ids of all outages on record."""
        return self._reader.outages.lists().by_id.keys()

    def neighbours(self, identity: str) -> OutageNeighbours:
        """Return what is beside an outage on record."""
        lists = self._reader.outages.lists()
        if (head := lists.by_id.get(identity)) is None:
            return OutageNeighbours()
        own = lists.of_name(head.target)
        place = lists.place_of(identity, own)
        assert place is not None
        older = own[place + 1].id if place + 1 < len(own) else ""
        group = self._incident_lists().of_outage.get(identity)
        shared = None
        if group is not None and len(group.members) > 1:
            shared = SharedIncident(group.id, group.provider, len(group.members))
        return OutageNeighbours(shared, older, own[place - 1].id if place else "")

    def outage_json(self, identity: str) -> OutageJson | None:
        """Return one outage in the JSON of the API."""
        record = self.outage_record(identity)
        return None if record is None else queries.with_acknowledgements(self._reader, [record])[0]

    def recent_outages(self, limit: int) -> list[OutageJson]:
        """Return the newest outages in memory, newest first."""
        monitor = self._monitor
        # The records in memory of those that are open date from the opening.
        found = dict(monitor.former_outages)
        for runtime in list(monitor.targets.values()):
            found |= runtime.outages
        found |= open_outages(monitor)
        newest_first = heapq.nlargest(limit, found.values(), key=lambda record: record.first_bad)
        return [public_outage_json(record) for record in newest_first]

    def outage(self, identity: str) -> OutageDetail | None:
        """Return one outage with its transitions, guard, clock and integrity."""
        record = self.outage_record(identity)
        return None if record is None else outage_detail(self._reader, self._tokens, record)

    def outage_record(self, identity: str) -> OutageRecord | None:
        """Return one outage as it stands now."""
        return queries.outage_record(self._reader, identity, open_outages(self._monitor))

    def incidents(
        self,
        *,
        only_open: bool = False,
        start: Millis | None = None,
        end: Millis | None = None,
        part: Part = ALL,
    ) -> list[IncidentJson]:
        """Return a part of the incidents, newest first; only those that overlap [start, end), if given."""
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        found = queries.incidents(
            self._reader, only_open=only_open, start=start, end=end, live=live, paused=paused, part=part
        )
        return queries.incidents_with_acknowledgements(self._reader, found)

    def list_incidents(self, part: Part) -> IncidentListing:
        """Return a part of the incidents for a page, newest first."""
        live, lists = open_outages(self._monitor), self._incident_lists()
        groups = part_of_groups(lists, lists.newest_first, part)
        return IncidentListing(incident_rows(self._reader, groups, live), len(lists.newest_first))

    def incident_ids(self) -> Collection[str]:
        """Return the ids of all incidents."""
        return self._incident_lists().ids

    def incident(self, identity: str) -> IncidentJson | None:
        """Return one incident, with each change of its symptoms."""
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        found = queries.incident(self._reader, identity, live, paused)
        return None if found is None else queries.incidents_with_acknowledgements(self._reader, [found])[0]

    def _incident_lists(self) -> IncidentLists:
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        return self._reader.incidents.lists(paused_outages(self._reader, live, paused))


def open_outages(monitor: Pipeline) -> dict[str, OutageRecord]:
    """Return each outage that is open now, by its id, with since when its target is paused."""
    found = {}
    for runtime in list(monitor.targets.values()):
        if (record := monitor.recorder.open_outage(runtime)) is not None:
            found[record.id] = replace(record, paused_at=runtime.paused_at)
    return found


def _filter(query: OutageQuery, lists: OutageLists, named: Named) -> OutageFilter:
    targets = None
    if query.target or query.provider:
        targets = frozenset(one for one in lists.by_target if query.matches(named(one), one.provider, query.state))
    return OutageFilter(targets, query.state, query.start, query.end)
