"""The data of the pages, the API and /metrics, from the monitor's memory and, for the past, from the ledger."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from zoneinfo import ZoneInfo

from mailwatch.analysis.public_json import AvailabilityJson, ObservationJson, OfflineJson, TargetJson
from mailwatch.analysis.response_times import Period, ResponseHistory
from mailwatch.config import Config
from mailwatch.config.recorded_targets import SEE_API, UnknownTargetError
from mailwatch.fleet.eligibility import reasons
from mailwatch.monitor.document_maker import DocumentMaker
from mailwatch.monitor.recorded_outages import RecordedOutages
from mailwatch.monitor.service import Service
from mailwatch.monitor.target_detail import MAX_OUTAGES, former_detail, watched_detail
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.store import Tokens, queries
from mailwatch.store.lease import config_differences
from mailwatch.store.place import configured_place
from mailwatch.store.pruning import pruned_time
from mailwatch.store.queries import Part
from mailwatch.store.share_key import share_key
from mailwatch.store.successor import recorded_predecessors
from mailwatch.times import DAY_MS, Millis, rfc3339
from mailwatch.web.read_model import (
    AuditSummary,
    CheckpointSummary,
    DocumentRequest,
    LedgerSummary,
    LetterPreview,
    NodeSummary,
    ObservationQuery,
    OutageQuery,
    TargetCard,
    TargetGoneError,
    TokenSummary,
    WitnessSummary,
)
from mailwatch.web.response_times import ResponseTimes
from mailwatch.web.target_detail import TargetDetail


class MonitorReadModel(RecordedOutages):
    """The read model of a running service, from its memory and its ledger."""

    def __init__(self, service: Service) -> None:
        super().__init__(service.monitor, service.reader, Tokens(configured_place(service.config)))
        here = service.monitor.vantage_point
        self.vantage_point, self.place = here.name, here.place
        self._zone: tuple[Config, ZoneInfo] | None = None
        self._service = service
        self._share_key = b""
        self._response_times = ResponseTimes(service.reader)
        self._documents = DocumentMaker(service, self.outage_record)

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
            nodes=self._node_summaries(),
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

    def _node_summaries(self) -> list[NodeSummary]:
        nodes = self._service.nodes()
        differ, why = config_differences(nodes), reasons(nodes)
        return [
            NodeSummary(one.name, one.state, one.seen, one.refusal, differ[one.id], one.probe_shares, why[one.id])
            for one in nodes
        ]

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail."""
        return self._service.unready_reasons()

    def storage_notes(self) -> list[str]:
        """Return when the disk of the ledger is full, and which nodes have another config; empty if nothing is
        known.
        """
        return [*self._service.storage.notes(), *self._service.node_notes()]

    def waiting(self) -> tuple[int, Millis] | None:
        """Return how many observations wait for the database, and when the oldest ended; None without one."""
        return None if self._monitor.spooler is None else self._monitor.spooler.waiting_since()

    def standby(self) -> str | None:
        """Return None: this node is active."""
        return None

    def try_reading(self) -> None:
        """Read the size of the ledger."""
        self._reader.size()

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
        return await self._documents.document(wanted)

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        """Return what a letter about an outage still needs. Raises EvidenceUnavailableError."""
        return await self._documents.letter_preview(outage, language, formal)


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


def _newest_fact(runtime: TargetRuntime) -> tuple[str, str]:
    """Return id and state of the newest outage: it is recorded a moment after the observation that changed it."""
    newest = next(reversed(runtime.outages.values()), None)
    return (newest.id, newest.state) if newest else ("", "")
