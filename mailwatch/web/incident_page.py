"""The list of the incidents, and the page of one, with a lane for each target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import Query, Request
from fastapi.responses import Response

from mailwatch.analysis.incident_json import StageJson
from mailwatch.times import Millis, now, parse_rfc3339
from mailwatch.web.frame import Frame, PageRoute, count_pages, part_of_page
from mailwatch.web.public_shapes import AnyIncidentJson, PublicStageJson

LANE_WIDTH = 1000.0
"""The width of a lane, in units of its picture."""
MAX_STAGES = 200
"""Changes that one page lists."""
MANY_PARTS = 200
"""Parts of a lane above which those that touch in the picture are drawn as one."""
MIN_WIDTH = 4.0
"""The shortest part that is drawn: an outage does not vanish from a picture of days."""


@dataclass(frozen=True, slots=True)
class LanePart:
    """A part of a lane in which the target was surely or possibly down."""

    sure: bool
    x: float
    width: float


@dataclass(frozen=True, slots=True)
class Lane:
    """The lane of one target. `outages`: their ids, oldest first; `least`: milliseconds surely down. `is_open`: it
    is down now; `is_paused`: it was when it was paused, and nothing is known of it since.
    """

    target: str
    outages: Sequence[str]
    is_open: bool
    is_paused: bool
    least: Millis
    parts: Sequence[LanePart]


@dataclass(frozen=True, slots=True)
class Lanes:
    """The lanes of an incident over [start, end)."""

    start: Millis
    end: Millis
    rows: Sequence[Lane]


def lanes(incident: AnyIncidentJson, at: Millis) -> Lanes:
    """Lay out the lanes of an incident, as of a time."""
    members = incident["outages"]
    start = min(parse_rfc3339(member["last_good"] or member["first_bad"]) for member in members)
    states = ["paused" if member.get("paused") else member["state"] for member in members]
    ends = [
        _until(state, member["first_good"], member["last_bad"], at)
        for state, member in zip(states, members, strict=True)
    ]
    end = max(start + 1, *ends)
    rows: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        rows.setdefault(member["target"], []).append(number)
    scale = LANE_WIDTH / (end - start)

    def part(sure: bool, begin: Millis, until: Millis) -> LanePart:
        width = max(MIN_WIDTH, (until - begin) * scale)
        return LanePart(sure, min((begin - start) * scale, LANE_WIDTH - width), width)

    made = []
    for target, numbers in rows.items():
        found = [members[number] for number in numbers]
        parts, least = [], 0
        for number in numbers:
            member = members[number]
            first, last = parse_rfc3339(member["first_bad"]), parse_rfc3339(member["last_bad"])
            begin = parse_rfc3339(member["last_good"]) if member["last_good"] else first
            parts += [part(False, begin, ends[number]), part(True, first, last)]
            least += last - first
        ids = [member["id"] for member in sorted(found, key=lambda one: one["first_bad"])]
        now_states = {states[number] for number in numbers}
        if len(parts) > MANY_PARTS:
            parts = [*_joined(parts, sure=False), *_joined(parts, sure=True)]
        made.append(Lane(target, ids, "open" in now_states, "paused" in now_states, least, parts))
    return Lanes(start, end, made)


def _joined(parts: Sequence[LanePart], *, sure: bool) -> list[LanePart]:
    """Return the sure or possible parts, with those that touch as one: at most LANE_WIDTH / MIN_WIDTH."""
    joined: list[LanePart] = []
    for part in sorted((one for one in parts if one.sure == sure), key=lambda one: one.x):
        last = joined[-1] if joined else None
        if last is not None and part.x <= last.x + last.width:
            joined[-1] = LanePart(sure, last.x, max(last.width, part.x + part.width - last.x))
        else:
            joined.append(part)
    return joined


def _is_change(stage: StageJson | PublicStageJson) -> bool:
    """Return whether other targets are down than before."""
    return bool(stage["failed"] or stage["restored"] or stage.get("unwatched") or stage.get("paused"))


def _until(state: str, first_good: str | None, last_bad: str, at: Millis) -> Millis:
    if first_good is not None:
        return parse_rfc3339(first_good)
    return max(at, parse_rfc3339(last_bad)) if state == "open" else parse_rfc3339(last_bad)


def count_paused(incident: AnyIncidentJson) -> int:
    """Return the number of targets that were down in the incident when they were paused."""
    return len({member["target"] for member in incident["outages"] if member.get("paused")})


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of these pages."""
    pages = IncidentPages(frame)
    return [
        PageRoute(path="/incidents", answer=pages.incidents, public=True, live=True),
        PageRoute(path="/incidents/{incident_id}", answer=pages.incident, public=True, live=True),
    ]


class IncidentPages:
    """Answers with the incidents."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def incidents(self, request: Request, page: Annotated[int, Query(ge=1, le=10_000)] = 1) -> Response:
        """Answer with the list."""
        found = self._read_model.list_incidents(part_of_page(page))
        return self._frame.respond(
            request, "incidents.html", "incidents", list=found.incidents, page=page, pages=count_pages(found.count)
        )  # fmt: skip

    def incident(
        self, request: Request, incident_id: str, page: Annotated[int, Query(ge=1, le=10_000)] = 1
    ) -> Response:
        """Answer with one incident."""
        incident = self._read_model.incident(incident_id)
        if incident is None:
            return self._frame.problem(request, 404)
        stages = [one for one in incident["stages"] if _is_change(one)]
        return self._frame.respond(
            request, "incident.html", "incidents", i=incident, lanes=lanes(incident, now()),
            paused=count_paused(incident), stages=stages[(page - 1) * MAX_STAGES : page * MAX_STAGES],
            stage_count=len(stages), page=page, pages=max(1, math.ceil(len(stages) / MAX_STAGES)),
            pulse=request.state.change_token if incident["state"] == "open" else "",
        )  # fmt: skip
