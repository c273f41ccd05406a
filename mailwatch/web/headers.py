"""Security headers of every answer: no loading from other sites, no framing, no content type sniffing."""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
SECURITY_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


_NO_HEAD_PATHS = re.compile(r"/live|/api/v1/outages/[^/]*/evidence\.zip")
"""Paths with endless or costly answers, which do not support HEAD."""


class SecurityHeaders:
    """Adds the security headers. Answers are not cached unless a header allows it. HEAD is answered as GET,
    without the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope.get("method") == "HEAD" and not _NO_HEAD_PATHS.fullmatch(scope["path"]):
            # The server has the original scope and leaves the body out.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, with_headers)
