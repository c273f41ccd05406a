"""Queries of the ledger, answered in the JSON of docs/reference/api.md: the same for the command line and the
API.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple, cast

from mailwatch.analysis.availability import AvailabilityMeter
from mailwatch.analysis.elapsed import Moment
from mailwatch.analysis.incidents import Incident, IncidentOutage, symptom_changes
from mailwatch.analysis.incidents import incidents as incidents_of
from mailwatch.analysis.login_outages import PROVEN_AFTERWARDS
from mailwatch.analysis.offline import OfflinePeriod, offline_periods
from mailwatch.analysis.outage import outage_id_of
from mailwatch.analysis.outage_record import (
    ClockSteps,
    OutageRecord,
    clock_steps_between,
    outage_from_payload,
    widen_for_clock_steps,
)
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    ObservationJson,
    OfflineJson,
    OutageJson,
    ProbeJson,
    public_outage_json,
)
from mailwatch.analysis.replay import TargetReplay
from mailwatch.analysis.segments import INTERVAL_SAMPLE_SIZE, Segment, usual_interval
from mailwatch.config.recorded_targets import SEE_CONFIG, UnknownTargetError
from mailwatch.ledger.payloads import FACT_KINDS, ObservationPayload, clock_from
from mailwatch.model import Fact, Observation, Outcome, TargetChange
from mailwatch.store import Reader
from mailwatch.store.replay import RuleBook, read_announcements, restore_state, rule_book
from mailwatch.times import Millis, overlap_length, rfc3339, rfc3339_or_none

Live = Mapping[str, OutageRecord]
"""Open outages by id, from code that follows every observation."""
NO_LIVE_OUTAGES: Live = {}


def outage_records(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
) -> list[OutageRecord]:
    """Return the outages on record, newest first; only those that overlap [start, end), if given.

    Closed and unwatched outages are returned as in their ledger entries; an unwatched outage ends at its last
    failure. An open outage is replayed to the last entry unless `live` has it; a replay takes a second for ten
    thousand observations.
    """
    found = (
        record
        for record in _latest(reader, live)
        if record.touches(start, end) and (record.state == "open" or not only_open)
    )
    return sorted(found, key=lambda record: record.first_bad, reverse=True)


def _latest(reader: Reader, live: Live) -> list[OutageRecord]:
    """Return each outage in its current form, in the order of recording."""
    latest: dict[str, OutageRecord] = {}
    opaque: dict[str, str] = {}
    for entry in reader.entries(kinds=["outage"]):
        record = outage_from_payload(entry.payload)
        latest[record.id] = record
        opaque[record.target] = entry.target_id
    still_open = {identity for identity, record in latest.items() if record.state == "open"}
    book = rule_book(reader) if still_open - live.keys() else None
    announced = read_announcements(reader)
    found, steps = [], None
    for identity, record in latest.items():
        current = record
        if identity in still_open and identity in live:
            current = replace(live[identity], account=record.account, settings=record.settings)
        elif identity in still_open and book:
            current = _as_of_now(reader, book, record)
        if current.clock is None:
            steps = clock_steps(reader) if steps is None else steps
            current = widen_for_clock_steps(
                current, *clock_steps_between(steps, current.first_index, current.last_index)
            )
        begin, end = current.first_bad, current.last_bad
        excused = overlap_length(announced.windows_of(opaque[current.target], begin, end), begin, end)
        found.append(replace(current, maintenance=excused) if excused else current)
    return found


def clock_steps(reader: Reader) -> ClockSteps:
    """Read the steps of the wall clock (milliseconds) with their entries' indices."""
    clock_entries = ((entry.index, entry.payload) for entry in reader.entries(kinds=["clock"]))
    return [(index, payload["milliseconds"]) for index, payload in clock_entries if payload["event"] == "step"]


