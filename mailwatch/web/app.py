"""The JSON API, /metrics, the health checks and the pages. It only reads; all it needs is passed in.

There are two apps: the full one, and the public one, which has fewer routes and knows less. web/access.py chooses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.background import BackgroundTask
from starlette.types import ASGIApp

from mailwatch import __version__
from mailwatch.config.access import WebAccess
from mailwatch.model import Outcome
from mailwatch.times import Millis, check_bounds, parse_rfc3339, rfc3339
from mailwatch.web.access import AccessControl
from mailwatch.web.cache import ResponseCache, accepts_gzip
from mailwatch.web.errors import install_error_handlers
from mailwatch.web.export import OBSERVATION_COLUMNS, OUTAGE_COLUMNS, csv_response
from mailwatch.web.headers import SecurityHeaders
from mailwatch.web.pages import MAX_NUMBER, Audience, Pages
from mailwatch.web.public import Pseudonyms, public_page_data, public_read_model
from mailwatch.web.query_parameters import refuse_unknown_parameters
from mailwatch.web.read_model import EvidenceUnavailableError, ObservationQuery, PageData, ReadModel

_TIME_DESCRIPTION = "RFC 3339 time with its offset, from 1970 to 2100"
_TIME_ADVICE = "write a time between 1970-01-01 and 2100-01-01 with its offset, such as 2026-01-22T21:55:00Z"
FromParameter = Annotated[str | None, Query(alias="from", description=_TIME_DESCRIPTION, max_length=40)]
TimeParameter = Annotated[str | None, Query(description=_TIME_DESCRIPTION, max_length=40)]
TargetParameter = Annotated[
    str | None, Query(max_length=200, description="only this target; 404 where there is none")
]


def create_app(
    read_model: ReadModel,
    page_data: PageData,
    access: WebAccess,
    secret: bytes,
    only_public_targets: Callable[[], bool],
) -> ASGIApp:
    """Build what answers: both apps behind the gate.

    `secret` makes the public ids; `only_public_targets` returns whether all that is shown is public.
    """
    masks = Pseudonyms(secret, read_model.targets)
    public_model = public_read_model(read_model, masks)
    anonymous = Audience(
        public=True,
        account="login" if access.requires_login else "",
        hint=not (access.requires_login or access.public),
    )
    pages = Pages(public_model, public_page_data(page_data, read_model, masks), anonymous)
    full = full_app(read_model, page_data, Audience(account="logout" if access.requires_login else ""))
    return SecurityHeaders(
        AccessControl(full, public_app(public_model, pages), pages, access, only_public_targets)
    )


def public_app(read_model: ReadModel, pages: Pages) -> FastAPI:
    """Build the app for anonymous clients over what they may see."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    pages.add_to(app)
    install_error_handlers(app, pages)
    _add_shared_routes(app, read_model)
    return app


def full_app(read_model: ReadModel, page_data: PageData, audience: Audience) -> FastAPI:
    """Build the app that shows all."""
    app = FastAPI(
        title="MailWatch", version=__version__, docs_url=None, redoc_url=None,
        openapi_url="/api/openapi.json", redirect_slashes=False, dependencies=[Depends(refuse_unknown_parameters)],
        description="Availability and outages of mail services, from an append-only ledger.",
    )  # fmt: skip

    pages = Pages(read_model, page_data, audience)
    pages.add_to(app)
    install_error_handlers(app, pages)
    _add_shared_routes(app, read_model)

    @app.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Is it probing and writing?")
    async def readyz() -> Response:
        problems = read_model.unready_reasons()
        return PlainTextResponse("".join(f"{line}\n" for line in problems) or "ok\n", 503 if problems else 200)

    cache = ResponseCache()

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        made = await cache.get("metrics", read_model.metrics)
        headers = {"vary": "accept-encoding"}
        if accepts_gzip(request.headers):
            headers["content-encoding"] = "gzip"
            return Response(made.packed, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)
        return StreamingResponse(made.unpacked(), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)

    @app.get("/api/v1/outages/{outage_id}/evidence.zip", summary="The evidence of an outage as one file")
    async def evidence(
        request: Request, outage_id: str, lang: Annotated[str, Query(pattern="^(en|it)$")] = "en"
    ) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "other sites may not have evidence made; open the page of the outage")
        if not re.fullmatch("[0-9a-f]{12}", outage_id):
            raise HTTPException(404, "no such outage; GET /api/v1/outages lists them")
        try:
            path = await page_data.evidence(outage_id, lang)
        except EvidenceUnavailableError as error:
            raise HTTPException(409, str(error)) from None
        name = f"outage-{outage_id}.zip"
        return FileResponse(path, filename=name, background=BackgroundTask(path.unlink, missing_ok=True))

    @app.get("/api/v1/observations", summary="Observations, newest first")
    def observations(query: Annotated[ObservationQuery, Depends(_observation_query)]) -> list[dict[str, Any]]:
        return _find_observations(read_model, query)

    @app.get("/api/v1/observations.csv", summary="The same for spreadsheets", response_class=Response)
    def observations_csv(query: Annotated[ObservationQuery, Depends(_observation_query)]) -> Response:
        return csv_response(_find_observations(read_model, query), OBSERVATION_COLUMNS, "observations")

    @app.get("/api/v1/offline", summary="Times in which our own line was down, newest first")
    def offline(
        from_: FromParameter = None,
        to: TimeParameter = None,
    ) -> list[dict[str, Any]]:
        return read_model.offline(*_window(from_, to))

    @app.get("/api/v1/availability", summary="Availability as an interval, with its coverage")
    def availability(
        from_: Annotated[str, Query(alias="from", description=_TIME_DESCRIPTION, max_length=40)],
        to: Annotated[str, Query(description=_TIME_DESCRIPTION, max_length=40)],
        target: TargetParameter = None,
    ) -> list[dict[str, Any]]:
        start, end = _window(from_, to)
        assert start is not None
        assert end is not None
        _refuse_unknown(read_model, target)
        return read_model.availability(target, start, end)

    return app


