"""When targets are probed: a steady interval, spread out, never two probes at a time, nothing dropped."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from threading import Lock
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from mailwatch.model import Kind
from mailwatch.monitor.schedule import FixedPhaseTrigger, Schedule, _ProbeExecutor
from mailwatch.settings import Target
from mailwatch.times import Millis, now

NOW = datetime(2026, 11, 24, 1, 2, 3, 456789, tzinfo=UTC)


def target(name: str, interval: float) -> Target:
    return Target(name=name, kind=Kind.IMAP, host="localhost", port=1, interval=interval)


@given(st.text(), st.integers(50, 86_400_000), st.datetimes(timezones=st.just(UTC)))
def test_the_next_time_is_later_and_exactly_one_interval_after_this_one(
    name: str, millis: int, moment: datetime
) -> None:
    trigger = FixedPhaseTrigger(name, millis / 1000)
    first = trigger.get_next_fire_time(None, moment)
    assert moment < first <= moment + timedelta(milliseconds=millis)
    # An interval asked at its own microsecond must not answer with itself.
    assert trigger.get_next_fire_time(first, first) - first == timedelta(milliseconds=millis)


def test_targets_spread_over_the_interval_and_keep_their_phase() -> None:
    times = sorted(FixedPhaseTrigger(f"t{n}", 60.0).get_next_fire_time(None, NOW) for n in range(10_000))
    per_second = [sum(at.second == second for at in times) for second in range(60)]
    assert min(per_second) > 100
    assert max(per_second) < 235
    assert FixedPhaseTrigger("t1", 60.0).get_next_fire_time(None, NOW) == FixedPhaseTrigger(
        "t1", 60.0
    ).get_next_fire_time(None, NOW)


async def test_a_slow_probe_is_not_overtaken_and_the_next_comes_on_its_interval() -> None:
    seen: list[tuple[Millis, Millis]] = []
    enough, under_way = asyncio.Event(), 0

    async def probe(_: Target, due: Millis) -> None:
        nonlocal under_way
        under_way += 1
        assert under_way == 1
        seen.append((due, now()))
        await asyncio.sleep(0.12)  # the probe itself, longer than two intervals
        under_way -= 1
        if len(seen) == 4:
            enough.set()

    schedule = Schedule(probe)
    schedule.add(target("a", 0.05))
    schedule.start()
    await enough.wait()
    schedule.stop()
    await schedule.finish(5)
    assert not schedule.running
    dues = [due for due, _ in seen]
    assert dues == sorted(set(dues))
    assert all(at >= due for due, at in seen)


async def test_a_due_time_is_never_after_the_probe_that_begins_in_the_same_millisecond() -> None:
    dues: asyncio.Queue[Millis] = asyncio.Queue()

    async def probe(_: Target, due: Millis) -> None:
        dues.put_nowait(due)

    probes, job = _ProbeExecutor(probe), SimpleNamespace(args=(target("a", 1.0),), id="a")
    probes.start(SimpleNamespace(_create_lock=Lock, _dispatch_event=lambda _: None), "default")
    moment = NOW.replace(microsecond=456_999)
    probes._instances["a"] = 1
    probes._do_submit_job(job, [moment])
    assert await dues.get() == int(NOW.timestamp()) * 1000 + 456
    await asyncio.gather(*probes.tasks)


async def test_advancing_brings_a_probe_forward_and_never_puts_one_off() -> None:
    probes: asyncio.Queue[Millis] = asyncio.Queue()

    async def probe(_: Target, due: Millis) -> None:
        probes.put_nowait(due)

    schedule = Schedule(probe)
    schedule.add(target("a", 3600.0))
    schedule.start()
    began = now()
    schedule.advance_to("a", 0.1)
    schedule.advance_to("a", 1800.0)
    schedule.advance_to("removed long ago", 0.1)
    due = await asyncio.wait_for(probes.get(), 10)
    schedule.stop()
    assert began + 90 <= due <= began + 1000


async def test_skipping_leaves_intervals_out_and_keeps_the_phase() -> None:
    probes: asyncio.Queue[Millis] = asyncio.Queue()

    async def probe(_: Target, due: Millis) -> None:
        probes.put_nowait(due)

    schedule = Schedule(probe)
    schedule.add(target("a", 0.2))
    schedule.start()
    first = await asyncio.wait_for(probes.get(), 10)
    schedule.skip("a", 0.8)
    schedule.skip("removed long ago", 0.8)
    put_off = await asyncio.wait_for(probes.get(), 10)
    usual = await asyncio.wait_for(probes.get(), 10)
    schedule.stop()
    assert put_off - first >= 800
    assert (put_off - first) % 200 in (0, 1, 199)
    assert usual - put_off < 800


async def test_probes_under_way_at_the_end_are_waited_for_and_then_cancelled() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def probe(_: Target, __: Millis) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    schedule = Schedule(probe)
    schedule.add(target("a", 0.05))
    schedule.start()
    await begun.wait()
    schedule.stop()
    await schedule.finish(0.05)
    assert ended.is_set()


async def test_a_removed_target_is_probed_no_more() -> None:
    probes: list[str] = []
    other = asyncio.Event()

    async def probe(seen: Target, _: Millis) -> None:
        probes.append(seen.name)
        if probes.count("b") == 3:
            other.set()

    schedule = Schedule(probe)
    for name in "ab":
        schedule.add(target(name, 0.05))
    schedule.remove("a")
    schedule.start()
    await other.wait()
    schedule.stop()
    assert "a" not in probes
