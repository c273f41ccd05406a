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


AT_ONCE = 24
"""Faults that are played at the same time: most of them are waits for a server that is silent."""


async def test_each_fault_is_named_rightly(subtests: pytest.Subtests, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    places = asyncio.Semaphore(AT_ONCE)

    async def check(fault: Fault) -> None:
        async with places:
            result: Observation | Exception
            try:
                result = await _observation_of(fault)
            except Exception as error:
                result = error
        with subtests.test(f"{fault.kind}: {fault.what}"):
            if isinstance(result, Exception):
                raise result
            said = (result.outcome, result.cause, result.failed_phase)
            assert said == (fault.expected, fault.cause, fault.phase), result.detail
            assert fault.says in result.detail
            assert not any(secret in repr(result) for secret in SECRETS)

    await asyncio.gather(*map(check, FAULTS))
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
