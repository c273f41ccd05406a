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
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from urllib.parse import parse_qs

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailwatch.config.access import WebAccess
from mailwatch.web.errors import error_response
from mailwatch.web.hosts import client_address, is_forwarded, is_known_host
from mailwatch.web.pages import Pages
from mailwatch.web.rate_limit import LoginRateLimit, peer_key


class Credentials:
    """Keeps valid secrets only as digests, keyed for this process. argon2 verifies a password once per start."""

    def __init__(self, access: WebAccess) -> None:
        self._key = secrets.token_bytes(32)
        self._hash = access.password_hash.get_secret_value() if access.password_hash else ""
        words = (access.password, access.token)
        self._right = [self._digest_of(word.get_secret_value().encode()) for word in words if word]
        self._one_at_a_time = asyncio.Lock()

    def is_verified(self, word: bytes) -> bool:
        """Return whether `word` has already been verified as a valid secret. Costs next to nothing."""
        digest = self._digest_of(word)
        # A sum, so that the time taken does not reveal which secret matched.
        return sum(hmac.compare_digest(digest, right) for right in self._right) > 0

    async def verify(self, word: bytes) -> bool:
        """Return whether `word` is the password or the token. argon2 runs in a thread, one call at a time."""
        if not self._hash:
            return self.is_verified(word)
        async with self._one_at_a_time:
            if self.is_verified(word):
                return True
            if not await asyncio.to_thread(_verify_hash, self._hash, word):
                return False
            self._right.append(self._digest_of(word))
            return True

    def _digest_of(self, word: bytes) -> bytes:
        return hmac.digest(self._key, word, hashlib.sha256)


def _verify_hash(hashed: str, word: bytes) -> bool:
    # Imported here: only installations with a password hash pay for loading argon2.
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error

    try:
        return PasswordHasher().verify(hashed, word)
    except Argon2Error:
        return False


COOKIE = "mailwatch_session"
SESSION_SECONDS = 7 * 86400.0
"""Seconds a session lasts from its login. A restart of MailWatch ends all sessions."""
_MAX_SESSIONS = 1000


class Sessions:
    """The open sessions."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Open a session and return the value of its cookie."""
        word = secrets.token_urlsafe(32)
        self._ends[_digest(word)] = time.monotonic() + SESSION_SECONDS
        while len(self._ends) > _MAX_SESSIONS:
            self._ends.popitem(last=False)
        return word

    def is_open(self, word: str) -> bool:
        """Return whether the session with this cookie is open. Sought by digest, so that the time taken reveals
        nothing.
        """
        return self._ends.get(_digest(word), 0.0) > time.monotonic()

    def end(self, word: str) -> None:
        """End the session with this cookie, if there is one."""
        self._ends.pop(_digest(word), None)


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


logger = logging.getLogger(__name__)
USER = "mailwatch"
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
    ) -> None:
        self._full, self._public, self._pages, self._access = full, public, pages, access
        self._only_public_targets = only_public_targets
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
        if path in OPEN_PATHS:
            return self._full
        if re.fullmatch(r"/static/[a-z.]+", path):
            # Static files are published with the source, so anyone may have them.
            return self._public
        if not is_known_host(self._access, request.headers.get("host", "")):
            return error_response(self._pages, request, 421, _UNKNOWN_HOST, advice=_HOSTS)
        if request.method == "POST" and path in ("/login", "/logout"):
            return await (self._log_in if path == "/login" else self._log_out)(request)
        who = await self._authenticate(request)
        if who is AuthResult.RATE_LIMITED:
            reason = "too many wrong passwords; wait a minute"
            return error_response(self._pages, request, 429, reason, {"retry-after": "60"})
        if who is AuthResult.AUTHENTICATED:
            return RedirectResponse("./", 303) if path == "/login" else self._full
        if who is AuthResult.ANONYMOUS and path == "/login" and self._access.requires_login:
            return self._pages.login(request)
        if who is AuthResult.ANONYMOUS and (self._access.public or not self._access.requires_login):
            return self._public if path == "/live" else self._anonymous_request
        return self._ask_login

    async def _anonymous_request(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await self._public(scope, receive, begun)
        finally:
            if held:
                self._anonymous_limit.release()

    async def _authenticate(self, request: Request) -> AuthResult:
        if not self._access.requires_login:
            # A request passed on by a proxy may come from anywhere, even if the proxy is on loopback.
            near = self._access.loopback and not is_forwarded(request.headers)
            trusted = not self._access.public and (
                near or self._access.trust_network or self._only_public_targets()
            )
            return AuthResult.AUTHENTICATED if trusted else AuthResult.ANONYMOUS
        if self._sessions.is_open(request.cookies.get(COOKIE, "")):
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
        secure = "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))
        # Without a path the cookie covers everything beside /login, also below a proxy's prefix.
        answer.set_cookie(
            COOKIE,
            self._sessions.open(),
            max_age=int(SESSION_SECONDS),
            path=None,
            httponly=True,
            samesite="strict",
            secure=secure,
        )
        return answer

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
        ask = {"www-authenticate": 'Basic realm="MailWatch", charset="UTF-8"'}
        return error_response(self._pages, request, 401, "a password or a token is needed", ask)


_UNKNOWN_HOST = (
    "MailWatch does not answer to this name. On the machine itself, use 127.0.0.1 or localhost. "
    "If the name is yours, add it to config.yaml:"
)
_HOSTS = "web:\n  hosts: [the.name.you.typed]"
_PUBLIC_ONLY = "this is not public; to see it set web.password_file in config.yaml, and log in"


def _is_cross_site(request: Request) -> bool:
    """Return whether a page of another site sent the request: browsers declare it, other clients need not."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def safe_redirect(text: str) -> str:
    """Return `text` if it is a path below ours to go to after login, never another site; else ""."""
    return text if re.fullmatch(r"[a-z0-9]+(/[A-Za-z0-9_-]+)*(\?[A-Za-z0-9%=&._+~-]*)?", text) else ""


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
