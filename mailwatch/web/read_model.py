"""The data access of the pages, the API, the feed and /metrics. Each answer holds committed data only.

Two classes implement it: `MonitorReadModel` (monitor/read_model.py), from the running monitor and its ledger, and
`PublicReadModel` (public.py), the part of it that anonymous visitors may see. Until the first is ready,
StartingApp answers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from typing_extensions import TypedDict

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import (
    AvailabilityJson,
    ObservationJson,
    OfflineJson,
)
from mailwatch.analysis.response_times import Period, ResponseHistory
from mailwatch.analysis.rolling_availability import AvailabilityRatio, DayAvailability
from mailwatch.analysis.storage_budget import StorageBudget
from mailwatch.ledger.succession import LinkPayload
from mailwatch.model import Cause, Outcome, Phase
from mailwatch.store.incident_rows import IncidentRow
from mailwatch.store.outage_lists import RecordedTarget
from mailwatch.store.pruning import PrunedTime
from mailwatch.store.queries import ALL, Part
from mailwatch.times import Millis
from mailwatch.web.public_shapes import AnyIncidentJson, PublicOutageJson, PublicTargetJson
from mailwatch.web.target_detail import TargetDetail


class EvidenceUnavailableError(Exception):
    """A document cannot be made; the message says why."""


class DocumentKind(StrEnum):
    """The documents that the pages offer."""

    EVIDENCE = "evidence"
    """The evidence of an outage, as zip."""
    REPORT = "report"
    """Its report alone, as pdf."""
    LETTER = "letter"
    """The letter to the provider, as pdf or docx."""
    PERIOD = "period"
    """The report of a month or a year with its evidence, as zip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentRequest:
    """A document: of an outage, or of a `period` (2026-11 or 2026, local time). `suffix`: zip, pdf or docx."""

    kind: DocumentKind
    language: str
    suffix: str
    outage: str = ""
    period: str = ""
    formal: bool = False


class BlankJson(TypedDict):
    """A blank of a letter, and the part of the letter that has it."""

    heading: str
    label: str


class LetterPreview(TypedDict):
    """What a letter still needs, and what makes it weak."""

    addressee: str
    """The company that the letter goes to, "" if the catalogue does not know it."""
    blanks: list[BlankJson]
    warnings: list[str]


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
class OutageQuery:
    """A query for outages: those that overlap [start, end), of a target, a provider, in a state; "" for all."""

    target: str = ""
    provider: str = ""
    state: str = ""
    start: Millis | None = None
    end: Millis | None = None

    def matches(self, target: str, provider: str, state: str) -> bool:
        """Return whether an outage is one of those, by its target's name, its provider and its state."""
        return self.target in ("", target) and self.provider in ("", provider) and self.state in ("", state)


ALL_OUTAGES = OutageQuery()
Named = Callable[[RecordedTarget], str]


def own_name(target: RecordedTarget) -> str:
    """Return the name of a target on record."""
    return target.target


@dataclass(frozen=True, slots=True)
class OutageListing:
    """A part of a list of outages, how many the whole list has, and the providers that have outages on record."""

    outages: Sequence[PublicOutageJson]
    count: int
    providers: Sequence[str]


@dataclass(frozen=True, slots=True)
class IncidentListing:
    """A part of the list of all incidents, newest first, and how many there are."""

    incidents: Sequence[IncidentRow]
    count: int


@dataclass(frozen=True, slots=True)
class SharedIncident:
    """The incident that an outage is part of with others. `outages`: how many it has."""

    id: str
    provider: str
    outages: int


@dataclass(frozen=True, slots=True)
class OutageNeighbours:
    """What is beside an outage: the incident that it is part of with others, and the ids of the outages of its
    target before and after it, "" without one.
    """

    incident: SharedIncident | None = None
    older: str = ""
    newer: str = ""


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
class WitnessSummary:
    """A witness: how many entries it cosigned last and when, 0 and None before that.

    `problem`: why its last answer was no cosignature, "" if it was. `conflict`: it has seen another history.
    """

    name: str
    size: int
    at: Millis | None
    problem: str
    conflict: bool


@dataclass(frozen=True, slots=True)
class NodeSummary:
    """A node: its name, its state (active, standby or gone), when it was seen last, why it would not take over."""

    name: str
    state: str
    seen: Millis
    refusal: str
    differs: Sequence[str] = ()
    """In which parts its config differs from the active node's."""
    shares: int = 0
    """How many of the 256 shares of the targets it probes."""
    no_probes: str = ""
    """Why it gets no targets to probe, "" if it does."""


@dataclass(frozen=True, slots=True)
class LedgerSummary:
    """The data of the ledger page."""

    size: int
    checkpoint: CheckpointSummary | None
    token: TokenSummary | None
    audit: AuditSummary | None
    witnesses: Sequence[WitnessSummary] = ()
    own_witness: str = ""
    """The key with which this MailWatch cosigns ledgers of others, "" without one."""
    predecessors: Sequence[LinkPayload] = ()
    """The ledgers that this one goes on for, latest first."""
    storage: StorageBudget | None = None
    """What the ledger takes on disk; None until it is measured."""
    nodes: Sequence[NodeSummary] = ()
    """The nodes that share the ledger, by name; none with SQLite."""
    pruned: PrunedTime | None = None
    """Up to when observations were pruned; None if none was."""


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
    """The state of our own line when an outage began, and the result of each control server.

    `only_ours`: all that answered are in our own network, which says nothing of the line to the internet.
    """

    online: bool | None
    controls: Mapping[str, str]
    only_ours: bool = False


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
    is_cut: bool = False
    """Whether there were more transitions."""


