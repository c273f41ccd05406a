"""A target followed quickly, compared with the rules applied one observation at a time."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailwatch.analysis.availability import AvailabilityMeter
from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.replay import PeriodReplay, ReplayError, TargetReplay
from mailwatch.analysis.segments import Segment, SegmentState
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Cause, Gap, GapReason, Observation, Outcome, Rules, TargetChange, TargetEvent
from mailwatch.times import merge_windows
from tests.helpers.ledger_factory import MINUTE, SECOND, change, observation_of

WINDOW = (5 * MINUTE, 25 * MINUTE)
MARKS = "+++++++-?xgcie"
"""Up (mostly, with a secret or without), down, offline, a rejected login, a gap; watched as before, at another
interval, no more.
"""
CHANGES = {"c": TargetEvent.CONTINUE, "i": TargetEvent.CHANGE, "e": TargetEvent.END}
STEPS = [MINUTE, MINUTE, MINUTE, 3 * MINUTE, 20 * SECOND, 100, -2 * MINUTE]


def fact(mark: str, at: int, secret: str) -> Observation | Gap | TargetChange:
    if mark in CHANGES:
        return change(CHANGES[mark], at, 2 * MINUTE if mark == "i" else MINUTE)
    if mark == "g":
        return Gap(target="mail", start=at - MINUTE, end=at, reason=GapReason.NOT_RUNNING)
    if mark == "x":
        observation = replace(observation_of("mail", "?", at), cause=Cause.CREDENTIALS, outcome=Outcome.UNKNOWN)
    else:
        observation = observation_of("mail", mark, at)
    # Some name their interval, as those of old records do not.
    interval = {"a": None, "b": 3 * MINUTE}.get(secret, MINUTE)
    return replace(observation, with_login=bool(secret), secret=secret, interval=interval)


def runs(text: str) -> list[tuple[str, int, str]]:
    """Observations a minute apart: "4+a" is four good ones with the secret a, "2-_" two bad ones without."""
    return [(run[1], MINUTE, run[2].strip("_")) for run in text.split() for _ in range(int(run[0]))]


@given(
    st.lists(
        st.tuples(st.sampled_from(MARKS), st.sampled_from(STEPS), st.sampled_from(["a", "b", ""])), max_size=60
    ),
    st.integers(1, 3),
    st.integers(1, 3),
)
@example(runs("4+a 3xa 4+a"), 3, 2)
@example(runs("4+a 2xa 3+_ 3+a"), 3, 2)
@example(runs("4+a 4-_ 9+a"), 3, 3)
@example(runs("4+a 1-_ 1+b 5+_ 1?_"), 3, 2)
@example([*runs("5+a"), ("+", -2 * MINUTE, "a"), *runs("4+a")], 3, 2)
def test_the_fast_path_changes_nothing(
    steps: list[tuple[str, int, str]], open_after: int, close_after: int
) -> None:
    rules = Rules(open_after, close_after)
    slow, quick = (
        AvailabilityMeter(*WINDOW, interval=60, infer=True),
        AvailabilityMeter(*WINDOW, interval=60, infer=True),
    )
    detector, outages = Detector(), dict[str, Outage]()
    expected: list[Segment] = []
    seen: list[Segment] = []
    replay = TargetReplay(quick, lambda _target, _fact, stretches: seen.extend(stretches))
    at = 0
    for index, (mark, step, secret) in enumerate(steps):
        at = max(0, at + step)
        one = fact(mark, at, secret)
        detector, changed = detector.feed(IndexedFact(index, one), rules)
        expected += slow.feed(one)
        outages |= {outage.id: outage for outage in changed}
        kind = "gap" if isinstance(one, Gap) else "watch" if isinstance(one, TargetChange) else "observation"
        replay.feed(index, kind, fact_payload(one), rules)
    replay.flush(rules)
    if detector.state.outage is not None:
        outages[detector.state.outage.id] = detector.state.outage
    assert replay.all_outages == outages
    assert replay.detector == detector
    assert replay.observation_count == sum(mark not in CHANGES for mark, _, _ in steps)
    assert quick.result(outages.values()) == slow.result(outages.values())
    for share in SegmentState:
        assert merge_windows((a, b) for a, b, s in seen if s is share) == merge_windows(
            (a, b) for a, b, s in expected if s is share
        )


@pytest.mark.parametrize("is_inside", [False, True])
def test_an_outage_of_an_unknown_kind_spoils_only_the_window_that_it_touches(is_inside: bool) -> None:
    start = 0 if is_inside else 60 * MINUTE
    replay = PeriodReplay((start, start + 60 * MINUTE), {"mail": 60.0}, Rules(open_after=1, close_after=1))
    for index, mark in enumerate("+-+"):
        observation = observation_of("mail", mark, (index + 1) * MINUTE)
        replay.feed(index, "observation", observation.ended_at, "mail", {**fact_payload(observation)})
    (outage,) = replay.accounts["mail"].replay.all_outages.values()
    subject = {"provider": "lab", "kind": "jmap", "vantage_point": "here"}
    replay.feed(3, "outage", 3 * MINUTE, "mail", {"id": outage.id, **subject})
    replay.flush()
    if not is_inside:
        assert replay.records() == []
        return
    with pytest.raises(ReplayError, match="does not say what it is of"):
        replay.records()
