"""What the pages, the API, the feed and /metrics may ask of the monitor. Each answer holds what is committed.

Two classes answer: `MonitorReadModel` (monitor/read_model.py) from the running monitor and its ledger, and
`PublicReadModel` (public.py) what anonymous visitors see of that. Until the first is there, StartingApp answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Protocol

from typing_extensions import TypedDict

from mailwatch.analysis.public_json import (
    AvailabilityJson,
    BoundsJson,
    ClockJson,
    CountsJson,
    DurationJson,
    IncidentJson,
    ObservationJson,
    OfflineJson,
)
from mailwatch.analysis.rolling_availability import AvailabilityRatio, DayAvailability
from mailwatch.model import Cause, Kind, Outcome, Phase
from mailwatch.times import Millis


class TargetFacts(TypedDict):
    """What anyone may know of a target."""

    provider: str
    kind: Kind
    state: str
    last_observation: str | None
    outcome: Outcome | None
    cause: Cause | None
    failed_phase: Phase | None


class PublicTargetJson(TargetFacts):
    """A target for anonymous visitors, or for those who see more."""

    target: str
    outage: str | None


class OutageFacts(TypedDict):
    """What anyone may know of an outage."""

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
    """An outage for anonymous visitors, or for those who see more."""

    id: str
    target: str


class MemberFacts(TypedDict):
    """What anyone may know of an outage in an incident."""

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
    """What anyone may know of a stage of an incident."""

    at: str
    targets_down: int
    channels_down: Mapping[str, int]
    trouble: list[str]


class PublicStageJson(StageFacts):
    """A stage of an incident for anonymous visitors."""

    failed: list[str]
    restored: list[str]


class IncidentFacts(TypedDict):
    """What anyone may know of an incident."""

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
    """The evidence file cannot be made; says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservationQuery:
    """Which observations are wanted. `before` and `after` are indices of the ledger: [after, before)."""

    target: str | None = None
    outcome: Outcome | None = None
    start: Millis | None = None
    end: Millis | None = None
    before: int | None = None
    after: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetCard:
    """What the overview shows of a target: its latest observation, and its availability of 90 days."""

    phases: Mapping[str, float]
    """Seconds in each phase of the latest observation."""
    duration: float
    """Seconds of it in all."""
    ratio: AvailabilityRatio
    days: Sequence[DayAvailability]
    """Oldest first."""
    is_filling: bool
    """The ledger is still being read for it: days and availability are not what they will be."""


@dataclass(frozen=True, slots=True)
class CheckpointSummary:
    """A signed checkpoint of the ledger."""

    size: int
    time: Millis
    note: str


@dataclass(frozen=True, slots=True)
class TokenSummary:
    """A token by which an outside authority has stamped a checkpoint over so many entries."""

    time: Millis
    authority: str
    checkpoint: int


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """The latest audit of the ledger by itself."""

    at: Millis
    entries: int
    findings: Sequence[str]


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """The ledger as its page shows it."""

    size: int
    checkpoint: CheckpointSummary | None
    token: TokenSummary | None
    audit: AuditSummary | None


class ReadModel(Protocol):
    """What may be asked. Targets, outages and incidents come ready to be written as JSON."""

    @property
    def vantage_point(self) -> str:
        """The name of this vantage point."""

    @property
    def place(self) -> str:
        """Where it stands."""

    def is_unguarded(self) -> bool:
        """Whether there is no check of our own line, so that its failures are taken for the providers'."""

    def targets(self) -> Sequence[PublicTargetJson]:
        """Return all that is watched."""

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return what the overview shows of a target of `targets`. It is in memory, whatever the ledger's size."""

    def unknown_reason(self, name: str) -> str:
        """Say why a name is no target's that is watched or on record; "" if it is one's."""

    def outages(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[PublicOutageJson]:
        """Return the outages on record, newest first; those that touch [start, end) when given."""

    def recent_outages(self) -> Sequence[PublicOutageJson]:
        """Return those that are in memory, newest first."""

    def outage(self, identity: str) -> dict[str, Any] | None:
        """Return one outage with its transitions, guard, clock and integrity."""

    def incidents(
        self, *, only_open: bool = False, start: Millis | None = None, end: Millis | None = None
    ) -> Sequence[AnyIncidentJson]:
        """Return the incidents, newest first; those that touch [start, end) when given."""

    def incident(self, identity: str) -> AnyIncidentJson | None:
        """Return one incident, with each change of its trouble."""

    def observations(self, query: ObservationQuery) -> Sequence[ObservationJson]:
        """Return the observations that are wanted, newest first."""

    def offline(self, start: Millis | None, end: Millis | None) -> Sequence[OfflineJson]:
        """Return the times in which our own line was down, newest first."""

    def availability(self, target: str | None, start: Millis, end: Millis) -> Sequence[AvailabilityJson]:
        """Return the availability of a target, or of all, in [start, end)."""

    def ledger(self) -> LedgerSummary | None:
        """Return how far the ledger has come; None where that is not shown."""

    def change_token(self) -> str:
        """Return what changes when something that the pages show has changed."""

    def unready_reasons(self) -> list[str]:
        """Say why /readyz must fail."""

    def stale_reasons(self) -> list[str]:
        """Say why what is shown may be old: not ready, or no observation was put on record for long."""

    def metrics(self) -> Iterator[bytes]:
        """Yield /metrics, piece by piece."""

    async def evidence(self, identity: str, language: str) -> Path:
        """Make the evidence file of an outage in a language. The caller deletes it. Raises
        EvidenceUnavailableError.
        """
