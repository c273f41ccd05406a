"""The shapes of outage.json and period.json, as evidence makes them and as a bundle claims to have them.

Of a bundle that is being checked they say what its makers claim: any key may be absent or of another type, and the
claim that trips over it does not hold.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict, final

from mailwatch.analysis.public_json import EntriesJson, OutageJson, SharesJson
from mailwatch.analysis.replay import StatedInterval
from mailwatch.ledger.settings_payloads import RulesPayload


class RangeJson(TypedDict):
    """The entries of the bundle: the first, and the one after the last."""

    first: int
    end: int


class OutsideTimesJson(TypedDict):
    """Between which times of others the record was written (RFC 3339), null on a side without a token."""

    not_before: str | None
    not_after: str | None


class ServiceJson(TypedDict, total=False):
    """How a target was watched: as recorded, else as in the config. Durations have a unit."""

    kind: str
    provider: str
    host: str
    port: int
    tls: str
    interval: str
    timeout: str
    url: str
    with_login: bool


class Statement(TypedDict):
    """What both say. `clock_error` is in seconds, and stated where it matters."""

    format: str
    made_by: str
    ledger: str
    as_of: str
    rules: RulesPayload
    range: RangeJson
    outside_times: OutsideTimesJson
    clock_error: NotRequired[float]


@final
class OutageStatement(Statement):
    """What outage.json says."""

    outage: OutageJson
    replies: list[str]
    first_detail: str
    service: ServiceJson | None
    claim: NotRequired[dict[str, object]]


WindowJson = TypedDict("WindowJson", {"from": str, "to": str})
"""A window of time, its end not included (RFC 3339)."""


class PeriodTarget(TypedDict):
    """A target of a period. `interval` is the one that its observations suggest, in seconds."""

    target: str
    provider: str
    kind: str
    interval: float
    intervals: NotRequired[list[StatedInterval]]
    service: ServiceJson | None


class StatedDowntime(TypedDict):
    """How long a target was down, in seconds."""

    min: float
    max: float


class TargetAvailability(TypedDict):
    """What was observed of a target in the window; durations in seconds."""

    target: str
    availability: SharesJson
    coverage: float | None
    downtime: StatedDowntime
    observations: dict[str, int]
    unobserved: float
    mttr: float | None
    mtbf: float | None
    maintenance: NotRequired[float]


@final
class PeriodStatement(Statement):
    """What period.json says."""

    window: WindowJson
    vantage_point: str
    targets: list[PeriodTarget]
    availability: list[TargetAvailability]
    outages: list[OutageJson]
    entries: EntriesJson
