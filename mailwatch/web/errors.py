"""Error answers in a form that suits the client: a page for browsers, JSON in the API, a line for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from mailwatch.store import StoreError
from mailwatch.web.read_model import TargetGoneError

if TYPE_CHECKING:
    from mailwatch.web.frame import Frame
    from mailwatch.web.pages import Pages

TEXTS_BY_STATUS = {
    400: "asked",
    403: "closed",
    404: "missing",
    405: "method",
    409: "unmade",
    421: "name",
    422: "asked",
    429: "wait",
    500: "fault",
    503: "busy",
}
"""Key, under the pages' `problem` texts, of the text for each status."""
UNREADABLE = "unreadable"
"""Key of the text for a ledger that cannot be read."""
SILENT = "silent"
"""Key of the text for a database that does not answer."""


def wants_html(request: Request) -> bool:
    """Return whether the request comes from a browser, outside the API."""
    in_api = request.scope["path"].startswith("/api/v1")
    return request.method == "GET" and not in_api and "text/html" in request.headers.get("accept", "")


def error_response(
    pages: Pages | Frame,
    request: Request,
    status: int,
    text: str,
    headers: Mapping[str, str] | None = None,
    advice: str = "",
    text_name: str = "",
) -> Response:
    """Return the answer to a failed request. `text`: the reason, for programs. `advice`: config lines that would
    grant access.

    `text_name`: key of the page's text, if the status alone does not determine it.
    """
    if wants_html(request):
        answer = pages.problem(request, status, advice, text_name)
        answer.headers.update(headers or {})
        return answer
    whole = f"{text}\n\n{advice}" if advice else text
    if request.scope["path"].startswith("/api/"):
        return JSONResponse({"detail": whole}, status, headers)
    return PlainTextResponse(f"{whole}\n", status, headers)


def silent_response(pages: Pages | Frame, request: Request) -> Response:
    """Return the answer to a request that needs a database which does not answer."""
    text = "the ledger cannot be read: its database does not answer; the log says more"
    return error_response(pages, request, 503, text, {"retry-after": "60"}, text_name=SILENT)


def install_error_handlers(app: FastAPI, pages: Pages | Frame) -> None:
    """Make `app` answer errors with these responses."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if wants_html(request):
            why = error.status_code == 409 and not request.scope["path"].startswith("/share/")
            reason = (str(error.detail), "unmade_why") if why else ("", "")
            answer = pages.problem(request, error.status_code, *reason)
            answer.headers.update(error.headers or {})
            return answer
        return await http_exception_handler(request, error)

    async def misunderstood(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        if wants_html(request):
            return pages.problem(request, 422)
        return await request_validation_exception_handler(request, error)

    async def unreadable(request: Request, error: Exception) -> Response:
        assert isinstance(error, StoreError)
        # Not the error's whole text: it contains paths, and the client may be anonymous.
        text = f"the ledger cannot be read: {error.public_reason}; the log and `mailwatch ledger audit` say more"
        return error_response(pages, request, 503, text, {"retry-after": "60"}, text_name=UNREADABLE)

    async def gone(request: Request, _error: Exception) -> Response:
        return error_response(pages, request, 404, "a reload of the config has just removed this target")

    async def failed(request: Request, _error: Exception) -> Response:
        # Starlette raises the exception again afterwards, so it reaches the log.
        return error_response(pages, request, 500, "internal error; see the log")

    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(RequestValidationError, misunderstood)
    app.add_exception_handler(StoreError, unreadable)
    app.add_exception_handler(TargetGoneError, gone)
    app.add_exception_handler(Exception, failed)
