"""Queries of the ledger, answered in the JSON of docs/reference/api.md: the same for the command line and the
API.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, cast

from mailwatch.analysis.availability import AvailabilityMeter
from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.login_outages import PROVEN_AFTERWARDS
from mailwatch.analysis.offline import OfflinePeriod, offline_periods
from mailwatch.analysis.outage import outage_id_of
from mailwatch.analysis.outage_record import (
    OutageRecord,
)
from mailwatch.analysis.pauses import paused_windows
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    ObservationJson,
    OfflineJson,
    ProbeJson,
)
from mailwatch.analysis.replay import TargetReplay
from mailwatch.analysis.segments import INTERVAL_SAMPLE_SIZE, GoodObservations, Segment, usual_interval
from mailwatch.config.recorded_targets import SEE_CONFIG, UnknownTargetError
from mailwatch.ledger.payloads import FACT_KINDS, ObservationPayload, clock_from
from mailwatch.model import Fact, Observation, Outcome, TargetChange
from mailwatch.store import Entry, Reader
from mailwatch.store.announcements import read_announcements
from mailwatch.store.incident_index import IncidentGroup as IncidentGroup
from mailwatch.store.incident_queries import incident as incident
from mailwatch.store.incident_queries import incident_groups as incident_groups
from mailwatch.store.incident_queries import incident_of_outage as incident_of_outage
from mailwatch.store.incident_queries import incidents as incidents
from mailwatch.store.incident_queries import incidents_of as incidents_of
from mailwatch.store.incident_queries import incidents_with_acknowledgements as incidents_with_acknowledgements
from mailwatch.store.incident_queries import with_symptoms as with_symptoms
from mailwatch.store.outage_queries import ALL as ALL
from mailwatch.store.outage_queries import NO_LIVE_OUTAGES as NO_LIVE_OUTAGES
from mailwatch.store.outage_queries import Live as Live
from mailwatch.store.outage_queries import NotInListError as NotInListError
from mailwatch.store.outage_queries import OutageFilter as OutageFilter
from mailwatch.store.outage_queries import Part as Part
from mailwatch.store.outage_queries import Wanted as Wanted
from mailwatch.store.outage_queries import clock_steps as clock_steps
from mailwatch.store.outage_queries import listed_outages as listed_outages
from mailwatch.store.outage_queries import outage_record as outage_record
from mailwatch.store.outage_queries import outage_record_at as outage_record_at
from mailwatch.store.outage_queries import outage_records as outage_records
from mailwatch.store.outage_queries import outages as outages
from mailwatch.store.outage_queries import records_of as records_of
from mailwatch.store.outage_queries import with_acknowledgements as with_acknowledgements
from mailwatch.store.pruning import pruned_time
from mailwatch.store.replay import rule_book
from mailwatch.times import (
    Millis,
    Window,
    rfc3339,
    rfc3339_or_none,
    subtract_windows,
    total_length,
)


def offline(reader: Reader, *, start: Millis | None = None, end: Millis | None = None) -> list[OfflineJson]:
    """Return the periods when our own line was down, newest first; only those that overlap [start, end), if
    given.
    """
    entries = ((entry.index, entry.payload) for entry in reader.entries(kinds=["guard"]))
    found = []
    for period in reversed(offline_periods(entries)):
        over = period.first_online
        if (start is None or over is None or over > start) and (end is None or period.first_offline < end):
            found.append(_offline_json(period))
    return found


def _offline_json(period: OfflinePeriod) -> OfflineJson:
    lasted = period.durations
    return {
        "part": period.part,
        "state": period.state,
        "last_online": rfc3339_or_none(period.last_online),
        "first_offline": rfc3339(period.first_offline),
        "last_offline": rfc3339(period.last_offline),
        "first_online": rfc3339_or_none(period.first_online),
        "duration": {
            "min": lasted.least / 1000,
            "max": _seconds(lasted.most),
            "estimate": _seconds(lasted.estimate),
            "uncertainty": _seconds(lasted.uncertainty),
        },
        "unobserved": period.unobserved / 1000,
        "reasons": list(period.reasons),
        "ledger": {"first": period.first_index, "last": period.last_index},
    }


def _seconds(millis: Millis | None) -> float | None:
    return None if millis is None else millis / 1000


def observation_json(observation: Observation, provider: str, kind: str) -> ProbeJson:
    """Return an observation in the JSON of `mailwatch probe --json` and the API; durations in seconds."""
    last = observation.deciding_attempt
    tls = last.tls if last else None
    return {
        "target": observation.target,
        "kind": kind,
        "provider": provider,
        "started_at": rfc3339(observation.started_at),
        "outcome": observation.outcome,
        "cause": observation.cause,
        "failed_phase": observation.failed_phase,
        "detail": observation.detail,
        "phases": {phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
        "duration": (observation.ended_at - observation.started_at) / 1000,
        "peer": last.peer if last else "",
        "tls": None
        if tls is None
        else {
            "version": tls.version,
            "cipher": tls.cipher,
            "fingerprint": tls.fingerprint,
            "not_after": rfc3339(tls.not_after) if tls.not_after is not None else None,
        },
        "attempts": len(observation.attempts),
        "partial": list(observation.partial),
        "replies": list(last.replies) if last else [],
        "guard": None if observation.guard is None else observation.guard.online,
    }


def observations(
    reader: Reader,
    known: dict[str, tuple[str, str]],
    *,
    target: str | None,
    start: Millis | None,
    end: Millis | None,
    limit: int,
    outcome: Outcome | None = None,
    before: int | None = None,
    after: int | None = None,
) -> list[ObservationJson]:
    """Return observations, newest first, with their index. `known`: provider and kind by target.

    Only entries with indices in [after, before), if given.
    """
    found: list[ObservationJson] = []
    for entry in reader.entries(
        target=target, kinds=["observation"], outcome=outcome, start_ms=start, end_ms=end, from_index=after,
        to_index=before, descending=True, limit=limit,
    ):  # fmt: skip
        fact = entry.fact
        if isinstance(fact, Observation):
            provider, kind = known.get(fact.target, ("", ""))
            found.append({"index": entry.index, **observation_json(fact, provider, kind)})
    return found


def select_targets(
    reader: Reader, name: str | None, configured: Sequence[str], *, see: str = SEE_CONFIG
) -> list[str]:
    """Return the targets selected: all `configured`, or the one named, which may be on record only. `see`: advice
    for UnknownTargetError, which is raised for an unknown name.
    """
    if name is None:
        return list(configured)
    if name not in configured and name not in (on_record := reader.targets()):
        raise UnknownTargetError(name, {*configured, *on_record}, see=see)
    return [name]


def inferred_interval(
    reader: Reader, target: str, start: Millis | None = None, *, index: int = 0, end: int | None = None
) -> Millis:
    """Return the interval of a target, inferred from its observations from a time or entry on, before `end`."""
    entries = reader.entries(
        target=target,
        kinds=["observation"],
        start_ms=start,
        from_index=index,
        to_index=end,
        limit=INTERVAL_SAMPLE_SIZE,
    )
    return usual_interval([entry.payload["scheduled"] for entry in entries])


def availability(reader: Reader, targets: Iterable[str], start: Millis, end: Millis) -> list[AvailabilityJson]:
    """Return the availability of each target in [start, end).

    Each observation is judged by the interval on record, else by the inferred interval. Announced maintenance is
    left out up to the end of the record. If there was any, `with_maintenance` has the figures with its time
    counted as any other.
    """
    book, announced, pruned = rule_book(reader), read_announcements(reader), pruned_time(reader)
    last = next((entry.time for entry in reader.entries(descending=True, limit=1)), 0)
    answers = []
    for name in targets:
        settings = recorded_change_at(reader, name, start)
        length = settings.fact.settings.interval if settings else inferred_interval(reader, name, start)
        # An observation before the window decides its beginning.
        margin = 3 * length + 60_000
        # All entries from the first to the last in the window, whatever the wall clock showed in between: two
        # entries that are not consecutive decide nothing.
        first, after = reader.between(name, start - margin, end + margin)
        held = reader.latest(name, "watch", at_most=first)
        change = None if held is None else held.fact
        interval = (change.settings.interval if isinstance(change, TargetChange) else length) / 1000
        opaque = next((entry.target_id for entry in reader.entries(target=name, limit=1)), "")
        excluded = announced.windows_of(opaque, start - margin, min(end, last))
        without, whole = (
            AvailabilityMeter(start, end, interval=interval, excluded=left_out, infer=change is None)
            for left_out in (excluded, ())
        )
        replay, rules = TargetReplay(_WithAndWithoutMaintenance(without, whole), lambda *_: None), book.at(0)
        for entry in reader.entries(target=name, kinds=FACT_KINDS, from_index=first, to_index=after):
            rules = book.at(entry.index)
            replay.feed(entry.index, entry.kind, entry.payload, rules)
        replay.flush(rules)
        found = [outage for outage in replay.all_outages.values() if not outage.proven_afterwards]
        counted_json = without.result(found).public_json()
        if counted_json.get("maintenance"):
            counted = whole.result(found).public_json()
            counted_json["with_maintenance"] = {key: counted[key] for key in _COUNTED}
        if paused := paused_length(reader, name, start, min(end, last), excluded):
            counted_json["paused"] = paused / 1000
        if pruned is not None and start < pruned.before:
            counted_json["pruned"] = {"before": rfc3339(pruned.before), "entry": pruned.entry}
        window = {"from": rfc3339(start), "to": rfc3339(end)}
        answers.append(cast(AvailabilityJson, {"target": name, **window, **counted_json}))
    return answers


def paused_length(
    reader: Reader, target: str, start: Millis, end: Millis, excluded: Sequence[Window] = ()
) -> Millis:
    """Return for how long a target was paused in [start, end), outside of the merged windows `excluded`."""
    before = recorded_change_at(reader, target, start)
    later = (entry.fact for entry in reader.entries(target=target, kinds=["watch"], start_ms=start, end_ms=end))
    changes = [*([before.fact] if before else []), *(fact for fact in later if isinstance(fact, TargetChange))]
    pauses = paused_windows(changes, start, end)
    return total_length(part for pause in pauses for part in subtract_windows(excluded, *pause))


def anchor_of(reader: Reader, record: OutageRecord) -> Moment | None:
    """Return the outage's first failure on its displayed wall clock; None for records with wall times only."""
    first, last = record.first_index, record.last_index
    return anchor_among(
        reader.entries(target=record.target, kinds=["observation"], from_index=first, to_index=last + 1), record
    )


