"""Access control: the host name and the credentials of a request decide which of the two apps answers it.

The full app answers clients that know the password or the token. If none is set, it answers clients on this
machine or on a trusted network, and all clients while everything on record is public. All others get the public
app, which never receives what it must not show, or, if nothing is public, the login page. Programs send
Authorization (Basic or Bearer, RFC 7617 and 6750). The form sets a cookie; only its digest is kept, in memory.
Passwords are compared in constant time. /healthz and /readyz reveal nothing of any mailbox and answer everyone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from collections.abc import Callable
from enum import Enum
from functools import partial
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailwatch.config.access import WebAccess
from mailwatch.web.credentials import COOKIE, SESSION_SECONDS, Credentials, Sessions
from mailwatch.web.errors import error_response
from mailwatch.web.hosts import client_address, is_forwarded, is_known_host, is_metrics_host
from mailwatch.web.manage.app import ManageApp
from mailwatch.web.manage.mailbox_pages import root_of
from mailwatch.web.manage.sessions import is_secure
from mailwatch.web.pages import Pages
from mailwatch.web.rate_limit import LoginRateLimit, peer_key
from mailwatch.web.static_files import OPEN_PATHS as PUBLISHED_PATHS

logger = logging.getLogger(__name__)
USER = "mailwatch"
METRICS_ONLY = "mailwatch.metrics_only"
"""The key in a request's scope that marks it as one of `web.metrics_listen`; no request can set it."""
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
MAX_ANONYMOUS = 4
"""Answers in progress for anonymous clients, so that a crowd of them takes no time from the probes."""
MAX_FORM_BYTES = 4096
"""Bytes of a login form."""
FORM_SECONDS = 10.0
"""Seconds for a login form to arrive."""


class AuthResult(Enum):
    """The result of authenticating a request."""

    AUTHENTICATED = "known"
    ANONYMOUS = "stranger"
    WRONG = "wrong"
    RATE_LIMITED = "waits"


