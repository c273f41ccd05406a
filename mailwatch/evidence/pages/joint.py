"""Makes the report of a joint zip again from joint.json and its members, and compares it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from mailwatch.errors import is_local_failure
from mailwatch.evidence.joint.verify import (
    JOINT_FILE,
    JOINT_SHAPE,
    UNCHECKED_PREFIX,
    JointResult,
    examine_joint,
)
from mailwatch.evidence.pages.compare import PAGES, compare_report, examine_with_pages, not_compared, unreadable
from mailwatch.evidence.rendering import Rendering
from mailwatch.evidence.report.joint import joint_report
from mailwatch.evidence.stated import ReportJson
from mailwatch.evidence.verify import Claim, Trust, VerificationResult
from mailwatch.evidence.verify.archive import Archive


def verify_joint_with_pages(path: Path, trust: Trust, extra_members: Sequence[Path] = ()) -> VerificationResult:
    """Verify a joint zip and the pages of its report; return the claims, and the caveats of its members. Raises
    OSError.
    """
    examined = examine_joint(path, trust, extra_members, examine_with_pages)
    return VerificationResult([*examined.claims, _pages(path, examined)], caveats=examined.caveats)


def _pages(path: Path, examined: JointResult) -> Claim:
    failed = next((claim for claim in examined.claims if not claim.valid), None)
    if failed is not None and failed.detail.startswith(UNCHECKED_PREFIX):
        return Claim(PAGES, False, f"{UNCHECKED_PREFIX}its bundles are missing")
    if failed is not None:
        return Claim(PAGES, False, f"not checked, because {failed.claim} is not valid")
    stated = cast(ReportJson | None, examined.stated.get("report"))
    if stated is None:
        return not_compared("the bundle does not state how its report was made, as none did before 2026-12")
    try:
        how = Rendering.of(stated)
    except Exception as error:
        if is_local_failure(error):
            raise
        return Claim(PAGES, False, unreadable(error))
    archive = Archive(path, JOINT_SHAPE)
    try:
        pdf, statement = archive.read("report.pdf"), archive.read(JOINT_FILE)
    finally:
        archive.close()

    def rebuild() -> bytes:
        return joint_report(examined.groups, examined.stated, statement, how.language, how.zone)

    return compare_report(pdf, stated, rebuild)
