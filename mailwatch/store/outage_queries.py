"""Queries of outages: lists by the index (outage_index.py), of which only the asked part is read and replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from mailwatch.analysis.outage_record import (
    ClockSteps,
    OutageRecord,
    clock_steps_between,
    outage_from_payload,
    widen_for_clock_steps,
)
from mailwatch.analysis.public_json import AcknowledgementJson, OutageJson, public_outage_json
from mailwatch.store import Entry, Reader
from mailwatch.store.acknowledgements import Acknowledgement
from mailwatch.store.outage_lists import OutageHead, OutageLists, RecordedTarget
from mailwatch.store.replay import RuleBook, restore_state, rule_book
from mailwatch.store.unobserved import paused_since
from mailwatch.times import Millis, overlap_length, rfc3339

T = TypeVar("T")
Live = Mapping[str, OutageRecord]
"""Open outages by id, from code that follows every observation, and knows since when a target is paused."""
NO_LIVE_OUTAGES: Live = {}


Wanted = Callable[[OutageHead], bool]
"""Returns whether an outage belongs to a list."""


class NotInListError(LookupError):
    """The list has no item with the id after which its part begins."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a list: `limit` items (None: all) after the first `skip`, or after the one with the id `after`."""

    limit: int | None = None
    skip: int = 0
    after: str = ""

    def of(self, found: Sequence[T], place_of: Callable[[str], int | None]) -> Sequence[T]:
        """Return this part of a list; `place_of` finds an item by its id. Raises NotInListError."""
        first = self.skip
        if self.after:
            if (place := place_of(self.after)) is None:
                raise NotInListError(self.after)
            first += place + 1
        return found[first : None if self.limit is None else first + self.limit]


ALL = Part()


@dataclass(frozen=True, slots=True)
class OutageFilter:
    """Which outages a list has: those of some targets (None: of all), in a state ("" for any), that overlap
    [start, end). `wanted` is asked last; it costs a call for each.
    """

    targets: frozenset[RecordedTarget] | None = None
    state: str = ""
    start: Millis | None = None
    end: Millis | None = None
    wanted: Wanted | None = None

    def of(self, lists: OutageLists) -> Sequence[OutageHead]:
        """Return those of them that are in the lists, newest first."""
        found = lists.select(self.targets, self.state)
        if self.start is not None or self.end is not None:
            found = [head for head in found if head.touches(self.start, self.end)]
        return found if self.wanted is None else [head for head in found if self.wanted(head)]


def outage_records(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
    wanted: Wanted | None = None,
    part: Part = ALL,
) -> list[OutageRecord]:
    """Return the outages on record, newest first; only those that overlap [start, end), if given.

    Closed and unwatched outages are returned as in their ledger entries; an unwatched outage ends at its last
    failure. An open outage is replayed to the last entry, from its kept state on, unless `live` has it.
    """
    asked = OutageFilter(None, "open" if only_open else "", start, end, wanted)
    return listed_outages(reader, reader.outages.lists(), asked, live, part)


def listed_outages(
    reader: Reader, lists: OutageLists, asked: OutageFilter, live: Live = NO_LIVE_OUTAGES, part: Part = ALL
) -> list[OutageRecord]:
    """Return the same of lists that were asked for already. Raises NotInListError."""
    heads = asked.of(lists)
    found = (
        record
        for record in records_of(reader, part.of(heads, lambda after: lists.place_of(after, heads)), live)
        if record.touches(asked.start, asked.end) and (record.state == "open" or asked.state != "open")
    )
    return sorted(found, key=lambda record: record.first_bad, reverse=True)


def outage_record(reader: Reader, identity: str, live: Live = NO_LIVE_OUTAGES) -> OutageRecord | None:
    """Return one outage in its current form, None if it is not on record."""
    head = reader.outages.get(identity)
    return None if head is None else records_of(reader, [head], live)[0]


