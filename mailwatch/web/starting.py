"""Answers requests until the app is ready: health, and for all else the progress of the start.

It reveals nothing of any mailbox, so it needs no authentication.
"""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mailwatch.progress import StartupProgress
from mailwatch.web.errors import wants_html
from mailwatch.web.headers import SecurityHeaders
from mailwatch.web.static_files import static_file
from mailwatch.web.templating import COOKIE, THEME_COOKIE, THEMES, asset, choose_language, texts

RETRY_AFTER = {"retry-after": "5"}
_PAGE = """<!doctype html>
<html lang="{lang}"{theme}><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5"><title>{title} · MailWatch</title>
<link rel="stylesheet" href="{root}{style}"><link rel="icon" href="{root}{icon}" type="image/svg+xml"></head>
<body><main><section class="panel alone"><h1>{title}</h1><p>{text}</p>
<p role="status">{now}</p><progress{progress} aria-label="{title}"></progress></section></main></body></html>
"""


class StartingApp:
    """Passes requests to the app once the app is ready."""

    def __init__(self, progress: StartupProgress, unready: Callable[[], list[str]]) -> None:
        self._progress, self._unready = progress, unready
        self._app: ASGIApp = SecurityHeaders(self._starting)

    def open(self, app: ASGIApp) -> None:
        """Pass all requests to `app` from now on."""
        self._app = app

    def close(self) -> None:
        """Answer by ourselves again: what the app showed is closed."""
        self._app = SecurityHeaders(self._starting)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app(scope, receive, send)

    async def _starting(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(Request(scope, receive))(scope, receive, send)

    def _answer(self, request: Request) -> Response:
        path = request.scope["path"]
        if path == "/healthz":
            return PlainTextResponse("ok\n")
        if path.startswith("/static/") and (file := static_file(path.removeprefix("/static/"))) is not None:
            return file
        if wants_html(request):
            return self._page(request)
        reasons = self._unready()
        if path.startswith("/api/"):
            return JSONResponse({"detail": "; ".join(reasons)}, 503, RETRY_AFTER)
        return PlainTextResponse("".join(f"{line}\n" for line in reasons), 503, RETRY_AFTER)

    def _page(self, request: Request) -> Response:
        asked, kept = request.query_params.get("lang", ""), request.cookies.get(COOKIE, "")
        language = choose_language(asked, kept, request.headers.get("accept-language", ""))
        text, percent = texts(language)["starting"], self._progress.percent
        now = text["step"][self._progress.step.name.lower()] + ("" if percent is None else f", {percent} %")
        theme = request.cookies.get(THEME_COOKIE)
        page = _PAGE.format(
            lang=language,
            theme=f' data-theme="{theme}"' if theme in THEMES else "",
            root="../" * (request.scope["path"].count("/") - 1) or "./",
            style=asset("style.css"),
            icon=asset("icon.svg"),
            title=escape(text["title"]),
            text=escape(text["text"]),
            now=escape(now),
            progress="" if percent is None else f' value="{percent}" max="100"',
        )
        return HTMLResponse(
            page, 503, {**RETRY_AFTER, "vary": "accept-language, cookie", "content-language": language}
        )
