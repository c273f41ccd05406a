"""What stands before the pages: by which name one came, who one is, and so which of the two apps answers.

The full app is for those who know the password or the token, and, where none is set, for who is on this machine
or on a network that is trusted, and for all while nothing on record is anybody's. All others meet the public app,
which was never given what it must not tell, or, where nothing is public, the page to log in. Programs send
Authorization (Basic or Bearer, RFC 7617 and 6750); the form gives a cookie. /healthz and /readyz tell nothing of
any mailbox and answer all.

The password and the token: whether a word is one of them, in constant time.

Who logged in by the form: a random word in a cookie, of which only the digest is kept, and only in memory.
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
from mailwatch.web.errors import refusal
from mailwatch.web.hosts import client, forwarded, known_host
from mailwatch.web.pages import Pages
from mailwatch.web.rate_limit import Tries, peer_key


class Credentials:
    """Knows the right words only by a digest with a key of this process; argon2 is asked once for each start."""

    def __init__(self, access: WebAccess) -> None:
        self._key = secrets.token_bytes(32)
        self._hash = access.hashed.get_secret_value() if access.hashed else ""
        words = (access.password, access.token)
        self._right = [self._mark(word.get_secret_value().encode()) for word in words if word]
        self._one_at_a_time = asyncio.Lock()

    def known(self, word: bytes) -> bool:
        """Whether it is known already to be one of them, which costs nothing."""
        mark = self._mark(word)
        # A sum, so that the time does not tell which it was.
        return sum(hmac.compare_digest(mark, right) for right in self._right) > 0

    async def hold(self, word: bytes) -> bool:
        """Whether it is the password or the token. argon2 runs in a thread, and never twice at once."""
        if not self._hash:
            return self.known(word)
        async with self._one_at_a_time:
            if self.known(word):
                return True
            if not await asyncio.to_thread(_verified, self._hash, word):
                return False
            self._right.append(self._mark(word))
            return True

    def _mark(self, word: bytes) -> bytes:
        return hmac.digest(self._key, word, hashlib.sha256)


def _verified(hashed: str, word: bytes) -> bool:
    # Only who has a hash pays for loading it.
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error

    try:
        return PasswordHasher().verify(hashed, word)
    except Argon2Error:
        return False


COOKIE = "mailwatch_session"
LASTS = 7 * 86400.0
"""Seconds from the log-in. A restart of MailWatch ends all."""
_AT_MOST = 1000


class Sessions:
    """Those that are open."""

    def __init__(self) -> None:
        self._ends: OrderedDict[bytes, float] = OrderedDict()

    def open(self) -> str:
        """Begin one; return the word for its cookie."""
        word = secrets.token_urlsafe(32)
        self._ends[_digest(word)] = time.monotonic() + LASTS
        while len(self._ends) > _AT_MOST:
            self._ends.popitem(last=False)
        return word

    def holds(self, word: str) -> bool:
        """Whether a word opens anything. Found by its digest, so that the time tells nothing of it."""
        return self._ends.get(_digest(word), 0.0) > time.monotonic()

    def end(self, word: str) -> None:
        """End one, if there is one."""
        self._ends.pop(_digest(word), None)


def _digest(word: str) -> bytes:
    return hashlib.sha256(word.encode()).digest()


logger = logging.getLogger(__name__)
USER = "mailwatch"
OPEN = frozenset({"/healthz", "/readyz"})
STRANGERS_AT_ONCE = 4
"""Answers that are made for strangers at the same time, so that a crowd of them takes no time from the looks."""
FORM_AT_MOST = 4096
"""Bytes."""
PATIENCE = 10.0
"""Seconds for them to come in."""


class Who(Enum):
    """Who asks."""

    KNOWN = "known"
    STRANGER = "stranger"
    WRONG = "wrong"
    WAITS = "waits"


class Gate:
    """Lets each request into the app that is for it."""

    def __init__(
        self, full: ASGIApp, public: FastAPI, pages: Pages, access: WebAccess, nobodys: Callable[[], bool]
    ) -> None:
        self._full, self._public, self._pages, self._access = full, public, pages, access
        self._nobodys = nobodys
        self._credentials = Credentials(access)
        self._sessions = Sessions()
        self._tries = Tries()
        self._strangers = asyncio.Semaphore(STRANGERS_AT_ONCE)
        # What is not public is not told apart from what is not there.
        public.router.default = self._ask

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
        if path in OPEN:
            return self._full
        if re.fullmatch(r"/static/[a-z.]+", path):
            # Everybody has them already: they are published.
            return self._public
        if not known_host(self._access, request.headers.get("host", "")):
            return refusal(self._pages, request, 421, _UNKNOWN_HOST, cure=_HOSTS)
        if request.method == "POST" and path in ("/login", "/logout"):
            return await (self._log_in if path == "/login" else self._log_out)(request)
        who = await self._who(request)
        if who is Who.WAITS:
            said = "too many wrong passwords; wait a minute"
            return refusal(self._pages, request, 429, said, {"retry-after": "60"})
        if who is Who.KNOWN:
            return RedirectResponse("./", 303) if path == "/login" else self._full
        if who is Who.STRANGER and path == "/login" and self._access.asks:
            return self._pages.login(request)
        if who is Who.STRANGER and (self._access.public or not self._access.asks):
            return self._public if path == "/live" else self._one_of_few
        return self._ask

    async def _one_of_few(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._strangers.acquire()
        held = True

        async def begun(message: Message) -> None:
            # It is made by now: who reads slowly holds nobody up.
            nonlocal held
            if held:
                held = False
                self._strangers.release()
            await send(message)

        try:
            await self._public(scope, receive, begun)
        finally:
            if held:
                self._strangers.release()

    async def _who(self, request: Request) -> Who:
        if not self._access.asks:
            # What a proxy passes on comes from anywhere, whatever its last stretch is.
            near = self._access.loopback and not forwarded(request.headers)
            trusted = not self._access.public and (near or self._access.trust_network or self._nobodys())
            return Who.KNOWN if trusted else Who.STRANGER
        if self._sessions.holds(request.cookies.get(COOKIE, "")):
            return Who.KNOWN
        given = request.headers.get("authorization", "")
        return await self._try(request, _word(given)) if given else Who.STRANGER

    def _peer(self, request: Request) -> str:
        peer = request.client.host if request.client else ""
        return peer_key(client(peer, request.headers, self._access.proxies))

    async def _try(self, request: Request, word: bytes | None) -> Who:
        peer = request.state.peer
        if self._tries.must_wait(peer):
            return Who.WAITS
        if word is None or not self._credentials.known(word):
            begun = self._tries.begin(peer)
            if word is None or not await self._credentials.hold(word):
                logger.warning("web: a wrong password or token from %s", peer)
                return Who.WRONG
            self._tries.take_back(peer, begun)
        self._tries.right(peer)
        return Who.KNOWN

    async def _log_in(self, request: Request) -> Response:
        if _from_elsewhere(request):
            return PlainTextResponse("other sites may not log in here\n", 403)
        body = b""
        try:
            async with asyncio.timeout(PATIENCE):
                async for part in request.stream():
                    body += part
                    if len(body) > FORM_AT_MOST:
                        return PlainTextResponse("too much for a password\n", 413)
        except TimeoutError:
            return PlainTextResponse("the password did not come\n", 408, {"connection": "close"})
        try:
            fields = parse_qs(body.decode("utf-8", "replace"), max_num_fields=10)
        except ValueError:
            return PlainTextResponse("too many fields for a password\n", 400)
        to = fields.get("to", [""])[0]
        who = (
            await self._try(request, fields.get("password", [""])[0].encode()) if self._access.asks else Who.WRONG
        )
        if who is not Who.KNOWN:
            return self._pages.login(request, to=place(to), who=who.value, status=429 if who is Who.WAITS else 401)
        answer = RedirectResponse(f"./{place(to)}", 303)
        secure = "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))
        # Without a path it is for all that lies beside /login, also below the prefix of a proxy.
        answer.set_cookie(
            COOKIE, self._sessions.open(), max_age=int(LASTS), path=None, httponly=True, samesite="strict",
            secure=secure,
        )  # fmt: skip
        return answer

    async def _log_out(self, request: Request) -> Response:
        if _from_elsewhere(request):
            return PlainTextResponse("other sites may not log out here\n", 403)
        self._sessions.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("./", 303)
        answer.set_cookie(COOKIE, "", max_age=0, path=None, httponly=True, samesite="strict")
        return answer

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._asking(Request(scope, receive))(scope, receive, send)

    def _asking(self, request: Request) -> Response:
        if not self._access.asks:
            return refusal(self._pages, request, 403, _PUBLIC_ONLY)
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            # A browser opens no window of its own for Bearer, so that the page with the form is seen.
            query = request.scope["query_string"].decode("ascii", "replace")
            wanted = request.scope["path"].removeprefix("/") + (f"?{query}" if query else "")
            answer = self._pages.login(request, to=place(wanted), status=401)
            answer.headers["www-authenticate"] = 'Bearer realm="MailWatch"'
            return answer
        ask = {"www-authenticate": 'Basic realm="MailWatch", charset="UTF-8"'}
        return refusal(self._pages, request, 401, "a password or a token is needed", ask)


_UNKNOWN_HOST = (
    "MailWatch does not know itself by this name. On the machine itself it answers at 127.0.0.1 and localhost. "
    "If the name is yours, write it in config.yaml:"
)
_HOSTS = "web:\n  hosts: [the.name.you.typed]"
_PUBLIC_ONLY = "this is not public; to see it set web.password_file in config.yaml, and log in"


def _from_elsewhere(request: Request) -> bool:
    """Whether a page of another site sent it; browsers say so, and nobody else needs to."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def place(text: str) -> str:
    """Return where to go after the log-in: a path below ours, never another site."""
    return text if re.fullmatch(r"[a-z0-9]+(/[A-Za-z0-9_-]+)*(\?[A-Za-z0-9%=&._+~-]*)?", text) else ""


def _word(header: str) -> bytes | None:
    """What Authorization says one knows; None when it says nothing that we take."""
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