def incidents(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
) -> list[Incident]:
    """Return the incidents, newest first; only those that overlap [start, end), if given."""
    found = []
    for incident in incidents_of(
        IncidentOutage(order=order, outage=record) for order, record in enumerate(_latest(reader, live))
    ):
        over = incident.until
        if only_open and incident.state != "open":
            continue
        if start is not None and over is not None and over <= start:
            continue
        if end is not None and incident.first_bad >= end:
            continue
        found.append(incident)
    return found[::-1]


def with_symptoms(reader: Reader, incident: Incident) -> Incident:
    """Return the incident with each outage's symptom changes. Reads every observation of the incident."""
    members = (
        replace(member, symptom_changes=symptom_changes(_failures(reader, member))) for member in incident.members
    )
    return replace(incident, members=tuple(members))


def _failures(reader: Reader, member: IncidentOutage) -> Iterator[tuple[Millis, str | None]]:
    outage = member.outage
    for entry in reader.entries(target=outage.target, kinds=["observation"], from_index=outage.first_index):
        if entry.index > outage.last_index:
            return
        payload = entry.payload
        if payload["outcome"] == Outcome.DOWN.value:
            yield payload["end"], payload.get("failed_phase")


def outages(
    reader: Reader,
    *,
    only_open: bool = False,
    start: Millis | None = None,
    end: Millis | None = None,
    live: Live = NO_LIVE_OUTAGES,
) -> list[OutageJson]:
    """Return `outage_records` in the JSON of the API."""
    found = outage_records(reader, only_open=only_open, start=start, end=end, live=live)
    return [public_outage_json(record) for record in found]


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


def _as_of_now(reader: Reader, book: RuleBook, record: OutageRecord) -> OutageRecord:
    replayed = restore_state(reader, record.target, book)
    outage = replayed.detector.state.outage
    if outage is None or outage.id != record.id:
        # The outage has just closed, and its entry is still being written.
        outage = next((closed for closed in replayed.unrecorded if closed.id == record.id), None)
    return record if outage is None else OutageRecord.of(outage, record.subject, settings=record.settings)


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


def inferred_interval(reader: Reader, target: str, start: Millis | None = None, *, index: int = 0) -> Millis:
    """Return the interval of a target, inferred from its observations from a time or entry on."""
    entries = reader.entries(
        target=target, kinds=["observation"], start_ms=start, from_index=index, limit=INTERVAL_SAMPLE_SIZE
    )
    return usual_interval([entry.payload["scheduled"] for entry in entries])


def availability(reader: Reader, targets: Iterable[str], start: Millis, end: Millis) -> list[AvailabilityJson]:
    """Return the availability of each target in [start, end).

    Each observation is judged by the interval on record, else by the inferred interval. Announced maintenance is
    left out up to the end of the record. If there was any, `with_maintenance` has the figures with its time
    counted as any other.
    """
    book, announced = rule_book(reader), read_announcements(reader)
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
        window = {"from": rfc3339(start), "to": rfc3339(end)}
        answers.append(cast(AvailabilityJson, {"target": name, **window, **counted_json}))
    return answers


def anchor_of(reader: Reader, record: OutageRecord) -> Moment | None:
    """Return the outage's first failure on its displayed wall clock; None for records with wall times only."""
    kind = PROVEN_AFTERWARDS if record.proven_afterwards else ""
    for entry in reader.entries(
        target=record.target, kinds=["observation"], from_index=record.first_index, to_index=record.last_index + 1
    ):
        first_payload = entry.payload
        if outage_id_of(kind, record.target, entry.index, first_payload["start"]) == record.id:
            clock = clock_from(first_payload)
            return None if clock is None else Moment(record.first_bad, clock.end, clock.boot)
    return None


class RecordedChange(NamedTuple):
    """A target change on record, with the index of its entry."""

    entry: int
    fact: TargetChange


def recorded_change_at(reader: Reader, target: str, at: Millis) -> RecordedChange | None:
    """Return the target's latest change before `at`, None if there is none on record."""
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

    def flush(self) -> list[Segment]:
        self._other.flush()
        return self._one.flush()
