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
from mailwatch.times import Millis, parse_rfc3339, rfc3339, within_bounds
from mailwatch.web.access import Gate
from mailwatch.web.cache import Kept, takes_packed
from mailwatch.web.errors import tell_problems
from mailwatch.web.export import OBSERVATION, OUTAGE, csv_of
from mailwatch.web.headers import SafeHeaders
from mailwatch.web.pages import MOST, Audience, Pages
from mailwatch.web.public import Masks, public_sources, public_views
from mailwatch.web.query_parameters import only_known
from mailwatch.web.read_model import Looks, NotMade, Sources, Views

_WHEN = "RFC 3339 time with its offset, from 1970 to 2100"
_ACCEPTED = "write a time between 1970-01-01 and 2100-01-01 with its offset, such as 2026-01-22T21:55:00Z"
From = Annotated[str | None, Query(alias="from", description=_WHEN, max_length=40)]
When = Annotated[str | None, Query(description=_WHEN, max_length=40)]
Named = Annotated[str | None, Query(max_length=200, description="only this target; 404 where there is none")]


def create_app(
    sources: Sources, views: Views, access: WebAccess, secret: bytes, nobodys: Callable[[], bool]
) -> ASGIApp:
    """Build what answers: both apps behind the gate.

    `secret` makes the ids that strangers see; `nobodys` says whether all that is shown is nobody's.
    """
    masks = Masks(secret, sources.targets)
    shown = public_sources(sources, masks)
    strangers = Audience(
        public=True, account="login" if access.asks else "", hint=not (access.asks or access.public)
    )
    pages = Pages(shown, public_views(views, sources, masks), strangers)
    full = full_app(sources, views, Audience(account="logout" if access.asks else ""))
    return SafeHeaders(Gate(full, public_app(shown, pages), pages, access, nobodys))


def public_app(sources: Sources, pages: Pages) -> FastAPI:
    """Build the app for strangers over what they may see."""
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False, dependencies=[Depends(only_known)]
    )
    pages.add_to(app)
    tell_problems(app, pages)
    _add_states(app, sources)
    return app


def full_app(sources: Sources, views: Views, audience: Audience) -> FastAPI:
    """Build the app that tells all."""
    app = FastAPI(
        title="MailWatch", version=__version__, docs_url=None, redoc_url=None,
        openapi_url="/api/openapi.json", redirect_slashes=False, dependencies=[Depends(only_known)],
        description="Availability and outages of mail services, from an append-only ledger.",
    )  # fmt: skip

    pages = Pages(sources, views, audience)
    pages.add_to(app)
    tell_problems(app, pages)
    _add_states(app, sources)

    @app.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Is it probing and writing?")
    async def readyz() -> Response:
        problems = sources.unready()
        return PlainTextResponse("".join(f"{line}\n" for line in problems) or "ok\n", 503 if problems else 200)

    kept = Kept()

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        made = await kept.get("metrics", sources.metrics)
        headers = {"vary": "accept-encoding"}
        if takes_packed(request.headers):
            headers["content-encoding"] = "gzip"
            return Response(made.packed, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)
        return StreamingResponse(made.plain(), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)

    @app.get("/api/v1/outages/{outage_id}/evidence.zip", summary="The evidence of an outage as one file")
    async def evidence(
        request: Request, outage_id: str, lang: Annotated[str, Query(pattern="^(en|it)$")] = "en"
    ) -> Response:
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise HTTPException(403, "other sites may not have evidence made; open the page of the outage")
        if not re.fullmatch("[0-9a-f]{12}", outage_id):
            raise HTTPException(404, "no such outage; GET /api/v1/outages lists them")
        try:
            path = await views.evidence(outage_id, lang)
        except NotMade as error:
            raise HTTPException(409, str(error)) from None
        name = f"outage-{outage_id}.zip"
        return FileResponse(path, filename=name, background=BackgroundTask(path.unlink, missing_ok=True))

    @app.get("/api/v1/observations", summary="Observations, newest first")
    def observations(looks: Annotated[Looks, Depends(_looks)]) -> list[dict[str, Any]]:
        return _observed(sources, looks)

    @app.get("/api/v1/observations.csv", summary="The same for spreadsheets", response_class=Response)
    def observations_csv(looks: Annotated[Looks, Depends(_looks)]) -> Response:
        return csv_of(_observed(sources, looks), OBSERVATION, "observations")

    @app.get("/api/v1/offline", summary="Times in which our own line was down, newest first")
    def offline(
        from_: From = None,
        to: When = None,
    ) -> list[dict[str, Any]]:
        return sources.offline(*_window(from_, to))

    @app.get("/api/v1/availability", summary="Availability as an interval, with its coverage")
    def availability(
        from_: Annotated[str, Query(alias="from", description=_WHEN, max_length=40)],
        to: Annotated[str, Query(description=_WHEN, max_length=40)],
        target: Named = None,
    ) -> list[dict[str, Any]]:
        start, end = _window(from_, to)
        assert start is not None
        assert end is not None
        _refuse_unknown(sources, target)
        return sources.availability(target, start, end)

    return app


