"""The public JSON of `mailwatch ... --json` and the HTTP API: the shape of each answer, and incidents in it.

docs/reference/api.md is the contract. OpenAPI is generated from these shapes, and a test validates every answer
against them. Times are RFC 3339, durations seconds; None is unknown. Anonymous visitors get less (web/public.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypeVar

from typing_extensions import TypedDict

from mailwatch.analysis.outage import ClockFacts
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.model import Cause, Kind, Outcome, Phase, TargetSettings
from mailwatch.times import Millis, rfc3339, rfc3339_or_none

T = TypeVar("T")


def documented(shape: type[T]) -> type[T]:
    """Make OpenAPI include the docstring below each key of a shape."""
    # Set without pydantic, which this layer does not import.
    shape.__pydantic_config__ = {"use_attribute_docstrings": True}  # type: ignore[attr-defined]
    return shape


@documented
class BoundsJson(TypedDict):
    """How long something lasted, in seconds."""

    min: float
    """At least."""
    max: float | None
    """At most; null where there is no upper bound."""


@documented
class DurationJson(BoundsJson):
    """How long something lasted, in seconds, with an estimate."""

    estimate: float | None
    """The middle of the bounds; null without an upper one."""
    uncertainty: float | None
    """Twice the standard uncertainty of the estimate."""


@documented
class EntriesJson(TypedDict):
    """Entries of the ledger, by their index."""

    first: int
    last: int


@documented
class CountsJson(TypedDict):
    """Numbers of observations by their outcome."""

    up: int
    down: int
    unknown: int


@documented
class TargetJson(TypedDict):
    """A target that is monitored, with its latest observation."""

    target: str
    """Its name."""
    provider: str
    kind: Kind
    state: str
    """up, suspect, down, recovering, unknown or paused. A paused target is not probed: its latest observation is
    from before the pause, and an outage that was open then stays open.
    """
    interval: float
    """Seconds between two probes."""
    last_observation: str | None
    """When the latest observation began."""
    outcome: Outcome | None
    cause: Cause | None
    """Why it was not up."""
    failed_phase: Phase | None
    detail: str
    outage: str | None
    """The id of the open outage."""


@documented
class ClockJson(TypedDict):
    """What happened to the clock of the observer during an outage."""

    stepped: float
    """By how many seconds the wall clock was set in all."""
    reboots: int
    """How often the machine was restarted."""
    wall: NotRequired[bool]
    """true where the record has wall times only."""


@documented
class RulesJson(TypedDict):
    """The rules by which an outage opens and closes."""

    open_after: int
    close_after: int
    recheck: list[float]


@documented
class WatchedJson(TypedDict):
    """What was watched when the entry about an outage was written."""

    kind: str
    provider: str
    host: str
    port: int
    tls: str
    interval: float
    timeout: float
    catalogue: bool
    """Whether the host is the catalogue's."""
    own_ca: bool
    """Whether a file of yours decides which certificate to trust."""
    rules: RulesJson


@documented
class AcknowledgementJson(TypedDict):
    """That the owner has taken note: no more reminders."""

    at: str
    note: str


@documented
class OutageJson(TypedDict):
    """A time in which a target was down."""

    id: str
    """12 hex digits; a replay of the ledger gives the same again."""
    target: str
    provider: str
    kind: str
    vantage_point: str
    state: str
    """open, closed or unwatched."""
    last_good: str | None
    """The last good observation before; null if there was none."""
    first_bad: str
    last_bad: str
    first_good: str | None
    """The first good observation after; null while the outage is open, and where it is unwatched."""
    duration: DurationJson
    observations: CountsJson
    """From the last good to the first good one."""
    largest_gap: float
    """The longest time without a conclusive observation: a shorter recovery cannot be excluded."""
    unobserved: float
    """How much of the outage was not observed."""
    causes: Mapping[str, int]
    """How many bad observations had which cause."""
    phases: Mapping[str, int]
    """How many bad observations failed in which phase."""
    ledger: EntriesJson
    proven_afterwards: NotRequired[bool]
    """true for an outage of the login that was proven afterwards; else missing."""
    clock: NotRequired[ClockJson]
    maintenance: NotRequired[float]
    """How many seconds of `duration.min` were announced maintenance; missing if none."""
    paused: NotRequired[str]
    """Since when the target of an open outage is paused: it is not probed, so neither down nor up is known.
    Missing if it is not; the outage stays open on record.
    """
    watch: NotRequired[WatchedJson]
    """Missing where it is not on record."""
    acknowledged: NotRequired[AcknowledgementJson]
    """Missing unless the owner has acknowledged it."""


@documented
class TlsJson(TypedDict):
    """Facts of a TLS connection."""

    version: str
    cipher: str
    fingerprint: str
    """SHA-256 of the certificate."""
    not_after: str | None
    """When the certificate expires."""


@documented
class ProbeJson(TypedDict):
    """What one probe observed."""

    target: str
    kind: str
    provider: str
    started_at: str
    outcome: Outcome
    cause: Cause | None
    """Why it was not up."""
    failed_phase: Phase | None
    detail: str
    phases: Mapping[str, float]
    """Seconds in each phase of the attempt that decided."""
    duration: float
    peer: str
    """Address and port of the server in the attempt that decided."""
    tls: TlsJson | None
    attempts: int
    partial: list[str]
    """What failed although the observation was up, such as one of several addresses."""
    replies: list[str]
    """The replies of the server in the attempt that decided."""
    guard: bool | None
    """true: our own line was up, false: it was down, null: not asked or not known."""


