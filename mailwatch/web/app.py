"""The JSON API, /metrics, the health checks and the pages. It only reads; everything it needs is passed in.

There are two apps: the full app, and the public app, which has fewer routes and less data. web/access.py chooses
between them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp

from mailwatch import __version__
from mailwatch.config.access import WebAccess
from mailwatch.web.access import AccessControl
from mailwatch.web.answer_bound import AnswerBound
from mailwatch.web.api import Api
from mailwatch.web.cache import ResponseCache, accepts_gzip
from mailwatch.web.errors import install_error_handlers, silent_response
from mailwatch.web.frame import Audience
from mailwatch.web.headers import SecurityHeaders
from mailwatch.web.manage.app import ManageApp, ManageState
from mailwatch.web.pages import Pages
from mailwatch.web.public import PublicReadModel
from mailwatch.web.query_parameters import refuse_unknown_parameters
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import provider_name


def create_app(
    read_model: ReadModel,
    access: WebAccess,
    secret: bytes,
    only_public_targets: Callable[[], bool],
    manage: ManageState | None = None,
) -> ASGIApp:
    """Build the apps behind the access control.

    `secret` is the key of the public ids; `only_public_targets` returns whether every target shown is public.
    `manage`: the state of the set-up and management pages, None for none.
    """
    setup = manage.management.setup_is_open if manage else lambda: False
    public_model = PublicReadModel(read_model, secret)
    anonymous = Audience(
        public=True,
        account="login" if access.requires_login else "",
        hint=not (access.requires_login or access.public),
        setup=setup,
        appearance=access.appearance,
    )
    # The API keeps the keys of the providers, which programs know; people read their names.
    public_pages_model = PublicReadModel(read_model, secret, provider_name)
    pages = Pages(public_pages_model, anonymous)
    owner = Audience(
        public_view=public_pages_model,
        account="logout" if access.requires_login else "",
        manages=manage is not None and (access.has_password or (access.is_for_this_machine and not access.public)),
        setup=setup,
        appearance=access.appearance,
    )
    full = full_app(read_model, owner)
    managing = ManageApp(read_model, manage, access, owner) if manage else None
    control = AccessControl(full, public_app(public_model, pages), pages, access, only_public_targets, managing)
    bounded = AnswerBound(control, read_model.try_reading, lambda request: silent_response(pages, request))
    return SecurityHeaders(bounded, access.appearance, badges_for_all=access.public and access.appearance.badges)


def public_app(read_model: ReadModel, pages: Pages) -> FastAPI:
    """Build the app for anonymous clients, over the public read model."""
    app = FastAPI(
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        dependencies=[Depends(refuse_unknown_parameters)],
    )
    pages.add_to(app)
    install_error_handlers(app, pages)
    Api(read_model).add_to(app, public=True)
    return app


def full_app(read_model: ReadModel, audience: Audience) -> FastAPI:
    """Build the app that shows everything."""
    return _FullApp(read_model, audience)


class _FullApp(FastAPI):
    """`documented`: with the shapes of its answers. They take a third of a second of each start, and only OpenAPI
    needs them: an app that has them is made when it is asked for.
    """

    def __init__(self, read_model: ReadModel, audience: Audience, *, documented: bool = False) -> None:
        super().__init__(
            title="MailWatch", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
            redirect_slashes=False, dependencies=[Depends(refuse_unknown_parameters)],
            description="Availability and outages of mail services, from an append-only ledger.",
        )  # fmt: skip
        self._documented = documented
        self._parts = read_model, audience
        self._making = threading.Lock()
        pages = Pages(read_model, audience)
        pages.add_to(self)
        install_error_handlers(self, pages)
        Api(read_model).add_to(self, documented=documented)
        _add_health(self, read_model)
        self.add_route("/api/openapi.json", self._openapi, include_in_schema=False)

    def openapi(self) -> dict[str, Any]:
        """Return the description of the API; the first call takes a second."""
        if self._documented:
            return super().openapi()
        with self._making:
            if self.openapi_schema is None:
                self.openapi_schema = _FullApp(*self._parts, documented=True).openapi()
            return self.openapi_schema

    def _openapi(self, _request: Request) -> Response:
        return JSONResponse(self.openapi())


def _add_health(app: FastAPI, read_model: ReadModel) -> None:
    """Add the routes about the monitor itself: liveness, readiness and metrics."""
    cache = ResponseCache()

    @app.get("/healthz", response_class=PlainTextResponse, summary="Is the process alive?")
    async def healthz() -> str:
        return "ok\n"

    @app.get("/readyz", response_class=PlainTextResponse, summary="Is it probing and writing?")
    async def readyz() -> Response:
        problems = read_model.unready_reasons()
        lines = problems or ["ok", *read_model.storage_notes()]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), 503 if problems else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        made = await cache.get("metrics", read_model.metrics)
        headers = {"vary": "accept-encoding"}
        if accepts_gzip(request.headers):
            headers["content-encoding"] = "gzip"
            return Response(made.packed, media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)
        return StreamingResponse(made.unpacked(), media_type=CONTENT_TYPE_PLAIN_0_0_4, headers=headers)
