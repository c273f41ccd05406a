"""Each way in which a mailbox fails has its outcome, cause and phase: docs/reference/failures.md, played."""

from __future__ import annotations

import pytest

from mailwatch.probes import TlsContexts
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.times import now
from tests.helpers.faults.fault import PASSWORD, Fault
from tests.helpers.faults.table import FAULTS, page
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "failures.md"


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.kind}: {fault.what}")
async def test_each_fault_is_named_rightly(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    async with fault.place(fault.target) as target:
        seen = await fault.probe(target, scheduled_at=now(), contexts=TlsContexts(), tokens=AccessTokens())
    said = (seen.outcome, seen.cause, seen.failed_phase)
    assert said == (fault.expected, fault.cause, fault.phase), seen.detail
    assert fault.says in seen.detail
    for secret in (PASSWORD, "canary-access", "canary-refresh", "canary-client"):
        assert secret not in repr(seen) + caplog.text


def test_the_page_shows_this_very_table() -> None:
    assert PAGE.read_text() == page(), "run: python -m tests.helpers.faults.table > docs/reference/failures.md"


def test_the_table_is_large_and_no_line_is_twice() -> None:
    lines = [(fault.kind, fault.what) for fault in FAULTS]
    assert len(lines) == len(set(lines))
    assert len(lines) >= 60
