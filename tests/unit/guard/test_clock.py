"""Do we know the time: scripted clocks, and a scripted time server on the loopback."""

from __future__ import annotations

import struct
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch import monotonic
from mailwatch.guard.clock import (
    ClockBound,
    ClockEvent,
    ClockMonitor,
    ClockReading,
    ClockSurvey,
    KernelSync,
    kernel_sync,
    read_clocks,
    survey,
)
from mailwatch.guard.sntp import Offset, SntpError, read_answer, sntp
from tests.helpers.time_server import Answer, ntp, packet, time_server

S = 1_000_000_000
WALL = 1_700_000_000 * S
MS = 1_700_000_000_000


class Clocks:
    """Three clocks that go as the test says."""

    def __init__(self) -> None:
        self.reading = ClockReading(wall=WALL, running=0, boot=0)

    def __call__(self) -> ClockReading:
        return self.reading

    def go(self, seconds: float, *, asleep: float = 0.0, step: float = 0.0) -> None:
        """Let time pass, some of it asleep, and set the wall clock."""
        here = self.reading
        self.reading = ClockReading(
            wall=here.wall + round((seconds + asleep + step) * S),
            running=here.running + round(seconds * S),
            boot=here.boot + round((seconds + asleep) * S),
        )


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def clock_monitor(clocks: Clocks) -> ClockMonitor:
    """A watch that has ticked once."""
    clock_monitor = ClockMonitor(clocks)
    assert clock_monitor.tick() == []
    return clock_monitor


