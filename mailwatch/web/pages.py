"""The pages, each from a module of its own: all work without JavaScript."""

from __future__ import annotations

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, Response

from mailwatch.web import (
    badges,
    documents,
    incident_page,
    live,
    observation_page,
    outage_list,
    outage_page,
    overview_page,
    reference_pages,
    share,
    site_files,
    static_files,
    target_page,
)
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.read_model import ReadModel

MODULES = (
    overview_page,
    documents,
    share,
    outage_list,
    outage_page,
    incident_page,
    observation_page,
    reference_pages,
    static_files,
    site_files,
    badges,
    live,
    target_page,
)
"""Each has `routes(frame)`. Of two routes that match a path, the first answers."""


class Pages:
    """All pages for one audience, from the read model."""

    def __init__(self, read_model: ReadModel, audience: Audience) -> None:
        self._frame = Frame(read_model, audience)

    def add_to(self, app: FastAPI) -> None:
        """Add the routes of the pages to `app`."""
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        self._frame.app = app
        found = [route for module in MODULES for route in module.routes(self._frame)]
        routes = [route for route in found if route.public or not self._frame.audience.public]
        self._frame.paths = [route.path for route in routes]
        for route in routes:
            needed = [Depends(self._note_change_token)] if route.live else []
            router.add_api_route(route.path, route.answer, methods=list(route.methods), dependencies=needed)
        app.include_router(router)

    def login(self, request: Request, *, to: str = "", who: str = "", status: int = 200) -> Response:
        """Render the login page, as `Frame.login` does."""
        return self._frame.login(request, to=to, who=who, status=status)

    def problem(self, request: Request, status: int, advice: str = "", why: str = "") -> Response:
        """Render an error page, as `Frame.problem` does."""
        return self._frame.problem(request, status, advice, why)

    async def _note_change_token(self, request: Request) -> None:
        # Taken before any data is read, so that no change is missed between the page and its stream.
        request.state.change_token = self._frame.read_model.change_token()
