"""The data of the pages, the API and /metrics, from the monitor's memory and, for the past, from the ledger."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import TypeAdapter

from mailwatch import monotonic
from mailwatch.analysis.elapsed import Moment, by_reference_clock, fact_end, fact_start, reference_moment
from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.incidents import id_of_group
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    ObservationJson,
    OfflineJson,
    OutageJson,
    TargetJson,
    public_outage_json,
)
from mailwatch.analysis.response_times import Period, ResponseHistory
from mailwatch.config import Config, catalogue
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.evidence.report_job import ReportJobs
from mailwatch.evidence.warnings import answering_controls
from mailwatch.model import ConnectivityResult, Observation, Outcome
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.service import Service
from mailwatch.monitor.target_detail import MAX_OUTAGES, former_detail, watched_detail
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError, Tokens, queries
from mailwatch.store.place import configured_place
from mailwatch.store.pruning import pruned_time
from mailwatch.store.queries import ALL, Part
from mailwatch.store.share_key import share_key
from mailwatch.store.successor import recorded_predecessors
from mailwatch.times import DAY_MS, Millis, rfc3339
from mailwatch.web.read_model import (
    ALL_OUTAGES,
    AuditSummary,
    CheckpointSummary,
    DocumentKind,
    DocumentRequest,
    EvidenceUnavailableError,
    GuardAnswer,
    LedgerSummary,
    LetterPreview,
    Named,
    NodeSummary,
    ObservationQuery,
    OutageDetail,
    OutageNeighbours,
    OutageQuery,
    OutageTransition,
    SealedRange,
    TargetCard,
    TargetGoneError,
    TokenSummary,
    WitnessSummary,
    own_name,
)
from mailwatch.web.response_times import ResponseTimes
from mailwatch.web.target_detail import TargetDetail

MAX_OBSERVATIONS = 5000
"""The number of observations of an outage that are read for its transitions."""
MAX_TRANSITIONS = 100
SEAL_AGAIN_MS: Millis = 10_000
"""Documents of open outages sign a checkpoint first, at most once in this time."""


class MonitorReadModel:
    """The read model of a running service, from its memory and its ledger."""

    def __init__(self, service: Service) -> None:
        here = service.monitor.vantage_point
        self.vantage_point, self.place = here.name, here.place
        self._zone: tuple[Config, ZoneInfo] | None = None
        self._service, self._monitor, self._reader = service, service.monitor, service.reader
        self._share_key = b""
        self._tokens = Tokens(configured_place(service.config))
        self._response_times = ResponseTimes(service.reader)
        self._sealed_at: Millis | None = None
        self._reports = ReportJobs(lambda: service.path, service.config.data_dir)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the pages' local times: the config's, which a reload may change."""
        config = self._service.config
        if self._zone is None or self._zone[0] is not config:
            self._zone = config, config.zone()
        return self._zone[1]

    def is_unguarded(self) -> bool:
        """Return whether our own line is unchecked, so that its failures are attributed to the providers."""
        return self._monitor.attribution.guard is None

    def targets(self) -> list[TargetJson]:
        """Return all watched targets."""
        return [target_json(runtime) for runtime in list(self._monitor.targets.values())]

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return the overview's data of a target, from memory, so that the ledger's size does not matter.

        Raises TargetGoneError.
        """
        runtime = self._watched(name)
        latest = runtime.latest
        last = latest.deciding_attempt if latest else None
        return TargetCard(
            phases={phase.value: spent / 1e6 for phase, spent in last.phases.items()} if last else {},
            duration=(latest.ended_at - latest.started_at) / 1000 if latest else 0.0,
            ratio=runtime.rolling_availability.ratio(90 * DAY_MS, at),
            days=runtime.rolling_availability.days(at),
            is_filling=runtime.pending_backfill is not None,
        )

    def response_series(self, name: str, at: Millis) -> Sequence[Millis | None]:
        """Return the median response times of the 48 half hours before `at`. Raises TargetGoneError."""
        return self._watched(name).responses.medians(at)

    def _watched(self, name: str) -> TargetRuntime:
        # Pages are rendered in threads, while a reload may remove targets.
        if (runtime := self._monitor.targets.get(name)) is None:
            raise TargetGoneError(name)
        return runtime

    def target_detail(self, name: str, at: Millis) -> TargetDetail | None:
        """Return the data of the page of a target, watched or on record only."""
        runtime = self._monitor.targets.get(name)
        if runtime is None:
            if self.unknown_reason(name):
                return None
            own = self.outages(OutageQuery(target=name), Part(MAX_OUTAGES))
            more = max(0, self.count_outages(OutageQuery(target=name)) - MAX_OUTAGES)
            return former_detail(name, self._reader, own, at, more)
        still_open = self._monitor.recorder.open_outage(runtime)
        return watched_detail(runtime, target_json(runtime), still_open, self._reader, self._monitor, at)

    def response_times(self, name: str, period: Period, at: Millis) -> ResponseHistory:
        """Return the response times of the period up to `at`."""
        return self._response_times.history(name, period, at)

    def open_since(self) -> dict[str, Millis]:
        """Return the first failed check of each target with an open outage; of a paused target, the pause."""
        targets = list(self._monitor.targets.items())
        return {
            name: record.first_bad
            for name, runtime in targets
            for record in list(runtime.outages.values())
            if record.state == "open"
        } | {name: runtime.paused_at for name, runtime in targets if runtime.paused_at is not None}

    def offline_since(self) -> Millis | None:
        """Return when our own line was found down."""
        return self._monitor.attribution.offline_since

    def unknown_reason(self, name: str) -> str:
        """Return why no target of that name is watched or on record; "" if there is one."""
        try:
            queries.select_targets(self._reader, name, list(self._monitor.targets), see=SEE_API)
        except UnknownTargetError as error:
            return str(error)
        return ""

    def outages(
        self, query: OutageQuery = ALL_OUTAGES, part: Part = ALL, named: Named = own_name
    ) -> list[OutageJson]:
        """Return a part of the recorded outages, newest first. `named`: how the query names a target."""
        live = open_outages(self._monitor)
        return queries.outages(
            self._reader, start=query.start, end=query.end, live=live, wanted=_wanted(query, named), part=part
        )

    def count_outages(self, query: OutageQuery = ALL_OUTAGES, named: Named = own_name) -> int:
        """Return how many recorded outages match the query."""
        wanted = _wanted(query, named)
        return len(queries.outage_heads(self._reader, start=query.start, end=query.end, wanted=wanted))

    def outage_subjects(self) -> set[tuple[str, str, str]]:
        """Return the targets (name, provider, kind) that have outages on record."""
        return {(head.target, head.provider, head.kind) for head in self._reader.outages.heads()}

    def outage_ids(self) -> list[str]:
        """Return the ids of all outages on record, newest first."""
        return [head.id for head in self._reader.outages.heads()]

    def neighbours(self, identity: str) -> OutageNeighbours:
        """Return what is beside an outage on record."""
        head = self._reader.outages.get(identity)
        if head is None:
            return OutageNeighbours()
        own = [other.id for other in self._reader.outages.heads() if other.target == head.target]
        place = own.index(identity)
        older = own[place + 1] if place + 1 < len(own) else ""
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        groups = queries.incident_groups(self._reader, live=live, paused=paused)
        group = next((one for one in groups if any(member.id == identity for member in one)), ())
        shared = queries.incidents_of(self._reader, [group], live) if len(group) > 1 else []
        found = queries.incidents_with_acknowledgements(self._reader, shared)
        return OutageNeighbours(next(iter(found), None), older, own[place - 1] if place else "")

    def outage_json(self, identity: str) -> OutageJson | None:
        """Return one outage in the JSON of the API."""
        record = self._record(identity)
        return None if record is None else queries.with_acknowledgements(self._reader, [record])[0]

    def recent_outages(self, limit: int) -> list[OutageJson]:
        """Return the newest outages in memory, newest first."""
        monitor = self._monitor
        found = dict(monitor.former_outages)
        for runtime in list(monitor.targets.values()):
            found |= runtime.outages
            if (still_open := monitor.recorder.open_outage(runtime)) is not None:
                # The record in memory dates from the opening.
                found[still_open.id] = replace(still_open, paused_at=runtime.paused_at)
        newest_first = heapq.nlargest(limit, found.values(), key=lambda record: record.first_bad)
        return [public_outage_json(record) for record in newest_first]

    def outage(self, identity: str) -> OutageDetail | None:
        """Return one outage with its transitions, guard, clock and integrity."""
        record = self._record(identity)
        if record is None:
            return None
        first, last = record.first_index, record.last_index
        observations = list(_observations(self._reader, record.target, first, last))
        transitions = _transitions(
            observations,
            reference_moment(record.last_good, record.first_bad, observations[0] if observations else None),
        )
        guard = next((seen.guard for seen in observations if seen.outcome is Outcome.DOWN), None)
        return OutageDetail(
            outage=record,
            transitions=transitions[:MAX_TRANSITIONS],
            is_cut=len(transitions) > MAX_TRANSITIONS or len(observations) == MAX_OBSERVATIONS,
            guard=None if guard is None else _guard_answer(guard),
            clock_bound=_clock_bound(self._reader, first),
            range=_range(self._reader, self._tokens, record.target, first, last),
        )

    def _record(self, identity: str) -> OutageRecord | None:
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

    def incident_ids(self) -> list[str]:
        """Return the ids of all incidents, newest first."""
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        return [id_of_group(group) for group in queries.incident_groups(self._reader, live=live, paused=paused)]

    def incident(self, identity: str) -> IncidentJson | None:
        """Return one incident, with each change of its symptoms."""
        live, paused = open_outages(self._monitor), self._monitor.paused_targets()
        found = queries.incident(self._reader, identity, live, paused)
        return None if found is None else queries.incidents_with_acknowledgements(self._reader, [found])[0]

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
            witnesses=[
                WitnessSummary(one.name, one.size, one.at, one.problem, one.conflict)
                for one in list(self._service.witnessing.states.values())
            ],
            own_witness="" if self._service.cosigner is None else str(self._service.cosigner.key),
            predecessors=recorded_predecessors(self._reader),
            storage=self._service.storage.latest,
            nodes=[NodeSummary(one.name, one.state, one.seen, one.refusal) for one in self._service.nodes()],
            pruned=pruned_time(self._reader),
        )

    def change_token(self) -> str:
        """Return a token that changes whenever the data of the pages changes."""
        states = (
            (w.target.name, w.state_name, w.latest.started_at if w.latest else 0, _newest_fact(w))
            for w in list(self._monitor.targets.values())
        )
        stale = bool(self._service.stale_reasons())
        return str(hash((tuple(states), self._monitor.attribution.offline_since, stale, self.waiting())))

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail."""
        return self._service.unready_reasons()

    def storage_notes(self) -> list[str]:
        """Return when the disk of the ledger is full; empty while that is not known."""
        return self._service.storage.notes()

    def waiting(self) -> tuple[int, Millis] | None:
        """Return how many observations wait for the database, and when the oldest ended; None without one."""
        return None if self._monitor.spooler is None else self._monitor.spooler.waiting_since()

    def standby(self) -> str | None:
        """Return None: this node is active."""
        return None

    def stale_reasons(self) -> list[str]:
        """Return why the data may be old."""
        return self._service.stale_reasons()

    def metrics(self) -> Iterator[bytes]:
        """Yield /metrics, piece by piece."""
        return self._monitor.metrics.exposition()

    def share_key(self) -> bytes:
        """Return the secret of links to one outage, made at the first use; b"" where it cannot be kept."""
        if not self._share_key:
            with contextlib.suppress(OSError):
                self._share_key = share_key(self._service.config.data_dir)
        return self._share_key

    async def document(self, wanted: DocumentRequest) -> Path:
        """Make a document. Raises EvidenceUnavailableError."""
        await self._prepare(wanted.outage)
        try:
            return await self._reports.make(_document_words(wanted), wanted.suffix)
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        """Return what a letter about an outage still needs. Raises EvidenceUnavailableError."""
        await self._prepare(outage)
        words = ["claim", outage, "--preview", "--lang", language, *(["--formal"] if formal else [])]
        try:
            return TypeAdapter(LetterPreview).validate_json(await self._reports.run(words))
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None

    async def _prepare(self, identity: str) -> None:
        """Check that the outage exists, and sign what is on record of it so far: a document ends where the signed
        record does. Raises EvidenceUnavailableError.
        """
        if not identity:
            return
        record = await asyncio.to_thread(self._record, identity)
        if record is None:
            raise EvidenceUnavailableError(f"no outage {identity!r}; GET /api/v1/outages lists them")
        at = monotonic.milliseconds()
        if record.state == "open" and (self._sealed_at is None or at - self._sealed_at >= SEAL_AGAIN_MS):
            self._sealed_at = at
            await self._monitor.writer.checkpoint()


