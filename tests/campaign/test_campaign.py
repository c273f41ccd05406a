"""A few weeks of the campaign, the worlds that ever broke a promise, and what they find in a broken MailWatch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

import mailwatch.analysis.detector
import mailwatch.analysis.outage
import mailwatch.analysis.segments
import mailwatch.guard.attribution
import mailwatch.guard.connectivity
import mailwatch.guard.shared_check
import mailwatch.monitor.enrolment
import mailwatch.monitor.pipeline
import mailwatch.monitor.restore
import tests.campaign.replies
from mailwatch.analysis.elapsed import ElapsedBounds, Moment, elapsed_between
from mailwatch.analysis.outage_counters import ObservationRef, OutageCounters
from mailwatch.guard.clock import ClockBound
from mailwatch.guard.login_backoff import LoginBackoff
from mailwatch.model import Cause, Observation, Outcome
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.schedule import Schedule
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes.failures import Classification
from mailwatch.settings import Target
from mailwatch.store.detector_states import TargetHistory
from mailwatch.store.replay import RestoredState
from tests.campaign.worlds import WEEKS, result_of
from tests.helpers.seed import SEED

ONE_WEEK, THREE_DAYS, A_DAY = 1.0, 0.4, 0.1
FAILED = [("20260105", 6), ("20260105", 48), ("20261129", 47), ("x", 1), ("z", 10)]
"""Worlds that broke a promise once."""
TRIED = 60
"""Worlds of the night's seed in one of which each defect must show: the rarest does in one of seven."""


@pytest.mark.parametrize(
    ("seed", "number", "weeks"),
    [
        ("a week", 0, ONE_WEEK),
        *(pytest.param("a week", number, ONE_WEEK, marks=pytest.mark.nightly) for number in range(1, 6)),
        *(pytest.param(*world, WEEKS, marks=pytest.mark.nightly) for world in FAILED),
    ],
)
def test_weeks_of_faults_are_recorded_as_they_were(seed: str, number: int, weeks: float) -> None:
    verdict = result_of(seed, number, weeks)
    assert verdict.failures == []
    assert verdict.figures["probes"] > 100
    assert verdict.figures["within bounds"] == verdict.figures["reported"]


def test_the_same_seed_gives_the_same_world() -> None:
    assert result_of("the same", 0, THREE_DAYS) == result_of("the same", 0, THREE_DAYS)


def deaf(observation: Observation, *_: Any) -> Observation:
    """Judge without listening to the guard."""
    return observation


class Late(ObservationRef):
    """Dates observations ten minutes too late."""

    @classmethod
    def of(cls, index: int, fact: Observation, tally: OutageCounters) -> ObservationRef:
        """Refer to an observation as if it had been later."""
        observation = ObservationRef.of(index, fact, tally)
        start, end = (
            replace(moment, wall=moment.wall + 600_000, clock=(moment.clock or 0) + 600_000)
            for moment in (observation.start, observation.end)
        )
        return replace(observation, start=start, end=end) if fact.outcome is Outcome.DOWN else observation


def forgetful(*_: Any, **__: Any) -> RestoredState:
    """Take up nothing."""
    return RestoredState(TargetHistory(), {}, ())


async def careless(*_: Any) -> None:
    """Record no gap."""


def wall_durations(start: Moment, end: Moment, *_: Any) -> ElapsedBounds:
    """Take durations from the wall clock."""
    apart = max(0, end.wall - start.wall)
    return ElapsedBounds(apart, apart)


def one_boot(start: Moment, end: Moment, *more: Any) -> ElapsedBounds:
    """Take the steady clocks of two boots for one."""
    return elapsed_between(replace(start, boot=end.boot), end, *more)


def certain(*_: Any) -> int:
    """Believe of each wall clock that it is right."""
    return 0


async def silent(monitor: Pipeline, runtime: TargetRuntime, target: Target, _: str) -> None:
    """Go on under a changed interval without a word on record."""
    monitor.change_target(runtime, target)


