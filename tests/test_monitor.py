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
from mailwatch.analysis.availability import Buckets
from mailwatch.analysis.detector import State
from mailwatch.analysis.elapsed import length_of
from mailwatch.config.recorded_targets import settings_of
from mailwatch.guard.clock import ClockWatch, Reading, read_clocks
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Cause, Gap, GapReason, GuardAnswer, Kind, Observation, Outcome, WatchEvent
from mailwatch.monitor.enrolment import enrol, renew, retire
from mailwatch.monitor.restore import take_up
from mailwatch.monitor.target_runtime import Watch
from mailwatch.probes import observe
from mailwatch.store import queries as records
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


async def test_a_look_goes_through_all_rooms(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.look()
    assert [look["outcome"] for look in harness.recorded("observation")] == ["up"]
    assert harness.watch.state.name == "up"
    assert 'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="up"} 1' in harness.shown()


async def test_the_log_tells_each_change_of_a_state_and_why(
    harness: PipelineHarness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mailwatch.monitor.pipeline")
    await harness.greet()
    await harness.look()
    await harness.look()
    assert harness.server is not None
    harness.server.close()
    await harness.server.wait_closed()
    await harness.look()
    up, suspect = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"t: up, \d+(\.\d)? (ms|s)", up)
    assert suspect.startswith("t: suspect: refused at connect: ")


async def test_nothing_is_shown_before_it_is_on_disk(harness: PipelineHarness) -> None:
    # Another writer holds the database: the commit waits.
    blocker = sqlite3.connect(harness.database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    looking = asyncio.create_task(harness.look())
    while not harness.writer.pending:
        await asyncio.sleep(0.01)
    downs = 'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="down"} '
    assert f"{downs}0\n" in harness.shown()
    assert harness.monitor.status(harness.watch)["outcome"] is None
    assert not looking.done()
    blocker.execute("ROLLBACK")
    blocker.close()
    await looking
    assert f"{downs}1\n" in harness.shown()
    assert harness.monitor.status(harness.watch)["outcome"] == "down"


async def test_an_outage_is_on_record_and_sealed_before_it_is_shown(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.look()
    assert harness.server is not None
    harness.server.close()
    await harness.server.wait_closed()
    for _ in range(3):
        await harness.look()
    (outage,) = harness.recorded("outage")
    assert outage["state"] == "open"
    last = harness.reader.last_checkpoint()
    assert last is not None
    assert last.size == harness.reader.size()
    assert harness.monitor.status(harness.watch)["outage"] == outage["id"]
    assert harness.monitor.status(harness.watch)["state"] == "down"


def ticked(apart: int) -> int:
    """So many milliseconds from now, on the clock that nobody can set."""
    return monotonic.milliseconds() + apart


async def test_a_long_time_without_a_look_is_a_gap_with_its_reason(harness: PipelineHarness) -> None:
    harness.seen(600_000)
    harness.monitor.judging.disturb(ticked(-500_000), ticked(-400_000), GapReason.SUSPENDED)
    await harness.look()
    (gap,) = harness.recorded("gap")
    assert gap["reason"] == "suspended"
    assert gap["end"] - gap["start"] >= 599_000
    assert "mailwatch_gap_seconds_total" in harness.shown()


async def test_a_missed_run_is_a_gap_of_its_own(harness: PipelineHarness) -> None:
    harness.seen(100_000)
    await harness.look()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["missed"]


async def test_a_time_in_which_the_server_slowed_us_down_has_its_own_reason(harness: PipelineHarness) -> None:
    harness.seen(130_000)
    harness.watch.state = State(throttled=1)
    await harness.look()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["throttled"]


async def test_the_usual_time_between_looks_is_no_gap_unless_mailwatch_slept(harness: PipelineHarness) -> None:
    harness.seen(59_000)
    await harness.look()
    assert harness.recorded("gap") == []
    harness.seen(30_000)
    harness.monitor.judging.disturb(ticked(-20_000), ticked(-10_000), GapReason.SUSPENDED)
    await harness.look()
    (gap,) = harness.recorded("gap")
    assert gap["reason"] == "suspended"
    assert 9_900 <= gap["end"] - gap["start"] <= 10_100


async def disturbed_look(harness: PipelineHarness, reason: GapReason) -> tuple[str, str, str]:
    """A look at a server that is not there, during which something befalls our machine."""

    async def disturbed(*args: Any, **more: Any) -> Observation:
        seen = await observe(*args, **more)
        harness.monitor.judging.disturb(ticked(-1000), ticked(60_000), reason)
        return seen

    harness.monitor.looking.observe = disturbed
    await harness.look()
    look = harness.recorded("observation")[-1]
    return look["outcome"], look["cause"], look["detail"]


@pytest.mark.parametrize(("late", "outcome"), [(1.2, Outcome.UNKNOWN), (0.9, Outcome.DOWN)])
async def test_a_timeout_is_ours_if_we_stood_still_for_much_of_it(
    harness: PipelineHarness, late: float, outcome: Outcome
) -> None:
    """Too short for the record of stalls, but long for a server that has a second."""
    ahead = 0.0

    def read() -> Reading:
        here, more = read_clocks(), round(ahead * 1e9)
        return Reading(here.wall + more, here.running + more, here.boot + more)

    async def stalled(*args: Any, **more: Any) -> Observation:
        nonlocal ahead
        seen = await observe(*args, **more)
        # A tick is due each second: here the last one, now the next.
        ahead += 1 + late - (read_clocks().running - harness.monitor._clock._last.running) / 1e9
        return seen

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, harness.monitor._clock = asyncio.Event(), ClockWatch(read)
    harness.server = await asyncio.start_server(silent, "127.0.0.1", harness.port)
    harness.monitor.looking.observe = stalled
    await harness.monitor.check_clock()
    await harness.look(replace(harness.target, timeout=0.5))
    over.set()
    (seen,) = harness.recorded("observation")
    assert seen["outcome"] == outcome
    assert harness.recorded("clock") == []


@pytest.mark.parametrize("reason", [GapReason.SUSPENDED, GapReason.CLOCK_STEP])
async def test_a_failure_while_we_slept_is_ours(harness: PipelineHarness, reason: GapReason) -> None:
    outcome, cause, detail = await disturbed_look(harness, reason)
    assert (outcome, cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "refused" in detail


async def test_a_slow_disk_does_not_excuse_the_provider(harness: PipelineHarness) -> None:
    assert (await disturbed_look(harness, GapReason.STORE))[0] == "down"


async def test_a_clock_that_was_set_back_does_not_excuse_the_provider_when_its_times_come_again(
    harness: PipelineHarness,
) -> None:
    harness.seen(30_000)
    await harness.look()
    harness.monitor.judging.disturb(ticked(0), ticked(7_200_000), GapReason.CLOCK_STEP)
    harness.seen(30_000)
    await harness.look()
    assert [look["outcome"] for look in harness.recorded("observation")] == ["down", "down"]
    assert harness.recorded("gap") == []


async def test_a_good_look_right_after_a_suspend_does_not_hide_it(harness: PipelineHarness) -> None:
    await harness.greet()
    slept = 0

    def read() -> Reading:
        here = read_clocks()
        return replace(here, running=here.running - slept)

    harness.monitor._clock = ClockWatch(read)
    harness.seen(30_000)
    slept = 20 * 10**9
    before = harness.monitor._clock._last
    harness.monitor._clock._last = replace(before, wall=before.wall - slept, boot=before.boot - slept)
    await harness.look()
    assert [gap["reason"] for gap in harness.recorded("gap")] == ["suspended"]


async def test_a_time_over_a_restart_is_a_gap_as_a_whole(harness: PipelineHarness) -> None:
    harness.seen(30_000)
    harness.watch.seen_at = None
    await harness.look()
    await harness.look()
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
    harness.seen(ago)
    assert harness.watch.latest is not None
    assert harness.watch.latest.clock is not None
    before = replace(harness.watch.latest.clock, boot="another", end=7_000_000_000, bound=bounds[0])
    harness.watch.latest = replace(harness.watch.latest, clock=before)
    harness.monitor.looking.clock_bound = lambda: bounds[1]
    await harness.look()
    (gap,) = [entry.fact for entry in harness.reader.entries(kinds=["gap"])]
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.NOT_RUNNING
    surely = at_least or min(max(0, ago), gap.clock.end if gap.clock else 0)
    assert surely - 1 <= length_of(gap) <= max(surely, DAY) + 2000
    assert at_least or length_of(gap) <= max(0, monotonic.milliseconds())


async def test_a_clock_that_was_set_between_two_probes_is_no_gap(harness: PipelineHarness) -> None:
    harness.seen(30_000)
    harness.monitor.judging.disturb(ticked(-20_000), ticked(-18_000), GapReason.CLOCK_STEP)
    await harness.look()
    assert harness.recorded("gap") == []


async def test_after_the_clock_was_set_or_the_config_changed_a_look_in_doubt_is_not_put_off(
    harness: PipelineHarness,
) -> None:
    def due() -> float:
        job: Any = harness.monitor.schedule._scheduler.get_job("t")
        return float(job.next_run_time.timestamp())

    target, stepped = replace(harness.target, interval=3600.0), 0
    harness.monitor._clock = ClockWatch(lambda: replace(read_clocks(), wall=read_clocks().wall + stepped))
    harness.monitor.change(harness.watch, target)
    harness.monitor.schedule.start()
    await harness.look(target)  # suspect: the next look comes in five seconds
    found, stepped = [due()], 10**9
    await harness.monitor.check_clock()
    found.append(due())
    harness.monitor.change(harness.watch, replace(target, timeout=3.0))
    found.append(due())
    harness.monitor.schedule.stop()
    assert [entry["event"] for entry in harness.recorded("clock")] == ["step"]
    assert [at - now() / 1000 <= 5 for at in found] == [True, True, True]


class Listened(Guard):
    """A guard that tells when it has asked."""

    asked: asyncio.Event

    async def ask(
        self, provider: str | None = None, *, dns: bool = False, since: Millis | None = None
    ) -> GuardAnswer:
        answer = await super().ask(provider, dns=dns, since=since)
        self.asked.set()
        return answer


async def test_a_line_that_goes_and_comes_back_while_a_look_hangs_is_not_the_providers(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailwatch.guard.attribution.HANGS_AFTER", 0.05)

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, control = asyncio.Event(), free_port()
    harness.monitor.judging.guard = guard = Listened([Control("127.0.0.1", control)], timeout=1.0, names=())
    guard.asked = asyncio.Event()
    silent = await asyncio.start_server(accept, "127.0.0.1", harness.port)
    looking = asyncio.create_task(harness.look())
    await guard.asked.wait()
    line = await asyncio.start_server(accept, "127.0.0.1", control)
    assert (await Guard([Control("127.0.0.1", control)], timeout=1.0, names=()).ask()).online
    await looking
    (look,) = harness.recorded("observation")
    assert (look["outcome"], look["cause"]) == (Outcome.UNKNOWN, Cause.OFFLINE)
    over.set()
    for server in (silent, line):
        server.close()
        await server.wait_closed()


async def test_no_more_looks_than_allowed_are_under_way_at_once(tmp_path: Path) -> None:
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
        harness.monitor.watch(Watch(target=target, state=State(), buckets=Buckets(interval=60.0)))
    looks = [asyncio.create_task(harness.monitor.look(target, now())) for target in targets]
    await both.wait()
    release.set()
    await asyncio.gather(*looks)
    server.close()
    await server.wait_closed()
    await harness.writer.close()
    assert most == 2
    assert len(harness.recorded("observation")) == 6
    harness.reader.close()


async def test_a_forgotten_target_is_not_looked_at_and_its_record_stays(harness: PipelineHarness) -> None:
    await harness.look()
    harness.monitor.forget("t")
    await harness.look()
    assert len(harness.recorded("observation")) == 1


async def test_a_probe_under_way_when_its_watching_ends_is_not_recorded(harness: PipelineHarness) -> None:
    """Another service stands under the name by then: what was seen of the old one is nothing of it."""
    probing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Observation:
        probing.set()
        await go_on.wait()
        return await observe(*args, **more)

    harness.monitor.looking.observe = slow
    under_way = asyncio.create_task(harness.look())
    await probing.wait()
    await harness.monitor.end(harness.watch, "replaced")
    harness.watch_also(replace(harness.target, host="localhost"))
    go_on.set()
    await under_way
    assert harness.recorded("observation") == []
    assert [(told["event"], told["reason"]) for told in harness.recorded("watch")] == [("end", "replaced")]


async def test_the_end_of_a_watching_leaves_its_outage_unwatched_and_sealed(harness: PipelineHarness) -> None:
    for _ in range(3):
        await harness.look()
    (opened,) = harness.recorded("outage")
    await harness.monitor.end(harness.watch, "removed")
    _, left = harness.recorded("outage")
    assert (left["id"], left["state"], left["duration_ms"]["max"]) == (opened["id"], "unwatched", None)
    assert left["watch"]["host"] == "127.0.0.1"
    sealed = harness.reader.last_checkpoint()
    assert sealed is not None
    assert sealed.size == harness.reader.size()
    assert harness.monitor.watches == {}
    assert [told["state"] for told in harness.monitor.former.values()] == ["unwatched"]


async def test_another_interval_goes_on_record_and_the_gauges_go_on_at_once(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.look()
    harness.seen(250_000)
    await harness.look()
    harness.watch.buckets = Buckets(interval=300.0)
    harness.seen(240_000)
    harness.watch.seen_interval = 300.0
    assert harness.watch.latest is not None
    harness.watch.buckets.add(harness.watch.latest)
    gaps = len(harness.recorded("gap"))
    await harness.monitor.rewatch(harness.watch, replace(harness.target, interval=30.0), "reload")
    await harness.look()
    assert [told["settings"]["interval"] for told in harness.recorded("watch")] == [30_000]
    assert len(harness.recorded("gap")) == gaps
    assert harness.watch.buckets.ratio(3_600_000, now()).lower == 1.0
    assert (harness.watch.buckets.ratio(3_600_000, now()).coverage or 0) > 0.03


async def test_once_a_day_the_settings_go_on_record_again(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enrol(harness.monitor, harness.reader, [harness.target])
    harness.watch.settings = settings_of(harness.target, harness.monitor.rules, harness.monitor.secret)
    harness.watch.settings_written = monotonic.milliseconds()
    await renew(harness.monitor)
    assert [told["event"] for told in harness.recorded("watch")] == ["begin"]
    harness.watch.settings_written -= 24 * 3_600_000
    await renew(harness.monitor)
    await renew(harness.monitor)
    assert [(told["event"], told["reason"]) for told in harness.recorded("watch")][1:] == [("continue", "daily")]


async def test_an_outage_of_an_old_record_ends_when_its_target_is_gone(harness: PipelineHarness) -> None:
    for _ in range(3):
        await harness.look()
    harness.monitor.forget("t")  # As a MailWatch did that wrote nothing of it.
    await retire(harness.monitor, harness.reader, {"another"})
    await retire(harness.monitor, harness.reader, {"another"})
    (end,) = harness.recorded("watch")
    assert (end["event"], end["settings"]["host"], end["settings"]["kind"]) == ("end", "", "imap")
    assert [told["state"] for told in harness.recorded("outage")] == ["open", "unwatched"]
    assert audit_outages(harness.reader, rule_book(harness.reader), "t") == []
    found = records.outage_payloads(harness.reader)
    assert [told["state"] for told in found] == ["unwatched"]


async def test_thousands_of_targets_are_enrolled_in_batches(harness: PipelineHarness) -> None:
    targets = [replace(harness.target, name=f"t{number}") for number in range(3000)]
    await enrol(harness.monitor, harness.reader, targets)
    checked = replace(harness.target, name="t7", interval=30.0)
    began = time.monotonic()
    await enrol(harness.monitor, harness.reader, [*targets[:7], checked, *targets[8:]])
    took = time.monotonic() - began
    events = Counter(told["event"] for told in harness.recorded("watch"))
    assert events == {"begin": 3000, "continue": 2999, "change": 1}
    assert took < 60


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "another"])
async def test_a_crash_between_the_end_of_a_watching_and_what_follows_is_made_good(
    harness: PipelineHarness, gone: bool
) -> None:
    await enrol(harness.monitor, harness.reader, [harness.target])
    harness.watch.settings = settings_of(harness.target, harness.monitor.rules, harness.monitor.secret)
    for _ in range(3):
        await harness.look()
    end = harness.monitor.watch_change("t", WatchEvent.END, harness.watch.settings, "removed")
    await harness.monitor.write("watch", end.at, "t", end)
    harness.monitor.forget("t")
    if gone:
        await retire(harness.monitor, harness.reader, set())
    else:
        other = replace(harness.target, host="localhost", kind=Kind.POP3, provider="other")
        await enrol(harness.monitor, harness.reader, [other])
        await take_up(harness.monitor, harness.reader, [other])
        assert harness.monitor.watches["t"].state == State()
        assert harness.monitor.watches["t"].seen_until is None
    opened, left = harness.recorded("outage")
    same = ("id", "provider", "kind", "watch")
    assert [left[key] for key in same] == [opened[key] for key in same]
    assert (opened["state"], left["state"]) == ("open", "unwatched")
    assert audit_outages(harness.reader, rule_book(harness.reader), "t") == []


async def test_a_target_that_was_removed_costs_no_replay(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await harness.look()
    await harness.monitor.end(harness.watch, "removed")
    monkeypatch.setattr("mailwatch.store.queries.resume", lambda *_: pytest.fail("replayed"))
    (told,) = records.outages(harness.reader, live=harness.monitor.open_outages())
    assert told["state"] == "unwatched"
    assert records.outages(harness.reader, only_open=True) == []
