"""The hall: nothing is shown before it is on disk, holes have names, and what disturbed us is not theirs."""

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

from mailwatch import monotonic, records
from mailwatch.clock import ClockWatch, Reading, read_clocks
from mailwatch.elapsed import length_of
from mailwatch.enrolment import enrol, renew, retire
from mailwatch.guard import Control, Guard
from mailwatch.models import (
    Cause,
    Gap,
    GapReason,
    GuardAnswer,
    Kind,
    Millis,
    Observation,
    Outcome,
    WatchEvent,
    now,
)
from mailwatch.outages import State
from mailwatch.probes import observe
from mailwatch.replay import audit_outages, rule_book
from mailwatch.service_level import Buckets
from mailwatch.takeup import take_up
from mailwatch.watch import Watch
from mailwatch.watched import settings_of
from tests.hall import Hall
from tests.servers import free_port

DAY = 86_400_000


@pytest.fixture
async def hall(tmp_path: Path) -> AsyncIterator[Hall]:
    made = Hall(tmp_path / "data")
    await made.writer.start()
    yield made
    if made.server:
        made.server.close()
        await made.server.wait_closed()
    await made.close()


async def test_a_look_goes_through_all_rooms(hall: Hall) -> None:
    await hall.greet()
    await hall.look()
    assert [look["outcome"] for look in hall.recorded("observation")] == ["up"]
    assert hall.watch.state.name == "up"
    assert 'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="up"} 1' in hall.shown()


