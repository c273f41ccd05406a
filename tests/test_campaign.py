"""A few weeks of the campaign, the worlds that ever broke a promise, and what a broken MailWatch is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import mailwatch.judging
import mailwatch.monitor
import mailwatch.outages
import mailwatch.takeup
from mailwatch.logins import LoginGate
from mailwatch.models import Observation
from mailwatch.monitor import Monitor
from mailwatch.outages import Proof, State
from mailwatch.outages.tally import Look
from mailwatch.replay import Replayed
from mailwatch.schedule import Schedule
from tests.campaign.worlds import WEEKS, verdict_of

ONE_WEEK = 1.0
FAILED = [("20260105", 37), ("20260105", 124), ("20260105", 135)]
"""Worlds that broke a promise once."""
TRIED = 12
"""Worlds in which a defect must show."""


@pytest.mark.parametrize(
    ("seed", "number", "weeks"),
    [*(("a week", number, ONE_WEEK) for number in range(8)), *((*world, WEEKS) for world in FAILED)],
)
def test_weeks_of_faults_are_told_as_they_were(seed: str, number: int, weeks: float) -> None:
    verdict = verdict_of(seed, number, weeks)
    assert verdict.failures == []
    assert verdict.figures["looks"] > 100
    assert verdict.figures["within bounds"] == verdict.figures["reported"]


def test_the_same_seed_gives_the_same_world() -> None:
    assert verdict_of("the same", 0, ONE_WEEK) == verdict_of("the same", 0, ONE_WEEK)


def deaf(observation: Observation, *_: Any) -> Observation:
    """Judge without listening to the guard."""
    return observation


def late(index: int, target: str, start: int, end: int, detail: str) -> Look:
    """Date looks by ten minutes too late."""
    return Look(index, target, start + 600_000, end + 600_000, detail)


def forgetful(*_: Any) -> Replayed:
    """Take up nothing."""
    return Replayed(State(), Proof(), None, {}, ())


async def careless(*_: Any) -> None:
    """Record no gap."""


DEFECTS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("booked as down", mailwatch.judging, "judge", deaf),
    ("out of its bounds", mailwatch.outages, "Look", late),
    ("was met at", Schedule, "sooner", lambda *_: None),
    ("no gap", Monitor, "_record_gap", careless),
    ("taken up", mailwatch.takeup, "resume", forgetful),
    ("rejected four times", LoginGate, "allows", lambda _, target, __: target.login is not None),
    ("and not told", mailwatch.monitor, "advance_proof", lambda proof, *_: (proof, None)),
]


@pytest.mark.parametrize(("told", "where", "name", "defect"), DEFECTS, ids=[told for told, *_ in DEFECTS])
def test_the_verdict_sees_a_defect(
    told: str, where: Any, name: str, defect: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(where, name, defect)
    found = (failure for number in range(TRIED) for failure in verdict_of("a defect", number, ONE_WEEK).failures)
    assert next((failure for failure in found if told in failure), None) is not None
