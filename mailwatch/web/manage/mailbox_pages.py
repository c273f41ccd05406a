"""The routes of the set-up of one mailbox: a page for the step, a form for each answer, events while it works."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request
from fastapi.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse

from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.setup.checks import CLIENT_ID
from mailwatch.setup.servers import ENCRYPTION
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.manage.forms import Form, FormError, read_form
from mailwatch.web.manage.mailbox_setup import MailboxSetup, RejectedLogins, Step, missing_kinds
from mailwatch.web.manage.sessions import FormSession
from mailwatch.web.manage.texts import texts
from mailwatch.web.management import ConfigChangedMeanwhileError, Management, ManagementError

BUSY = (Step.SEARCHING, Step.GRANTING, Step.TESTING)
MAX_STREAMS = 2
"""Event streams of one session at a time."""
EVENT_SECONDS = 10.0
"""Seconds until a stream without news sends a comment, so that a client that has gone is noticed."""
FormHandler = Callable[[FormSession, Form], Awaitable[str | None] | None]
"""Handles a form. May return the page to go to, below the root of all pages."""
SessionOf = Callable[[Request], FormSession | None]
"""Returns the session of a request that may use the forms."""


def form_route(session_of: SessionOf, handle: FormHandler, back: str) -> Callable[[Request], Awaitable[Response]]:
    """Return the route that reads a form of our own, handles it, and leads on: mostly to the page `back`."""

    async def answer(request: Request) -> Response:
        try:
            form = await read_form(request)
        except FormError as error:
            return PlainTextResponse(f"{error}\n", error.status)
        session, to = session_of(request), None
        if session is not None and not session.accepts(form.text("form_token")):
            session.notice = ("stale", "")
        elif session is not None:
            session.forget_form()
            try:
                if (waiting := handle(session, form)) is not None:
                    to = await waiting
            except ConfigChangedMeanwhileError:
                session.notice = ("changed", "")
            except ManagementError as error:
                session.notice = ("failed", str(error))
        return RedirectResponse(root_of(request) + (to or back), 303)

    return answer


async def _is_new(_address: str) -> bool:
    return False


class MailboxPages:
    """The pages below `base`, such as "setup".

    `session_of` returns the session of a request that may use them; `is_known` returns whether the config has an
    address already.
    """

    def __init__(
        self,
        frame: Frame,
        management: Management,
        base: str,
        rejected: RejectedLogins,
        session_of: SessionOf,
        is_known: Callable[[str], Awaitable[bool]] = _is_new,
    ) -> None:
        self.frame, self.base, self._management = frame, base, management
        self._is_known = is_known
        self.session_of = session_of
        self._rejected = rejected
        self._streams: dict[str, int] = {}

    def routes(self) -> list[PageRoute]:
        """Return the routes of the steps; the page itself is the caller's."""
        handlers: dict[str, FormHandler] = {
            "address": self._address,
            "answer": self._answer,
            "servers": self._servers,
            "change-servers": self._change_servers,
            "login": self._login,
            "oauth": self._oauth,
            "back": self._back,
        }
        posted = [
            PageRoute(path=f"/{self.base}/{name}", answer=self.form(handler), methods=("POST",))
            for name, handler in handlers.items()
        ]
        return [*posted, PageRoute(path=f"/{self.base}/events", answer=self._events)]

    def form(self, handle: FormHandler) -> Callable[[Request], Awaitable[Response]]:
        """Return the route of a form that leads back to the page."""
        return form_route(self.session_of, handle, self.base)

    def respond(self, request: Request, session: FormSession, **facts: object) -> Response:
        """Render the page of the step."""
        mailbox = self.mailbox(session)
        language = self.frame.language(request)
        facts = {**self._facts(session, mailbox, language), **facts}
        return self.frame.respond(request, "manage/mailbox.html", "", 200, **facts)

    def mailbox(self, session: FormSession) -> MailboxSetup:
        """Return the mailbox that a session sets up."""
        if session.mailbox is None:
            session.mailbox = MailboxSetup(self._rejected)
        return session.mailbox

    def _facts(self, session: FormSession, mailbox: MailboxSetup, language: str) -> dict[str, object]:
        servers = mailbox.servers
        return {
            "m": texts(language).loaded,
            "base": self.base,
            "bare": self.base == "setup",
            "session": session,
            "mailbox": mailbox,
            "step": mailbox.step.value,
            "kinds": MAILBOX_KINDS,
            "encryption": ("", *ENCRYPTION),
            "missing": missing_kinds(servers) if servers and not mailbox.by_hand else [],
            "minutes": int(mailbox.wait_seconds // 60) + 1,
        }

    # The forms

    async def _address(self, session: FormSession, form: Form) -> None:
        address = form.text("address")
        if await self._is_known(address):
            session.refuse({"address": "known"}, {"address": address})
        elif not self.mailbox(session).begin(address):
            session.refuse({"address": "not_address" if address else "empty"}, {"address": address})

    def _answer(self, session: FormSession, form: Form) -> None:
        self.mailbox(session).answer(form.text("answer") == "yes")

    def _servers(self, session: FormSession, form: Form) -> None:
        given = {name: form.text(name) for kind in MAILBOX_KINDS for name in (kind.value, f"{kind}_tls")}
        if errors := self.mailbox(session).enter_servers(given):
            session.refuse(errors, given)

    def _change_servers(self, session: FormSession, _form: Form) -> None:
        self.mailbox(session).change_servers()

    def _login(self, session: FormSession, form: Form) -> None:
        username = form.text("username")
        if errors := self.mailbox(session).log_in(username, form.secret("password")):
            session.refuse(errors, {"username": username})

    def _oauth(self, session: FormSession, form: Form) -> None:
        client_id, mailbox = form.text("client_id"), self.mailbox(session)
        if not client_id or CLIENT_ID(client_id):
            session.refuse({"client_id": "empty"}, {"client_id": client_id})
            return
        mailbox.grant_access(self._management.oauth_client(mailbox.username, mailbox.authority, client_id))

    def _back(self, session: FormSession, _form: Form) -> None:
        self.mailbox(session).back()

    # What goes on, live

    async def _events(self, request: Request) -> Response:
        session = self.session_of(request)
        if session is None or session.mailbox is None:
            return PlainTextResponse("there is nothing to follow\n", 404)
        if self._streams.get(session.token, 0) >= MAX_STREAMS:
            return PlainTextResponse("too many listen\n", 503, {"retry-after": "5"})
        events = self._changes(request, session, session.mailbox)
        return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def _changes(
        self, request: Request, session: FormSession, mailbox: MailboxSetup
    ) -> AsyncIterator[bytes]:
        """Yield the progress as a piece of the page whenever it changes, at last that the page has a next step."""
        self._streams[session.token] = self._streams.get(session.token, 0) + 1
        language = self.frame.language(request)
        try:
            yield b"retry: 2000\n\n"
            while mailbox.step in BUSY:
                seen = mailbox.change
                piece = self.frame.render(
                    request, "manage/progress.html", language, "", **self._facts(session, mailbox, language)
                )
                yield f"event: progress\ndata: {json.dumps(piece)}\n\n".encode()
                await mailbox.wait_change(seen, EVENT_SECONDS)
            yield b"event: next\ndata: \n\n"
        finally:
            left = self._streams[session.token] - 1
            if left:
                self._streams[session.token] = left
            else:
                del self._streams[session.token]


def finish(session: FormSession) -> None:
    """End the set-up of a mailbox that is written: forget its password, keep its grant."""
    if session.mailbox is not None:
        session.mailbox.grant.keep()
        session.mailbox.cancel()


def root_of(request: Request) -> str:
    """Return the relative path from a request's page to the root of all pages."""
    path = str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))
    return "../" * (path.count("/") - 1) or "./"