async def kept(monitor: Pipeline, runtime: TargetRuntime, _: str) -> None:
    """End the watching of a target without a word on record."""
    monitor.former_outages |= runtime.outages
    monitor.forget_target(runtime.target.name)


def strict(protocol: Any, *more: Any) -> Classification:
    """Take every reply for the provider's failure."""
    return Classification(Cause.UNAVAILABLE, "refused")


@dataclass(frozen=True)
class Defect:
    """A defect, and the world and the weeks of it in which it shows, in the words of a failure.

    `words`, or in other worlds also `others`.
    """

    number: int
    weeks: float
    words: str
    where: Any
    name: str
    function: Callable[..., Any]
    others: str = ""

    def __str__(self) -> str:
        return f"{self.words} ({self.name})"

    def is_found(self, seed: str, number: int, weeks: float, *more: str) -> bool:
        """Whether a world shows it, by its words or by `more`."""
        failures = result_of(seed, number, weeks).failures
        return any(word and word in failure for failure in failures for word in (self.words, *more))


DEFECTS = [
    Defect(1, A_DAY, "booked as down", mailwatch.guard.attribution, "attribute", deaf),
    Defect(6, A_DAY, "out of its bounds", mailwatch.analysis.detector, "ObservationRef", Late),
    Defect(1, THREE_DAYS, "was met at", Schedule, "advance_to", lambda *_: None),
    Defect(1, A_DAY, "no gap", Pipeline, "_record_gap", careless),
    Defect(0, A_DAY, "restored", mailwatch.monitor.restore, "restore_state", forgetful),
    Defect(
        8, 0.2, "rejected four times", LoginBackoff, "may_login", lambda _, target, __: target.login is not None
    ),
    Defect(6, A_DAY, "at most", mailwatch.analysis.outage, "elapsed_between", wall_durations),
    Defect(1, THREE_DAYS, "out of its bounds", mailwatch.analysis.outage, "elapsed_between", one_boot),
    Defect(4, ONE_WEEK, "out of its bounds", ClockBound, "milliseconds", certain, others="is taken for"),
    Defect(3, A_DAY, "were observed", mailwatch.analysis.segments, "max_spacing", lambda _: 1800 * 1500 + 1000),
    Defect(2, THREE_DAYS, "on record as", mailwatch.monitor.enrolment, "apply_settings", silent),
    Defect(1, THREE_DAYS, "came late", mailwatch.monitor.enrolment, "end_target", kept),
    Defect(4, A_DAY, "booked as down", tests.campaign.replies, "classify_error", strict),
    Defect(
        13,
        A_DAY,
        "and not reported",
        mailwatch.analysis.detector,
        "advance_login_history",
        lambda proof, *_: (proof, None),
    ),
]


SHORT = [one if one.weeks <= THREE_DAYS else pytest.param(one, marks=pytest.mark.nightly) for one in DEFECTS]


@pytest.fixture(params=SHORT, ids=str)
def seeded(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Defect:
    """One of the defects, which MailWatch has in this test."""
    defect: Defect = request.param
    monkeypatch.setattr(defect.where, defect.name, defect.function)
    return defect


def test_the_campaign_finds_each_seeded_defect(seeded: Defect) -> None:
    """In the world where it shows first; if that changes, the test below finds another."""
    assert seeded.is_found("a defect", seeded.number, seeded.weeks)


@pytest.mark.nightly
def test_the_campaign_finds_each_seeded_defect_in_other_worlds(seeded: Defect) -> None:
    assert any(seeded.is_found(SEED, world, ONE_WEEK, seeded.others) for world in range(TRIED))


@pytest.mark.nightly
def test_the_campaign_finds_a_guard_that_uses_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A silence from before the clock was set back would excuse the provider until its time comes again."""
    for where in (mailwatch.guard.connectivity, mailwatch.guard.shared_check):
        monkeypatch.setattr(where, "to_wall_clock", lambda at, _: at)
    assert any("booked as unknown" in failure for failure in result_of("a defect", 3, WEEKS).failures)
