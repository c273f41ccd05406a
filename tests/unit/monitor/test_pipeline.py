"""The harness: nothing is shown before it is on disk, holes have names, and what disturbed us is not theirs."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector, State
from mailwatch.analysis.elapsed import gap_length
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.guard.clock import TICK_SECONDS, ClockMonitor, ClockReading, read_clocks
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Cause, ConnectivityResult, Gap, GapReason, Kind, Observation, Outcome, TargetEvent
from mailwatch.monitor.enrolment import (
    apply_settings,
    end_target,
    end_targets,
    record_targets,
    renew_records,
    target_change,
)
from mailwatch.monitor.read_model import target_json
from mailwatch.monitor.recorded_outages import open_outages
from mailwatch.monitor.restore import restore_targets
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import ProbeRequest, observe
from mailwatch.store import queries
from mailwatch.store.replay import audit_outages, rule_book
from mailwatch.times import Millis, now
from tests.helpers.pipeline import PipelineHarness
from tests.servers import free_port

DAY = 86_400_000


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    if made.server:
        made.server.close()
        await made.server.wait_closed()
    await made.close()


async def test_an_observation_goes_through_the_whole_pipeline(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.probe()
    assert [observation["outcome"] for observation in harness.recorded("observation")] == ["up"]
    assert harness.runtime.state.name == "up"
    assert (
        'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="up"} 1' in harness.exposition()
    )


async def test_the_log_has_each_change_of_a_state_and_why(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mailwatch.monitor.pipeline")
    await harness.greet()
    await harness.probe()
    await harness.probe()
    assert harness.server is not None
    harness.server.close()
    await harness.server.wait_closed()
    await harness.probe()
    up, suspect = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"t: up, \d+(\.\d)? (ms|s)", up)
    assert suspect.startswith("t: suspect: refused at connect: ")


async def test_nothing_is_shown_before_it_is_on_disk(harness: PipelineHarness) -> None:
    # Another writer holds the database: the commit waits.
    blocker = sqlite3.connect(harness.database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    probing = asyncio.create_task(harness.probe())
    while not harness.writer.pending:
        await asyncio.sleep(0.01)
    downs = 'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="down"} '
    assert f"{downs}0\n" in harness.exposition()
    assert target_json(harness.runtime)["outcome"] is None
    assert not probing.done()
    blocker.execute("ROLLBACK")
    blocker.close()
    await probing
    assert f"{downs}1\n" in harness.exposition()
    assert target_json(harness.runtime)["outcome"] == "down"


async def test_an_outage_is_on_record_and_sealed_before_it_is_shown(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.probe()
    assert harness.server is not None
    harness.server.close()
    await harness.server.wait_closed()
    for _ in range(3):
        await harness.probe()
    (outage,) = harness.recorded("outage")
    assert outage["state"] == "open"
    last = harness.reader.last_checkpoint()
    assert last is not None
    assert last.size == harness.reader.size()
    assert target_json(harness.runtime)["outage"] == outage["id"]
    assert target_json(harness.runtime)["state"] == "down"


def ticked(apart: int) -> int:
    """So many milliseconds from now, on the clock that nobody can set."""
    return monotonic.milliseconds() + apart


async def test_a_long_time_without_a_probe_is_a_gap_with_its_reason(harness: PipelineHarness) -> None:
    harness.assume_up(600_000)
    harness.pipeline.attribution.note_disruption(ticked(-500_000), ticked(-400_000), GapReason.SUSPENDED)
    await harness.probe()
    (gap,) = harness.recorded("gap")
    assert gap["reason"] == "suspended"
    assert gap["end"] - gap["start"] >= 599_000
    assert "mailwatch_gap_seconds_total" in harness.exposition()


async def test_a_missed_run_is_a_gap_of_its_own(harness: PipelineHarness) -> None:
    harness.assume_up(100_000)
    await harness.probe()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["missed"]


async def test_a_gap_caused_by_server_throttling_has_its_own_reason(harness: PipelineHarness) -> None:
    harness.assume_up(130_000)
    harness.runtime.detector = Detector(State(throttled=1))
    await harness.probe()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["throttled"]


async def test_the_usual_time_between_observations_is_no_gap_unless_mailwatch_slept(
    harness: PipelineHarness,
) -> None:
    harness.assume_up(59_000)
    await harness.probe()
    assert harness.recorded("gap") == []
    harness.assume_up(30_000)
    harness.pipeline.attribution.note_disruption(ticked(-20_000), ticked(-10_000), GapReason.SUSPENDED)
    await harness.probe()
    (gap,) = harness.recorded("gap")
    assert gap["reason"] == "suspended"
    assert 9_900 <= gap["end"] - gap["start"] <= 10_100


async def disturbed_probe(harness: PipelineHarness, reason: GapReason) -> tuple[str, str, str]:
    """A probe of a server that is not there, during which something happens to our machine."""

    async def disturbed(request: ProbeRequest) -> Observation:
        observation = await observe(request)
        harness.pipeline.attribution.note_disruption(ticked(-1000), ticked(60_000), reason)
        return observation

    harness.pipeline.runner.observe = disturbed
    await harness.probe()
    probe = harness.recorded("observation")[-1]
    return probe["outcome"], probe["cause"], probe["detail"]


@pytest.mark.stalls("mailwatch.monitor.pipeline")
@pytest.mark.parametrize(("late", "outcome"), [(1.2, Outcome.UNKNOWN), (0.9, Outcome.DOWN)])
async def test_a_timeout_is_our_own_failure_if_the_process_was_stalled(
    harness: PipelineHarness, late: float, outcome: Outcome
) -> None:
    """Too short for the record of stalls, but long for a server that has a second."""
    start, ahead = read_clocks(), 0

    def read() -> ClockReading:
        return ClockReading(start.wall + ahead, start.running + ahead, start.boot + ahead)

    async def stalled(request: ProbeRequest) -> Observation:
        nonlocal ahead
        observation = await observe(request)
        # A tick is due each second: here the last one, now the next.
        ahead += round((TICK_SECONDS + late) * 1e9)
        return observation

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, harness.pipeline._clock = asyncio.Event(), ClockMonitor(read)
    harness.server = await asyncio.start_server(silent, "127.0.0.1", harness.port)
    harness.pipeline.runner.observe = stalled
    await harness.pipeline.check_clock()
    await harness.probe(replace(harness.target, timeout=0.5))
    over.set()
    (observation,) = harness.recorded("observation")
    assert observation["outcome"] == outcome
    assert harness.recorded("clock") == []


@pytest.mark.parametrize("reason", [GapReason.SUSPENDED, GapReason.CLOCK_STEP])
async def test_a_failure_during_a_suspend_is_our_own_failure(harness: PipelineHarness, reason: GapReason) -> None:
    outcome, cause, detail = await disturbed_probe(harness, reason)
    assert (outcome, cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "refused" in detail


async def test_a_slow_disk_does_not_excuse_the_provider(harness: PipelineHarness) -> None:
    assert (await disturbed_probe(harness, GapReason.STORE))[0] == "down"


async def test_a_clock_set_back_does_not_excuse_the_provider_when_times_repeat(
    harness: PipelineHarness,
) -> None:
    harness.assume_up(30_000)
    await harness.probe()
    harness.pipeline.attribution.note_disruption(ticked(0), ticked(7_200_000), GapReason.CLOCK_STEP)
    harness.assume_up(30_000)
    await harness.probe()
    assert [observation["outcome"] for observation in harness.recorded("observation")] == ["down", "down"]
    assert harness.recorded("gap") == []


async def test_an_up_observation_right_after_a_suspend_does_not_hide_it(harness: PipelineHarness) -> None:
    await harness.greet()
    slept = 0

    def read() -> ClockReading:
        here = read_clocks()
        return replace(here, running=here.running - slept)

    harness.pipeline._clock = ClockMonitor(read)
    harness.assume_up(30_000)
    slept = 20 * 10**9
    before = harness.pipeline._clock._last
    harness.pipeline._clock._last = replace(before, wall=before.wall - slept, boot=before.boot - slept)
    await harness.probe()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["suspended"]


async def test_a_time_over_a_restart_is_a_gap_as_a_whole(harness: PipelineHarness) -> None:
    harness.assume_up(30_000)
    harness.runtime.observed_at = None
    await harness.probe()
    await harness.probe()
    (gap,) = harness.recorded("gap")
    assert gap["reason"] == "not_running"
    assert gap["end"] - gap["start"] >= 29_900


@pytest.mark.parametrize(
    ("ago", "bounds", "at_least"),
    [(-DAY, (None, 10), 0), (DAY, (None, 10), 0), (DAY, (1000, None), 0), (DAY, (1000, 10), DAY - 2000)],
)
async def test_a_restart_of_the_machine_is_a_gap_as_long_as_surely_passed(
    harness: PipelineHarness, ago: int, bounds: tuple[int | None, int | None], at_least: int
) -> None:
    harness.assume_up(ago)
    assert harness.runtime.latest is not None
    assert harness.runtime.latest.clock is not None
    before = replace(harness.runtime.latest.clock, boot="another", end=7_000_000_000, bound=bounds[0])
    harness.runtime.latest = replace(harness.runtime.latest, clock=before)
    harness.pipeline.runner.clock_bound = lambda: bounds[1]
    await harness.probe()
    (gap,) = [entry.fact for entry in harness.reader.entries(kinds=["gap"])]
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.NOT_RUNNING
    surely = at_least or min(max(0, ago), gap.clock.end if gap.clock else 0)
    assert surely - 1 <= gap_length(gap) <= max(surely, DAY) + 2000
    assert at_least or gap_length(gap) <= max(0, monotonic.milliseconds())


async def test_a_clock_that_was_set_between_two_probes_is_no_gap(harness: PipelineHarness) -> None:
    harness.assume_up(30_000)
    harness.pipeline.attribution.note_disruption(ticked(-20_000), ticked(-18_000), GapReason.CLOCK_STEP)
    await harness.probe()
    assert harness.recorded("gap") == []


async def test_after_the_clock_was_set_or_the_config_changed_a_probe_in_doubt_is_not_put_off(
    harness: PipelineHarness,
) -> None:
    def due() -> float:
        job: Any = harness.pipeline.schedule._scheduler.get_job("t")
        return float(job.next_run_time.timestamp())

    target, stepped = replace(harness.target, interval=3600.0), 0
    harness.pipeline._clock = ClockMonitor(lambda: replace(read_clocks(), wall=read_clocks().wall + stepped))
    harness.pipeline.change_target(harness.runtime, target)
    harness.pipeline.schedule.start()
    await harness.probe(target)  # suspect: the next probe comes in five seconds
    found, stepped = [due()], 10**9
    await harness.pipeline.check_clock()
    found.append(due())
    harness.pipeline.change_target(harness.runtime, replace(target, timeout=3.0))
    found.append(due())
    harness.pipeline.schedule.stop()
    assert [entry["event"] for entry in harness.recorded("clock")] == ["step"]
    assert [at - now() / 1000 <= 5 for at in found] == [True, True, True]


class Listened(Guard):
    """A guard that reports when it has asked."""

    asked: asyncio.Event

    async def check(
        self, provider: str | None = None, *, dns: bool = False, since: Millis | None = None
    ) -> ConnectivityResult:
        answer = await super().check(provider, dns=dns, since=since)
        self.asked.set()
        return answer


async def test_a_line_that_goes_and_comes_back_while_a_probe_hangs_is_not_the_providers(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailwatch.guard.attribution.SLOW_PROBE_SECONDS", 0.05)

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, control = asyncio.Event(), free_port()
    harness.pipeline.attribution.guard = guard = Listened([Control("127.0.0.1", control)], timeout=1.0, names=())
    guard.asked = asyncio.Event()
    silent = await asyncio.start_server(accept, "127.0.0.1", harness.port)
    probing = asyncio.create_task(harness.probe())
    await guard.asked.wait()
    line = await asyncio.start_server(accept, "127.0.0.1", control)
    assert (await Guard([Control("127.0.0.1", control)], timeout=1.0, names=()).check()).online
    await probing
    (observation,) = harness.recorded("observation")
    assert (observation["outcome"], observation["cause"]) == (Outcome.UNKNOWN, Cause.OFFLINE)
    over.set()
    for server in (silent, line):
        server.close()
        await server.wait_closed()


async def test_no_more_probes_than_allowed_are_under_way_at_once(tmp_path: Path) -> None:
    harness = PipelineHarness(tmp_path / "data", at_once=2)
    await harness.writer.start()
    connected, most, both, release = 0, 0, asyncio.Event(), asyncio.Event()

    async def stall(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connected, most
        connected += 1
        most = max(most, connected)
        if connected == 2:
            both.set()
        await release.wait()
        connected -= 1
        writer.close()

    server = await asyncio.start_server(stall, "127.0.0.1", harness.port)
    targets = [replace(harness.target, name=f"t{n}") for n in range(6)]
    for target in targets:
        harness.pipeline.add_target(
            TargetRuntime(
                target=target, detector=Detector(), rolling_availability=RollingAvailability(interval=60.0)
            )
        )
    observations = [asyncio.create_task(harness.pipeline.run_probe(target, now())) for target in targets]
    await both.wait()
    release.set()
    await asyncio.gather(*observations)
    server.close()
    await server.wait_closed()
    await harness.writer.close()
    assert most == 2
    assert len(harness.recorded("observation")) == 6
    harness.reader.close()


async def test_a_forgotten_target_is_not_probed_and_its_record_stays(harness: PipelineHarness) -> None:
    await harness.probe()
    harness.pipeline.forget_target("t")
    await harness.probe()
    assert len(harness.recorded("observation")) == 1


async def test_a_probe_under_way_when_its_target_is_removed_is_not_recorded(harness: PipelineHarness) -> None:
    """Another service stands under the name by then: what was seen of the old one is nothing of it."""
    probing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: ProbeRequest) -> Observation:
        probing.set()
        await go_on.wait()
        return await observe(request)

    harness.pipeline.runner.observe = slow
    under_way = asyncio.create_task(harness.probe())
    await probing.wait()
    await end_target(harness.pipeline, harness.runtime, "replaced")
    harness.add_target(replace(harness.target, host="localhost"))
    go_on.set()
    await under_way
    assert harness.recorded("observation") == []
    assert [(entry["event"], entry["reason"]) for entry in harness.recorded("watch")] == [("end", "replaced")]


async def test_the_end_of_an_enrolment_leaves_its_outage_unwatched_and_recorded(harness: PipelineHarness) -> None:
    for _ in range(3):
        await harness.probe()
    (opened,) = harness.recorded("outage")
    await end_target(harness.pipeline, harness.runtime, "removed")
    _, left = harness.recorded("outage")
    assert (left["id"], left["state"], left["duration_ms"]["max"]) == (opened["id"], "unwatched", None)
    assert left["watch"]["host"] == "127.0.0.1"
    sealed = harness.reader.last_checkpoint()
    assert sealed is not None
    assert sealed.size == harness.reader.size()
    assert harness.pipeline.targets == {}
    assert [record.state for record in harness.pipeline.former_outages.values()] == ["unwatched"]


async def test_another_interval_goes_on_record_and_the_gauges_go_on_at_once(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.probe()
    harness.assume_up(250_000)
    await harness.probe()
    harness.runtime.rolling_availability = RollingAvailability(interval=300.0)
    harness.assume_up(240_000)
    harness.runtime.observed_interval = 300.0
    assert harness.runtime.latest is not None
    harness.runtime.rolling_availability.feed(harness.runtime.latest)
    gaps = len(harness.recorded("gap"))
    await apply_settings(harness.pipeline, harness.runtime, replace(harness.target, interval=30.0), "reload")
    await harness.probe()
    assert [entry["settings"]["interval"] for entry in harness.recorded("watch")] == [30_000]
    assert len(harness.recorded("gap")) == gaps
    assert harness.runtime.rolling_availability.ratio(3_600_000, now()).lower == 1.0
    assert (harness.runtime.rolling_availability.ratio(3_600_000, now()).coverage or 0) > 0.03


async def test_once_a_day_the_settings_go_on_record_again(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await record_targets(harness.pipeline, harness.reader, [harness.target])
    harness.runtime.settings = recorded_settings(harness.target, harness.pipeline.rules, harness.pipeline.secret)
    harness.runtime.settings_written = monotonic.milliseconds()
    await renew_records(harness.pipeline)
    assert [entry["event"] for entry in harness.recorded("watch")] == ["begin"]
    harness.runtime.settings_written -= 24 * 3_600_000
    await renew_records(harness.pipeline)
    await renew_records(harness.pipeline)
    assert [(entry["event"], entry["reason"]) for entry in harness.recorded("watch")][1:] == [
        ("continue", "daily")
    ]


async def test_an_outage_of_an_old_record_ends_when_its_target_is_gone(harness: PipelineHarness) -> None:
    for _ in range(3):
        await harness.probe()
    harness.pipeline.forget_target("t")  # As a MailWatch did that wrote nothing of it.
    await end_targets(harness.pipeline, harness.reader, {"another"})
    await end_targets(harness.pipeline, harness.reader, {"another"})
    (end,) = harness.recorded("watch")
    assert (end["event"], end["settings"]["host"], end["settings"]["kind"]) == ("end", "", "imap")
    assert [outage["state"] for outage in harness.recorded("outage")] == ["open", "unwatched"]
    assert audit_outages(harness.reader, rule_book(harness.reader), "t") == []
    found = queries.outage_records(harness.reader)
    assert [record.state for record in found] == ["unwatched"]


@pytest.mark.slow
async def test_thousands_of_targets_are_enrolled_in_batches(harness: PipelineHarness) -> None:
    targets = [replace(harness.target, name=f"t{number}") for number in range(3000)]
    await record_targets(harness.pipeline, harness.reader, targets)
    checked = replace(harness.target, name="t7", interval=30.0)
    began = time.monotonic()
    await record_targets(harness.pipeline, harness.reader, [*targets[:7], checked, *targets[8:]])
    elapsed = time.monotonic() - began
    events = Counter(entry["event"] for entry in harness.recorded("watch"))
    assert events == {"begin": 3000, "continue": 2999, "change": 1}
    assert elapsed < 60


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "another"])
async def test_a_crash_after_the_end_of_an_enrolment_is_repaired(harness: PipelineHarness, gone: bool) -> None:
    await record_targets(harness.pipeline, harness.reader, [harness.target])
    harness.runtime.settings = recorded_settings(harness.target, harness.pipeline.rules, harness.pipeline.secret)
    for _ in range(3):
        await harness.probe()
    end = target_change(harness.pipeline, "t", TargetEvent.END, harness.runtime.settings, "removed")
    await harness.pipeline.recorder.append("watch", end.at, "t", end)
    harness.pipeline.forget_target("t")
    if gone:
        await end_targets(harness.pipeline, harness.reader, set())
    else:
        other = replace(harness.target, host="localhost", kind=Kind.POP3, provider="other")
        await record_targets(harness.pipeline, harness.reader, [other])
        await restore_targets(harness.pipeline, harness.reader, [other])
        assert harness.pipeline.targets["t"].state == State()
        assert harness.pipeline.targets["t"].observed_until is None
    opened, left = harness.recorded("outage")
    same = ("id", "provider", "kind", "watch")
    assert [left[key] for key in same] == [opened[key] for key in same]
    assert (opened["state"], left["state"]) == ("open", "unwatched")
    assert audit_outages(harness.reader, rule_book(harness.reader), "t") == []


async def test_a_target_that_was_removed_costs_no_replay(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await harness.probe()
    await end_target(harness.pipeline, harness.runtime, "removed")
    monkeypatch.setattr("mailwatch.store.outage_queries.restore_state", lambda *_: pytest.fail("replayed"))
    (outage,) = queries.outages(harness.reader, live=open_outages(harness.pipeline))
    assert outage["state"] == "unwatched"
    assert queries.outages(harness.reader, only_open=True) == []
