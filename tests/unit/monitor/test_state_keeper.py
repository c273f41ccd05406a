"""A target that is down for long has its state kept, at the start and while it is watched."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.model import Outcome
from mailwatch.monitor.restore import login_observations, restore_targets
from mailwatch.monitor.state_keeper import StateKeeper
from mailwatch.settings import Login
from mailwatch.store import StoreUnavailableError, symptom_states
from mailwatch.store.detector_states import KIND
from mailwatch.store.kept_audit import audit_kept_states
from mailwatch.store.kept_states import KeptState, read_all_kept
from mailwatch.store.replay import restore_state, rule_book
from tests.helpers.pipeline import PipelineHarness


@pytest.fixture
async def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[PipelineHarness]:
    monkeypatch.setattr("mailwatch.store.replay.KEEP_AFTER", 4)
    monkeypatch.setattr("mailwatch.monitor.state_keeper.KEEP_AFTER", 4)
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    if made.server:
        made.server.close()
        await made.server.wait_closed()
    await made.close()


async def test_states_are_kept_while_a_target_is_down(harness: PipelineHarness) -> None:
    keeper = StateKeeper(harness.pipeline, harness.reader)
    for _ in range(3):
        await harness.probe()
    assert await keeper.keep_due() == 0
    await harness.probe()
    assert await keeper.keep_due() == 1
    kept = harness.reader.kept(KIND, "t")
    assert kept is not None
    assert await keeper.keep_due() == 0
    for _ in range(4):
        await harness.probe()
    assert await keeper.keep_due() == 1
    assert harness.runtime.state.outage is not None
    later = harness.reader.kept(KIND, "t")
    assert later is not None
    assert later.index > kept.index
    assert harness.reader.kept_subjects(symptom_states.KIND) == [harness.runtime.state.outage.id]
    restored = restore_state(harness.reader, "t", rule_book(harness.reader))
    assert (restored.history.facts, restored.detector) == (0, harness.runtime.detector)


async def test_a_start_keeps_what_took_long_to_replay(harness: PipelineHarness) -> None:
    for _ in range(5):
        await harness.probe()
    live = harness.runtime.detector
    for _ in range(2):
        harness.pipeline.forget_target("t")
        await restore_targets(harness.pipeline, harness.reader, [harness.target])
        assert harness.pipeline.targets["t"].detector == live
        assert harness.reader.kept(KIND, "t") is not None
    # The target is up again: it has nothing to keep.
    await harness.greet()
    for _ in range(3):
        await harness.probe()
    assert await StateKeeper(harness.pipeline, harness.reader).keep_due() == 0


async def test_a_state_that_cannot_be_written_is_kept_later(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    keeper = StateKeeper(harness.pipeline, harness.reader)
    for _ in range(4):
        await harness.probe()
    hidden = harness.database.with_suffix(".moved")
    harness.database.rename(hidden)
    with pytest.raises(StoreUnavailableError):
        await keeper.keep_due()
    assert not await harness.writer.keep([KeptState(KIND, "t", 0, "", "{}")])
    hidden.rename(harness.database)
    assert "were not kept" in caplog.text
    assert await keeper.keep_due() == 1


async def test_a_start_reads_the_latest_observations_of_a_login_that_fails_for_long(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = Login(username="me", password=SecretStr("secret"))
    target = replace(harness.target, login=login)
    await harness.greet()
    await harness.probe()
    assert harness.server is not None
    harness.server.close()
    await harness.server.wait_closed()
    for _ in range(12):
        await harness.probe()
    whole = login_observations(harness.reader, [target])
    assert [one.outcome for _, one in whole] == [Outcome.UP, *[Outcome.DOWN] * 12]
    assert await StateKeeper(harness.pipeline, harness.reader).keep_due() == 1
    assert login_observations(harness.reader, [target]) == whole
    monkeypatch.setattr("mailwatch.monitor.restore.MAX_OBSERVATIONS", 5)
    # What was accepted last, and the latest.
    assert login_observations(harness.reader, [target]) == [whole[0], *whole[-5:]]


@pytest.mark.parametrize(
    "change",
    [
        "state = CAST(state AS BLOB)",
        "state = zeroblob(9)",
        "idx = 'abc'",
        "subject = zeroblob(3)",
        "leaf = CAST(x'ff' AS TEXT)",
    ],
)
async def test_a_state_that_cannot_be_read_is_no_state_and_is_removed(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    for _ in range(4):
        await harness.probe()
    live, keeper = harness.runtime.detector, StateKeeper(harness.pipeline, harness.reader)
    assert await keeper.keep_due() == 1
    with contextlib.closing(sqlite3.connect(harness.database)) as raw, raw:
        assert raw.execute(f"UPDATE kept_states SET {change} WHERE kind = '{KIND}'").rowcount == 1
    assert harness.reader.kept(KIND, "t") is None
    with harness.reader._engine.connect() as connection:
        assert read_all_kept(connection, KIND) == {}
    assert restore_state(harness.reader, "t", rule_book(harness.reader)).detector == live
    (found,) = audit_kept_states(harness.reader, b"", 0)
    assert "cannot be read" in found.what
    assert "after the next start they are made anew" in found.what
    symptoms = harness.reader.kept_subjects(symptom_states.KIND)
    await keeper.remove_damaged()
    assert "kept states that cannot be read are removed" in caplog.text
    assert list(audit_kept_states(harness.reader, b"", 0)) == []
    assert harness.reader.kept_subjects(symptom_states.KIND) == symptoms != []
    caplog.clear()
    await keeper.remove_damaged()
    assert caplog.text == ""