class TargetGoneError(Exception):
    """A target is no longer watched: a reload removed it while it was asked for."""


class ReadModel(Protocol):
    """The data access. Targets, outages and incidents come ready to be written as JSON."""

    @property
    def vantage_point(self) -> str:
        """The name of this vantage point."""

    @property
    def place(self) -> str:
        """The location of this vantage point."""

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of the pages' local times."""

    def is_unguarded(self) -> bool:
        """Return whether the guard is off, so that failures of our own line count as the providers'."""

    def targets(self) -> Sequence[PublicTargetJson]:
        """Return the watched targets."""

    def target_card(self, name: str, at: Millis) -> TargetCard:
        """Return the card of a target in `targets`, from memory, whatever the ledger's size.

        Raises TargetGoneError.
        """

    def response_series(self, name: str, at: Millis) -> Sequence[Millis | None]:
        """Return the median response times of the 48 half hours before `at`, in milliseconds, from memory: None
        for a half hour without any; empty if they are not public. Raises TargetGoneError.
        """

    def target_detail(self, name: str, at: Millis) -> TargetDetail | None:
        """Return the data of the page of a target, watched or on record; None if it is neither."""

    def response_times(self, name: str, period: Period, at: Millis) -> ResponseHistory | None:
        """Return the response times of the period up to `at`; None if they are not public."""

    def open_since(self) -> Mapping[str, Millis]:
        """Return the first failed check of each target in `targets` with an open outage."""

    def offline_since(self) -> Millis | None:
        """Return when our own line was found down; None unless it is down now."""

    def unknown_reason(self, name: str) -> str:
        """Return why a name is not a target, watched or on record; "" if it is one."""

    def outages(
        self, query: OutageQuery = ALL_OUTAGES, part: Part = ALL, named: Named = own_name
    ) -> Sequence[PublicOutageJson]:
        """Return a part of the outages on record, newest first. Raises NotInListError.

        `named` returns how the query names the target of an outage.
        """

    def count_outages(self, query: OutageQuery = ALL_OUTAGES, named: Named = own_name) -> int:
        """Return how many outages on record match the query."""

    def list_outages(self, query: OutageQuery, part: Part, named: Named = own_name) -> OutageListing:
        """Return a part of the outages on record for a page, all as of one moment. Raises NotInListError."""

    def outage_subjects(self) -> Collection[RecordedTarget]:
        """Return the targets that have outages on record."""

    def outage_ids(self) -> Collection[str]:
        """Return the ids of all outages on record."""

    def neighbours(self, identity: str) -> OutageNeighbours:
        """Return what is beside an outage on record."""

    def recent_outages(self, limit: int) -> Sequence[PublicOutageJson]:
        """Return the newest outages in memory, newest first."""

    def outage(self, identity: str) -> OutageDetail | None:
        """Return one outage with its transitions, guard, clock and integrity; None if unknown."""

    def outage_json(self, identity: str) -> PublicOutageJson | None:
        """Return one outage in the JSON of the API; None if unknown."""

    def incidents(
        self,
        *,
        only_open: bool = False,
        start: Millis | None = None,
        end: Millis | None = None,
        part: Part = ALL,
    ) -> Sequence[AnyIncidentJson]:
        """Return a part of the incidents, newest first; only those that overlap [start, end), if given.

        Raises NotInListError.
        """

    def list_incidents(self, part: Part) -> IncidentListing:
        """Return a part of the incidents for a page, newest first. Raises NotInListError."""

    def incident_ids(self) -> Collection[str]:
        """Return the ids of all incidents."""

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

    def storage_notes(self) -> list[str]:
        """Return when the disk of the ledger is full, for /readyz; empty while that is not known."""

    def waiting(self) -> tuple[int, Millis] | None:
        """Return how many observations wait for the database, and when the oldest ended; None without one."""

    def standby(self) -> str | None:
        """Return the name of the active node, "" without one, if this one stands by; None if it does not."""

    def try_reading(self) -> None:
        """Read a little of the ledger, to see whether its database answers. Raises StoreError."""

    def stale_reasons(self) -> list[str]:
        """Return why the data may be stale: checks or their recording fail, or none was recorded for long."""

    def metrics(self) -> Iterator[bytes]:
        """Yield the text of /metrics in parts."""

    def share_key(self) -> bytes:
        """Return the secret that links to one outage are made with; b"" if none are."""

    async def document(self, wanted: DocumentRequest) -> Path:
        """Make a document; the caller deletes the file. Raises EvidenceUnavailableError."""

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        """Return what a letter about an outage still needs from its owner. Raises EvidenceUnavailableError."""
