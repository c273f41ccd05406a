"""The response times of the last day: a median for each half hour, and nothing where nothing is known."""

from __future__ import annotations

import pytest

from mailwatch.analysis.response_series import MAX_SAMPLES, SLOT_MS, SLOTS, ResponseSeries, response_time
from mailwatch.model import Attempt, Gap, GapReason, Observation, Outcome, Phase
from tests.helpers.ledger_factory import clock_of, observation_of

START = 1_000_000 * SLOT_MS
"""The begin of a half hour."""


def _up(at: int, milliseconds: int) -> Observation:
    attempt = Attempt(
        started_at=at, ended_at=at + 5000, peer="192.0.2.1:993",
        phases={Phase.CONNECT: milliseconds * 400, Phase.AUTH: milliseconds * 600},
        cause=None, failed_phase=None, detail="",
    )  # fmt: skip
    return Observation(
        target="t", scheduled_at=at, started_at=at, ended_at=at + 5000, outcome=Outcome.UP, attempts=(attempt,)
    )


def _bare(start: int, end: int) -> Observation:
    """An observation without attempts."""
    return Observation(target="t", scheduled_at=start, started_at=start, ended_at=end, outcome=Outcome.UP)


def _fed(*observations: Observation) -> ResponseSeries:
    series = ResponseSeries()
    for observation in observations:
        series.feed(observation)
    return series


def test_the_response_time_is_that_of_the_phases_and_none_of_a_failure() -> None:
    assert response_time(_up(START, 250)) == 250
    assert response_time(observation_of("t", "-", START)) is None
    assert response_time(observation_of("t", "?", START)) is None
    assert response_time(_bare(START, START + 30)) == 30
    # It was measured, so it is not the same as no response time.
    assert response_time(_bare(START, START)) == 1


def test_each_half_hour_has_its_median_and_a_half_hour_without_one_is_unknown() -> None:
    series = _fed(
        _up(START, 100), _up(START + 1, 900), _up(START + 2, 200), _up(START + 3 * SLOT_MS, 50),
        observation_of("t", "-", START + 4 * SLOT_MS),
    )  # fmt: skip
    clock = clock_of(START, START + 1)
    series.feed(Gap(target="t", start=START, end=START + 1, reason=GapReason.NOT_RUNNING, clock=clock))
    medians = series.medians(START + 4 * SLOT_MS)
    assert len(medians) == SLOTS
    assert medians[-5:] == (200, None, None, 50, None)
    assert set(medians[:-5]) == {None}


@pytest.mark.parametrize("later", [0, 1, SLOTS - 1, SLOTS, 10 * SLOTS])
def test_what_is_older_than_a_day_goes(later: int) -> None:
    series = _fed(_up(START, 100))
    assert (100 in series.medians(START + later * SLOT_MS)) is (later < SLOTS)
    series.feed(_up(START + later * SLOT_MS, 7000))
    kept = 2 if 0 < later < SLOTS else 1
    assert series.medians(START + later * SLOT_MS).count(None) == SLOTS - kept


def test_after_the_clock_was_set_back_a_past_half_hour_stays_and_a_distant_one_begins_anew() -> None:
    series = _fed(_up(START, 100), _up(START + SLOT_MS, 100), _up(START, 5000))
    assert series.medians(START + SLOT_MS)[-2:] == (100, 100)
    series.feed(_up(START - SLOTS * SLOT_MS, 30))
    assert series.medians(START - SLOTS * SLOT_MS)[-1] == 30
    assert set(series.medians(START + SLOT_MS)) == {None}


def test_a_target_probed_each_second_takes_no_more_memory() -> None:
    series = _fed(*(_up(START + second * 1000, 100) for second in range(600)))
    assert len(series._samples) == MAX_SAMPLES
    for second in range(600, 600 + MAX_SAMPLES):
        series.feed(_up(START + second * 1000, 300))
    assert series.medians(START)[-1] == 300


def test_nothing_is_known_before_the_first_observation() -> None:
    assert ResponseSeries().medians(START) == (None,) * SLOTS
    assert _fed(observation_of("t", "-", START)).medians(START) == (None,) * SLOTS
