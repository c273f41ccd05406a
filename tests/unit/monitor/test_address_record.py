"""Our public address on record: each change, at an outage, when the line came back; and no harm by a server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from mailwatch import monotonic
from mailwatch.config.schema_guard import GuardSection
from mailwatch.guard.address_log import OUTAGE_LOG_MS, AddressLog
from mailwatch.guard.public_address import PublicAddress
from mailwatch.model import ConnectivityResult
from mailwatch.monitor.address_record import AddressRecorder
from mailwatch.store import StoreError
from mailwatch.times import HOUR_MS, now
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.stun_server import StunServer, sees, stun_server


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path)
    await made.writer.start()
    yield made
    await made.close()


def section_of(server: StunServer, timeout: str = f"{PATIENCE}s") -> GuardSection:
    stun = {"stun": f"127.0.0.1:{server.port}"}
    return GuardSection.model_validate({"public_address": stun, "timeout": timeout})


@contextlib.asynccontextmanager
async def running(recorder: AddressRecorder) -> AsyncIterator[None]:
    task = asyncio.create_task(recorder.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.01)


def addresses(harness: PipelineHarness) -> list[str]:
    return [entry["address"] for entry in harness.recorded("address")]


async def test_the_address_and_each_change_are_on_record(harness: PipelineHarness) -> None:
    wanted, before = harness.pipeline.attribution.address_wanted, now()
    async with stun_server(sees("8.8.4.4")) as server:
        recorder = AddressRecorder(harness.pipeline, section_of(server))
        async with running(recorder):
            await until(lambda: addresses(harness) == ["8.8.4.4"])
            wanted.set()
            await until(lambda: len(server.requests) == 2)
            server.script = sees("9.9.9.9")
            wanted.set()
            await until(lambda: addresses(harness) == ["8.8.4.4", "9.9.9.9"])
    first = harness.recorded("address")[0]
    server_name, clock = f"127.0.0.1:{server.port}", first["clock"]
    assert first == {"at": first["at"], "address": "8.8.4.4", "family": 4, "server": server_name, "clock": clock}
    assert clock.keys() == {"boot", "at"}
    assert (clock["boot"], clock["at"] <= monotonic.milliseconds()) == (monotonic.origin().boot, True)
    assert before <= first["at"] <= now()
    (entry, _) = harness.reader.entries(kinds=["address"])
    assert (entry.target, entry.number, entry.time) == (None, None, first["at"])


async def test_nothing_is_asked_unless_the_config_names_a_server(harness: PipelineHarness) -> None:
    async with stun_server(sees("8.8.4.4")) as server:
        recorder = AddressRecorder(harness.pipeline, GuardSection())
        async with running(recorder):
            recorder.request_now()
            recorder.set_section(None)
            recorder.set_section(GuardSection.model_validate({"timeout": "1s"}))
            recorder.set_section(section_of(server))
            await until(lambda: addresses(harness) == ["8.8.4.4"])
            assert len(server.requests) == 1
            recorder.set_section(None)
            await until(lambda: not harness.pipeline.attribution.address_wanted.is_set())
        assert len(server.requests) == 1


async def test_the_address_is_asked_again_when_the_line_came_back(harness: PipelineHarness) -> None:
    def line(online: bool | None) -> ConnectivityResult:
        return ConnectivityResult(asked_at=now(), online=online, controls={})

    attribution = harness.pipeline.attribution
    attribution.note_line(line(True))
    assert not attribution.address_wanted.is_set()
    attribution.note_line(line(False))
    attribution.note_line(line(False))
    assert not attribution.address_wanted.is_set()
    attribution.note_line(line(None))
    assert attribution.address_wanted.is_set()


async def test_the_address_is_asked_at_an_outage(harness: PipelineHarness) -> None:
    async with stun_server(sees("8.8.4.4")) as server:
        recorder = AddressRecorder(harness.pipeline, section_of(server))
        async with running(recorder):
            await until(lambda: addresses(harness) == ["8.8.4.4"])
            for notify in harness.pipeline.recorder.on_outage_recorded:
                notify()
            await until(lambda: len(server.requests) == 2)
    # The one recorded a moment before serves this outage too.
    assert addresses(harness) == ["8.8.4.4"]


async def test_an_address_that_the_disk_did_not_take_is_recorded_later(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stun_server(sees("8.8.4.4")) as server:
        recorder = AddressRecorder(harness.pipeline, section_of(server))
        with monkeypatch.context() as broken:
            broken.setattr(harness.pipeline.recorder, "append", _refuse)
            with pytest.raises(StoreError):
                await recorder.run()
        async with running(recorder):
            await until(lambda: addresses(harness) == ["8.8.4.4"])


async def _refuse(*_: object) -> None:
    raise StoreError("the disk is full")


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    log, clock = AddressLog(), 0

    def wants(address: str, *, server: str = "a:1", at_outage: bool = False) -> bool:
        found = PublicAddress(now(), clock, address, 6 if ":" in address else 4, server)
        wanted = log.wants(found, HOUR_MS, at_outage=at_outage)
        if wanted:
            log.recorded(found)
        return wanted

    monkeypatch.setattr(monotonic, "milliseconds", lambda: clock)
    assert wants("8.8.4.4")
    assert wants("2001:4860:4860::8844"), "each family by itself"
    clock += HOUR_MS - 1
    assert not wants("8.8.4.4")
    assert wants("8.8.4.4", at_outage=True)
    clock += OUTAGE_LOG_MS - 1
    assert not wants("8.8.4.4", at_outage=True)
    assert wants("8.8.4.4", server="b:1"), "another server saw it"
    assert wants("9.9.9.9", server="b:1", at_outage=True), "a change, however soon"
    clock += HOUR_MS
    assert wants("9.9.9.9", server="b:1")
    assert wants("2001:4860:4860::8844")


@pytest.mark.parametrize("answer", [b"x" * 40, b""], ids=["words", "empty"])
async def test_a_server_without_an_answer_is_named_in_the_log_at_debug_only(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG, "mailwatch.monitor.address_record")
    async with stun_server(lambda _: [answer]) as server:
        recorder = AddressRecorder(harness.pipeline, section_of(server, "50ms"))
        async with running(recorder):
            await until(lambda: len(caplog.records) >= 2)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert "no answer from 127.0.0.1:" in caplog.text
    assert addresses(harness) == []
