"""The first set-up: the one-time code, the password of the pages, then a mailbox, and the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response

from mailwatch.config.access import WebAccess
from mailwatch.config.zones import find_zone
from mailwatch.i18n import Language
from mailwatch.setup.code import CodeResult
from mailwatch.setup.pages import pages_hash, password_problem
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.manage.forms import Form, FormError, read_form
from mailwatch.web.manage.mailbox_pages import MailboxPages, finish, root_of
from mailwatch.web.manage.mailbox_setup import RejectedLogins
from mailwatch.web.manage.sessions import FormSession, FormSessions
from mailwatch.web.manage.texts import texts
from mailwatch.web.manage.zones import listed_zones
from mailwatch.web.management import Management, ManagementError, PagesAnswers
from mailwatch.web.rate_limit import LoginRateLimit

logger = logging.getLogger(__name__)

BASE = "setup"


class SetupPages:
    """The pages of the first set-up."""

    def __init__(
        self,
        frame: Frame,
        management: Management,
        sessions: FormSessions,
        rejected: RejectedLogins,
        access: WebAccess,
    ) -> None:
        self._frame, self._management, self._sessions, self._access = frame, management, sessions, access
        self._mailbox = MailboxPages(frame, management, BASE, rejected, self._session)
        self._rate_limit = LoginRateLimit()

    def routes(self) -> list[PageRoute]:
        """Return the routes."""
        return [
            PageRoute(path=f"/{BASE}", answer=self._page),
            PageRoute(path=f"/{BASE}/code", answer=self._code, methods=("POST",)),
            PageRoute(path=f"/{BASE}/pages", answer=self._mailbox.form(self._pages), methods=("POST",)),
            PageRoute(path=f"/{BASE}/save", answer=self._mailbox.form(self._save), methods=("POST",)),
            *self._mailbox.routes(),
        ]

    def _session(self, request: Request) -> FormSession | None:
        session = self._sessions.of(request)
        return session if session is not None and session.setting_up else None

    async def _page(self, request: Request) -> Response:
        session = self._session(request)
        if session is None:
            return self._code_page(request)
        if session.saved is not None:
            untested = session.mailbox is not None and session.mailbox.is_untested
            answer = self._respond(
                request, "manage/done.html", session=session, saved=session.saved, untested=untested
            )
            log_in: Callable[[Response], None] | None = getattr(request.state, "log_in", None)
            if log_in is not None and not session.logged_in:
                session.logged_in = True
                log_in(answer)
            return answer
        if not self._management.setup_is_open():
            return self._respond(request, "manage/closed.html")
        if session.pages is None:
            return self._respond(
                request,
                "manage/pages.html",
                session=session,
                timezone=session.typed.get("timezone") or self._management.timezone,
                zones=listed_zones(),
                may_skip=self._may_skip(),
            )
        return self._mailbox.respond(request, session)

    def _code_page(self, request: Request, why: str = "", status: int = 200) -> Response:
        problem = self._management.setup_problem()
        return self._respond(request, "manage/code.html", status, why=why, problem=problem)

    def _respond(self, request: Request, template: str, status: int = 200, **facts: object) -> Response:
        m = texts(self._frame.language(request)).loaded
        return self._frame.respond(
            request, template, "", status, **{"m": m, "base": BASE, "step": "", "bare": True, **facts}
        )

    def _may_skip(self) -> bool:
        """Return whether the pages may do without a password: only this machine reaches them."""
        return self._access.loopback

    async def _code(self, request: Request) -> Response:
        try:
            form = await read_form(request)
        except FormError as error:
            return PlainTextResponse(f"{error}\n", error.status)
        peer = getattr(request.state, "peer", "")
        if self._rate_limit.must_wait(peer):
            return self._code_page(request, "wait", 429)
        begun = self._rate_limit.begin_attempt(peer)
        try:
            result = await self._management.try_code(form.text("code"))
        except OSError as error:
            # Not the visitor's fault: it counts as no attempt. The path is for the log only.
            self._rate_limit.undo(peer, begun)
            logger.error("the set-up code could not be checked: %s", error)
            return self._code_page(request, "disk", 503)
        if result is not CodeResult.ACCEPTED:
            return self._code_page(request, result.value, 401)
        self._rate_limit.undo(peer, begun)
        answer = RedirectResponse(root_of(request) + BASE, 303)
        session, word = self._sessions.create()
        session.setting_up = True
        self._sessions.give(request, answer, word)
        return answer

    async def _pages(self, session: FormSession, form: Form) -> None:
        typed, given = form.text("timezone"), form.secret("password")
        errors: dict[str, str] = {}
        skipped = not given.get_secret_value() and self._may_skip()
        if not skipped and (wrong := password_problem(given)):
            errors |= {"password": wrong}
        elif given != form.secret("again"):
            errors["again"] = "differs"
        if not (zone := find_zone(typed)):
            errors["timezone"] = "unknown"
        if errors:
            session.refuse(errors, {"timezone": typed})
            return
        hashed = "" if skipped else await asyncio.to_thread(pages_hash, given)
        session.pages = PagesAnswers(password_hash=hashed, timezone=zone)

    async def _save(self, session: FormSession, form: Form) -> None:
        mailbox = self._mailbox.mailbox(session).answers()
        if session.pages is None or mailbox is None or session.saved is not None:
            return
        language: Language = "it" if form.text("language") == "it" else "en"
        try:
            session.saved = await self._management.set_up(
                session.pages, mailbox, language=language, timestamps=form.ticked("timestamps")
            )
        except ManagementError as error:
            session.refuse({"save": str(error)})
        else:
            finish(session)
