"""An incident in the JSON of `mailwatch incidents --json` and GET /api/v1/incidents."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from mailwatch.analysis.incidents import Incident, IncidentOutage, IncidentStage
from mailwatch.times import Millis, rfc3339


def incident_json(incident: Incident) -> dict[str, Any]:
    """Write an incident: times in RFC 3339, durations in seconds.

    `duration` goes from the first to the last of its times, `surely_down` leaves out what was not seen down in
    between. `channels` and `accounts` give each one's first failure, and the first up observation of the last of
    its targets, null while one is down. An account is named by a digest that only the ledger's owner can make.
    """
    accounts = [member for member in incident.members if member.account]
    return {
        "id": incident.id,
        "provider": incident.provider,
        "state": incident.state,
        "last_good": _time(incident.last_good),
        "first_bad": rfc3339(incident.first_bad),
        "last_bad": rfc3339(incident.last_bad),
        "first_good": _time(incident.first_good),
        "duration": _duration(incident),
        "surely_down": incident.surely_down / 1000,
        "vantage_points": sorted({member.vantage_point for member in incident.members}),
        "channels": _by_key("kind", incident.members, lambda member: member.kind),
        "accounts": _by_key("account", accounts, lambda member: member.account),
        "outages": [_member(member) for member in incident.members],
        "stages": [_stage(stage) for stage in incident.stages()],
    }


def _by_key(
    key: str, members: Iterable[IncidentOutage], of: Callable[[IncidentOutage], str]
) -> list[dict[str, Any]]:
    groups: dict[str, list[IncidentOutage]] = defaultdict(list)
    for member in members:
        groups[of(member)].append(member)
    return [
        {key: name, "targets": _names(group), **_down(Incident(provider="", members=tuple(group)))}
        for name, group in sorted(groups.items())
    ]


def _down(part: Incident) -> dict[str, Any]:
    return {"first_bad": rfc3339(part.first_bad), "first_good": _time(part.first_good)}


def _member(member: IncidentOutage) -> dict[str, Any]:
    member_json: dict[str, Any] = {
        "id": member.outage_id,
        "target": member.target,
        "kind": member.kind,
        "account": member.account or None,
        "vantage_point": member.vantage_point,
        "state": member.state,
        "last_good": _time(member.last_good),
        "first_bad": rfc3339(member.first_bad),
        "last_bad": rfc3339(member.last_bad),
        "first_good": _time(member.first_good),
        "duration": _duration(member),
        "causes": dict(member.causes),
        "trouble": member.trouble,
    }
    if member.proven_afterwards:
        member_json["proven_afterwards"] = True
    if member.maintenance:
        member_json["maintenance"] = member.maintenance / 1000
    return member_json


def _stage(stage: IncidentStage) -> dict[str, Any]:
    written: dict[str, Any] = {
        "at": rfc3339(stage.at),
        "targets_down": stage.targets,
        "channels_down": dict(stage.channels),
        "trouble": list(stage.trouble),
        "failed": _names(stage.failed),
        "restored": _names(stage.restored),
    }
    return written | {"unwatched": _names(stage.no_longer_watched)} if stage.no_longer_watched else written


def _names(members: Iterable[IncidentOutage]) -> list[str]:
    return sorted({member.target for member in members})


def _duration(bounds: Incident | IncidentOutage) -> dict[str, float | None]:
    good, end = bounds.last_good, bounds.first_good
    most = None if good is None or end is None else (end - good) / 1000
    return {"min": (bounds.last_bad - bounds.first_bad) / 1000, "max": most}


def _time(at: Millis | None) -> str | None:
    return None if at is None else rfc3339(at)