def anchor_among(observations: Iterable[Entry], record: OutageRecord) -> Moment | None:
    """Return the same from the target's observations that the outage spans, in order."""
    kind = PROVEN_AFTERWARDS if record.proven_afterwards else ""
    for entry in observations:
        first_payload = entry.payload
        if outage_id_of(kind, record.target, entry.index, first_payload["start"]) == record.id:
            clock = clock_from(first_payload)
            return None if clock is None else Moment(record.first_bad, clock.end, clock.boot)
    return None


class RecordedChange(NamedTuple):
    """A target change on record, with the index of its entry."""

    entry: int
    fact: TargetChange


def recorded_change_at(reader: Reader, target: str, at: Millis | None) -> RecordedChange | None:
    """Return the target's latest change, by default of all, else before `at`; None if there is none on record."""
    for entry in reader.entries(target=target, kinds=["watch"], end_ms=at, descending=True, limit=1):
        if isinstance(fact := entry.fact, TargetChange):
            return RecordedChange(entry.index, fact)
    return None


_COUNTED = ("availability", "coverage", "downtime", "unobserved", "mttr", "mtbf")


class _WithAndWithoutMaintenance:
    """Two meters of the same facts: one without announced maintenance, one with all time counted."""

    def __init__(self, one: AvailabilityMeter, other: AvailabilityMeter) -> None:
        self._one, self._other = one, other

    def feed(self, fact: Fact) -> list[Segment]:
        self._other.feed(fact)
        return self._one.feed(fact)

    def feed_up(self, payload: ObservationPayload) -> bool:
        # Both meters accept or neither: what they exclude does not decide it.
        return self._one.feed_up(payload) and self._other.feed_up(payload)

    def feed_ups(self, stretch: GoodObservations, at: int) -> int:
        self._other.feed_ups(stretch, at)
        return self._one.feed_ups(stretch, at)

    def flush(self) -> list[Segment]:
        self._other.flush()
        return self._one.flush()