def test_a_steady_clock_is_no_event(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    for wait in (1.0, 1.4, 0.001, 5.9, 0.0):
        clocks.go(wait)
        assert clock_monitor.tick() == []


def test_a_suspend_is_dated_from_the_last_tick_to_this_one(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    clocks.go(1.0, asleep=3600)
    assert clock_monitor.tick() == [ClockEvent("suspend", MS, MS + 3_601_000, 3600.0, 0, 3_601_000)]
    clocks.go(1.0)
    assert clock_monitor.tick() == []


@pytest.mark.parametrize("step", [0.6, -0.6, 3600.0, -3600.0])
def test_a_step_is_reported_with_its_sign(clocks: Clocks, clock_monitor: ClockMonitor, step: float) -> None:
    clocks.go(1.0, step=step)
    (event,) = clock_monitor.tick()
    assert event.kind == "step"
    assert event.seconds == pytest.approx(step)
    assert (event.start, event.end) == (MS, MS + 1000 + round(step * 1000))
    assert event.as_json() == {
        "event": "step", "start": MS, "end": event.end, "milliseconds": round(step * 1000),
    }  # fmt: skip
    clocks.go(1.0)
    assert clock_monitor.tick() == []


def test_many_small_steps_add_up_to_one(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    collected: list[ClockEvent] = []
    for _ in range(6):
        clocks.go(1.0, step=0.1)
        collected += clock_monitor.tick()
    assert [(event.kind, round(event.seconds, 1)) for event in collected] == [("step", 0.6)]


def test_a_step_is_on_record_although_one_before_it_went_unnoticed(
    clocks: Clocks, clock_monitor: ClockMonitor
) -> None:
    clocks.go(1.0, step=-0.45)
    assert clock_monitor.tick() == []
    clocks.go(1.0, step=0.55)
    assert [(event.kind, round(event.seconds, 3)) for event in clock_monitor.tick()] == [("step", 0.55)]
    # What went unnoticed is not forgotten.
    clocks.go(1.0, step=-0.1)
    assert [(event.kind, round(event.seconds, 3)) for event in clock_monitor.tick()] == [("step", -0.55)]


def test_a_suspend_does_not_hide_a_small_step(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    clocks.go(1.0, asleep=60.0, step=0.3)
    assert [event.kind for event in clock_monitor.tick()] == ["suspend"]
    clocks.go(1.0, step=0.3)
    assert [(event.kind, round(event.seconds, 3)) for event in clock_monitor.tick()] == [("step", 0.6)]


@given(
    st.lists(
        st.tuples(
            st.integers(-1500, 1500) | st.integers(-(10**9), 10**9),
            st.sampled_from([0, 100, 400, 3600_000]),
        ),
        max_size=30,
    )
)
def test_what_is_on_record_is_never_far_from_the_clocks(happenings: list[tuple[int, int]]) -> None:
    """Of steps and suspends, in milliseconds. Each large step is on record, as long as it was."""
    clocks = Clocks()
    watch = ClockMonitor(clocks)
    recorded = {"step": 0.0, "suspend": 0.0, "stalled": 0.0}
    stepped = slept = 0
    for step, asleep in happenings:
        clocks.go(1.0, asleep=asleep / 1000, step=step / 1000)
        stepped, slept = stepped + step, slept + asleep
        found = {event.kind: event.seconds for event in watch.tick()}
        for kind, seconds in found.items():
            recorded[kind] += seconds
        if abs(step) > 500:
            assert found["step"] == pytest.approx(step / 1000)
        assert abs(recorded["step"] - stepped / 1000) <= 0.5 + 1e-6
        assert abs(recorded["suspend"] - slept / 1000) <= 0.5 + 1e-6


@pytest.mark.parametrize("step", [-31_536_000_000, -300, 300, 31_536_000_000])
def test_a_clock_step_since_the_survey_counts_before_any_tick(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bound, real = ClockBound(), time.time_ns
    bound.set(20_000)
    assert bound.milliseconds() in range(20, 120)
    monkeypatch.setattr(time, "time_ns", lambda: real() + step * 1_000_000)
    assert bound.milliseconds() in range(19 + abs(step), 120 + abs(step))


def test_a_step_between_the_comparison_and_its_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    bound, real = ClockBound(), time.time_ns
    before = monotonic.offset()
    monkeypatch.setattr(time, "time_ns", lambda: real() + 300_000_000)
    bound.set(20_000, before)
    assert bound.milliseconds() in range(319, 420)
    bound.tighten(10_000, before)
    assert bound.milliseconds() in range(309, 410)


def test_a_stopped_process_is_stalled(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    clocks.go(6.1)
    (event,) = clock_monitor.tick()
    assert (event.kind, event.start, event.end) == ("stalled", MS, MS + 6100)
    assert event.seconds == pytest.approx(5.1)


def test_a_slow_start_is_no_stall_but_a_step_in_it_is_recorded(clocks: Clocks) -> None:
    clock_monitor = ClockMonitor(clocks)
    clocks.go(60.0, step=10.0)
    assert [event.kind for event in clock_monitor.tick()] == ["step"]
    clocks.go(60.0)
    assert [event.kind for event in clock_monitor.tick()] == ["stalled"]


def test_a_suspend_with_a_step_at_its_end_is_both(clocks: Clocks, clock_monitor: ClockMonitor) -> None:
    clocks.go(1.0, asleep=100, step=-30)
    assert [(event.kind, event.seconds) for event in clock_monitor.tick()] == [("suspend", 100.0), ("step", -30.0)]


def test_the_machines_clocks_are_read_as_at_one_moment() -> None:
    reading = read_clocks()
    assert abs(reading.wall - time.time_ns()) < S
    assert ClockMonitor().tick() == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="adjtimex is of Linux")
def test_the_kernel_reports_its_synchronisation() -> None:
    reported = kernel_sync()
    if reported is None:
        pytest.skip("adjtimex is forbidden here")
    assert 0 <= reported.state <= 5
    # The kernel lets the error grow to 16 s and no further; another value would be a wrong structure.
    assert 0 <= reported.max_error_us <= 16_000_000
    assert 0 <= reported.estimated_error_us <= 16_000_000


async def ask(answer: Answer = packet) -> Offset:
    async with time_server(answer) as (port, _):
        return await sntp("127.0.0.1", port, timeout=2.0)


@pytest.mark.parametrize("ahead", [0.0, 2.5, -2.5, 86_400.0])
async def test_the_offset_is_the_servers_time_minus_ours_within_its_bound(ahead: float) -> None:
    answer = await ask(lambda request: packet(request, ahead=ahead))
    assert abs(answer.offset_us - round(ahead * 1e6)) <= answer.bound_us
    assert answer.bound_us == pytest.approx(answer.delay_us / 2 + 25_000, abs=50)
    assert answer.delay_us < 1_000_000
    assert (answer.stratum, answer.server) == (2, "127.0.0.1")


async def test_the_request_shows_nothing_of_our_clock_and_never_repeats() -> None:
    async with time_server() as (port, server):
        await sntp("127.0.0.1", port)
        await sntp("127.0.0.1", port)
    one, other = server.requests
    assert one[:40] == other[:40] == b"\x23" + bytes(39)
    assert one[40:] != other[40:]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"originate": b"\1" * 8}, "does not repeat our request"),
        ({"first": 4 << 3 | 3}, "mode 3 is not a server's answer"),
        ({"first": 2 << 3 | 4}, "version 2 mode 4"),
        ({"first": 3 << 6 | 4 << 3 | 4}, "itself not synchronised"),
        ({"stratum": 16}, "itself not synchronised"),
        ({"stratum": 0, "reference": b"RATE"}, r"refuses requests \('RATE'\)"),
        ({"transmit": bytes(8)}, "contains no time"),
        ({"root_delay": -0.5}, "from its source"),
        ({"root_delay": 1.0, "root_dispersion": 0.6}, "1.1 s or more from its source"),
        ({"held": -0.1}, "sent before the request was received"),
    ],
)
async def test_an_answer_that_cannot_be_used_is_refused_with_its_reason(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SntpError, match=message):
        await ask(lambda request: packet(request, **changes))  # type: ignore[arg-type]


async def test_a_short_answer_is_refused() -> None:
    with pytest.raises(SntpError, match="47 bytes are not an NTP answer"):
        await ask(lambda request: packet(request)[:47])


async def test_a_long_answer_with_extension_fields_is_read() -> None:
    assert (await ask(lambda request: packet(request) + bytes(64))).stratum == 2


async def test_a_silent_server_times_out() -> None:
    async with time_server(lambda _: None) as (port, _):
        with pytest.raises(TimeoutError):
            await sntp("127.0.0.1", port, timeout=0.05)


async def test_a_closed_port_is_reported_at_once() -> None:
    async with time_server() as (port, _):
        pass
    with pytest.raises(ConnectionRefusedError):
        await sntp("127.0.0.1", port, timeout=30)


def test_the_time_that_the_server_held_the_request_is_not_delay() -> None:
    nonce = b"nonce..."
    sent_ns = time.time_ns()
    data = packet(bytes(40) + nonce, held=0.5)
    answer = read_answer(data, nonce=nonce, sent_ns=sent_ns, elapsed_ns=600_000_000, server="x")
    assert answer.delay_us == pytest.approx(100_000, abs=10)


def test_the_seconds_that_begin_anew_in_2036_are_read_as_the_nearest() -> None:
    after = 2_085_978_496 + 10  # 2036-02-07T06:28:26Z
    nonce = bytes(8)
    data = struct.pack("!BBbbiI4s", 4 << 3 | 4, 1, 0, 0, 0, 0, b"GPS\0") + bytes(8) + nonce
    data += ntp(after) + ntp(after)
    assert int.from_bytes(ntp(after)[:4]) == 10
    answer = read_answer(data, nonce=nonce, sent_ns=(after - 20) * S, elapsed_ns=0, server="x")
    assert answer.offset_us == pytest.approx(20_000_000, abs=2)


@given(st.binary(max_size=100))
def test_any_malformed_sntp_packet_is_refused(data: bytes) -> None:
    try:
        answer = read_answer(data, nonce=data[24:32], sent_ns=WALL, elapsed_ns=S, server="x")
    except SntpError:
        return
    assert 0 < answer.stratum < 16
    assert 0 <= answer.bound_us < 2_000_000


def offset(offset_us: int, bound_us: int = 1000) -> Offset:
    return Offset("s", offset_us, bound_us, delay_us=10, stratum=1)


def kernel(synchronised: bool, max_error_us: int = 5000) -> KernelSync:
    return KernelSync(0 if synchronised else 5, synchronised, max_error_us, 0)


def survey_of(*answers: Offset, kernel: KernelSync | None = None) -> ClockSurvey:
    return ClockSurvey(at=MS, kernel=kernel, answers=answers)


def test_one_liar_among_three_servers_does_not_move_the_median() -> None:
    collected = survey_of(offset(100), offset(-200, bound_us=3000), offset(3_600_000_000))
    assert collected.offset_us == 100
    assert collected.disagreement_us == 3_600_000_200
    assert collected.error_bound_us == 100 + 3000
    assert not collected.degraded


def test_of_two_servers_that_disagree_either_may_be_right() -> None:
    collected = survey_of(offset(0), offset(4_000_000))
    assert collected.error_bound_us == 2_000_000 + 2_000_000 + 1000
    assert collected.degraded


def test_without_time_servers_a_synchronised_kernel_is_believed() -> None:
    assert survey_of(kernel=kernel(True)).error_bound_seconds() == 0.005
    assert not survey_of(kernel=kernel(True)).degraded
    assert survey_of(kernel=kernel(True, max_error_us=2_000_000)).degraded
    assert survey_of(kernel=kernel(False)).error_bound_seconds() is None
    assert survey_of(kernel=kernel(False)).degraded
    assert survey_of().degraded


def test_a_server_knows_better_than_a_kernel_that_is_wrong() -> None:
    assert survey_of(offset(1_500_000), kernel=kernel(True)).degraded
    assert not survey_of(offset(10_000), kernel=kernel(False)).degraded


def test_an_unsynchronised_kernel_has_no_error_bound() -> None:
    assert kernel(True).error_bound_seconds() == 0.005
    assert kernel(False).error_bound_seconds() is None


async def test_a_survey_notes_who_answered_and_who_did_not() -> None:
    async with (
        time_server() as (good, _),
        time_server(lambda _: None) as (mute, _),
        time_server(lambda request: packet(request, stratum=0, reference=b"DENY")) as (deny, _),
    ):
        reported = await survey([("127.0.0.1", port) for port in (good, mute, deny)], timeout=0.2)
    assert len(reported.answers) == 1
    assert reported.failures == {
        f"127.0.0.1:{mute}": "TimeoutError",
        f"127.0.0.1:{deny}": "the server refuses requests ('DENY')",
    }
    assert not reported.degraded


def test_a_survey_goes_into_the_ledger_without_floats() -> None:
    def leaves(value: object) -> list[object]:
        if isinstance(value, dict):
            return [leaf for child in value.values() for leaf in leaves(child)]
        if isinstance(value, list | tuple):
            return [leaf for child in value for leaf in leaves(child)]
        return [value]

    collected = replace(survey_of(offset(1), offset(2), kernel=kernel(True)), failures={"x:123": "TimeoutError"})
    assert collected.as_json()["error_bound_us"] is not None
    assert all(leaf is None or isinstance(leaf, int | str) for leaf in leaves(collected.as_json()))