def _guard_answer(guard: ConnectivityResult) -> GuardAnswer:
    others, _ = answering_controls(guard.controls)
    return GuardAnswer(guard.online, guard.controls, only_ours=bool(guard.online) and not others)


def _wanted(query: OutageQuery, named: Named) -> queries.Wanted:
    if query.matches("", "", ""):
        return lambda _: True
    return lambda head: query.matches(named(head), head.provider, head.state)


def _document_words(wanted: DocumentRequest) -> list[str]:
    """Return the verb and the words of the command line that make a document."""
    if wanted.kind is DocumentKind.PERIOD:
        year, _, month = wanted.period.partition("-")
        following = f"{int(year) + 1}" if month in ("", "12") else f"{year}-{int(month) + 1:02d}"
        end = f"{following}-01" if "-" not in following else following
        return ["report", "--from", f"{year}-{month or '01'}", "--to", end, "--lang", wanted.language]
    if wanted.kind is DocumentKind.LETTER:
        return ["claim", wanted.outage, "--lang", wanted.language, *(["--formal"] if wanted.formal else [])]
    return ["report", wanted.outage, "--lang", wanted.language]


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
        "state": runtime.state_name,
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
    """Return the transitions, of which there may be one more than are given: then the others are left out."""
    transitions: list[OutageTransition] = []
    before = None
    for observation in observations:
        here = (observation.outcome, observation.cause, observation.failed_phase)
        if here != before and len(transitions) <= MAX_TRANSITIONS:
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
