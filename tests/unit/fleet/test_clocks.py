"""Another node's clock on ours: whatever messages take, the true difference is within the bounds."""

from __future__ import annotations

import dataclasses

from hypothesis import assume, given
from hypothesis import strategies as st

from mailwatch.fleet.clocks import ClockDifference, ClockRelation, Exchanged, on_our_clocks
from mailwatch.model import Attempt, ClockSpan, ConnectivityResult, Observation, Outcome

STEPS = st.lists(st.tuples(st.booleans(), st.floats(0, 2_000), st.floats(0, 90)), min_size=2, max_size=80)


@given(STEPS, st.integers(-(10**9), 10**9), st.floats(-100e-6, 100e-6))
def test_the_true_difference_lies_within_the_bounds_for_any_delays_and_drift(
    steps: list[tuple[bool, float, float]], apart: int, drift: float
) -> None:
    relation, here = ClockRelation(), 10_000_000.0

    def there(at: float) -> float:
        return (at - apart) * (1 + drift)

    for outward, pause, delay in steps:
        here += pause
        if outward:
            relation.sent(int(here), int(there(here + delay) // 1))
        else:
            relation.taken(int(there(here) // 1), int(here + delay))
        here += delay
    found = relation.difference(int(here))
    assume(found is not None)
    assert found is not None
    true = here - there(here)
    assert found.least - 1 <= true <= found.most + 1


def test_nothing_is_known_from_one_direction_alone() -> None:
    relation = ClockRelation()
    relation.sent(100, 50)
    assert relation.difference(200) is None
    relation.taken(60, 112)
    assert relation.difference(112) == ClockDifference(100 - 50 - 2, 112 - 60 + 1)


def observation(start: int, end: int, wall: int) -> Observation:
    attempt = Attempt(started_at=wall, ended_at=wall + end - start, peer="192.0.2.1:993")
    guard = ConnectivityResult(asked_at=wall + 5, online=True, answered_at=wall + 6)
    return Observation(
        target="t", scheduled_at=0, started_at=wall, ended_at=wall + end - start, outcome=Outcome.DOWN,
        attempts=(attempt,), guard=guard, clock=ClockSpan("theirs", start, end),
    )  # fmt: skip


def test_times_of_another_node_become_ours_and_the_span_is_wider_by_the_error() -> None:
    """Their steady clock is 1,000,000 behind ours, and their wall clock 700 ms ahead."""
    by = Exchanged("ours", sent=2_000_000, taken=2_001_000, offset=10_000_000, bound=20)
    theirs = observation(1_000_100, 1_000_400, 12_000_100 + 700)
    found = on_our_clocks(theirs, 12_000_700 - 1_000_000, ClockDifference(999_990, 1_000_010), by)
    assert found.clock == ClockSpan("ours", 2_000_090, 2_000_410, 20 + 10)
    assert (found.started_at, found.ended_at) == (12_000_100, 12_000_400)
    assert (found.attempts[0].started_at, found.attempts[0].ended_at) == (12_000_100, 12_000_400)
    assert found.guard == ConnectivityResult(asked_at=12_000_105, online=True, answered_at=12_000_106)


@given(
    st.integers(0, 10**12), st.integers(0, 10**6), st.integers(0, 10**12), st.integers(0, 10**6),
    st.integers(-(10**12), 10**12), st.integers(0, 500), st.booleans(),
)  # fmt: skip
def test_whatever_another_node_claims_its_probe_lies_between_job_and_result(
    sent: int, took: int, start: int, lasted: int, offset: int, error: int, known: bool
) -> None:
    by = Exchanged("ours", sent=sent, taken=sent + took, offset=5_000, bound=None)
    difference = ClockDifference(offset, offset + error) if known else None
    found = on_our_clocks(observation(start, start + lasted, start + 77), 77, difference, by)
    assert found.clock is not None
    assert found.clock.start is not None
    assert sent <= found.clock.start <= found.clock.end <= sent + took
    spans = [(found.started_at, found.ended_at), *((one.started_at, one.ended_at) for one in found.attempts)]
    assert all(sent + 5_000 <= start <= end <= sent + took + 5_000 for start, end in spans)
    if not known:
        assert (found.clock.start, found.clock.end) == (sent, sent + took)
    assert dataclasses.replace(found, clock=None).outcome is Outcome.DOWN