def _add_shared_routes(app: FastAPI, read_model: ReadModel) -> None:
    """Add what both apps answer, each over its own sources."""

    @app.get("/api/v1/targets", summary="All targets with their state and latest observation")
    def targets() -> list[dict[str, Any]]:
        return read_model.targets()

    @app.get("/api/v1/outages", summary="Outages, newest first")
    def outages(
        open: Annotated[bool, Query(description="only those that are open")] = False,
        from_: FromParameter = None,
        to: TimeParameter = None,
        target: TargetParameter = None,
    ) -> list[dict[str, Any]]:
        return _find_outages(read_model, open, from_, to, target)

    @app.get("/api/v1/outages.csv", summary="The same for spreadsheets", response_class=Response)
    def outages_csv(
        open: Annotated[bool, Query(description="only those that are open")] = False,
        from_: FromParameter = None,
        to: TimeParameter = None,
        target: TargetParameter = None,
    ) -> Response:
        return csv_response(_find_outages(read_model, open, from_, to, target), OUTAGE_COLUMNS, "outages")

    @app.get("/api/v1/outages/{outage_id}", summary="One outage")
    def outage(outage_id: str) -> dict[str, Any]:
        for item in read_model.outages(False, None, None):
            if item["id"] == outage_id:
                return item
        raise HTTPException(404, f"no outage {outage_id!r}; GET /api/v1/outages lists them")

    @app.get("/api/v1/incidents", summary="Incidents: overlapping outages of one provider, newest first")
    def incidents(
        open: Annotated[bool, Query(description="only those in which something is down")] = False,
        from_: FromParameter = None,
        to: TimeParameter = None,
    ) -> list[dict[str, Any]]:
        return read_model.incidents(open, *_window(from_, to))

    @app.get("/api/v1/incidents/{incident_id}", summary="One incident, with each change of its trouble")
    def incident(incident_id: str) -> dict[str, Any]:
        item = read_model.incident(incident_id)
        if item is None:
            raise HTTPException(404, f"no incident {incident_id!r}; GET /api/v1/incidents lists them")
        return item


def _find_outages(
    read_model: ReadModel, only_open: bool, from_: str | None, to: str | None, target: str | None
) -> list[dict[str, Any]]:
    start, end = _window(from_, to)
    _refuse_unknown(read_model, target)
    found = read_model.outages(only_open, start, end)
    return found if target is None else [outage for outage in found if outage["target"] == target]


def _find_observations(read_model: ReadModel, query: ObservationQuery) -> list[dict[str, Any]]:
    _refuse_unknown(read_model, query.target)
    return read_model.observations(query)


def _refuse_unknown(read_model: ReadModel, target: str | None) -> None:
    if target is not None and (why := read_model.unknown_reason(target)):
        raise HTTPException(404, why)


def _observation_query(
    target: TargetParameter = None,
    from_: FromParameter = None,
    to: TimeParameter = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    outcome: Outcome | None = None,
    before: Annotated[int | None, Query(ge=0, le=MAX_NUMBER, description="only those of a lower index")] = None,
) -> ObservationQuery:
    start, end = _window(from_, to)
    return ObservationQuery(target=target, outcome=outcome, start=start, end=end, before=before, limit=limit)


def _window(from_: str | None, to: str | None) -> tuple[Millis | None, Millis | None]:
    start, end = _time(from_, "from"), _time(to, "to")
    if start is not None and end is not None and end <= start:
        raise HTTPException(422, f"to ({rfc3339(end)}) must be later than from ({rfc3339(start)})")
    return start, end


def _time(text: str | None, name: str) -> Millis | None:
    if text is None:
        return None
    try:
        # A "+" of an offset arrives as a space when the client did not escape it.
        return check_bounds(parse_rfc3339(text.replace(" ", "+")), text)
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}; {_TIME_ADVICE}") from None
