"""A target followed quickly, held against the rules taken one look at a time."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import example, given
from hypothesis import strategies as st

from mailwatch.analysis.availability import Meter
from mailwatch.analysis.detector import Event, Outage, Proof, Rules, State, advance, advance_proof
from mailwatch.analysis.replay import Course
from mailwatch.analysis.segments import Share, Stretch
from mailwatch.ledger.payloads import payload_of
from mailwatch.model import Cause, Gap, GapReason, Observation, Outcome, WatchChange, WatchEvent
from mailwatch.times import united
from tests.helpers.ledger_factory import MINUTE, SECOND, change, look

WINDOW = (5 * MINUTE, 25 * MINUTE)
MARKS = "+++++++-?xgcie"
"""Up (mostly, with a secret or without), down, offline, a rejected login, a gap; watched as before, at another
interval, no more.
"""
CHANGES = {"c": WatchEvent.CONTINUE, "i": WatchEvent.CHANGE, "e": WatchEvent.END}
STEPS = [MINUTE, MINUTE, MINUTE, 3 * MINUTE, 20 * SECOND, 100, -2 * MINUTE]


def fact(mark: str, at: int, secret: str) -> Observation | Gap | WatchChange:
    if mark in CHANGES:
        return change(CHANGES[mark], at, 2 * MINUTE if mark == "i" else MINUTE)
    if mark == "g":
        return Gap(target="mail", start=at - MINUTE, end=at, reason=GapReason.NOT_RUNNING)
    if mark == "x":
        seen = replace(look("mail", "?", at), cause=Cause.CREDENTIALS, outcome=Outcome.UNKNOWN)
    else:
        seen = look("mail", mark, at)
    # Some name their interval, as those of old records do not.
    interval = {"a": None, "b": 3 * MINUTE}.get(secret, MINUTE)
    return replace(seen, with_login=bool(secret), secret=secret, interval=interval)


def runs(told: str) -> list[tuple[str, int, str]]:
    """Looks a minute apart: "4+a" is four good ones with the secret a, "2-_" two bad ones without."""
    return [(run[1], MINUTE, run[2].strip("_")) for run in told.split() for _ in range(int(run[0]))]


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
def test_what_is_put_off_changes_nothing(
    told: list[tuple[str, int, str]], open_after: int, close_after: int
) -> None:
    rules = Rules(open_after, close_after)
    slow, quick = Meter(*WINDOW, interval=60, infer=True), Meter(*WINDOW, interval=60, infer=True)
    state, proof, outages = State(), Proof(), dict[str, Outage]()
    expected: list[Stretch] = []
    seen: list[Stretch] = []
    course = Course(quick, lambda _target, _fact, stretches: seen.extend(stretches))
    at = 0
    for index, (mark, step, secret) in enumerate(told):
        at = max(0, at + step)
        one = fact(mark, at, secret)
        state, transition = advance(state, Event(index, one), rules)
        proof, proven = advance_proof(proof, index, one, state.is_open)
        expected += slow.add(one)
        for outage in (transition.outage if transition else None, proven):
            if outage is not None:
                outages[outage.id] = outage
        kind = "gap" if isinstance(one, Gap) else "watch" if isinstance(one, WatchChange) else "observation"
        course.take(index, kind, payload_of(one), rules)
    course.settle(rules)
    if state.outage is not None:
        outages[state.outage.id] = state.outage
    assert course.known == outages
    assert (course.state, course.proof, course.looks) == (
        state,
        proof,
        sum(mark not in CHANGES for mark, _, _ in told),
    )
    assert quick.read(outages.values()) == slow.read(outages.values())
    for share in Share:
        assert united((a, b) for a, b, s in seen if s is share) == united(
            (a, b) for a, b, s in expected if s is share
        )
