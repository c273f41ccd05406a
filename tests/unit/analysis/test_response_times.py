"""Response times in buckets: as a naive computation has them, and nothing where nothing is known."""

from __future__ import annotations

import math
import statistics
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.analysis.response_series import response_time
from mailwatch.analysis.response_times import PHASES, Period, bucket_of
from mailwatch.ledger.payloads import ObservationPayload, observation_from
from mailwatch.times import DAY_MS, HOUR_MS

PHASE_TIMES = st.dictionaries(st.sampled_from(PHASES), st.integers(0, 10**8), max_size=len(PHASES))


def _observation(outcome: str, attempts: list[dict[str, int]], took: int = 40) -> ObservationPayload:
    """An observation of attempts of which only the last one did not fail, if it is up."""
    made: list[dict[str, Any]] = [
        {"start": 0, "end": 1, "peer": "", "phases_us": phases, "cause": "timeout"} for phases in attempts
    ]
    if outcome == "up" and made:
        del made[-1]["cause"]
    payload = {
        "target": "t", "scheduled": 0, "start": 1000, "end": 1000 + took, "outcome": outcome, "login": True,
        "attempts": made,
    }  # fmt: skip
    return cast(ObservationPayload, payload | ({} if outcome == "up" else {"cause": "timeout"}))


OBSERVATIONS = st.lists(
    st.builds(_observation, st.sampled_from(["up", "down", "unknown"]), st.lists(PHASE_TIMES, max_size=3))
)


@given(OBSERVATIONS)
def test_a_bucket_is_what_a_naive_computation_makes_of_it(observations: list[ObservationPayload]) -> None:
    bucket = bucket_of(iter(observations))
    up = [one for one in observations if one["outcome"] == "up"]
    assert (bucket.up, bucket.down, bucket.unknown) == tuple(
        sum(one["outcome"] == outcome for one in observations) for outcome in ("up", "down", "unknown")
    )
    totals = [sum(one["attempts"][-1]["phases_us"].values()) if one["attempts"] else 0 for one in up]
    totals = [total or 40_000 for total in totals]
    assert (bucket.total is None) == (not up)
    if bucket.total:
        assert bucket.total.median == round(statistics.median(totals))
        assert bucket.total.p95 == sorted(totals)[math.ceil(0.95 * len(totals)) - 1]
    for phase in PHASES:
        spent = [
            one["attempts"][-1]["phases_us"][phase]
            for one in up
            if one["attempts"] and phase in one["attempts"][-1]["phases_us"]
        ]
        assert (phase in bucket.phases) == bool(spent)
        if spent:
            assert bucket.phases[phase].median == round(statistics.median(spent))
    assert list(bucket.phases) == [phase for phase in PHASES if phase in bucket.phases]


@given(st.lists(PHASE_TIMES, min_size=1, max_size=3))
def test_a_response_time_is_that_of_the_overview(attempts: list[dict[str, int]]) -> None:
    payload = _observation("up", attempts)
    bucket = bucket_of([payload])
    assert bucket.total is not None
    assert response_time(observation_from(payload)) == max(1, round(bucket.total.median / 1000))


@pytest.mark.parametrize("period", Period)
def test_a_period_ends_with_the_bucket_of_now(period: Period) -> None:
    at = 20_000 * DAY_MS + 7 * HOUR_MS + 123_456
    start = period.start(at)
    assert start % period.bucket == 0
    assert period.length % period.bucket == 0
    assert start + period.length - period.bucket <= at < start + period.length
    assert 84 <= period.length // period.bucket <= 180
