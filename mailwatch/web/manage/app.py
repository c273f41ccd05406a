"""The app of the set-up and management pages. AccessControl decides who reaches it."""

from __future__ import annotations

import re

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse

from mailwatch.config.access import WebAccess
from mailwatch.web.errors import install_error_handlers
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.manage.mailbox_setup import RejectedLogins
from mailwatch.web.manage.manage_pages import ManagePages
from mailwatch.web.manage.sessions import MANAGE_COOKIE, SETUP_COOKIE, FormSessions
from mailwatch.web.manage.setup_pages import SetupPages
from mailwatch.web.management import Management
from mailwatch.web.read_model import ReadModel


class ManageState:
    """What outlives a change of the access rules, which builds the apps anew."""

    def __init__(self, management: Management) -> None:
        self.management = management
        self.setup_sessions = FormSessions(SETUP_COOKIE)
        self.manage_sessions = FormSessions(MANAGE_COOKIE)
        self.rejected = RejectedLogins()


class ManageApp:
    """The set-up and management pages."""

    def __init__(self, read_model: ReadModel, state: ManageState, access: WebAccess, audience: Audience) -> None:
        self._state = state
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
        frame = Frame(read_model, audience)
        frame.app = self.app
        router = APIRouter(include_in_schema=False, default_response_class=HTMLResponse)
        setup = SetupPages(frame, state.management, state.setup_sessions, state.rejected, access)
        manage = ManagePages(frame, state.management, state.manage_sessions, state.rejected)
        for route in (*setup.routes(), *manage.routes()):
            router.add_api_route(route.path, route.answer, methods=list(route.methods))
        self.app.include_router(router)
        install_error_handlers(self.app, frame)

    def has(self, path: str) -> bool:
        """Return whether a path is one of this app's."""
        return re.match(r"/(setup|manage)(/|$)", path) is not None

    def is_setup(self, path: str) -> bool:
        """Return whether a path belongs to the first set-up."""
        return re.match(r"/setup(/|$)", path) is not None

    def may_set_up(self, request: Request) -> bool:
        """Return whether the set-up answers a request: while it is open, then one's own page on its end."""
        if self._state.management.setup_is_open():
            return True
        session = self._state.setup_sessions.of(request)
        asks = request.method == "GET" or request.scope["path"] == "/setup/save"
        return session is not None and (session.saved is not None or asks)
