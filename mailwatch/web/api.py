"""The JSON API (docs/reference/api.md), and the same data as CSV for spreadsheets.

OpenAPI has the shape of each answer, from analysis/public_json.py. Answers are not validated when sent: that would
take as long as making them. A test validates them.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response
from pydantic_core import to_json
from starlette.background import BackgroundTask

from mailwatch.analysis.incident_json import IncidentJson
from mailwatch.analysis.public_json import AvailabilityJson, ObservationJson, OfflineJson, OutageJson, TargetJson
from mailwatch.analysis.response_times import Period
from mailwatch.analysis.target_json import ResponseTimesJson, TargetDetailJson, response_times_json
from mailwatch.store.queries import ALL, NotInListError, Part
from mailwatch.times import now
from mailwatch.web.cache import ResponseCache
from mailwatch.web.export import OBSERVATION_COLUMNS, OUTAGE_COLUMNS, csv_response
from mailwatch.web.incident_part import count_parts, incident_part
from mailwatch.web.public_shapes import AnyIncidentJson, PublicOutageJson
from mailwatch.web.query_parameters import (
    BeforeIncidentParameter,
    BeforeOutageParameter,
    FromParameter,
    LanguageParameter,
    ListLimitParameter,
    OpenIncidentsParameter,
    OpenOutagesParameter,
    PartParameter,
    RequiredFromParameter,
    RequiredToParameter,
    TargetParameter,
    ToParameter,
    observation_query,
    window,
)
from mailwatch.web.read_model import (
    DocumentKind,
    DocumentRequest,
    EvidenceUnavailableError,
    ObservationQuery,
    OutageQuery,
    ReadModel,
)
from mailwatch.web.target_detail import detail_json
from mailwatch.web.templating import TargetInPath

ObservationParameters = Annotated[ObservationQuery, Depends(observation_query)]


class Api:
    """Answers API requests from a read model."""

    def __init__(self, read_model: ReadModel) -> None:
        self._read_model = read_model
        self._times = ResponseCache()

    def add_to(self, app: FastAPI, *, public: bool = False, documented: bool = False) -> None:
        """Add the paths to `app`; fewer if it is the `public` app. `documented`: with the shapes of answers."""
        add = partial(_add_path, app, documented=documented)
        add("targets", self._targets, list[TargetJson], "All targets with their state and latest observation")
        if not public:
            # Before the path below, which would take it for a part of a name.
            times = "Response times of a target: medians and 95th percentiles, by phase"
            add("targets/{name:path}/response-times", self._response_times, ResponseTimesJson, times)
        detail = "One target with its settings, availability and certificate"
        add("targets/{name}" if public else "targets/{name:path}", self._target, TargetDetailJson, detail)
        add("outages", self._outages, list[OutageJson], "Outages, newest first")
        add("outages.csv", self._outages_csv, None, "The same for spreadsheets")
        add("outages/{outage_id}", self._outage, OutageJson, "One outage")
        overlapping = "Incidents: overlapping outages of one provider, newest first"
        add("incidents", self._incidents, list[IncidentJson], overlapping)
        changes = "One incident, with each change of its trouble"
        add("incidents/{incident_id}", self._incident, IncidentJson, changes)
        if public:
            return
        add("outages/{outage_id}/evidence.zip", self._evidence, None, "The evidence of an outage as one file")
        add("observations", self._observations, list[ObservationJson], "Observations, newest first")
        add("observations.csv", self._observations_csv, None, "The same for spreadsheets")
        add("offline", self._offline, list[OfflineJson], "Times in which our own line was down, newest first")
        interval = "Availability as an interval, with its coverage"
        add("availability", self._availability, list[AvailabilityJson], interval)

    def _targets(self) -> Response:
        return _json(self._read_model.targets())

    def _target(self, name: TargetInPath) -> Response:
        self._refuse_unknown(name)
        detail = self._read_model.target_detail(name, now())
        if detail is None:
            raise HTTPException(404, f"nothing else is on record of {name!r}")
        return _json(detail_json(detail))

    async def _response_times(self, name: TargetInPath, period: Period = Period.DAY) -> Response:
        made = await self._times.get((name, period), lambda: [self._read_times(name, period)])
        return Response(b"".join(made.unpacked()), media_type="application/json")

    def _read_times(self, name: str, period: Period) -> bytes:
        if self._read_model.unknown_reason(name) and (
            own := self._read_model.target_detail(f"{name}/response-times", now())
        ):
            # A target's name ends like the address of the response times of another.
            return to_json(detail_json(own))
        self._refuse_unknown(name)
        history = self._read_model.response_times(name, period, now())
        if history is None:
            raise HTTPException(404, "response times are not public")
        return to_json(response_times_json(name, history))

    def _outages(
        self,
        request: Request,
        open: OpenOutagesParameter = False,
        from_: FromParameter = None,
        to: ToParameter = None,
        target: TargetParameter = None,
        limit: ListLimitParameter = None,
        before: BeforeOutageParameter = None,
    ) -> Response:
        return _listed(
            request, self._find_outages(open, from_, to, target, Part(limit, after=before or "")), limit
        )

    def _outages_csv(
        self,
        open: OpenOutagesParameter = False,
        from_: FromParameter = None,
        to: ToParameter = None,
        target: TargetParameter = None,
    ) -> Response:
        return csv_response(self._find_outages(open, from_, to, target, ALL), OUTAGE_COLUMNS, "outages")

    def _outage(self, outage_id: str) -> Response:
        if (item := self._read_model.outage_json(outage_id)) is None:
            raise HTTPException(404, f"no outage {outage_id!r}; GET /api/v1/outages lists them")
        return _json(item)

    def _incidents(
        self,
        request: Request,
        open: OpenIncidentsParameter = False,
        from_: FromParameter = None,
        to: ToParameter = None,
        limit: ListLimitParameter = None,
        before: BeforeIncidentParameter = None,
    ) -> Response:
        start, end = window(from_, to)
        part = Part(limit, after=before or "")
        with _in_list("incident"):
            found = self._read_model.incidents(only_open=open, start=start, end=end, part=part)
        return _listed(request, [incident_part(one) for one in found], limit)

    def _incident(self, incident_id: str, part: PartParameter = 1) -> Response:
        item = self._read_model.incident(incident_id)
        if item is None:
            raise HTTPException(404, f"no incident {incident_id!r}; GET /api/v1/incidents lists them")
        answer = _json(incident_part(item, part))
        if part < count_parts(item):
            answer.headers["link"] = f'<?part={part + 1}>; rel="next"'
        return answer

    async def _evidence(self, request: Request, outage_id: str, lang: LanguageParameter = "en") -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "other sites may not have evidence made; open the page of the outage")
        if not re.fullmatch("[0-9a-f]{12}", outage_id):
            raise HTTPException(404, "no such outage; GET /api/v1/outages lists them")
        try:
            path = await self._read_model.document(
                DocumentRequest(kind=DocumentKind.EVIDENCE, outage=outage_id, language=lang, suffix="zip")
            )
        except EvidenceUnavailableError as error:
            raise HTTPException(409, str(error)) from None
        name = f"outage-{outage_id}.zip"
        return FileResponse(path, filename=name, background=BackgroundTask(path.unlink, missing_ok=True))

    def _observations(self, query: ObservationParameters) -> Response:
        return _json(self._find_observations(query))

    def _observations_csv(self, query: ObservationParameters) -> Response:
        return csv_response(self._find_observations(query), OBSERVATION_COLUMNS, "observations")

    def _offline(self, from_: FromParameter = None, to: ToParameter = None) -> Response:
        return _json(self._read_model.offline(*window(from_, to)))

    def _availability(
        self, from_: RequiredFromParameter, to: RequiredToParameter, target: TargetParameter = None
    ) -> Response:
        start, end = window(from_, to)
        assert start is not None
        assert end is not None
        self._refuse_unknown(target)
        return _json(self._read_model.availability(target, start, end))

    def _find_outages(
        self, only_open: bool, from_: str | None, to: str | None, target: str | None, part: Part
    ) -> Sequence[PublicOutageJson]:
        start, end = window(from_, to)
        self._refuse_unknown(target)
        query = OutageQuery(target=target or "", state="open" if only_open else "", start=start, end=end)
        with _in_list("outage"):
            return self._read_model.outages(query, part)

    def _find_observations(self, query: ObservationQuery) -> Sequence[ObservationJson]:
        self._refuse_unknown(query.target)
        return self._read_model.observations(query)

    def _refuse_unknown(self, target: str | None) -> None:
        if target is not None and (why := self._read_model.unknown_reason(target)):
            raise HTTPException(404, why)


def _add_path(
    app: FastAPI, path: str, endpoint: Callable[..., object], shape: object, summary: str, *, documented: bool
) -> None:
    """Add a path to `app`. `shape`: the type of its JSON, None for a file; OpenAPI states it if `documented`."""
    name = endpoint.__name__.removeprefix("_")
    if shape is None:
        app.add_api_route(f"/api/v1/{path}", endpoint, name=name, summary=summary, response_class=Response)
        return
    answer = {"model": shape, "description": "Successful Response"}
    responses: dict[int | str, dict[str, Any]] = {200: answer} if documented else {}
    app.add_api_route(f"/api/v1/{path}", endpoint, name=name, summary=summary, responses=responses)


@contextlib.contextmanager
def _in_list(what: str) -> Iterator[None]:
    """Answer that there is no such outage or incident after which a part of the list may begin."""
    try:
        yield
    except NotInListError as error:
        raise HTTPException(422, f"before: no {what} of this list has the id {str(error)!r}") from None


def _listed(request: Request, found: Sequence[PublicOutageJson | AnyIncidentJson], limit: int | None) -> Response:
    """Return a part of a list, with a link to the next part (RFC 8288) where there may be one."""
    answer = _json(found)
    if limit is not None and len(found) == limit:
        kept = [(key, text) for key, text in request.query_params.multi_items() if key != "before"]
        answer.headers["link"] = f'<?{urlencode([*kept, ("before", found[-1]["id"])])}>; rel="next"'
    return answer


def _json(answer: object) -> Response:
    return Response(to_json(answer, inf_nan_mode="null"), media_type="application/json")