class AccessControl:
    """Passes each request to the app that may answer it."""

    def __init__(
        self,
        full: ASGIApp,
        public: FastAPI,
        pages: Pages,
        access: WebAccess,
        only_public_targets: Callable[[], bool],
        manage: ManageApp | None = None,
    ) -> None:
        self._full, self._public, self._pages, self._access = full, public, pages, access
        self._only_public_targets, self._manage = only_public_targets, manage
        self._credentials = Credentials(access)
        self._sessions = Sessions()
        self._rate_limit = LoginRateLimit()
        self._anonymous_limit = asyncio.Semaphore(MAX_ANONYMOUS)
        # A page that is not public gets the same answer as one that does not exist.
        public.router.default = self._ask_login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            app = await self._choose(Request(scope, receive))
        except ClientDisconnect:
            return
        await app(scope, receive, send)

    async def _choose(self, request: Request) -> ASGIApp:
        path = request.scope["path"]
        request.state.peer = self._peer(request)
        if request.scope.get(METRICS_ONLY):
            return self._metrics_answer(request)
        if path in OPEN_PATHS:
            return self._full
        if path in PUBLISHED_PATHS or re.fullmatch(r"/static/[a-z0-9.-]+", path):
            # Static files are published with the source, so anyone may have them.
            return self._public
        if not is_known_host(self._access, request.headers.get("host", "")):
            return error_response(self._pages, request, 421, _UNKNOWN_HOST, advice=_HOSTS)
        if request.method == "POST" and path in ("/login", "/logout"):
            return await (self._log_in if path == "/login" else self._log_out)(request)
        if self._manage is not None and self._manage.has(path):
            return await self._choose_manage(request, self._manage)
        if path.startswith("/share/"):
            # The link itself opens one outage: web/share.py.
            return partial(self._limited, self._full)
        who = await self._authenticate(request)
        if who is AuthResult.RATE_LIMITED:
            return self._rate_limited(request)
        if who is AuthResult.AUTHENTICATED:
            return RedirectResponse("./", 303) if path == "/login" else self._full
        if who is AuthResult.ANONYMOUS and path == "/login" and self._access.requires_login:
            return self._pages.login(request)
        if who is AuthResult.ANONYMOUS and (self._access.public or not self._access.requires_login):
            return self._public if path == "/live" else partial(self._limited, self._public)
        return self._ask_login

    async def _choose_manage(self, request: Request, manage: ManageApp) -> ASGIApp:
        """Return what answers a request for the set-up or for management.

        While the set-up is open, everyone may enter its one-time code. Management is for those who know the
        password, or for this machine if the pages are for it alone: a token is for programs that read.
        """
        request.state.hosts = self._access.hosts
        if manage.is_setup(request.scope["path"]):
            if not manage.may_set_up(request):
                return RedirectResponse(root_of(request), 303)
            if self._access.requires_login:
                request.state.log_in = lambda answer: self._give_session(request, answer)
            return manage.app
        who = await self._authenticate(request)
        if who is AuthResult.RATE_LIMITED:
            return self._rate_limited(request)
        if who is AuthResult.AUTHENTICATED and request.state.manages:
            return manage.app
        if who is AuthResult.AUTHENTICATED or not self._access.requires_login:
            return error_response(self._pages, request, 403, _UNMANAGED, text_name="unmanaged")
        return self._ask_login

    def _rate_limited(self, request: Request) -> Response:
        reason = "too many wrong passwords; wait a minute"
        return error_response(self._pages, request, 429, reason, {"retry-after": "60"})

    def _metrics_answer(self, request: Request) -> ASGIApp:
        if request.scope["path"] != "/metrics":
            return PlainTextResponse("this port answers /metrics only\n", 404)
        if not is_metrics_host(self._access, request.headers.get("host", "")):
            return PlainTextResponse("MailWatch does not answer to this name: add it to web.hosts\n", 421)
        return self._full

    async def _limited(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        await self._anonymous_limit.acquire()
        held = True

        async def begun(message: Message) -> None:
            # The answer is made by now: a slow reader holds up no other client.
            nonlocal held
            if held:
                held = False
                self._anonymous_limit.release()
            await send(message)

        try:
            await app(scope, receive, begun)
        finally:
            if held:
                self._anonymous_limit.release()

    async def _authenticate(self, request: Request) -> AuthResult:
        if not self._access.requires_login:
            # A request passed on by a proxy may come from anywhere, even if the proxy is on loopback.
            near = self._access.loopback and not is_forwarded(request.headers)
            request.state.manages = near and not self._access.public
            trusted = not self._access.public and (
                near or self._access.trust_network or self._only_public_targets()
            )
            return AuthResult.AUTHENTICATED if trusted else AuthResult.ANONYMOUS
        if self._sessions.is_open(cookie := request.cookies.get(COOKIE, "")):
            request.state.manages = self._sessions.manages(cookie)
            return AuthResult.AUTHENTICATED
        given = request.headers.get("authorization", "")
        return await self._check_password(request, _credential(given)) if given else AuthResult.ANONYMOUS

    def _peer(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        return peer_key(client_address(peer, request.headers, self._access.proxies))

    async def _check_password(self, request: Request, word: bytes | None) -> AuthResult:
        peer = request.state.peer
        if self._rate_limit.must_wait(peer):
            return AuthResult.RATE_LIMITED
        if word is None or not self._credentials.is_verified(word):
            begun = self._rate_limit.begin_attempt(peer)
            if word is None or not await self._credentials.verify(word):
                logger.warning("web: a wrong password or token from %s", peer)
                return AuthResult.WRONG
            self._rate_limit.undo(peer, begun)
        self._rate_limit.note_success(peer)
        request.state.manages = word is not None and not self._credentials.is_only_token(word)
        return AuthResult.AUTHENTICATED

    async def _log_in(self, request: Request) -> Response:
        if _is_cross_site(request):
            return PlainTextResponse("other sites may not log in here\n", 403)
        body = b""
        try:
            async with asyncio.timeout(FORM_SECONDS):
                async for part in request.stream():
                    body += part
                    if len(body) > MAX_FORM_BYTES:
                        return PlainTextResponse("too much for a password\n", 413)
        except TimeoutError:
            return PlainTextResponse("the password did not come\n", 408, {"connection": "close"})
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:
            return PlainTextResponse("too many fields for a password\n", 400)
        to = fields.get("to", [""])[0]
        who = (
            await self._check_password(request, fields.get("password", [""])[0].encode())
            if self._access.requires_login
            else AuthResult.WRONG
        )
        if who is not AuthResult.AUTHENTICATED:
            return self._pages.login(
                request, to=safe_redirect(to), who=who.value, status=429 if who is AuthResult.RATE_LIMITED else 401
            )
        answer = RedirectResponse(f"./{safe_redirect(to)}", 303)
        self._give_session(request, answer)
        return answer

    def _give_session(self, request: Request, answer: Response) -> None:
        """Open a session, and give its cookie to the browser."""
        # Without a path the cookie covers everything beside /login, also below a proxy's prefix.
        answer.set_cookie(
            COOKIE,
            self._sessions.open(manages=getattr(request.state, "manages", True)),
            max_age=int(SESSION_SECONDS),
            path=None,
            httponly=True,
            samesite="strict",
            secure=is_secure(request),
        )

    async def _log_out(self, request: Request) -> Response:
        if _is_cross_site(request):
            return PlainTextResponse("other sites may not log out here\n", 403)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("./", 303)
        answer.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="strict")
        return answer

    async def _ask_login(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._login_response(Request(scope, receive))(scope, receive, send)

    def _login_response(self, request: Request) -> Response:
        if not self._access.requires_login:
            return error_response(self._pages, request, 403, _PUBLIC_ONLY)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            # A browser shows no dialog of its own for Bearer, so the user sees the login page.
            query = request.scope["query_string"].decode("ascii", "replace")
            wanted = request.scope["path"].removeprefix("/") + (f"?{query}" if query else "")
            answer = self._pages.login(request, to=safe_redirect(wanted), status=401)
            answer.headers["www-authenticate"] = 'Bearer realm="MailWatch"'
            return answer
        # A script of our page in a browser, whose session is over: Basic would open a dialog of the browser's own.
        scheme = "Bearer" if "sec-fetch-mode" in request.headers else "Basic"
        ask = {"www-authenticate": f'{scheme} realm="MailWatch", charset="UTF-8"'}
        return error_response(self._pages, request, 401, "a password or a token is needed", ask)


_UNKNOWN_HOST = (
    "MailWatch does not answer to this name. On the machine itself, use 127.0.0.1 or localhost. "
    "If the name is yours, add it to config.yaml:"
)
_HOSTS = "web:\n  hosts: [the.name.you.typed]"
_UNMANAGED = "to manage MailWatch here, set web.password_file in config.yaml, and log in with the password"
_PUBLIC_ONLY = "this is not public; to see it set web.password_file in config.yaml, and log in"


def _is_cross_site(request: Request) -> bool:
    """Return whether a page of another site sent the request: browsers declare it, other clients need not."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def safe_redirect(text: str) -> str:
    """Return `text` if it is a path below ours to go to after login, never another site; else ""."""
    below = re.fullmatch(r"[a-z0-9]+(/[A-Za-z0-9_@.+-]+)*(\?[A-Za-z0-9%=&._+~-]*)?", text)
    # A part of dots would lead up again.
    dots = re.search(r"/\.+(/|\?|$)", text)
    return text if below and not dots else ""


def _credential(header: str) -> bytes | None:
    """Return the secret in an Authorization header; None for another scheme or a malformed header."""
    scheme, _, given = header.partition(" ")
    if scheme.lower() == "bearer":
        return given.strip().encode("latin-1", "replace")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, word = base64.b64decode(given.strip(), validate=True).partition(b":")
    except (binascii.Error, ValueError):
        return None
    return word if user == USER.encode() else None
