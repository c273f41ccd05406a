"""The data access of the pages, the API, the feed and /metrics. Each answer holds committed data only.

Two classes implement it: `MonitorReadModel` (monitor/read_model.py), from the running monitor and its ledger, and
`PublicReadModel` (public.py), the part of it that anonymous visitors may see. Until the first is ready,
StartingApp answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, Protocol

from typing_extensions import TypedDict

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    BoundsJson,
    ClockJson,
    CountsJson,
    DurationJson,
    ObservationJson,
    OfflineJson,
)
from mailwatch.analysis.rolling_availability import AvailabilityRatio, DayAvailability
from mailwatch.model import Cause, Kind, Outcome, Phase
from mailwatch.times import Millis


class TargetFacts(TypedDict):
    """The public facts of a target."""

    provider: str
    kind: Kind
    state: str
    last_observation: str | None
    outcome: Outcome | None
    cause: Cause | None
    failed_phase: Phase | None


class PublicTargetJson(TargetFacts):
    """A target as returned to anonymous visitors; the full read model adds keys."""

    target: str
    outage: str | None


class OutageFacts(TypedDict):
    """The public facts of an outage."""

    provider: str
    kind: str
    state: str
    last_good: str | None
    first_bad: str
    last_bad: str
    first_good: str | None
    duration: DurationJson
    observations: CountsJson
    largest_gap: float
    unobserved: float
    causes: Mapping[str, int]
    phases: Mapping[str, int]
    proven_afterwards: NotRequired[bool]
    maintenance: NotRequired[float]
    clock: NotRequired[ClockJson]


class PublicOutageJson(OutageFacts):
    """An outage as returned to anonymous visitors; the full read model adds keys."""

    id: str
    target: str


class MemberFacts(TypedDict):
    """The public facts of an outage in an incident."""

    kind: str
    state: str
    last_good: str | None
    first_bad: str
    last_bad: str
    first_good: str | None
    duration: BoundsJson
    causes: Mapping[str, int]
    trouble: str
    proven_afterwards: NotRequired[bool]
    maintenance: NotRequired[float]


class PublicMemberJson(MemberFacts):
    """An outage in an incident for anonymous visitors."""

    id: str
    target: str


class StageFacts(TypedDict):
    """The public facts of a stage of an incident."""

    at: str
    targets_down: int
    channels_down: Mapping[str, int]
    trouble: list[str]


class PublicStageJson(StageFacts):
    """A stage of an incident for anonymous visitors."""

    failed: list[str]
    restored: list[str]


class IncidentFacts(TypedDict):
    """The public facts of an incident."""

    provider: str
    state: str
    last_good: str | None
    first_bad: str
    last_bad: str
    first_good: str | None
    duration: BoundsJson
    surely_down: float


class PublicIncidentJson(IncidentFacts):
    """An incident for anonymous visitors."""

    id: str
    outages: list[PublicMemberJson]
    stages: list[PublicStageJson]


AnyIncidentJson = IncidentJson | PublicIncidentJson


class EvidenceUnavailableError(Exception):
    """The evidence file cannot be made; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationQuery:
    """A query for observations. `before` and `after` are ledger indices: [after, before)."""

    target: str | None = None
    outcome: Outcome | None = None
    start: Millis | None = None
    end: Millis | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCard:
    """A target on the overview: its latest observation, and its availability over 90 days."""

    phases: Mapping[str, float]
    """Seconds in each phase of the latest observation."""
    duration: float
    """Total seconds of the latest observation."""
    ratio: AvailabilityRatio
    days: Sequence[DayAvailability]
    """The last 90 days, oldest first."""
    is_filling: bool
    """Whether the ledger is still being read for this target: days and availability are incomplete."""


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A signed checkpoint of the ledger."""

    size: int
    time: Millis
    note: str


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """An outside authority's timestamp token. `checkpoint`: number of entries in the stamped checkpoint."""

    time: Millis
    authority: str
    checkpoint: int


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """The latest self-audit of the ledger."""

    at: Millis
    entries: int
    findings: Sequence[str]


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """The data of the ledger page."""

    size: int
    checkpoint: CheckpointSummary | None
    token: TokenSummary | None
    audit: AuditSummary | None


@dataclass(frozen=True, slots=True)
class OutageTransition:
    """An observation that differs from the previous observation."""

    at: Millis
    outcome: Outcome
    cause: Cause | None
    phase: Phase | None
    detail: str


@dataclass(frozen=True, slots=True)
class GuardAnswer:
    """The state of our own line when an outage began, and the result of each control server."""

    online: bool | None
    controls: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SealedRange:
    """The entries [start, end) that prove an outage, under a signed checkpoint, with its timestamp tokens."""

    start: int
    end: int
    note: str
    tokens: Sequence[TokenSummary]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutageDetail:
    """The data of the page of one outage."""

    outage: OutageRecord
    transitions: Sequence[OutageTransition]
    guard: GuardAnswer | None
    clock_bound: float | None
    """Bound of the wall clock's error, in seconds."""
    range: SealedRange | None


class ReadModel(Protocol):
    """The data access. Targets, outages and incidents come ready to be written as JSON."""

    @property
    def vantage_point(self) -> str:
        """The name of this vantage point."""

    @property
    def place(self) -> str:
        """The location of this vantage point."""

    def is_unguarded(self) -> bool:
        """Return whether the guard is off, so that failures of our own line count as the providers'."""

    def targets(self) -> Sequence[PublicTargetJson]:
        """Return the watched targets."""

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return the card of a target in `targets`, from memory, whatever the ledger's size."""

    def unknown_reason(self, name: str) -> str:
        """Return why a name is not a target, watched or on record; "" if it is one."""

    def outages(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[PublicOutageJson]:
        """Return the outages on record, newest first; only those that overlap [start, end), if given."""

    def recent_outages(self) -> Sequence[PublicOutageJson]:
        """Return the outages in memory, newest first."""

    def outage(self, identity: str) -> OutageDetail | None:
        """Return one outage with its transitions, guard, clock and integrity; None if unknown."""

    def incidents(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[AnyIncidentJson]:
        """Return the incidents, newest first; only those that overlap [start, end), if given."""

    def incident(self, identity: str) -> AnyIncidentJson | None:
        """Return one incident with each change of its trouble; None if unknown."""

    def observations(self, query: ObservationQuery) -> Sequence[ObservationJson]:
        """Return the observations that match the query, newest first."""

    def offline(self, start: Millis | None, end: Millis | None) -> Sequence[OfflineJson]:
        """Return the periods when our own line was down, newest first."""

    def availability(self, target: str | None, start: Millis, end: Millis) -> Sequence[AvailabilityJson]:
        """Return the availability of a target, or of all, in [start, end)."""

    def ledger(self) -> LedgerSummary | None:
        """Return the summary of the ledger; None if it is not public."""

    def change_token(self) -> str:
        """Return a token that changes when anything on the pages changes."""

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail; empty if it succeeds."""

    def stale_reasons(self) -> list[str]:
        """Return why the data may be stale: not ready, or no observation was recorded for long."""

    def metrics(self) -> Iterator[bytes]:
        """Yield the text of /metrics in parts."""

    async def evidence(self, identity: str, language: str) -> Path:
        """Make the evidence file of an outage in a language. The caller deletes it. Raises
        EvidenceUnavailableError.
        """
