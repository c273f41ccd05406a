"""A link that shows one outage, with its evidence, to anyone who has it, and nothing else.

The link needs no record: it names the outage and its last day, and carries a MAC over both under a key of this
installation. To withdraw all links, delete the key (data_dir/share-key) and restart.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, date, datetime, timedelta

from fastapi import Request
from fastapi.responses import Response

from mailwatch.i18n import LANGUAGES
from mailwatch.times import Millis, now
from mailwatch.web.documents import document_response
from mailwatch.web.frame import Frame, PageRoute
from mailwatch.web.outage_page import OutagePage
from mailwatch.web.read_model import DocumentKind, DocumentRequest

VALID_DAYS = 30
"""Days that a link is valid, the day of its making included."""
_TOKEN = re.compile(r"([0-9a-f]{12})-(20[0-9]{6})-([A-Za-z0-9_-]{27})")


def share_token(key: bytes, outage: str, last: date) -> str:
    """Return the token that shows an outage up to the end of a day, UTC."""
    stem = f"{outage}-{last:%Y%m%d}"
    return f"{stem}-{_mac(key, stem)}"


def shared_outage(key: bytes, token: str, at: Millis) -> str:
    """Return the outage that a token shows, "" if it is wrong or its last day is over."""
    found = _TOKEN.fullmatch(token)
    if found is None or not key:
        return ""
    if not hmac.compare_digest(_mac(key, f"{found[1]}-{found[2]}"), found[3]):
        return ""
    return found[1] if found[2] >= f"{_day(at):%Y%m%d}" else ""


def last_day(at: Millis) -> date:
    """Return the last day of a link that is made at a time."""
    return _day(at) + timedelta(days=VALID_DAYS - 1)


def _mac(key: bytes, stem: str) -> str:
    digest = hmac.digest(key, b"share outage " + stem.encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest[:20]).decode().rstrip("=")


def _day(at: Millis) -> date:
    return datetime.fromtimestamp(at // 1000, UTC).date()


def routes(frame: Frame) -> list[PageRoute]:
    """Return the routes of the links."""
    pages = SharedOutage(frame)
    return [
        PageRoute(path="/share/{token}", answer=pages.page),
        PageRoute(path="/share/{token}/evidence.zip", answer=pages.evidence),
        PageRoute(path="/share/{token}/report.pdf", answer=pages.report),
    ]


class SharedOutage:
    """Answers with the outage of a link."""

    def __init__(self, frame: Frame) -> None:
        self._frame, self._outages = frame, OutagePage(frame)

    def page(self, request: Request, token: str) -> Response:
        """Answer with the page."""
        outage = self._outage(token)
        return self._outages.shared(request, outage, token) if outage else self._closed(request)

    async def evidence(self, request: Request, token: str, lang: str = "") -> Response:
        """Answer with the evidence."""
        return await self._document(request, token, lang, DocumentKind.EVIDENCE, "zip")

    async def report(self, request: Request, token: str, lang: str = "") -> Response:
        """Answer with the report."""
        return await self._document(request, token, lang, DocumentKind.REPORT, "pdf")

    async def _document(
        self, request: Request, token: str, lang: str, kind: DocumentKind, suffix: str
    ) -> Response:
        outage = self._outage(token)
        if not outage:
            return self._closed(request)
        language = lang if lang in LANGUAGES else self._frame.language(request)
        wanted = DocumentRequest(kind=kind, outage=outage, language=language, suffix=suffix)
        return await document_response(request, self._frame.read_model, wanted, reason=False)

    def _outage(self, token: str) -> str:
        # The key is read only for what has the form of a token.
        is_one = _TOKEN.fullmatch(token) is not None
        return shared_outage(self._frame.read_model.share_key(), token, now()) if is_one else ""

    def _closed(self, request: Request) -> Response:
        return self._frame.problem(request, 404, why="shared")