async def test_the_log_tells_each_change_of_a_state_and_why(hall: Hall, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mailwatch.monitor")
    await hall.greet()
    await hall.look()
    await hall.look()
    assert hall.server is not None
    hall.server.close()
    await hall.server.wait_closed()
    await hall.look()
    up, suspect = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(r"t: up, \d+(\.\d)? (ms|s)", up)
    assert suspect.startswith("t: suspect: refused at connect: ")


async def test_nothing_is_shown_before_it_is_on_disk(hall: Hall) -> None:
    # Another writer holds the database: the commit waits.
    blocker = sqlite3.connect(hall.database, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    looking = asyncio.create_task(hall.look())
    while not hall.writer.pending:
        await asyncio.sleep(0.01)
    downs = 'mailwatch_observations_total{target="t",provider="",kind="imap",outcome="down"} '
    assert f"{downs}0\n" in hall.shown()
    assert hall.monitor.status(hall.watch)["outcome"] is None
    assert not looking.done()
    blocker.execute("ROLLBACK")
    blocker.close()
    await looking
    assert f"{downs}1\n" in hall.shown()
    assert hall.monitor.status(hall.watch)["outcome"] == "down"


async def test_an_outage_is_on_record_and_sealed_before_it_is_shown(hall: Hall) -> None:
    await hall.greet()
    await hall.look()
    assert hall.server is not None
    hall.server.close()
    await hall.server.wait_closed()
    for _ in range(3):
        await hall.look()
    (outage,) = hall.recorded("outage")
    assert outage["state"] == "open"
    last = hall.reader.last_checkpoint()
    assert last is not None
    assert last.size == hall.reader.size()
    assert hall.monitor.status(hall.watch)["outage"] == outage["id"]
    assert hall.monitor.status(hall.watch)["state"] == "down"


def ticked(apart: int) -> int:
    """So many milliseconds from now, on the clock that nobody can set."""
    return monotonic.milliseconds() + apart


async def test_a_long_time_without_a_look_is_a_gap_with_its_reason(hall: Hall) -> None:
    hall.seen(600_000)
    hall.monitor.judging.disturb(ticked(-500_000), ticked(-400_000), GapReason.SUSPENDED)
    await hall.look()
    (gap,) = hall.recorded("gap")
    assert gap["reason"] == "suspended"
    assert gap["end"] - gap["start"] >= 599_000
    assert "mailwatch_gap_seconds_total" in hall.shown()


async def test_a_missed_run_is_a_gap_of_its_own(hall: Hall) -> None:
    hall.seen(100_000)
    await hall.look()
    assert [gap["reason"] for gap in hall.recorded("gap")] == ["missed"]


async def test_a_time_in_which_the_server_slowed_us_down_has_its_own_reason(hall: Hall) -> None:
    hall.seen(130_000)
    hall.watch.state = State(throttled=1)
    await hall.look()
    assert [gap["reason"] for gap in hall.recorded("gap")] == ["throttled"]


async def test_the_usual_time_between_looks_is_no_gap_unless_mailwatch_slept(hall: Hall) -> None:
    hall.seen(59_000)
    await hall.look()
    assert hall.recorded("gap") == []
    hall.seen(30_000)
    hall.monitor.judging.disturb(ticked(-20_000), ticked(-10_000), GapReason.SUSPENDED)
    await hall.look()
    (gap,) = hall.recorded("gap")
    assert gap["reason"] == "suspended"
    assert 9_900 <= gap["end"] - gap["start"] <= 10_100


async def disturbed_look(hall: Hall, reason: GapReason) -> tuple[str, str, str]:
    """A look at a server that is not there, during which something befalls our machine."""

    async def disturbed(*args: Any, **more: Any) -> Observation:
        seen = await observe(*args, **more)
        hall.monitor.judging.disturb(ticked(-1000), ticked(60_000), reason)
        return seen

    hall.monitor.looking.observe = disturbed
    await hall.look()
    look = hall.recorded("observation")[-1]
    return look["outcome"], look["cause"], look["detail"]


@pytest.mark.parametrize(("late", "outcome"), [(1.2, Outcome.UNKNOWN), (0.9, Outcome.DOWN)])
async def test_a_timeout_is_ours_if_we_stood_still_for_much_of_it(
    hall: Hall, late: float, outcome: Outcome
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
        ahead += 1 + late - (read_clocks().running - hall.monitor._clock._last.running) / 1e9
        return seen

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, hall.monitor._clock = asyncio.Event(), ClockWatch(read)
    hall.server = await asyncio.start_server(silent, "127.0.0.1", hall.port)
    hall.monitor.looking.observe = stalled
    await hall.monitor.check_clock()
    await hall.look(replace(hall.target, timeout=0.5))
    over.set()
    (seen,) = hall.recorded("observation")
    assert seen["outcome"] == outcome
    assert hall.recorded("clock") == []


@pytest.mark.parametrize("reason", [GapReason.SUSPENDED, GapReason.CLOCK_STEP])
async def test_a_failure_while_we_slept_is_ours(hall: Hall, reason: GapReason) -> None:
    outcome, cause, detail = await disturbed_look(hall, reason)
    assert (outcome, cause) == (Outcome.UNKNOWN, Cause.MONITOR)
    assert "refused" in detail


async def test_a_slow_disk_does_not_excuse_the_provider(hall: Hall) -> None:
    assert (await disturbed_look(hall, GapReason.STORE))[0] == "down"


async def test_a_clock_that_was_set_back_does_not_excuse_the_provider_when_its_times_come_again(
    hall: Hall,
) -> None:
    hall.seen(30_000)
    await hall.look()
    hall.monitor.judging.disturb(ticked(0), ticked(7_200_000), GapReason.CLOCK_STEP)
    hall.seen(30_000)
    await hall.look()
    assert [look["outcome"] for look in hall.recorded("observation")] == ["down", "down"]
    assert hall.recorded("gap") == []


async def test_a_good_look_right_after_a_suspend_does_not_hide_it(hall: Hall) -> None:
    await hall.greet()
    slept = 0

    def read() -> Reading:
        here = read_clocks()
        return replace(here, running=here.running - slept)

    hall.monitor._clock = ClockWatch(read)
    hall.seen(30_000)
    slept = 20 * 10**9
    before = hall.monitor._clock._last
    hall.monitor._clock._last = replace(before, wall=before.wall - slept, boot=before.boot - slept)
    await hall.look()
    assert [gap["reason"] for gap in hall.recorded("gap")] == ["suspended"]


async def test_a_time_over_a_restart_is_a_gap_as_a_whole(hall: Hall) -> None:
    hall.seen(30_000)
    hall.watch.seen_at = None
    await hall.look()
    await hall.look()
    (gap,) = hall.recorded("gap")
    assert gap["reason"] == "not_running"
    assert gap["end"] - gap["start"] >= 29_900


@pytest.mark.parametrize(
    ("ago", "bounds", "at_least"),
    [(-DAY, (None, 10), 0), (DAY, (None, 10), 0), (DAY, (1000, None), 0), (DAY, (1000, 10), DAY - 2000)],
)
async def test_a_restart_of_the_machine_is_a_gap_as_long_as_surely_passed(
    hall: Hall, ago: int, bounds: tuple[int | None, int | None], at_least: int
) -> None:
    hall.seen(ago)
    assert hall.watch.latest is not None
    assert hall.watch.latest.clock is not None
    before = replace(hall.watch.latest.clock, boot="another", end=7_000_000_000, bound=bounds[0])
    hall.watch.latest = replace(hall.watch.latest, clock=before)
    hall.monitor.looking.clock_bound = lambda: bounds[1]
    await hall.look()
    (gap,) = [entry.fact for entry in hall.reader.entries(kinds=["gap"])]
    assert isinstance(gap, Gap)
    assert gap.reason is GapReason.NOT_RUNNING
    surely = at_least or min(max(0, ago), gap.clock.end if gap.clock else 0)
    assert surely - 1 <= length_of(gap) <= max(surely, DAY) + 2000
    assert at_least or length_of(gap) <= max(0, monotonic.milliseconds())


async def test_a_clock_that_was_set_between_two_probes_is_no_gap(hall: Hall) -> None:
    hall.seen(30_000)
    hall.monitor.judging.disturb(ticked(-20_000), ticked(-18_000), GapReason.CLOCK_STEP)
    await hall.look()
    assert hall.recorded("gap") == []


async def test_after_the_clock_was_set_or_the_config_changed_a_look_in_doubt_is_not_put_off(hall: Hall) -> None:
    def due() -> float:
        job: Any = hall.monitor.schedule._scheduler.get_job("t")
        return float(job.next_run_time.timestamp())

    target, stepped = replace(hall.target, interval=3600.0), 0
    hall.monitor._clock = ClockWatch(lambda: replace(read_clocks(), wall=read_clocks().wall + stepped))
    hall.monitor.change(hall.watch, target)
    hall.monitor.schedule.start()
    await hall.look(target)  # suspect: the next look comes in five seconds
    found, stepped = [due()], 10**9
    await hall.monitor.check_clock()
    found.append(due())
    hall.monitor.change(hall.watch, replace(target, timeout=3.0))
    found.append(due())
    hall.monitor.schedule.stop()
    assert [entry["event"] for entry in hall.recorded("clock")] == ["step"]
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
    hall: Hall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailwatch.judging.HANGS_AFTER", 0.05)

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.closing(writer):
            await over.wait()

    over, control = asyncio.Event(), free_port()
    hall.monitor.judging.guard = guard = Listened([Control("127.0.0.1", control)], timeout=1.0, names=())
    guard.asked = asyncio.Event()
    silent = await asyncio.start_server(accept, "127.0.0.1", hall.port)
    looking = asyncio.create_task(hall.look())
    await guard.asked.wait()
    line = await asyncio.start_server(accept, "127.0.0.1", control)
    assert (await Guard([Control("127.0.0.1", control)], timeout=1.0, names=()).ask()).online
    await looking
    (look,) = hall.recorded("observation")
    assert (look["outcome"], look["cause"]) == (Outcome.UNKNOWN, Cause.OFFLINE)
    over.set()
    for server in (silent, line):
        server.close()
        await server.wait_closed()


async def test_no_more_looks_than_allowed_are_under_way_at_once(tmp_path: Path) -> None:
    hall = Hall(tmp_path / "data", at_once=2)
    await hall.writer.start()
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

    server = await asyncio.start_server(stall, "127.0.0.1", hall.port)
    targets = [replace(hall.target, name=f"t{n}") for n in range(6)]
    for target in targets:
        hall.monitor.watch(Watch(target=target, state=State(), buckets=Buckets(interval=60.0)))
    looks = [asyncio.create_task(hall.monitor.look(target, now())) for target in targets]
    await both.wait()
    release.set()
    await asyncio.gather(*looks)
    server.close()
    await server.wait_closed()
    await hall.writer.close()
    assert most == 2
    assert len(hall.recorded("observation")) == 6
    hall.reader.close()


async def test_a_forgotten_target_is_not_looked_at_and_its_record_stays(hall: Hall) -> None:
    await hall.look()
    hall.monitor.forget("t")
    await hall.look()
    assert len(hall.recorded("observation")) == 1


async def test_a_probe_under_way_when_its_watching_ends_is_not_recorded(hall: Hall) -> None:
    """Another service stands under the name by then: what was seen of the old one is nothing of it."""
    probing, go_on = asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **more: Any) -> Observation:
        probing.set()
        await go_on.wait()
        return await observe(*args, **more)

    hall.monitor.looking.observe = slow
    under_way = asyncio.create_task(hall.look())
    await probing.wait()
    await hall.monitor.end(hall.watch, "replaced")
    hall.watch_also(replace(hall.target, host="localhost"))
    go_on.set()
    await under_way
    assert hall.recorded("observation") == []
    assert [(told["event"], told["reason"]) for told in hall.recorded("watch")] == [("end", "replaced")]


async def test_the_end_of_a_watching_leaves_its_outage_unwatched_and_sealed(hall: Hall) -> None:
    for _ in range(3):
        await hall.look()
    (opened,) = hall.recorded("outage")
    await hall.monitor.end(hall.watch, "removed")
    _, left = hall.recorded("outage")
    assert (left["id"], left["state"], left["duration_ms"]["max"]) == (opened["id"], "unwatched", None)
    assert left["watch"]["host"] == "127.0.0.1"
    sealed = hall.reader.last_checkpoint()
    assert sealed is not None
    assert sealed.size == hall.reader.size()
    assert hall.monitor.watches == {}
    assert [told["state"] for told in hall.monitor.former.values()] == ["unwatched"]


async def test_another_interval_goes_on_record_and_the_gauges_go_on_at_once(hall: Hall) -> None:
    await hall.greet()
    await hall.look()
    hall.seen(250_000)
    await hall.look()
    hall.watch.buckets = Buckets(interval=300.0)
    hall.seen(240_000)
    hall.watch.seen_interval = 300.0
    assert hall.watch.latest is not None
    hall.watch.buckets.add(hall.watch.latest)
    gaps = len(hall.recorded("gap"))
    await hall.monitor.rewatch(hall.watch, replace(hall.target, interval=30.0), "reload")
    await hall.look()
    assert [told["settings"]["interval"] for told in hall.recorded("watch")] == [30_000]
    assert len(hall.recorded("gap")) == gaps
    assert hall.watch.buckets.ratio(3_600_000, now()).lower == 1.0
    assert (hall.watch.buckets.ratio(3_600_000, now()).coverage or 0) > 0.03


async def test_once_a_day_the_settings_go_on_record_again(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    await enrol(hall.monitor, hall.reader, [hall.target])
    hall.watch.settings = settings_of(hall.target, hall.monitor.rules, hall.monitor.secret)
    hall.watch.settings_written = monotonic.milliseconds()
    await renew(hall.monitor)
    assert [told["event"] for told in hall.recorded("watch")] == ["begin"]
    hall.watch.settings_written -= 24 * 3_600_000
    await renew(hall.monitor)
    await renew(hall.monitor)
    assert [(told["event"], told["reason"]) for told in hall.recorded("watch")][1:] == [("continue", "daily")]


async def test_an_outage_of_an_old_record_ends_when_its_target_is_gone(hall: Hall) -> None:
    for _ in range(3):
        await hall.look()
    hall.monitor.forget("t")  # As a MailWatch did that wrote nothing of it.
    await retire(hall.monitor, hall.reader, {"another"})
    await retire(hall.monitor, hall.reader, {"another"})
    (end,) = hall.recorded("watch")
    assert (end["event"], end["settings"]["host"], end["settings"]["kind"]) == ("end", "", "imap")
    assert [told["state"] for told in hall.recorded("outage")] == ["open", "unwatched"]
    assert audit_outages(hall.reader, rule_book(hall.reader), "t") == []
    found = records.outage_payloads(hall.reader)
    assert [told["state"] for told in found] == ["unwatched"]


async def test_thousands_of_targets_are_enrolled_in_batches(hall: Hall) -> None:
    targets = [replace(hall.target, name=f"t{number}") for number in range(3000)]
    await enrol(hall.monitor, hall.reader, targets)
    checked = replace(hall.target, name="t7", interval=30.0)
    began = time.monotonic()
    await enrol(hall.monitor, hall.reader, [*targets[:7], checked, *targets[8:]])
    took = time.monotonic() - began
    events = Counter(told["event"] for told in hall.recorded("watch"))
    assert events == {"begin": 3000, "continue": 2999, "change": 1}
    assert took < 60


@pytest.mark.parametrize("gone", [True, False], ids=["removed", "another"])
async def test_a_crash_between_the_end_of_a_watching_and_what_follows_is_made_good(hall: Hall, gone: bool) -> None:
    await enrol(hall.monitor, hall.reader, [hall.target])
    hall.watch.settings = settings_of(hall.target, hall.monitor.rules, hall.monitor.secret)
    for _ in range(3):
        await hall.look()
    end = hall.monitor.watch_change("t", WatchEvent.END, hall.watch.settings, "removed")
    await hall.monitor.write("watch", end.at, "t", end)
    hall.monitor.forget("t")
    if gone:
        await retire(hall.monitor, hall.reader, set())
    else:
        other = replace(hall.target, host="localhost", kind=Kind.POP3, provider="other")
        await enrol(hall.monitor, hall.reader, [other])
        await take_up(hall.monitor, hall.reader, [other])
        assert hall.monitor.watches["t"].state == State()
        assert hall.monitor.watches["t"].seen_until is None
    opened, left = hall.recorded("outage")
    same = ("id", "provider", "kind", "watch")
    assert [left[key] for key in same] == [opened[key] for key in same]
    assert (opened["state"], left["state"]) == ("open", "unwatched")
    assert audit_outages(hall.reader, rule_book(hall.reader), "t") == []


async def test_a_target_that_was_removed_costs_no_replay(hall: Hall, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        await hall.look()
    await hall.monitor.end(hall.watch, "removed")
    monkeypatch.setattr("mailwatch.records.resume", lambda *_: pytest.fail("replayed"))
    (told,) = records.outages(hall.reader, live=hall.monitor.open_outages())
    assert told["state"] == "unwatched"
    assert records.outages(hall.reader, only_open=True) == []