def _add_states(app: FastAPI, sources: Sources) -> None:
    """Add what both apps answer, each over its own sources."""

    @app.get("/api/v1/targets", summary="All targets with their state and latest observation")
    def targets() -> list[dict[str, Any]]:
        return sources.targets()

    @app.get("/api/v1/outages", summary="Outages, newest first")
    def outages(
        open: Annotated[bool, Query(description="only those that are open")] = False,
        from_: From = None,
        to: When = None,
        target: Named = None,
    ) -> list[dict[str, Any]]:
        return _found(sources, open, from_, to, target)

    @app.get("/api/v1/outages.csv", summary="The same for spreadsheets", response_class=Response)
    def outages_csv(
        open: Annotated[bool, Query(description="only those that are open")] = False,
        from_: From = None,
        to: When = None,
        target: Named = None,
    ) -> Response:
        return csv_of(_found(sources, open, from_, to, target), OUTAGE, "outages")

    @app.get("/api/v1/outages/{outage_id}", summary="One outage")
    def outage(outage_id: str) -> dict[str, Any]:
        for item in sources.outages(False, None, None):
            if item["id"] == outage_id:
                return item
        raise HTTPException(404, f"no outage {outage_id!r}; GET /api/v1/outages lists them")

    @app.get("/api/v1/incidents", summary="Incidents: overlapping outages of one provider, newest first")
    def incidents(
        open: Annotated[bool, Query(description="only those in which something is down")] = False,
        from_: From = None,
        to: When = None,
    ) -> list[dict[str, Any]]:
        return sources.incidents(open, *_window(from_, to))

    @app.get("/api/v1/incidents/{incident_id}", summary="One incident, with each change of its trouble")
    def incident(incident_id: str) -> dict[str, Any]:
        item = sources.incident(incident_id)
        if item is None:
            raise HTTPException(404, f"no incident {incident_id!r}; GET /api/v1/incidents lists them")
        return item


def _found(
    sources: Sources, only_open: bool, from_: str | None, to: str | None, target: str | None
) -> list[dict[str, Any]]:
    start, end = _window(from_, to)
    _refuse_unknown(sources, target)
    found = sources.outages(only_open, start, end)
    return found if target is None else [told for told in found if told["target"] == target]


def _observed(sources: Sources, looks: Looks) -> list[dict[str, Any]]:
    _refuse_unknown(sources, looks.target)
    return sources.observations(looks)


def _refuse_unknown(sources: Sources, target: str | None) -> None:
    if target is not None and (why := sources.unknown(target)):
        raise HTTPException(404, why)


def _looks(
    target: Named = None,
    from_: From = None,
    to: When = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    outcome: Outcome | None = None,
    before: Annotated[int | None, Query(ge=0, le=MOST, description="only those of a lower index")] = None,
) -> Looks:
    start, end = _window(from_, to)
    return Looks(target=target, outcome=outcome, start=start, end=end, before=before, limit=limit)


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
        return within_bounds(parse_rfc3339(text.replace(" ", "+")), text)
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}; {_ACCEPTED}") from None
