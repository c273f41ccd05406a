"""The pages about MailWatch itself: the ledger, the program, and its API."""

from __future__ import annotations

import math
from importlib import metadata

from fastapi import Request
from fastapi.responses import PlainTextResponse, Response

from mailwatch import __version__
from mailwatch.times import now
from mailwatch.web.frame import Frame, PageRoute


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of these pages."""
    pages = ReferencePages(frame)
    return [
        PageRoute(path="/ledger", answer=pages.ledger, live=True),
        PageRoute(path="/about", answer=pages.about, public=True),
        PageRoute(path="/licence", answer=licence, public=True),
        PageRoute(path="/api/docs", answer=pages.docs),
    ]


def licence() -> Response:
    """Answer with the licence of MailWatch, as it was installed."""
    text = metadata.distribution("mailwatch").read_text("licenses/LICENSE")
    return PlainTextResponse(text or f"{metadata.metadata('mailwatch')['License-Expression']}\n")


class ReferencePages:
    """Answers with these pages."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    def ledger(self, request: Request) -> Response:
        """Answer with the state of the ledger."""
        found = self._read_model.ledger()
        return self._frame.respond(request, "ledger.html", "ledger", l=found, now=now(), never=math.inf)

    def about(self, request: Request) -> Response:
        """Answer with what the program is."""
        return self._frame.respond(request, "about.html", "about", version=__version__)

    def docs(self, request: Request) -> Response:
        """Answer with the paths of the API."""
        assert self._frame.app is not None
        paths = self._frame.app.openapi()["paths"]
        return self._frame.respond(request, "docs.html", "about", paths=paths)
