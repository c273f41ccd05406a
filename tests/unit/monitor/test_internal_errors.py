"""Whatever raises before an observation is on record leads to one on record: `monitor`, unknown, and counted."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mailwatch.guard import clock
from mailwatch.guard.port25 import Port25
from mailwatch.guard.sntp import Offset
from mailwatch.model import Cause, Kind, Observation, Outcome, TlsMode
from mailwatch.monitor import enrolment
from mailwatch.monitor.background import BackgroundTasks
from mailwatch.monitor.enrolment import apply_config
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.monitor.timestamps import TimestampScheduler
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address
from mailwatch.settings import Login, Target
from mailwatch.store import NewEntry, StoreDamagedError, StoreError, Tokens
from mailwatch.times import now
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.scripted_server import scripted_server

SECRET = "c4n4ry-of-faults"


class Odd(Exception):
    """Nothing that any table has."""


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    await made.close()


def raising(*_: Any, **__: Any) -> Any:
    raise Odd(f"at {SECRET}")


def awaited(answer: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    async def asked(*given: Any, **named: Any) -> Any:
        return answer(*given, **named)

    return asked


def down(request: ProbeRequest) -> Observation:
    return Observation(
        target=request.target.name, scheduled_at=request.scheduled_at, started_at=now(), ended_at=now(),
        outcome=Outcome.DOWN, cause=Cause.REFUSED, detail="connection refused",
    )  # fmt: skip


def counted(harness: PipelineHarness) -> str:
    return next(
        line for line in harness.exposition().splitlines() if line.startswith("mailwatch_monitor_errors_total ")
    )


async def probe_once(harness: PipelineHarness) -> dict[str, Any]:
    await harness.probe()
    (entry,) = harness.recorded("observation")
    return entry


async def test_a_probe_that_raises_is_on_record(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.runtime.target = harness.target = replace(
        harness.target, login=Login(username="u", password=SecretStr(SECRET))
    )
    harness.pipeline.runner.observe = awaited(raising)
    observation = await probe_once(harness)
    assert (observation["outcome"], observation["cause"]) == ("unknown", "monitor")
    assert observation["detail"].startswith("internal error: Odd")
    assert counted(harness).endswith(" 1")
    assert "Traceback" in caplog.text
    assert SECRET not in caplog.text + str(observation)
    await harness.probe()
    assert len(harness.recorded("observation")) == 2


async def test_an_attribution_that_raises_is_recorded_with_the_observation(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.pipeline.runner.observe = awaited(down)
    monkeypatch.setattr(harness.pipeline.attribution, "attribute", awaited(raising))
    observation = await probe_once(harness)
    assert (observation["outcome"], observation["cause"]) == ("unknown", "monitor")
    assert "was: refused: connection refused" in observation["detail"]


async def test_a_diagnosis_that_raises_does_not_change_the_observation(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.pipeline.runner.observe = awaited(down)
    monkeypatch.setattr(harness.pipeline.attribution, "with_diagnosis", awaited(raising))
    observation = await probe_once(harness)
    assert (observation["outcome"], observation["cause"]) == ("down", "refused")
    assert observation["facts"]["diagnosis"] == {"failed": "Odd"}
    assert counted(harness).endswith(" 1")


@pytest.mark.parametrize(
    "odd", ["\ud800", 2**60, 1.5j, {1: object()}], ids=["surrogate", "large", "complex", "object"]
)
async def test_an_observation_that_cannot_be_recorded_is_recorded_as_unknown(
    harness: PipelineHarness, odd: Any
) -> None:
    harness.pipeline.runner.observe = awaited(
        lambda request: replace(down(request), facts={"odd": odd})  # type: ignore[arg-type]
    )
    observation = await probe_once(harness)
    assert (observation["outcome"], observation["cause"]) == ("unknown", "monitor")
    assert "cannot be recorded" in observation["detail"]
    assert counted(harness).endswith(" 1")


async def test_observe_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    target = Target(name="t", kind=Kind.IMAP, host="127.0.0.1", port=1, tls=TlsMode.NONE, timeout=1.0)
    observation = await observe(
        ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), lookup=awaited(raising))
    )
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    odd = awaited(lambda *_: (Address(family=None, sockaddr=()),))  # type: ignore[arg-type]
    observation = await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), lookup=odd))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert caplog.text.count("probe of t failed: internal error") == 2


async def test_an_error_while_closing_a_connection_is_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mailwatch.probes.imap_client import ImapClient

    target = Target(name="t", kind=Kind.IMAP, host="127.0.0.1", port=0, tls=TlsMode.NONE, timeout=5.0)
    monkeypatch.setattr(ImapClient, "logout", awaited(raising))
    async with scripted_server([b"* OK [CAPABILITY IMAP4rev1] hi\r\n"]) as port:
        observation = await observe(
            ProbeRequest(replace(target, port=port), scheduled_at=now(), contexts=TlsContexts())
        )
    assert observation.outcome is Outcome.UP
    assert "closing the connection to t failed: internal error" in caplog.text


async def test_a_failing_time_server_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(host: str, port: int, timeout: float) -> Offset:
        if host == "odd":
            raise Odd
        return Offset(host, 0, 1000, 1000, 1)

    monkeypatch.setattr(clock, "sntp", asked)
    found = await clock.survey(["odd", "good"])
    assert [answer.server for answer in found.answers] == ["good"]
    assert found.failures == {"odd:123": "internal error: Odd"}


async def test_a_failed_check_of_the_controls_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Port25(["control.example"])
    monkeypatch.setattr(asked, "_greeting_reason", awaited(lambda _: "refused"))
    monkeypatch.setattr(asked, "_round", awaited(raising))
    with pytest.raises(Odd):
        await asked._check(("control.example",))
    monkeypatch.undo()
    monkeypatch.setattr(asked, "_greeting_reason", awaited(lambda _: "refused"))
    assert (await asked._check(("control.example",))).answers == {"control.example": "refused"}


async def test_a_failure_at_one_target_does_not_affect_the_others(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    odd, good = (harness.add_target(replace(harness.target, name=name)) for name in ("a-odd", "b-good"))
    odd.rolling_availability = None  # type: ignore[assignment]
    good.pending_backfill = odd.pending_backfill = None
    keeping = BackgroundTasks(harness.pipeline, harness.reader, [])
    running = asyncio.create_task(keeping.availability())
    displayed = re.compile(r'^mailwatch_coverage_ratio\{target="b-good",.*\} ', re.MULTILINE)
    while not displayed.search(harness.exposition()):
        assert not running.done()
        await asyncio.sleep(0.01)
    running.cancel()
    assert "a-odd: its availability failed: internal error" in caplog.text
    assert counted(harness).endswith(" 1")


async def test_a_change_that_fails_for_one_target_is_made_for_the_others(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("a-odd", "b-good")
    for name in names:
        harness.add_target(replace(harness.target, name=name))
    made, rewatch = [], enrolment.apply_settings

    async def odd(monitor: Pipeline, runtime: TargetRuntime, target: Target, reason: str) -> None:
        if target.name == "a-odd":
            raise Odd
        made.append(target.name)
        await rewatch(monitor, runtime, target, reason)

    monkeypatch.setattr(enrolment, "apply_settings", odd)
    with pytest.raises(Odd):
        await apply_config(
            harness.pipeline, {name: replace(harness.target, name=name, interval=77.0) for name in names}
        )
    assert made == ["b-good"]
    assert harness.pipeline.targets["b-good"].target.interval == 77.0


async def test_a_damaged_entry_ends_no_background_loop_also_one_with_a_task_group(
    harness: PipelineHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await harness.writer.submit(NewEntry(kind="outage", time=now(), target=None, payload={"a": 1}))
    with contextlib.closing(sqlite3.connect(harness.database)) as connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("UPDATE entries SET payload = 'x' WHERE idx = 0")
        connection.commit()
    stamping = TimestampScheduler(harness.pipeline, harness.reader, Tokens(tmp_path / "data"), [])
    keeping = asyncio.create_task(
        BackgroundTasks(harness.pipeline, harness.reader, [])._keep_running(stamping.run)
    )
    while "housekeeping: entry 0 of the ledger is not what was written" not in caplog.text:
        assert not keeping.done()
        await asyncio.sleep(0.01)
    assert harness.reader.is_damaged
    keeping.cancel()
    await asyncio.wait([keeping])
    assert keeping.cancelled()


async def test_store_errors_do_not_hide_an_internal_error_in_the_same_group(harness: PipelineHarness) -> None:
    nested = ExceptionGroup("", [ExceptionGroup("", [StoreDamagedError("damaged"), Odd()]), StoreError("busy")])

    async def failing() -> None:
        raise nested

    with pytest.raises(ExceptionGroup) as raised:
        await BackgroundTasks(harness.pipeline, harness.reader, [])._keep_running(failing)
    assert raised.group_contains(Odd)
    assert not raised.group_contains(StoreError)
