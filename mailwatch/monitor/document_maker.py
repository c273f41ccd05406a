"""Makes the documents that the pages offer, each in a process of its own, up to what is signed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from pydantic import TypeAdapter

from mailwatch import monotonic
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.evidence.report_job import ReportJobs
from mailwatch.monitor.service import Service
from mailwatch.times import Millis
from mailwatch.web.read_model import DocumentKind, DocumentRequest, EvidenceUnavailableError, LetterPreview

SEAL_AGAIN_MS: Millis = 10_000
"""Documents of open outages sign a checkpoint first, at most once in this time."""


class DocumentMaker:
    """Makes documents for the pages. `record` returns an outage on record, None if there is none with that id."""

    def __init__(self, service: Service, record: Callable[[str], OutageRecord | None]) -> None:
        self._writer, self._record = service.monitor.writer, record
        self._reports = ReportJobs(lambda: service.path, service.config.data_dir)
        self._sealed_at: Millis | None = None

    async def document(self, wanted: DocumentRequest) -> Path:
        """Make a document. Raises EvidenceUnavailableError."""
        await self._prepare(wanted.outage)
        try:
            return await self._reports.make(_document_words(wanted), wanted.suffix)
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None

    async def letter_preview(self, outage: str, language: str, formal: bool) -> LetterPreview:
        """Return what a letter about an outage still needs. Raises EvidenceUnavailableError."""
        await self._prepare(outage)
        words = ["claim", outage, "--preview", "--lang", language, *(["--formal"] if formal else [])]
        try:
            return TypeAdapter(LetterPreview).validate_json(await self._reports.run(words))
        except EvidenceError as error:
            raise EvidenceUnavailableError(str(error)) from None

    async def _prepare(self, identity: str) -> None:
        """Check that the outage exists, and sign what is on record of it so far: a document ends where the signed
        record does. Raises EvidenceUnavailableError.
        """
        if not identity:
            return
        record = await asyncio.to_thread(self._record, identity)
        if record is None:
            raise EvidenceUnavailableError(f"no outage {identity!r}; GET /api/v1/outages lists them")
        at = monotonic.milliseconds()
        if record.state == "open" and (self._sealed_at is None or at - self._sealed_at >= SEAL_AGAIN_MS):
            self._sealed_at = at
            await self._writer.checkpoint()


def _document_words(wanted: DocumentRequest) -> list[str]:
    """Return the verb and the words of the command line that make a document."""
    if wanted.kind is DocumentKind.PERIOD:
        year, _, month = wanted.period.partition("-")
        following = f"{int(year) + 1}" if month in ("", "12") else f"{year}-{int(month) + 1:02d}"
        end = f"{following}-01" if "-" not in following else following
        return ["report", "--from", f"{year}-{month or '01'}", "--to", end, "--lang", wanted.language]
    if wanted.kind is DocumentKind.LETTER:
        return ["claim", wanted.outage, "--lang", wanted.language, *(["--formal"] if wanted.formal else [])]
    return ["report", wanted.outage, "--lang", wanted.language]
