"""The JSON API, /metrics and the health checks. It only reads; all it needs is passed in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from mailwatch import __version__
from mailwatch.models import Millis, parse_rfc3339, rfc3339
from mailwatch.web.page import overview


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """Where the answers come from. Each returns what is committed, ready to be written as JSON."""

    targets: Callable[[], list[dict[str, Any]]]
    outages: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incidents: Callable[[bool, Millis | None, Millis | None], list[dict[str, Any]]]
    incident: Callable[[str], dict[str, Any] | None]
    observations: Callable[[str | None, Millis | None, Millis | None, int], list[dict[str, Any]]]
    offline: Callable[[Millis | None, Millis | None], list[dict[str, Any]]]
    availability: Callable[[str | None, Millis, Millis], list[dict[str, Any]]]
    unready: Callable[[], list[str]]
    metrics: Callable[[], Iterator[bytes]]


When = Annotated[str | None, Query(description="RFC 3339 time with its offset", max_length=40)]


def create_app(sources: Sources) -> FastAPI:
    """Build the application over `sources`."""
    app = FastAPI(
        title="MailWatch", version=__version__, docs_url="/api/docs", redoc_url=None,
        openapi_url="/api/openapi.json",
        description="Availability and outages of mail services, from an append-only ledger.",
    )  # fmt: skip

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def status_page() -> str:
        return overview(sources.targets(), sources.outages(False, None, None)[:50])

    @app.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Is it probing and writing?")
    async def readyz() -> Response:
        problems = sources.unready()
        return PlainTextResponse("".join(f"{line}\n" for line in problems) or "ok\n", 503 if problems else 200)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return StreamingResponse(sources.metrics(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/api/v1/targets", summary="All targets with their state and latest observation")
    def targets() -> list[dict[str, Any]]:
        return sources.targets()

    @app.get("/api/v1/outages", summary="Outages, newest first")
    def outages(
        open: Annotated[bool, Query(description="only those that are open")] = False,
        from_: Annotated[str | None, Query(alias="from", max_length=40)] = None,
        to: When = None,
    ) -> list[dict[str, Any]]:
        return sources.outages(open, _time(from_, "from"), _time(to, "to"))

    @app.get("/api/v1/outages/{outage_id}", summary="One outage")
    def outage(outage_id: str) -> dict[str, Any]:
        for item in sources.outages(False, None, None):
            if item["id"] == outage_id:
                return item
        raise HTTPException(404, f"no outage {outage_id!r}; GET /api/v1/outages lists them")

    @app.get("/api/v1/incidents", summary="Incidents: overlapping outages of one provider, newest first")
    def incidents(
        open: Annotated[bool, Query(description="only those in which something is down")] = False,
        from_: Annotated[str | None, Query(alias="from", max_length=40)] = None,
        to: When = None,
    ) -> list[dict[str, Any]]:
        return sources.incidents(open, _time(from_, "from"), _time(to, "to"))

    @app.get("/api/v1/incidents/{incident_id}", summary="One incident, with each change of its trouble")
    def incident(incident_id: str) -> dict[str, Any]:
        item = sources.incident(incident_id)
        if item is None:
            raise HTTPException(404, f"no incident {incident_id!r}; GET /api/v1/incidents lists them")
        return item

    @app.get("/api/v1/observations", summary="Observations, newest first")
    def observations(
        target: Annotated[str | None, Query(max_length=200)] = None,
        from_: Annotated[str | None, Query(alias="from", max_length=40)] = None,
        to: When = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 100,
    ) -> list[dict[str, Any]]:
        return sources.observations(target, _time(from_, "from"), _time(to, "to"), limit)

    @app.get("/api/v1/offline", summary="Times in which our own line was down, newest first")
    def offline(
        from_: Annotated[str | None, Query(alias="from", max_length=40)] = None,
        to: When = None,
    ) -> list[dict[str, Any]]:
        return sources.offline(_time(from_, "from"), _time(to, "to"))

    @app.get("/api/v1/availability", summary="Availability as an interval, with its coverage")
    def availability(
        from_: Annotated[str, Query(alias="from", max_length=40)],
        to: Annotated[str, Query(max_length=40)],
        target: Annotated[str | None, Query(max_length=200)] = None,
    ) -> list[dict[str, Any]]:
        start, end = _time(from_, "from"), _time(to, "to")
        assert start is not None
        assert end is not None
        if end <= start:
            raise HTTPException(422, f"to ({rfc3339(end)}) must be later than from ({rfc3339(start)})")
        return sources.availability(target, start, end)

    return app


def _time(text: str | None, name: str) -> Millis | None:
    if text is None:
        return None
    try:
        # A "+" of an offset arrives as a space when the client did not escape it.
        return parse_rfc3339(text.replace(" ", "+"))
    except ValueError as error:
        raise HTTPException(422, f"{name}: {error}") from None
