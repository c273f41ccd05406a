"""What the page of a target says, from a real record."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.model import Cause, Observation, Outcome
from mailwatch.monitor.enrolment import end_target, record_targets
from mailwatch.monitor.outage_detail import MAX_TRANSITIONS, _transitions
from mailwatch.monitor.read_model import target_json
from mailwatch.monitor.restore import restore_targets
from mailwatch.monitor.target_detail import watched_detail
from mailwatch.web.target_detail import TargetDetail
from tests.helpers.pipeline import PipelineHarness


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    await made.greet()
    yield made
    assert made.server
    made.server.close()
    await made.server.wait_closed()
    await made.close()


def _detail(harness: PipelineHarness) -> TargetDetail:
    runtime = harness.pipeline.targets["t"]
    return watched_detail(runtime, target_json(runtime), None, harness.reader, harness.pipeline, 0)


async def _watch(harness: PipelineHarness) -> None:
    await record_targets(harness.pipeline, harness.reader, [harness.target])
    await restore_targets(harness.pipeline, harness.reader, [harness.target])


async def test_no_outage_is_claimed_for_a_time_without_watching(harness: PipelineHarness) -> None:
    harness.pipeline.forget_target("t")
    await _watch(harness)
    await harness.probe()
    await harness.probe()
    first, _ = (entry.fact for entry in harness.reader.entries(kinds=["observation"]))
    assert isinstance(first, Observation)
    assert _detail(harness).since == first.started_at
    runtime = harness.pipeline.targets["t"]
    runtime.settings = recorded_settings(harness.target, harness.pipeline.rules, harness.pipeline.secret)
    await end_target(harness.pipeline, runtime, "removed")
    await _watch(harness)
    await harness.probe()
    detail = _detail(harness)
    *_, again = (entry.fact for entry in harness.reader.entries(kinds=["observation"]))
    assert isinstance(again, Observation)
    assert (detail.first_seen, detail.since) == (first.started_at, again.started_at)
    assert first.started_at < again.started_at


@pytest.mark.parametrize(("changes", "kept"), [(MAX_TRANSITIONS, 0), (MAX_TRANSITIONS + 50, 1)])
def test_more_transitions_than_are_listed_are_noticed(changes: int, kept: int) -> None:
    causes = (Cause.TIMEOUT, Cause.REFUSED)
    observations = [
        Observation(
            target="t", scheduled_at=at, started_at=at, ended_at=at, outcome=Outcome.DOWN, cause=causes[at % 2]
        )
        for at in range(changes)
    ]
    assert len(_transitions(observations, None)) == MAX_TRANSITIONS + kept
