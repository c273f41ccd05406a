"""The claim `pages`: report.pdf is what MailWatch makes of the bundle.

With the versions that made it, it must be the same bytes, besides the owner's signature. Another Typst, or another
kind of processor, may set the same text otherwise; then the text is compared. Another MailWatch may word it
otherwise; then nothing follows from a difference.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mailwatch import __version__
from mailwatch.analysis.replay import FactListener
from mailwatch.analysis.segments import Segment
from mailwatch.errors import is_local_failure
from mailwatch.evidence.code_version import code_version
from mailwatch.evidence.pages.rebuild import Rebuild
from mailwatch.evidence.pages.signed import shows_the_same
from mailwatch.evidence.pages.text import text_difference
from mailwatch.evidence.rendering import typst_version
from mailwatch.evidence.shipped import ShippedCatalogue
from mailwatch.evidence.stated import ReportJson
from mailwatch.evidence.verify import Claim, Trust, VerificationResult, examine
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.entries import EntryObserver
from mailwatch.model import Fact

logger = logging.getLogger(__name__)

PAGES = "pages"
NOT_COMPARED = "not compared: "
"""Prefix of the detail of a note: nothing was compared, and nothing is wrong."""


def verify_with_pages(path: Path, trust: Trust) -> list[Claim]:
    """Verify a bundle and the pages of its report; return the claims with the results. Raises OSError."""
    return examine_with_pages(path, trust).claims


def examine_with_pages(
    path: Path, trust: Trust, listener: FactListener = lambda *_: None, observer: EntryObserver | None = None
) -> VerificationResult:
    """Verify a bundle and the pages of its report, and compare it with the shipped catalogue. Raises OSError.

    `listener`, `observer`: as of `examine`.
    """
    stated, rebuild, fault = _stated_report(path), None, ""
    if stated is not None:
        try:
            rebuild = Rebuild(path, stated)
        except Exception as error:
            if is_local_failure(error):
                raise
            fault = unreadable(error)

    def listen(target: str, fact: Fact, segments: list[Segment]) -> None:
        if rebuild is not None:
            rebuild.listener(target, fact, segments)
        listener(target, fact, segments)

    examined = examine(path, trust, listen, observer, ShippedCatalogue())
    failed = next((claim.claim for claim in examined.claims if not claim.valid), "")
    if failed:
        claim = Claim(PAGES, False, f"not checked, because {failed} is not valid")
    elif fault:
        claim = Claim(PAGES, False, fault)
    elif rebuild is None or stated is None:
        claim = not_compared("the bundle does not state how its report was made, as none did before 2026-12")
    else:
        again = rebuild
        claim = compare_report(_report_of(path), stated, lambda: again.report(examined))
    examined.claims.append(claim)
    return examined


def not_compared(reason: str) -> Claim:
    """Return the claim as a note with the reason."""
    return Claim(PAGES, True, f"{NOT_COMPARED}{reason}", note=True)


def unreadable(error: Exception) -> str:
    """Return the detail of a claim on a key `report` that cannot be read."""
    return f"the key `report` of the statement cannot be read: {type(error).__name__} {error}"[:200]


def compare_report(given: bytes | None, stated: ReportJson, rebuild: Callable[[], bytes]) -> Claim:
    """Return the claim on a report. `given`: report.pdf, None if there is none. `rebuild`: makes it again."""
    if given is None:
        return not_compared("the bundle has no report.pdf")
    try:
        made = rebuild()
        detail = _sameness(given, made)
    except Exception as error:
        if is_local_failure(error):
            raise
        logger.info("the report could not be made again", exc_info=error)
        return _failure(stated, f"the report cannot be made again: {type(error).__name__} {str(error)[:120]}")
    if detail:
        return Claim(PAGES, True, detail)
    if _made_alike(stated):
        return Claim(PAGES, False, f"report.pdf is not the one that MailWatch {__version__} makes of this bundle")
    return _compare_text(given, made, stated)


def _sameness(given: bytes, made: bytes) -> str:
    if given == made:
        return "report.pdf, made again from the bundle, is the same to the byte"
    if given.startswith(made) and shows_the_same(given, made):
        return "report.pdf, made again from the bundle, is the same to the byte up to its signature"
    return ""


def _compare_text(given: bytes, made: bytes, stated: ReportJson) -> Claim:
    versions = (
        f"made with MailWatch {stated.get('mailwatch')}, Typst {stated.get('typst')} ({stated.get('machine')}), "
        f"compared with MailWatch {code_version()}, Typst {typst_version()} ({platform.machine()})"
    )[:300]
    try:
        difference = text_difference(given, made)
    except Exception as error:
        if is_local_failure(error):
            raise
        return _failure(stated, f"the text of report.pdf cannot be read: {type(error).__name__} {error}"[:200])
    if difference:
        return _failure(stated, f"{difference}; {versions}")
    return Claim(PAGES, True, f"report.pdf, made again from the bundle, has the same text; {versions}")


def _failure(stated: ReportJson, reason: str) -> Claim:
    """Return a claim that is not valid, unless another MailWatch may be the cause."""
    return Claim(PAGES, False, reason) if stated.get("mailwatch") == code_version() else not_compared(reason)


def _made_alike(stated: ReportJson) -> bool:
    own = code_version(), typst_version(), platform.machine()
    return (stated.get("mailwatch"), stated.get("typst"), stated.get("machine")) == own


def _stated_report(path: Path) -> ReportJson | None:
    """Return the key `report` of a bundle that is not verified yet; None if it has none, or is none."""
    try:
        archive = Archive(path)
        try:
            stated = archive.json(archive.statement).get("report")
        finally:
            archive.close()
    except VerificationError:
        return None
    return None if stated is None else cast(ReportJson, stated)


def _report_of(path: Path) -> bytes | None:
    archive = Archive(path)
    try:
        return archive.read("report.pdf") if "report.pdf" in archive.names else None
    finally:
        archive.close()
