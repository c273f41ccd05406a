"""The sessions of the forms: in memory, bounded in number and time, bound to a cookie.

Each has a token that its forms carry: another site can make a browser send the cookie, but it cannot read the
token. A restart of MailWatch ends all sessions; then the forms begin anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from mailwatch.web.manage.mailbox_setup import MailboxSetup
from mailwatch.web.management import PagesAnswers, Saved

SETUP_COOKIE, MANAGE_COOKIE = "mailwatch_setup", "mailwatch_manage"
"""The cookies of the first set-up and of management."""
MAX_SESSIONS = 64
IDLE_SECONDS = 1800.0
"""Seconds after its last request until a session ends."""


@dataclass(slots=True, kw_only=True)
class FormSession:
    """One browser's forms.

    `notice`: the result of the last act, as the key of its text and what it is about; shown once.
    `setting_up`: the one-time code was accepted. `logged_in`: the browser got a session of the pages after its
    set-up. `errors` and `typed` are of the form sent last, by field; no
    password is ever among them.
    """

    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    seen: float = field(default_factory=time.monotonic)
    setting_up: bool = False
    pages: PagesAnswers | None = None
    mailbox: MailboxSetup | None = None
    saved: Saved | None = None
    logged_in: bool = False
    notice: tuple[str, str] | None = None
    errors: dict[str, str] = field(default_factory=dict)
    typed: dict[str, str] = field(default_factory=dict)

    @property
    def has_begun(self) -> bool:
        """Whether something was entered in this session."""
        return self.setting_up or self.mailbox is not None

    def accepts(self, token: str) -> bool:
        """Return whether a form has this session's token."""
        return hmac.compare_digest(self.token.encode(), token.encode())

    def refuse(self, errors: dict[str, str], typed: dict[str, str] | None = None) -> None:
        """Keep what is wrong with a form for its next page."""
        self.errors, self.typed = errors, typed or {}

    def forget_form(self) -> None:
        """Forget the errors of the last form."""
        self.errors, self.typed = {}, {}

    def end(self) -> None:
        """End what runs in the background."""
        if self.mailbox is not None:
            self.mailbox.discard()


class FormSessions:
    """The open sessions, each bound to the cookie named `cookie`."""

    def __init__(self, cookie: str) -> None:
        self._cookie = cookie
        self._open: OrderedDict[bytes, FormSession] = OrderedDict()
        self._waiting: asyncio.TimerHandle | None = None

    def of(self, request: Request) -> FormSession | None:
        """Return the session of a request, None without one."""
        word = request.cookies.get(self._cookie, "")
        self._end_idle()
        session = self._open.get(_digest(word)) if word else None
        if session is None:
            return None
        session.seen = time.monotonic()
        self._open.move_to_end(_digest(word))
        return session

    def create(self) -> tuple[FormSession, str]:
        """Open a session; return it with the value of its cookie."""
        self._end_idle()
        session, word = FormSession(), secrets.token_urlsafe(32)
        self._open[_digest(word)] = session
        while len(self._open) > MAX_SESSIONS:
            self._evict(but=session)
        return session, word

    def _evict(self, but: FormSession) -> None:
        """End one session: the oldest in which nothing has begun, since any page that is opened makes one."""
        idle = (key for key, each in self._open.items() if not each.has_begun and each is not but)
        oldest = next(iter(self._open))
        self._open.pop(next(idle, oldest)).end()

    def give(self, request: Request, answer: Response, word: str) -> None:
        """Give the cookie of a session to the browser."""
        # Without a path the cookie covers all that is beside the page, also below a proxy's prefix.
        secure = is_secure(request)
        answer.set_cookie(self._cookie, word, path=None, httponly=True, samesite="strict", secure=secure)

    def _end_idle(self) -> None:
        """End the sessions whose time is over; later again, so that no password stays in memory for long."""
        # The one that was idle for longest comes first.
        while self._open and next(iter(self._open.values())).seen < time.monotonic() - IDLE_SECONDS:
            self._open.popitem(last=False)[1].end()
        if self._open and self._waiting is None:
            loop = asyncio.get_running_loop()
            self._waiting = loop.call_later(IDLE_SECONDS / 2, self._end_idle_later)

    def _end_idle_later(self) -> None:
        self._waiting = None
        self._end_idle()


def is_secure(request: Request) -> bool:
    """Return whether the browser's connection is encrypted."""
    return "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))


def _digest(word: str) -> bytes:
    # Sought by digest, so that the time taken reveals nothing.
    return hashlib.sha256(word.encode()).digest()
