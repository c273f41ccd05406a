"""The documents of an outage and of a period, made on request, and the page of the letter.

Making one takes seconds in a process of its own. So no other site may have it made (Sec-Fetch-Site), and HEAD is
not answered.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from fastapi import HTTPException, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from mailwatch.i18n import LANGUAGES
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.read_model import DocumentKind, DocumentRequest, EvidenceUnavailableError, ReadModel

OUTAGE_ID = re.compile("[0-9a-f]{12}")
PERIOD = re.compile(r"20[0-9]{2}(-(0[1-9]|1[0-2]))?")
FILE_NAMES = {
    DocumentKind.EVIDENCE: {"en": "evidence", "it": "fascicolo"},
    DocumentKind.REPORT: {"en": "report", "it": "rapporto"},
    DocumentKind.LETTER: {"en": "letter", "it": "lettera"},
    DocumentKind.PERIOD: {"en": "report", "it": "rapporto"},
}


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of the documents."""
    pages = Documents(frame)
    return [
        PageRoute(path="/outages/{outage_id}/report.pdf", answer=pages.report),
        PageRoute(path="/outages/{outage_id}/letter", answer=pages.letter_page),
        PageRoute(path="/outages/{outage_id}/letter.{suffix}", answer=pages.letter),
        PageRoute(path="/reports", answer=pages.period),
    ]


class Documents:
    """Answers with documents."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._read_model = frame, frame.read_model

    async def report(self, request: Request, outage_id: str, lang: str = "") -> Response:
        """Answer with the report of an outage alone."""
        return await self._document(request, DocumentKind.REPORT, lang, "pdf", outage=outage_id)

    async def letter(
        self,
        request: Request,
        outage_id: str,
        suffix: Literal["pdf", "docx"],
        lang: str = "",
        formal: bool = False,
    ) -> Response:
        """Answer with the letter to the provider."""
        return await self._document(request, DocumentKind.LETTER, lang, suffix, outage=outage_id, formal=formal)

    async def period(
        self,
        request: Request,
        month: Annotated[str, Query(max_length=7)] = "",
        year: Annotated[str, Query(max_length=4)] = "",
        lang: str = "",
    ) -> Response:
        """Answer with the report of a month or a year."""
        period = year or month
        if not PERIOD.fullmatch(period):
            return self._frame.problem(request, 400)
        return await self._document(request, DocumentKind.PERIOD, lang, "zip", period=period)

    async def letter_page(self, request: Request, outage_id: str, formal: bool = False) -> Response:
        """Answer with what the letter still needs, and its buttons."""
        check_same_site(request)
        found = self._read_model.outage(outage_id) if OUTAGE_ID.fullmatch(outage_id) else None
        if found is None:
            return self._frame.problem(request, 404)
        problem, preview = "", None
        try:
            preview = await self._read_model.letter_preview(outage_id, self._frame.language(request), formal)
        except EvidenceUnavailableError as error:
            problem = str(error)
        return self._frame.respond(
            request, "letter.html", "outages", o=found.outage, formal=formal, preview=preview, problem_text=problem
        )

    async def _document(
        self,
        request: Request,
        kind: DocumentKind,
        lang: str,
        suffix: str,
        *,
        outage: str = "",
        period: str = "",
        formal: bool = False,
    ) -> Response:
        if outage and not OUTAGE_ID.fullmatch(outage):
            return self._frame.problem(request, 404)
        language = lang if lang in LANGUAGES else self._frame.language(request)
        wanted = DocumentRequest(
            kind=kind, language=language, suffix=suffix, outage=outage, period=period, formal=formal
        )
        return await document_response(request, self._read_model, wanted)


def check_same_site(request: Request) -> None:
    """Raise HTTPException if a page of another site sent the request."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise HTTPException(403, "other sites may not have documents made; open the page of the outage")


async def document_response(
    request: Request, read_model: ReadModel, wanted: DocumentRequest, *, reason: bool = True
) -> Response:
    """Make a document and answer with it. Raises HTTPException, without a `reason` that may name a path."""
    check_same_site(request)
    try:
        path = await read_model.document(wanted)
    except EvidenceUnavailableError as error:
        raise HTTPException(409, str(error) if reason else "the document could not be made") from None
    name = f"{FILE_NAMES[wanted.kind][wanted.language]}-{wanted.outage or wanted.period}.{wanted.suffix}"
    return FileResponse(path, filename=name, background=BackgroundTask(path.unlink, missing_ok=True))
