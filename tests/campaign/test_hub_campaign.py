"""Three vantage points, of which one lies and one is cut off at times: what the hub confirms is what was."""

from __future__ import annotations

import pytest

from tests.campaign.hub_worlds import hub_result_of
from tests.helpers.seed import SEED

A_WEEK, THREE_WEEKS = 1.0, 3.0


@pytest.mark.parametrize(
    ("seed", "number", "weeks"),
    [
        ("short", 0, A_WEEK),
        *(pytest.param("weeks", number, THREE_WEEKS, marks=pytest.mark.nightly) for number in range(8)),
        *(pytest.param(SEED, number, THREE_WEEKS, marks=pytest.mark.nightly) for number in range(4)),
    ],
)
def test_what_enough_honest_ones_see_is_confirmed_and_nothing_else(seed: str, number: int, weeks: float) -> None:
    verdict = hub_result_of(seed, number, weeks)
    assert verdict.failures == []
    assert verdict.figures["confirmed"] == verdict.figures["seen by enough"] > 0
    assert verdict.figures["false"] == 0
    assert verdict.figures["lies"] > 0


@pytest.mark.nightly
def test_as_many_liars_as_confirm_make_outages_up() -> None:
    assert hub_result_of("weeks", 0, THREE_WEEKS, liars=2).figures["false"] > 0
