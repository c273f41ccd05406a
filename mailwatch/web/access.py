"""HTTP Basic (RFC 7617) before everything but the health checks, which tell nothing of any mailbox.

/metrics asks too: Prometheus has `basic_auth`. After ten wrong passwords in a minute an address waits until the
oldest is a minute ago: what it sends meanwhile is not even looked at.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections import deque

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

USER = "mailwatch"
OPEN = frozenset({"/healthz", "/readyz"})
WRONG_AT_MOST = 10
WITHIN = 60.0
"""Seconds."""
_ADDRESSES_AT_MOST = 1000


class Access:
    """Lets in who knows the password; the user's name is `mailwatch`."""

    def __init__(self, app: ASGIApp, password: SecretStr) -> None:
        self._app = app
        self._wanted = _digest(f"{USER}:{password.get_secret_value()}".encode())
        self._wrong: dict[str, deque[float]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in OPEN:
            await self._app(scope, receive, send)
            return
        peer = (scope.get("client") or ("", 0))[0]
        given = Headers(scope=scope).get("authorization", "")
        if given and self._must_wait(peer):
            refusal = PlainTextResponse("too many wrong passwords; wait a minute\n", 429, {"retry-after": "60"})
            await refusal(scope, receive, send)
        elif hmac.compare_digest(_digest(_credentials(given)), self._wanted):
            await self._app(scope, receive, send)
        else:
            if given:
                self._note(peer)
            ask = {"www-authenticate": 'Basic realm="MailWatch", charset="UTF-8"'}
            await PlainTextResponse("a password is needed\n", 401, ask)(scope, receive, send)

    def _must_wait(self, peer: str) -> bool:
        times = self._wrong.get(peer)
        return times is not None and len(times) == WRONG_AT_MOST and times[0] > time.monotonic() - WITHIN

    def _note(self, peer: str) -> None:
        if peer not in self._wrong and len(self._wrong) >= _ADDRESSES_AT_MOST:
            del self._wrong[next(iter(self._wrong))]
        self._wrong.setdefault(peer, deque(maxlen=WRONG_AT_MOST)).append(time.monotonic())


def _digest(text: bytes) -> bytes:
    # Of one length, so that comparing tells nothing of the password's.
    return hashlib.sha256(text).digest()


def _credentials(header: str) -> bytes:
    scheme, _, word = header.partition(" ")
    if scheme.lower() != "basic":
        return b""
    try:
        return base64.b64decode(word.strip(), validate=True)
    except (binascii.Error, ValueError):
        return b""
