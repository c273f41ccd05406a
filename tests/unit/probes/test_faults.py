"""Each way in which a mailbox fails has its outcome, cause and phase: docs/reference/failures.md, played."""

from __future__ import annotations

import asyncio

import pytest

from mailwatch.model import Observation
from mailwatch.probes import ProbeRequest, TlsContexts
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.times import now
from tests.helpers.faults.fault import PASSWORD, Fault
from tests.helpers.faults.table import FAULTS, page
from tests.helpers.paths import ROOT

PAGE = ROOT / "docs" / "reference" / "failures.md"
SECRETS = (PASSWORD, "canary-access", "canary-refresh", "canary-client")


ALONE_SECONDS = 0.1
"""A fault that takes longer is a server that is silent: while it is waited for, the next ones are played."""


async def test_each_fault_is_named_rightly(subtests: pytest.Subtests, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    played = []
    for fault in FAULTS:
        played.append((fault, asyncio.create_task(_observation_of(fault))))
        await asyncio.wait([played[-1][1]], timeout=ALONE_SECONDS)
    for fault, task in played:
        await asyncio.wait([task])
        with subtests.test(f"{fault.kind}: {fault.what}"):
            seen = task.result()
            reply = (seen.outcome, seen.cause, seen.failed_phase)
            assert reply == (fault.expected, fault.cause, fault.phase), seen.detail
            assert fault.says in seen.detail
            assert not any(secret in repr(seen) for secret in SECRETS)
    assert not any(secret in caplog.text for secret in SECRETS)


async def _observation_of(fault: Fault) -> Observation:
    async with fault.place(fault.target) as target:
        request = ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), tokens=AccessTokens())
        return await fault.probe(request)


def test_the_page_shows_this_very_table() -> None:
    assert PAGE.read_text() == page(), "run: make docs-generate"


def test_the_table_is_large_and_no_line_is_twice() -> None:
    lines = [(fault.kind, fault.what) for fault in FAULTS]
    assert len(lines) == len(set(lines))
    assert len(lines) >= 60
