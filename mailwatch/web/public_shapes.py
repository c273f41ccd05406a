"""The JSON of anonymous visitors: of a target, an outage and an incident, only what is public."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired

from typing_extensions import TypedDict

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.public_json import (
    BoundsJson,
    ClockJson,
    CountsJson,
    DurationJson,
)
from mailwatch.model import Cause, Kind, Outcome, Phase


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
    paused: NotRequired[str]
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
    paused: NotRequired[bool]


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
    paused: NotRequired[list[str]]


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
    outages_total: NotRequired[int]
    stages_total: NotRequired[int]


class PublicIncidentJson(IncidentFacts):
    """An incident for anonymous visitors."""

    id: str
    outages: list[PublicMemberJson]
    stages: list[PublicStageJson]


AnyIncidentJson = IncidentJson | PublicIncidentJson
