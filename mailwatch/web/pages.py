"""The pages: all work without JavaScript, and none writes anything."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from importlib import resources
from typing import Annotated, TypeVar
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from fastapi.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse

from mailwatch import __version__
from mailwatch.i18n import LANGUAGES
from mailwatch.net import is_loopback
from mailwatch.times import now, rfc3339
from mailwatch.web import charts
from mailwatch.web.cache import ResponseCache, accepts_gzip
from mailwatch.web.errors import TEXTS_BY_STATUS
from mailwatch.web.observation_filter import ObservationFilter, page_of
from mailwatch.web.overview import draw_targets, headline
from mailwatch.web.query_parameters import MAX_NUMBER
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import COOKIE, choose_language, template_environment, texts

T = TypeVar("T")
NAVIGATION = tuple((name, "" if name == "overview" else name) for name in
               ("overview", "outages", "incidents", "observations", "ledger", "about"))  # fmt: skip
OUTAGES_PER_PAGE = 50
MAX_STREAMS = 32
MAX_STREAMS_PER_PEER = 8
"""Concurrent event streams of one peer. A browser without a stream shows the page as it was loaded."""
POLL_SECONDS = 2.0
LIVE_PAGES = ("outages", "outages/{outage_id}", "incidents", "observations", "ledger")
"""Pages that update live, besides the overview."""
PUBLIC_PAGES = ("overview", "outages", "incidents", "about")
"""Pages that anonymous clients may see."""
_TYPES = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Audience:
    """The visitors that the pages are rendered for."""

    public: bool = False
    """Whether they are anonymous: the page then says that it omits details."""
    account: str = ""
    """Which account link to show: "login", "logout", or "" for none."""
    hint: bool = False
    """Whether to explain how to see more."""


class Pages:
    """Renders the pages from the read model."""

    def __init__(self, read_model: ReadModel, audience: Audience) -> None:
        self._read_model, self._audience = read_model, audience
        self._places = [(name, path) for name, path in NAVIGATION if name in PUBLIC_PAGES or not audience.public]
        self._streams = Counter[str]()
        self._cache = ResponseCache()

    def add_to(self, app: FastAPI) -> None:
        """Add the routes of the pages to `app`."""
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        router.add_api_route("/", self._overview)
        for path, page in (
            ("outages", self._outages), ("outages.atom", self._feed), ("outages/{outage_id}", self._outage),
            ("incidents", self._incidents), ("observations", self._observations), ("ledger", self._ledger),
            ("about", self._about), ("api/docs", self._docs), ("static/{name}", self._static),
            ("live", self._event_stream),
        ):  # fmt: skip
            if not self._audience.public or path.partition("/")[0] in (
                *PUBLIC_PAGES,
                "outages.atom",
                "static",
                "live",
            ):
                live = [Depends(self._note_change_token)] if path in LIVE_PAGES else []
                router.add_api_route(f"/{path}", page, dependencies=live)
        app.include_router(router)
        self._app = app

    async def _note_change_token(self, request: Request) -> None:
        # Taken before any data is read, so that no change is missed between the page and its stream.
        request.state.change_token = self._read_model.change_token()

    def _render_response(
        self, request: Request, template: str, here: str, status: int = 200, **facts: object
    ) -> Response:
        language = _language(request)
        others = [(key, text) for key, text in request.query_params.multi_items() if key != "lang"]
        query = urlencode(others) + "&" if others else ""
        text = self._render(request, template, language, here, **{"query": query, **facts})
        return self._answer(request, text.encode(), language, status)

    def _render(self, request: Request, template: str, language: str, here: str, **facts: object) -> str:
        vantage = ", ".join(filter(None, (self._read_model.vantage_point, self._read_model.place)))
        # Not request.url: it raises for a query that is not UTF-8.
        path = str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))
        root = "../" * (path.count("/") - 1) or "./"
        return (
            template_environment(language)
            .get_template(template)
            .render(
                root=root,
                here=here,
                places=self._places,
                vantage=vantage,
                whom=self._audience,
                **{"bare": here == "login", "pulse": getattr(request.state, "change_token", ""), **facts},
            )
        )

    def _answer(self, request: Request, page: bytes, language: str, status: int = 200) -> Response:
        answer = HTMLResponse(page, status, {"vary": "accept-language, cookie", "content-language": language})
        if request.query_params.get("lang") in LANGUAGES:
            answer.set_cookie(COOKIE, language, max_age=31_536_000, samesite="lax", httponly=True)
        return answer

    async def _overview(self, request: Request, page: Annotated[int, Query(ge=1, le=10_000)] = 1) -> Response:
        language = _language(request)
        root = request.scope.get("root_path", "")
        made = await self._cache.get(
            (language, page, root), lambda: [self._render_overview(request, language, page).encode()]
        )
        packed = accepts_gzip(request.headers)
        answer = self._answer(request, made.packed if packed else b"".join(made.unpacked()), language)
        answer.headers.update({"content-encoding": "gzip"} if packed else {})
        answer.headers["vary"] = "accept-language, cookie, accept-encoding"
        return answer

    def _render_overview(self, request: Request, language: str, page: int) -> str:
        pulse = self._read_model.change_token()
        targets = self._read_model.targets()
        visible, pages = _page_of(sorted(targets, key=lambda t: (t["state"] != "down", t["state"] == "up")), page)
        return self._render(
            request,
            "overview.html",
            language,
            "overview",
            headline=headline(targets, stale=bool(self._read_model.stale_reasons())),
            groups=draw_targets(self._read_model, visible, now()),
            latest=self._read_model.recent_outages()[:10],
            unguarded=self._read_model.is_unguarded(),
            page=page,
            pages=pages,
            pulse=pulse,
            query=f"page={page}&" if page > 1 else "",
        )

    def _outages(
        self,
        request: Request,
        page: Annotated[int, Query(ge=1, le=10_000)] = 1,
        target: Annotated[str, Query(max_length=200)] = "",
    ) -> Response:
        unknown = bool(target and self._read_model.unknown_reason(target))
        found = self._read_model.outages()
        outages, pages = _page_of((outage for outage in found if target in ("", outage["target"])), page)
        query = urlencode({"target": target}) if target else ""
        return self._render_response(
            request,
            "outages.html",
            "outages",
            list=outages,
            page=page,
            pages=pages,
            target=target,
            unknown=unknown,
            kept=query,
        )

    def _feed(self, request: Request) -> Response:
        outages = self._read_model.outages()[:OUTAGES_PER_PAGE]
        updated = max((outage["first_good"] or outage["first_bad"] for outage in outages), default=rfc3339(0))
        language = _language(request)
        feed = self._render(request, "outages.atom", language, "outages", list=outages, updated=updated)
        return Response(feed, media_type="application/atom+xml", headers={"vary": "accept-language, cookie"})

    def _outage(self, request: Request, outage_id: str) -> Response:
        detail = self._read_model.outage(outage_id)
        if detail is None:
            return self.problem(request, 404)
        outage = detail.outage
        times = (outage.last_good, outage.first_bad, outage.last_bad, outage.first_good)
        marks = charts.timeline_marks(times)
        # An ended outage under a checkpoint no longer changes.
        settled = outage.state != "open" and (self._audience.public or detail.range is not None)
        return self._render_response(
            request,
            "outage.html",
            "outages",
            o=outage,
            detail=detail,
            marks=marks,
            stretches=charts.timeline_segments(marks),
            here_name=self._read_model.vantage_point,
            place=self._read_model.place,
            pulse="" if settled else request.state.change_token,
        )

    def _incidents(self, request: Request, page: Annotated[int, Query(ge=1, le=10_000)] = 1) -> Response:
        incidents, pages = _page_of(self._read_model.incidents(), page)
        return self._render_response(
            request, "incidents.html", "incidents", list=incidents, page=page, pages=pages
        )

    def _observations(
        self,
        request: Request,
        target: Annotated[str, Query(max_length=200)] = "",
        outcome: Annotated[str, Query(pattern="^(up|down|unknown)?$")] = "",
        from_: Annotated[str, Query(alias="from", max_length=40)] = "",
        to: Annotated[str, Query(max_length=40)] = "",
        before: Annotated[int | None, Query(ge=0, le=MAX_NUMBER)] = None,
    ) -> Response:
        asked = ObservationFilter(target, outcome, from_, to)
        unknown = bool(target and self._read_model.unknown_reason(target))
        found, older = ([], None) if unknown else page_of(self._read_model.observations, asked, before)
        names = {t["target"] for t in self._read_model.targets()} | ({target} if target and not unknown else set())
        return self._render_response(
            request, "observations.html", "observations", list=found, names=sorted(names), asked=asked,
            older=older, unknown=unknown, newer=before is not None,
            pulse=request.state.change_token if before is None else "",
        )  # fmt: skip

    def login(self, request: Request, *, to: str = "", who: str = "", status: int = 200) -> Response:
        """Render the login page. `to`: the page requested first. `who`: an AuthResult value, wrong or
        rate-limited.
        """
        return self._render_response(request, "login.html", "login", status, to=to, who=who)

    def problem(self, request: Request, status: int, advice: str = "", why: str = "") -> Response:
        """Render an error page. Under an unknown host name (421) it has no navigation."""
        text = texts(_language(request))["problem"][why or TEXTS_BY_STATUS.get(status, "asked")]
        bare = status == 421
        return self._render_response(
            request, "problem.html", "", status, problem=text, cure=advice, bare=bare, pulse=""
        )

    def _ledger(self, request: Request) -> Response:
        return self._render_response(request, "ledger.html", "ledger", l=self._read_model.ledger())

    def _about(self, request: Request) -> Response:
        return self._render_response(request, "about.html", "about", version=__version__)

    def _docs(self, request: Request) -> Response:
        paths = self._app.openapi()["paths"]
        return self._render_response(request, "docs.html", "about", paths=paths)

    def _static(self, request: Request, name: str) -> Response:
        if name not in _TYPES:
            return self.problem(request, 404)
        content = (resources.files("mailwatch.web") / "static" / name).read_bytes()
        return Response(content, media_type=_TYPES[name], headers={"cache-control": "max-age=300"})

    async def _event_stream(self, request: Request, seen: Annotated[str, Query(max_length=40)] = "") -> Response:
        peer = getattr(request.state, "peer", "")
        # Many clients behind an untrusted proxy on this machine appear as one peer.
        full = not is_loopback(peer) and self._streams[peer] >= MAX_STREAMS_PER_PEER
        if full or self._streams.total() >= MAX_STREAMS:
            return PlainTextResponse("too many listen\n", 503, {"retry-after": "60"})
        headers = {"x-accel-buffering": "no"}
        changes = self._changes(request.headers.get("last-event-id", seen), peer)
        return StreamingResponse(changes, media_type="text/event-stream", headers=headers)

    async def _changes(self, seen: str, peer: str) -> AsyncIterator[bytes]:
        """Yield an event when something changed since the page was rendered, or since the token `seen`."""
        self._streams[peer] += 1
        try:
            yield b"retry: 5000\n\n"
            seen = seen or self._read_model.change_token()
            while True:
                pulse = self._read_model.change_token()
                # Otherwise a comment, so that a client that has gone is noticed.
                yield b": \n\n" if pulse == seen else f"id: {pulse}\nevent: changed\ndata: {pulse}\n\n".encode()
                seen = pulse
                await asyncio.sleep(POLL_SECONDS)
        finally:
            self._streams[peer] -= 1
            self._streams += Counter()  # Drops the peers at zero.


def _language(request: Request) -> str:
    asked, kept = request.query_params.get("lang", ""), request.cookies.get(COOKIE, "")
    return choose_language(asked, kept, request.headers.get("accept-language", ""))


def _page_of(items: Iterable[T], page: int) -> tuple[list[T], int]:
    listed = list(items)
    first = (page - 1) * OUTAGES_PER_PAGE
    return listed[first : first + OUTAGES_PER_PAGE], max(1, math.ceil(len(listed) / OUTAGES_PER_PAGE))
