"""Security headers of every answer: no loading from other sites, no framing, no content type sniffing."""

from __future__ import annotations

import re

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailwatch.config.appearance import PLAIN, Appearance

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; "
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


_NO_HEAD_PATHS = re.compile(
    r"/live|/(setup|manage/mailbox)/events|/reports|/api/v1/outages/[^/]*/evidence\.zip"
    r"|/outages/[^/]*/(report\.pdf|letter|letter\.[a-z]+)"
    r"|/share/[^/]*/(evidence\.zip|report\.pdf)"
)
"""Paths with endless or costly answers, which do not support HEAD."""


_FRAMED = frozenset({"/", "/outages", "/incidents", "/about"})
_FRAMED_BELOW = ("/outages/", "/incidents/", "/targets/")
"""Paths of pages that the sites of `web.embed` may show in a frame."""


class SecurityHeaders:
    """Adds the security headers. Answers are not cached unless a header allows it. HEAD is answered as GET,
    without the body.
    """

    def __init__(self, app: ASGIApp, appearance: Appearance = PLAIN, *, badges_for_all: bool = False) -> None:
        self._badges_for_all = badges_for_all
        self._app = app
        self._always = SECURITY_HEADERS | ({"x-robots-tag": "noindex"} if appearance.noindex else {})
        policy = CONTENT_SECURITY_POLICY.replace(
            "frame-ancestors 'none'", f"frame-ancestors {' '.join(appearance.embed)}"
        )
        self._framed = self._always | ({"content-security-policy": policy} if appearance.embed else {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                # No other site may frame what changes something.
                framed = scope["path"] in _FRAMED or scope["path"].startswith(_FRAMED_BELOW)
                for name, value in (self._framed if framed else self._always).items():
                    headers[name] = value
                if self._badges_for_all and scope["path"].startswith("/badges/"):
                    headers["cross-origin-resource-policy"] = "cross-origin"
                headers.setdefault("cache-control", "no-store")
            await send(message)

        if scope.get("method") == "HEAD" and not _NO_HEAD_PATHS.fullmatch(scope["path"]):
            # The server has the original scope and leaves the body out.
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, with_headers)
