"""An incident in the public JSON: its shape for OpenAPI, and the function that makes it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import NotRequired

from typing_extensions import TypedDict

from mailwatch.analysis.incidents import Incident, IncidentOutage, IncidentStage
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.public_json import AcknowledgementJson, BoundsJson, documented
from mailwatch.times import rfc3339, rfc3339_or_none


@documented
class _DownJson(TypedDict):
    targets: list[str]
    first_bad: str
    first_good: str | None
    """The first good observation of the last of its targets; null while one is down."""


@documented
class ChannelJson(_DownJson):
    """What failed of one channel in an incident."""

    kind: str


@documented
class AccountJson(_DownJson):
    """What failed of one account in an incident."""

    account: str
    """A digest of its login that only the owner of the ledger can make."""


@documented
class MemberJson(TypedDict):
    """An outage in an incident."""

    id: str
    target: str
    kind: str
    account: str | None
    vantage_point: str
    state: str
    last_good: str | None
    first_bad: str
    last_bad: str
    first_good: str | None
    duration: BoundsJson
    causes: Mapping[str, int]
    trouble: str
    """unreachable, login down, mail missing, sending refused or delivery late."""
    proven_afterwards: NotRequired[bool]
    maintenance: NotRequired[float]
    paused: NotRequired[bool]
    """Whether its target is paused while it is open: the incident counts it neither as down nor as up."""


@documented
class StageJson(TypedDict):
    """A change of what is down in an incident."""

    at: str
    targets_down: int
    channels_down: Mapping[str, int]
    """How many targets are down, by kind."""
    trouble: list[str]
    failed: list[str]
    """Targets."""
    restored: list[str]
    unwatched: NotRequired[list[str]]
    """Targets that were watched no longer; missing if none."""
    paused: NotRequired[list[str]]
    """Targets that were last seen down then, and are paused now; missing if none."""


@documented
class IncidentJson(TypedDict):
    """Outages of one provider that overlap."""

    id: str
    provider: str
    state: str
    """open, closed or unwatched: over, but the end of an outage was not seen, as of a removed or paused target."""
    last_good: str | None
    first_bad: str
    last_bad: str
    first_good: str | None
    duration: BoundsJson
    """From the first to the last of its times."""
    surely_down: float
    """Seconds in which at least one target was surely down."""
    vantage_points: list[str]
    channels: list[ChannelJson]
    accounts: list[AccountJson]
    outages: list[MemberJson]
    stages: list[StageJson]
    outages_total: NotRequired[int]
    """How many outages there are in all; missing if all are here, as `stages_total`."""
    stages_total: NotRequired[int]
    acknowledged: NotRequired[AcknowledgementJson]
    """Missing unless the owner has acknowledged it, or all that is open of it."""


def incident_json(incident: Incident) -> IncidentJson:
    """Return the JSON of an incident: times in RFC 3339, durations in seconds.

    `duration`: from the first to the last of its times. `surely_down`: without time not observed down in between.
    `channels` and `accounts`: the first failure of each, and the first up observation of the last of its targets,
    null while one is down. An account is named by a digest that only the ledger's owner can compute.
    """
    with_account = [member for member in incident.members if member.outage.account]
    return {
        "id": incident.id,
        "provider": incident.provider,
        "state": incident.state,
        "last_good": rfc3339_or_none(incident.last_good),
        "first_bad": rfc3339(incident.first_bad),
        "last_bad": rfc3339(incident.last_bad),
        "first_good": rfc3339_or_none(incident.first_good),
        "duration": _duration(incident),
        "surely_down": incident.surely_down / 1000,
        "vantage_points": sorted({outage.vantage_point for outage in incident.outages}),
        "channels": [
            {"kind": kind, **_down(group)}
            for kind, group in _groups(incident.members, lambda outage: outage.kind.value)
        ],
        "accounts": [
            {"account": account, **_down(group)}
            for account, group in _groups(with_account, lambda outage: outage.account)
        ],
        "outages": [_member(member) for member in incident.members],
        "stages": [_stage(stage) for stage in incident.stages()],
    }


def _groups(
    members: Iterable[IncidentOutage], of: Callable[[OutageRecord], str]
) -> list[tuple[str, list[IncidentOutage]]]:
    groups: dict[str, list[IncidentOutage]] = defaultdict(list)
    for member in members:
        groups[of(member.outage)].append(member)
    return sorted(groups.items())


def _down(members: list[IncidentOutage]) -> _DownJson:
    part = Incident(provider="", members=tuple(members))
    return {
        "targets": _names(members),
        "first_bad": rfc3339(part.first_bad),
        "first_good": rfc3339_or_none(part.first_good),
    }


def _member(member: IncidentOutage) -> MemberJson:
    outage = member.outage
    member_json: MemberJson = {
        "id": outage.id,
        "target": outage.target,
        "kind": outage.kind.value,
        "account": outage.account or None,
        "vantage_point": outage.vantage_point,
        "state": outage.state,
        "last_good": rfc3339_or_none(outage.last_good),
        "first_bad": rfc3339(outage.first_bad),
        "last_bad": rfc3339(outage.last_bad),
        "first_good": rfc3339_or_none(outage.first_good),
        "duration": _duration(outage),
        "causes": dict(outage.causes),
        "trouble": member.trouble,
    }
    if outage.proven_afterwards:
        member_json["proven_afterwards"] = True
    if outage.maintenance:
        member_json["maintenance"] = outage.maintenance / 1000
    if member.is_paused:
        member_json["paused"] = True
    return member_json


def _stage(stage: IncidentStage) -> StageJson:
    written: StageJson = {
        "at": rfc3339(stage.at),
        "targets_down": stage.targets,
        "channels_down": dict(stage.channels),
        "trouble": list(stage.trouble),
        "failed": _names(stage.failed),
        "restored": _names(stage.restored),
    }
    if stage.no_longer_watched:
        written["unwatched"] = _names(stage.no_longer_watched)
    if stage.paused:
        written["paused"] = _names(stage.paused)
    return written


def _names(members: Iterable[IncidentOutage]) -> list[str]:
    return sorted({member.outage.target for member in members})


def _duration(bounds: Incident | OutageRecord) -> BoundsJson:
    good, end = bounds.last_good, bounds.first_good
    most = None if good is None or end is None else (end - good) / 1000
    return {"min": (bounds.last_bad - bounds.first_bad) / 1000, "max": most}
