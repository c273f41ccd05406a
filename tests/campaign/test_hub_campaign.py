"""Three vantage points, of which one lies and one is cut off at times: what the hub confirms is what was."""

from __future__ import annotations

import pytest

from mailwatch.analysis import confirmation
from mailwatch.analysis.confirmation import MemberRecord, MemberView, Sight, TargetView
from mailwatch.hub.quorum import QuorumBoard
from tests.campaign.hub_worlds import hub_result_of
from tests.helpers.seed import SEED

A_WEEK, THREE_WEEKS = 1.0, 3.0
TRIED = 12
"""Worlds in one of which each defect must show."""


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


def believing(member: MemberRecord, view: TargetView, _at: int) -> MemberView:
    """Take the times of an outage as they are, by whatever clock."""
    bounds = {"last_good": view.last_good, "first_bad": view.first_bad, "entry": view.outage_entry}
    return MemberView(member.ledger, Sight.DOWN, **bounds, down_since=view.first_bad, up_until=view.last_good)  # type: ignore[arg-type]


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("where", "name", "wrong", "words"),
    [
        (MemberRecord, "_down_view", believing, ("since", "not before")),
        (confirmation, "_not_before", lambda down, _: max(one.last_good or 0 for one in down), ("not before",)),
        (confirmation, "GRACE_MS", 7 * 86_400_000, ("it was over", "without an outage")),
        (confirmation, "GRACE_MS", -86_400_000, ("not confirmed",)),
        (QuorumBoard, "restore", lambda *_: None, ("read again",)),
    ],
)
def test_the_campaign_finds_a_hub_that_decides_wrongly(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, wrong: object, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(where, name, wrong)
    found = (one for number in range(TRIED) for one in hub_result_of("weeks", number, THREE_WEEKS).failures)
    assert any(word in one for one in found for word in words)
