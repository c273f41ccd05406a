"""The data of the pages, the API and /metrics, from the monitor's memory and, for the past, from the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from mailwatch.analysis.elapsed import Moment, by_reference_clock, fact_end, fact_start, reference_moment
from mailwatch.analysis.incident_json import IncidentJson, incident_json
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    ObservationJson,
    OfflineJson,
    OutageJson,
    TargetJson,
    outage_json,
)
from mailwatch.config import catalogue
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.evidence.report_job import ReportJobs
from mailwatch.model import Observation, Outcome
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.service import Service
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError, Tokens, queries
from mailwatch.times import DAY_MS, Millis, rfc3339
from mailwatch.web.read_model import (
    AuditSummary,
    CheckpointSummary,
    EvidenceUnavailableError,
    GuardAnswer,
    LedgerSummary,
    ObservationQuery,
    OutageDetail,
    OutageTransition,
    SealedRange,
    TargetCard,
    TokenSummary,
)

MAX_OBSERVATIONS = 5000
"""The number of observations of an outage that are read for its transitions."""
MAX_TRANSITIONS = 100


class MonitorReadModel:
    """The read model of a running service, from its memory and its ledger."""

    def __init__(self, service: Service) -> None:
        here = service.monitor.vantage_point
        self.vantage_point, self.place = here.name, here.place
        self._service, self._monitor, self._reader = service, service.monitor, service.reader
        self._tokens = Tokens(service.config.data_dir)
        self._reports = ReportJobs(service.path, service.config.data_dir)

    def is_unguarded(self) -> bool:
        """Return whether our own line is unchecked, so that its failures are attributed to the providers."""
        return self._monitor.attribution.guard is None

    def targets(self) -> list[TargetJson]:
        """Return all watched targets."""
        return [target_json(runtime) for runtime in list(self._monitor.targets.values())]

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return the overview's data of a target, from memory, so that the ledger's size does not matter."""
        runtime = self._monitor.targets[name]
        latest = runtime.latest
        last = latest.deciding_attempt if latest else None
        return TargetCard(
            phases={phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
            duration=(latest.ended_at - latest.started_at) / 1000 if latest else 0.0,
            ratio=runtime.rolling_availability.ratio(90 * DAY_MS, at),
            days=runtime.rolling_availability.days(at),
            is_filling=runtime.pending_backfill is not None,
        )

    def unknown_reason(self, name: str) -> str:
        """Return why no target of that name is watched or on record; "" if there is one."""
        try:
            queries.select_targets(self._reader, name, list(self._monitor.targets), see=SEE_API)
        except UnknownTargetError as error:
            return str(error)
        return ""

    def outages(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> list[OutageJson]:
        """Return the recorded outages, newest first; with `start` or `end`, those that overlap [start, end)."""
        live = open_outages(self._monitor)
        return queries.outages(self._reader, only_open=only_open, start=start, end=end, live=live)

    def recent_outages(self) -> list[OutageJson]:
        """Return the outages in memory, newest first."""
        monitor = self._monitor
        found = dict(monitor.former_outages)
        for runtime in list(monitor.targets.values()):
            found |= runtime.outages
            if (still_open := monitor.recorder.open_outage(runtime)) is not None:
                # The record in memory dates from the opening.
                found[still_open.id] = still_open
        newest_first = sorted(found.values(), key=lambda record: record.first_bad, reverse=True)
        return [outage_json(record) for record in newest_first]

    def outage(self, identity: str) -> OutageDetail | None:
        """Return one outage with its transitions, guard, clock and integrity."""
        record = self._record(identity)
        if record is None:
            return None
        first, last = record.first_index, record.last_index
        observations = list(_observations(self._reader, record.target, first, last))
        guard = next((seen.guard for seen in observations if seen.outcome is Outcome.DOWN), None)
        return OutageDetail(
            outage=record,
            transitions=_transitions(
                observations,
                reference_moment(record.last_good, record.first_bad, observations[0] if observations else None),
            ),
            guard=None if guard is None else GuardAnswer(guard.online, guard.controls),
            clock_bound=_clock_bound(self._reader, first),
            range=_range(self._reader, self._tokens, record.target, first, last),
        )

    def _record(self, identity: str) -> OutageRecord | None:
        found = queries.outage_records(self._reader, live=open_outages(self._monitor))
        return next((record for record in found if record.id == identity), None)

    def incidents(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> list[IncidentJson]:
        """Return the incidents, newest first; with `start` or `end`, those that overlap [start, end)."""
        live = open_outages(self._monitor)
        found = queries.incidents(self._reader, only_open=only_open, start=start, end=end, live=live)
        return [incident_json(incident) for incident in found]

    def incident(self, identity: str) -> IncidentJson | None:
        """Return one incident, with each change of its symptoms."""
        for item in queries.incidents(self._reader, live=open_outages(self._monitor)):
            if item.id == identity:
                return incident_json(queries.with_symptoms(self._reader, item))
        return None

    def observations(self, query: ObservationQuery) -> list[ObservationJson]:
        """Return the observations that match the query, newest first."""
        watched = [runtime.target for runtime in list(self._monitor.targets.values())]
        known = {target.name: (target.provider, target.kind.value) for target in watched}
        return queries.observations(self._reader, known, **asdict(query))

    def offline(self, start: Millis | None, end: Millis | None) -> list[OfflineJson]:
        """Return the periods in which our own line was down, newest first."""
        return queries.offline(self._reader, start=start, end=end)

    def availability(self, target: str | None, start: Millis, end: Millis) -> list[AvailabilityJson]:
        """Return the availability of a target, or of all, in [start, end)."""
        wanted = queries.select_targets(self._reader, target, list(self._monitor.targets), see=SEE_API)
        return queries.availability(self._reader, wanted, start, end)

    def ledger(self) -> LedgerSummary:
        """Return the ledger's size, latest checkpoint, latest token and latest audit."""
        row, audit = self._reader.last_checkpoint(), self._service.auditing.latest
        token = next(iter(self._reader.entries(kinds=["token"], descending=True, limit=1)), None)
        return LedgerSummary(
            size=self._reader.size(),
            checkpoint=None if row is None else CheckpointSummary(row.size, row.time_ms, row.note),
            token=None
            if token is None
            else TokenSummary(token.payload["time"], token.payload["authority"], token.payload["checkpoint"]),
            audit=None if audit is None else AuditSummary(audit.at, audit.entries, audit.findings),
        )

    def change_token(self) -> str:
        """Return a token that changes whenever the data of the pages changes."""
        states = (
            (w.target.name, w.state.name, w.latest.started_at if w.latest else 0, _newest_fact(w))
            for w in list(self._monitor.targets.values())
        )
        return str(hash(tuple(states)))

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail."""
        return self._service.unready_reasons()

    def stale_reasons(self) -> list[str]:
        """Return why the data may be old."""
        return self._service.stale_reasons()

    def metrics(self) -> Iterator[bytes]:
        """Yield /metrics, piece by piece."""
        return self._monitor.metrics.exposition()

    async def evidence(self, identity: str, language: str) -> Path:
        """Create the evidence file of an outage in a language. Raises EvidenceUnavailableError."""
        if await asyncio.to_thread(self._record, identity) is None:
            raise EvidenceUnavailableError(f"no outage {identity!r}; GET /api/v1/outages lists them")
        try:
            return await self._reports.make(identity, language)
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None


def only_public_targets(monitor: Pipeline, reader: Reader) -> Callable[[], bool]:
    """Return a predicate: is every recorded target a public catalogue server probed without a login?

    True for config.example.yaml, whose pages anyone may see. A private target stays on record, and on the pages,
    after its end; so call the predicate before each reload. Once false, it stays false.
    """
    open_to_all: bool | None = None

    def is_public() -> bool:
        nonlocal open_to_all
        watched = [runtime.target for runtime in list(monitor.targets.values())]
        if not all(_is_public_target(target) for target in watched):
            open_to_all = False
        elif open_to_all is None:
            try:
                open_to_all = {target.name for target in watched}.issuperset(reader.targets())
            except StoreError:
                # The recorded targets cannot be read now: admit only those who may see everything.
                return False
        return open_to_all

    return is_public


def _is_public_target(target: Target) -> bool:
    provider = catalogue.by_key(target.provider) if target.provider else None
    public = provider is not None and target.host in {server.host for server in provider.servers}
    return public and target.login is None and target.task is None and "@" not in target.name


def target_json(runtime: TargetRuntime) -> TargetJson:
    """Return the target as GET /api/v1/targets shows it."""
    target, latest = runtime.target, runtime.latest
    return {
        "target": target.name,
        "provider": target.provider,
        "kind": target.kind,
        "state": runtime.state.name,
        "interval": target.interval,
        "last_observation": rfc3339(latest.started_at) if latest else None,
        "outcome": latest.outcome if latest else None,
        "cause": latest.cause if latest else None,
        "failed_phase": latest.failed_phase if latest else None,
        "detail": latest.detail if latest else "",
        "outage": next((o.id for o in runtime.outages.values() if o.state == "open"), None),
    }


def open_outages(monitor: Pipeline) -> dict[str, OutageRecord]:
    """Return each outage that is open now, by its id."""
    found = (monitor.recorder.open_outage(runtime) for runtime in list(monitor.targets.values()))
    return {record.id: record for record in found if record is not None}


def _newest_fact(runtime: TargetRuntime) -> tuple[str, str]:
    """Return id and state of the newest outage: it is recorded a moment after the observation that changed it."""
    newest = next(reversed(runtime.outages.values()), None)
    return (newest.id, newest.state) if newest else ("", "")


def _observations(reader: Reader, target: str, first: int, last: int) -> Iterator[Observation]:
    within = reader.entries(target=target, kinds=["observation"], from_index=first, limit=MAX_OBSERVATIONS)
    for entry in within:
        if isinstance(fact := entry.fact, Observation):
            yield fact
            if entry.index > last:
                return


def _transitions(observations: Sequence[Observation], reference: Moment | None) -> list[OutageTransition]:
    transitions: list[OutageTransition] = []
    before = None
    for observation in observations:
        here = (observation.outcome, observation.cause, observation.failed_phase)
        if here != before and len(transitions) < MAX_TRANSITIONS:
            # As for an outage's bounds: the last up observation counts from its start, others from their end.
            from_start = not transitions and observation.outcome is Outcome.UP
            moment = fact_start(observation) if from_start else fact_end(observation)
            at = by_reference_clock(moment, reference)
            transitions.append(OutageTransition(at, *here, observation.detail))
        before = here
    return transitions


def _clock_bound(reader: Reader, index: int) -> float | None:
    """Return the clock's error bound in seconds by the last survey before an entry, None without a survey."""
    for entry in reader.entries(kinds=["clock"], to_index=index, descending=True, limit=20):
        if entry.payload["event"] == "survey":
            bound = entry.payload.get("error_bound_us")
            return None if bound is None else bound / 1e6
    return None


def _range(reader: Reader, tokens: Tokens, target: str, first: int, last: int) -> SealedRange | None:
    closing = reader.entries(target=target, kinds=["outage"], from_index=last, limit=1)
    try:
        found = select_range(reader, tokens, first, max([last, *(entry.index for entry in closing)]))
    except EvidenceError:
        return None
    stamped = [TokenSummary(t.time, t.authority, t.checkpoint) for t in found.tokens]
    return SealedRange(found.start.size, found.end.size, found.end.note, stamped)