@documented
class ObservationJson(ProbeJson):
    """An observation on record."""

    index: int
    """Its entry in the ledger."""


@documented
class SharesJson(TypedDict):
    """Shares of the observed time; null where nothing was observed."""

    lower: float | None
    """Surely up."""
    upper: float | None
    """Possibly up."""


@documented
class DowntimeJson(TypedDict):
    """Seconds of the observed time; null where nothing was observed."""

    min: float | None
    max: float | None


@documented
class FiguresJson(TypedDict):
    """How available a target was."""

    availability: SharesJson
    coverage: float | None
    """The observed share of the window; null when all of it was announced maintenance."""
    downtime: DowntimeJson
    unobserved: float
    """Seconds of the window that were not observed."""
    mttr: float | None
    """Mean time to repair, in seconds, of the outages that ended in the window and have both ends."""
    mtbf: float | None
    """Mean time between failures: seconds up for each outage that began in the window."""


_WindowJson = TypedDict("_WindowJson", {"from": str, "to": str})


@documented
class PrunedJson(TypedDict):
    """What was pruned by `retention.keep`: the observations before a time, but for those around outages."""

    before: str
    entry: int
    """The ledger entry that announced it before."""


@documented
class AvailabilityJson(_WindowJson, FiguresJson):
    """The availability of a target in a window, as an interval with its coverage."""

    target: str
    observations: CountsJson
    maintenance: NotRequired[float]
    """Seconds of announced maintenance, which are not counted; missing if none."""
    with_maintenance: NotRequired[FiguresJson]
    """The figures with the time of maintenance counted; missing without any."""
    paused: NotRequired[float]
    """Seconds in which the owner had paused the target, without announced maintenance: a part of `unobserved`.
    Missing if none.
    """
    pruned: NotRequired[PrunedJson]
    """Up to when the observations were pruned, if the window begins before: that time is unknown, and a part of
    `unobserved`. Missing if none.
    """


@documented
class OfflineJson(TypedDict):
    """A time in which our own line was down."""

    part: str
    """line, ipv4, ipv6 or names."""
    state: str
    """open or closed."""
    last_online: str | None
    first_offline: str
    last_offline: str
    first_online: str | None
    duration: DurationJson
    unobserved: float
    """Seconds between two runs of MailWatch, in which no guard ran."""
    reasons: list[str]
    """What the controls answered."""
    ledger: EntriesJson


def outage_json(record: OutageRecord, *, in_period: bool = False) -> OutageJson:
    """Return a record in the JSON of evidence, for outage.json or for period.json.

    Old bundles are verified against it, so further public keys go into `public_outage_json`.
    """
    lasted, down, up, unknown = record.durations, record.down, record.up, record.unknown
    json: OutageJson = {
        "id": record.id,
        "target": record.target,
        "provider": record.provider,
        "kind": record.kind.value,
        "vantage_point": record.vantage_point,
        "state": record.state,
        "last_good": rfc3339_or_none(record.last_good),
        "first_bad": rfc3339(record.first_bad),
        "last_bad": rfc3339(record.last_bad),
        "first_good": rfc3339_or_none(record.first_good),
        "duration": {
            "min": lasted.least / 1000,
            "max": _seconds(lasted.most),
            "estimate": _seconds(lasted.estimate),
            "uncertainty": _seconds(lasted.uncertainty),
        },
        # Each keeps its original order of keys, so that a remade bundle has the same bytes: an open
        # outage has the detector's, a recorded outage that of canonical JSON.
        "observations": {"down": down, "up": up, "unknown": unknown}
        if in_period or record.state == "open"
        else {"down": down, "unknown": unknown, "up": up},
        "largest_gap": record.largest_gap / 1000,
        "unobserved": record.unobserved / 1000,
        "causes": dict(record.causes),
        "phases": dict(record.phases),
        "ledger": {"first": record.first_index, "last": record.last_index},
    }
    if record.proven_afterwards:
        json["proven_afterwards"] = True
    if record.clock is not None:
        json["clock"] = _clock_json(record.clock)
    if record.maintenance:
        json["maintenance"] = record.maintenance / 1000
    return json


def public_outage_json(record: OutageRecord) -> OutageJson:
    """Return a record in the public JSON of `mailwatch outages --json` and the API. `watch`: the target's settings
    then.

    `watch` omits the digests of login name and task, which are useless outside, and is left out if not on record.
    """
    json = outage_json(record)
    if record.paused_at is not None:
        json["paused"] = rfc3339(record.paused_at)
    if record.settings is not None:
        json["watch"] = _settings_json(record.settings)
    return json


def _settings_json(settings: TargetSettings) -> WatchedJson:
    return {
        "kind": settings.kind.value,
        "provider": settings.provider,
        "host": settings.host,
        "port": settings.port,
        "tls": settings.tls.value,
        "interval": settings.interval / 1000,
        "timeout": settings.timeout / 1000,
        "catalogue": settings.catalogue,
        "own_ca": settings.own_ca,
        "rules": {
            "open_after": settings.rules.open_after,
            "close_after": settings.rules.close_after,
            "recheck": list(settings.rules.recheck),
        },
    }


def _clock_json(clock: ClockFacts) -> ClockJson:
    json: ClockJson = {"stepped": clock.stepped / 1000, "reboots": clock.reboots}
    if clock.is_wall:
        json["wall"] = True
    return json


def _seconds(millis: Millis | None) -> float | None:
    return None if millis is None else millis / 1000