def outage_record_at(reader: Reader, identity: str, size: int) -> OutageRecord | None:
    """Return one outage as the first `size` entries give it, however far the ledger grew since; None if they do
    not record it. It is replayed without a kept state, for evidence.
    """
    head = reader.outages.get(identity)
    if head is None:
        return None
    entries = reader.entries(target=head.target, kinds=["outage"], to_index=size)
    recorded = [entry for entry in entries if entry.payload["id"] == identity]
    if not recorded:
        return None
    return current_forms(reader, [(outage_from_payload(recorded[-1].payload), recorded[-1])], {}, size)[0]


def records_of(reader: Reader, heads: Iterable[OutageHead], live: Live = NO_LIVE_OUTAGES) -> list[OutageRecord]:
    """Return outages in their current form, in the given order; an open one says since when it is paused."""
    return [
        replace(record, paused_at=paused_since(reader, record.target))
        if record.state == "open" and record.id not in live
        else record
        for record in current_forms(reader, reader.outages.records(heads), live, None)
    ]


def current_forms(
    reader: Reader, recorded: Iterable[tuple[OutageRecord, Entry]], live: Live, size: int | None
) -> list[OutageRecord]:
    """Return each outage in its form after `size` entries, by default after the last."""
    book: RuleBook | None = None
    announced = reader.announcements.current()
    found, steps = [], None
    for record, entry in recorded:
        current = record
        if record.state == "open" and record.id in live:
            mine = live[record.id]
            current = replace(mine, account=record.account, rules=record.rules, settings=record.settings)
        elif record.state == "open":
            book = book or rule_book(reader)
            current = _replayed(reader, book, record, size)
        if current.clock is None:
            steps = clock_steps(reader) if steps is None else steps
            current = widen_for_clock_steps(
                current, *clock_steps_between(steps, current.first_index, current.last_index)
            )
        begin, end = current.first_bad, current.last_bad
        excused = overlap_length(announced.windows_of(entry.target_id, begin, end), begin, end)
        found.append(replace(current, maintenance=excused) if excused else current)
    return found


def clock_steps(reader: Reader) -> ClockSteps:
    """Read the steps of the wall clock (milliseconds) with their entries' indices."""
    clock_entries = ((entry.index, entry.payload) for entry in reader.entries(kinds=["clock"]))
    return [(index, payload["milliseconds"]) for index, payload in clock_entries if payload["event"] == "step"]


def _replayed(reader: Reader, book: RuleBook, record: OutageRecord, size: int | None) -> OutageRecord:
    """Return an open outage in its form after `size` entries, by default after the last."""
    replayed = restore_state(reader, record.target, book, size=size, use_kept=size is None)
    outage = replayed.detector.state.outage
    if outage is None or outage.id != record.id:
        # The outage has just closed, and its entry is still being written.
        outage = next((closed for closed in replayed.unrecorded if closed.id == record.id), None)
    if outage is None:
        return record
    return OutageRecord.of(outage, record.subject, rules=record.rules, settings=record.settings)


def outages(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
    wanted: Wanted | None = None,
    part: Part = ALL,
) -> list[OutageJson]:
    """Return `outage_records` in the JSON of the API."""
    found = outage_records(reader, only_open=only_open, start=start, end=end, live=live, wanted=wanted, part=part)
    return with_acknowledgements(reader, found)


def with_acknowledgements(reader: Reader, records: Iterable[OutageRecord]) -> list[OutageJson]:
    """Return records in the JSON of the API, with what the owner acknowledged."""
    known, found = reader.acknowledgements(), []
    for record in records:
        outage = public_outage_json(record)
        if (acknowledgement := known.get(record.id)) is not None:
            outage["acknowledged"] = acknowledgement_json(acknowledgement)
        found.append(outage)
    return found


def acknowledgement_json(acknowledgement: Acknowledgement) -> AcknowledgementJson:
    """Return an acknowledgement in the JSON of the API."""
    return {"at": rfc3339(acknowledgement.at), "note": acknowledgement.note}
