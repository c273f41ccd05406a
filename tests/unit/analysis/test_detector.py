"""Outages: dated truly, bounded honestly, the same on every replay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mailwatch.analysis.detector as detector_module
from mailwatch.analysis.detector import Detector, IndexedFact, State, detect, next_delay
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_counters import MAX_REPLIES
from mailwatch.analysis.outage_record import outage_from_payload
from mailwatch.analysis.public_json import outage_json
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    Fact,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Phase,
    Rules,
)
from mailwatch.times import Millis, rfc3339
from tests.helpers.records import json_of, made_record, payload_of

MINUTE = 60_000
AT_ONCE = Rules(open_after=1, close_after=1)
OUTCOMES = {"+": Outcome.UP, "-": Outcome.DOWN, "?": Outcome.UNKNOWN}


def observed(sign: str, start: Millis, end: Millis | None = None, **more: Any) -> Observation:
    outcome = OUTCOMES[sign]
    cause = {Outcome.DOWN: Cause.TIMEOUT, Outcome.UNKNOWN: Cause.OFFLINE}.get(outcome)
    facts: dict[str, Any] = {
        "target": "lab-imap",
        "scheduled_at": start,
        "started_at": start,
        "ended_at": start if end is None else end,
        "outcome": outcome,
        "cause": cause,
        "failed_phase": Phase.CONNECT if outcome is Outcome.DOWN else None,
    }
    return Observation(**{**facts, **more})


def events(signs: str, lasts: Millis = 1000) -> list[IndexedFact]:
    """One observation a minute, "_" for a gap that fills the time since the observation before."""
    found = []
    for index, sign in enumerate(signs):
        start = index * MINUTE
        if sign == "_":
            gap = Gap(target="lab-imap", start=start - MINUTE + lasts, end=start, reason=GapReason.MISSED)
            found.append(IndexedFact(index, gap))
        else:
            found.append(IndexedFact(index, observed(sign, start, start + lasts)))
    return found


def minutes(outages: list[Outage]) -> list[tuple[int, int | None]]:
    return [(o.first_bad // MINUTE, None if o.first_good is None else o.first_good // MINUTE) for o in outages]


def states(signs: str, rules: Rules) -> list[State]:
    found, detector = [], Detector()
    for event in events(signs):
        detector, _ = detector.feed(event, rules)
        found.append(detector.state)
    return found


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ("", []),
        ("++++", []),
        ("+-+", [(1, 2)]),
        ("+--+", [(1, 3)]),
        ("+-?-+", [(1, 4)]),  # our own trouble neither confirms nor clears
        ("+-?+", [(1, 3)]),
        ("+-_-+", [(1, 4)]),
        ("+-", [(1, None)]),
        ("-+", [(0, 1)]),  # down before we ever saw it up
        ("???", []),  # no data is neither up nor down
        ("_", []),
        ("+-+-+", [(1, 2), (3, 4)]),
    ],
)
def test_one_observation_opens_and_one_closes_when_the_rules_say_so(signs: str, expected: object) -> None:
    assert minutes(detect(events(signs), AT_ONCE)) == expected


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ("+--+", []),  # not confirmed
        ("+--+--+--+", []),  # an up observation breaks the streak
        ("+---++", [(1, 4)]),  # dated to the first failure and the first success, not to the decision
        ("+-?-_-?+_+", [(1, 7)]),  # unknown observations and gaps do not break a streak
        ("+-??__-??", []),  # ... nor do they count in it
        ("+---+", [(1, None)]),  # not yet confirmed as over
        ("+---+-++", [(1, 6)]),  # a single success inside does not end it
        ("+---+?+", [(1, 4)]),
        ("+---+?", [(1, None)]),
        ("+---++---++", [(1, 4), (6, 9)]),
    ],
)
def test_three_open_and_two_close_by_default(signs: str, expected: object) -> None:
    assert minutes(detect(events(signs), Rules())) == expected


@pytest.mark.parametrize(
    ("signs", "phase", "expected"),
    [
        ("+-?-?-?", Phase.CONNECT, []),  # the server greets in between
        ("+-?---?-", Phase.GREETING, [(3, None)]),
        ("+-?-?-?", Phase.MAILBOX, [(1, None)]),  # a greeting says nothing of the mailbox
        ("+-?-?-?", Phase.AUTH, []),  # it rejects the login, which is an answer
        ("---?", Phase.CONNECT, [(0, None)]),  # what is open stays open until the login works
    ],
)
def test_a_login_held_back_shows_that_the_server_greets(
    signs: str, phase: Phase, expected: list[tuple[int, int | None]]
) -> None:
    found = []
    for event in events(signs):
        fact = event.fact
        assert isinstance(fact, Observation)
        if fact.outcome is Outcome.UNKNOWN:
            fact = replace(fact, cause=Cause.CREDENTIALS, with_login=phase is Phase.AUTH)
        elif fact.outcome is Outcome.DOWN:
            fact = replace(fact, failed_phase=phase)
        found.append(IndexedFact(event.index, fact))
    assert minutes(detect(found, Rules())) == expected


@pytest.mark.parametrize(
    ("signs", "names"),
    [
        ("+", "up"),
        ("?", "unknown"),
        ("_", "unknown"),
        ("+-", "up suspect"),
        ("+-+", "up suspect up"),
        ("+---", "up suspect suspect down"),
        ("---++", "suspect suspect down recovering up"),
        ("---+-", "suspect suspect down recovering down"),
        ("+?-", "up unknown suspect"),
        ("---?-", "suspect suspect down unknown down"),
        ("---+?+", "suspect suspect down recovering unknown up"),
        ("+_+", "up unknown up"),
    ],
)
def test_the_state_follows_the_latest_event(signs: str, names: str) -> None:
    assert [state.name for state in states(signs, Rules())] == names.split()


def test_nothing_is_known_before_the_first_observation() -> None:
    assert State().name == "unknown"
    assert State().outage is None


def test_an_outage_stays_open_while_there_are_no_probes() -> None:
    after = states("+---?_", Rules())[-1]
    assert after.name == "unknown"
    assert after.outage is not None


def test_the_start_is_the_first_failed_probe_and_not_the_decision() -> None:
    detector, changed = Detector(), tuple[Outage, ...]()
    for event in events("++---"):
        detector, changed = detector.feed(event, Rules())
    (opened,) = changed
    assert opened.first_bad == 2 * MINUTE + 1000
    assert opened.last_good == 1 * MINUTE
    assert opened.first_index == 1
    assert opened.first_good is None


def test_no_outage_is_too_short_to_be_recorded() -> None:
    facts = [observed("+", 0, 10), observed("-", 20, 30), observed("+", 40, 50)]
    (outage,) = detect([IndexedFact(i, fact) for i, fact in enumerate(facts)], AT_ONCE)
    assert (outage.last_good, outage.first_bad, outage.last_bad, outage.first_good) == (0, 30, 30, 50)


def test_counts_cover_the_time_from_the_last_up_to_the_first_up_observation() -> None:
    (outage,) = detect(events("+?-?--+-++?"), Rules())
    assert (outage.down, outage.up, outage.unknown) == (4, 1, 2)
    assert (outage.first_index, outage.last_index) == (0, 8)


def test_unknown_observations_before_anything_was_known_belong_to_no_outage() -> None:
    (outage,) = detect(events("??_?---++"), Rules())
    assert (outage.unknown, outage.unobserved, outage.first_index) == (0, 0, 4)
    assert outage.last_good is None


def test_an_open_outage_counts_observations_so_far() -> None:
    outage = states("+---+?", Rules())[-1].outage
    assert outage is not None
    assert (outage.down, outage.up, outage.unknown, outage.last_index) == (3, 1, 1, 5)


@pytest.mark.parametrize(
    ("signs", "largest_gap", "unobserved"),
    [
        ("+---++", 59_000, 0),
        ("+-?--++", 119_000, 119_000),  # an unknown observation did not see the server
        ("+-_--++", 119_000, 119_000),
        ("+?---++", 119_000, 119_000),
        ("+---?++", 119_000, 119_000),
        ("+---+?+", 59_000, 0),  # after the first good observation it is over
        ("+-?-?-++", 119_000, 238_000),
        ("+-?_?--++", 239_000, 239_000),
        ("---++", 59_000, 0),
        ("+---?", 60_000, 60_000),  # still open: as far as the latest event
        ("+---__", 119_000, 119_000),
    ],
)
def test_time_without_an_observation_is_stated(signs: str, largest_gap: int, unobserved: int) -> None:
    (outage,) = detect(events(signs), Rules())
    assert (outage.largest_gap, outage.unobserved) == (largest_gap, unobserved)


def test_causes_phases_and_the_first_detail_are_those_of_the_failures() -> None:
    facts = [
        observed("+", 0),
        observed("-", 1, cause=Cause.TLS, failed_phase=Phase.TLS, detail="certificate expired"),
        observed("-", 2, cause=Cause.TIMEOUT, failed_phase=Phase.AUTH, detail="no answer"),
        observed("?", 3, cause=Cause.OFFLINE),
        observed("-", 4, cause=Cause.TIMEOUT, failed_phase=Phase.CONNECT),
    ]
    (outage,) = detect([IndexedFact(i, fact) for i, fact in enumerate(facts)], Rules())
    payload = payload_of(outage, "lab", Kind.IMAP, "home")
    assert list(payload["causes"].items()) == [("timeout", 2), ("tls", 1)]
    assert list(payload["phases"].items()) == [("auth", 1), ("connect", 1), ("tls", 1)]
    assert payload["first_detail"] == "certificate expired"


def test_the_latest_distinct_replies_are_recorded() -> None:
    def replied(at: Millis, *words: str) -> Observation:
        return observed("-", at, attempts=(Attempt(started_at=at, ended_at=at, replies=words),))

    facts = [replied(at, "* OK hello", f"NO {at % 7}") for at in range(20)] + [replied(20)]
    (outage,) = detect([IndexedFact(i, fact) for i, fact in enumerate(facts)], Rules())
    assert outage.replies == ("NO 1", "NO 2", "NO 3", "NO 4", "NO 5")
    assert len(outage.replies) == MAX_REPLIES


def test_the_id_is_that_of_the_first_bad_entry_and_of_the_target() -> None:
    def ids(target: str, first: int) -> list[str]:
        facts = [replace(observed("-", at), target=target) for at in range(4)]
        return [o.id for o in detect([IndexedFact(first + i, fact) for i, fact in enumerate(facts)], Rules())]

    assert ids("a", 7) == ids("a", 7)
    assert len({*ids("a", 7), *ids("a", 8), *ids("b", 7)}) == 3
    assert [len(found) for found in ids("a", 7)] == [12]


def test_the_id_does_not_change_between_opening_and_closing() -> None:
    detector, found = Detector(), list[Outage]()
    for event in events("+---?+-++"):
        detector, changed = detector.feed(event, Rules())
        found += changed
    opened, closed = found
    assert opened.id == closed.id
    assert (opened.first_good, closed.first_good) == (None, 7 * MINUTE + 1000)


def test_a_clock_set_back_makes_no_negative_durations() -> None:
    facts = [
        observed("+", 9000, 9100),
        observed("-", 5000, 5100),
        observed("-", 3000, 3100),
        observed("+", 1000, 1100),
    ]
    (outage,) = detect([IndexedFact(i, fact) for i, fact in enumerate(facts)], AT_ONCE)
    assert outage.last_good is not None
    assert outage.first_good is not None
    assert outage.last_good <= outage.first_bad <= outage.last_bad <= outage.first_good
    assert outage.largest_gap >= 0
    assert outage.unobserved >= 0


# How soon the next observation comes.


def delays(signs: str, interval: float = 60.0, rules: Rules | None = None) -> list[float]:
    rules = rules or Rules(open_after=5, close_after=4)
    return [next_delay(state, interval, rules) for state in states(signs, rules)]


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        ("++", [60, 60]),
        ("+?_", [60, 60, 60]),  # nothing was bad: no hurry
        ("+----", [60, 5, 10, 20, 20]),
        ("+-?-", [60, 5, 10, 20]),  # an unknown observation does not put an end to the doubt
        ("+-+-", [60, 5, 60, 5]),  # a new doubt begins at the first step
        ("?-", [60, 5]),
        ("-----", [5, 10, 20, 20, 20]),
        ("------", [5, 10, 20, 20, 20, 20]),  # down: the end is to be dated tightly too
        ("-----?", [5, 10, 20, 20, 20, 20]),
        ("-----+++", [5, 10, 20, 20, 20, 5, 10, 20]),
        ("-----+?+", [5, 10, 20, 20, 20, 5, 10, 20]),
        ("-----+-+", [5, 10, 20, 20, 20, 5, 20, 5]),
        ("-----++++", [5, 10, 20, 20, 20, 5, 10, 20, 60]),
    ],
)
def test_doubtful_targets_are_probed_sooner(signs: str, expected: list[float]) -> None:
    assert delays(signs) == expected


def test_no_probe_comes_later_than_the_interval() -> None:
    assert delays("+------", interval=7.0) == [7, 5, 7, 7, 7, 7, 7]


def test_without_recheck_the_interval_is_kept() -> None:
    assert delays("+---+", rules=Rules(recheck=())) == [60] * 5


def test_a_server_that_throttles_is_not_hurried() -> None:
    detector, delays = Detector(), []
    for event in [
        *events("+-"),
        IndexedFact(2, observed("?", 2, cause=Cause.THROTTLED)),
        IndexedFact(3, observed("-", 3)),
    ]:
        detector, _ = detector.feed(event, Rules())
        delays.append(next_delay(detector.state, 60.0, Rules()))
    assert delays == [60, 5, 120, 20]


def test_a_server_that_goes_on_throttling_is_left_alone_for_longer_and_longer() -> None:
    detector, delays = Detector(), []
    for index in range(6):
        detector, _ = detector.feed(IndexedFact(index, observed("?", index, cause=Cause.THROTTLED)), Rules())
        delays.append(next_delay(detector.state, 60.0, Rules()))
    assert delays == [120, 240, 480, 960, 960, 960]
    detector, _ = detector.feed(IndexedFact(6, observed("+", 6)), Rules())
    assert next_delay(detector.state, 60.0, Rules()) == 60


# What is reported of it.

CLOSED = (
    [observed("+", 1_000, 1_200)]
    + [observed("-", at, at + 2_000) for at in (5_000, 10_000, 15_500)]
    + [observed("+", at, at + 250) for at in (20_000, 25_000)]
)


def closed() -> Outage:
    (outage,) = detect([IndexedFact(40 + i, fact) for i, fact in enumerate(CLOSED)], Rules())
    return outage


def test_the_json_is_the_contract_to_the_letter() -> None:
    outage = closed()
    assert json_of(outage, "lab", Kind.IMAP, "home-milan") == {
        "id": outage.id,
        "target": "lab-imap",
        "provider": "lab",
        "kind": "imap",
        "vantage_point": "home-milan",
        "state": "closed",
        "last_good": "1970-01-01T00:00:01.000Z",
        "first_bad": "1970-01-01T00:00:07.000Z",
        "last_bad": "1970-01-01T00:00:15.500Z",
        "first_good": "1970-01-01T00:00:20.250Z",
        "duration": {"min": 8.5, "max": 19.25, "estimate": 13.875, "uncertainty": 4.418},
        "observations": {"down": 3, "up": 0, "unknown": 0},
        "largest_gap": 3.8,
        "unobserved": 0.0,
        "causes": {"timeout": 3},
        "phases": {"connect": 3},
        "ledger": {"first": 40, "last": 44},
    }


def test_the_estimate_is_that_of_the_worked_example() -> None:
    day, hour = 86_400_000, 3_600_000
    good, bad = 21 * hour + 55 * MINUTE, 22 * hour
    last, again = 4 * day + 19 * hour + 55 * MINUTE, 4 * day + 20 * hour
    facts = [observed("+", good), observed("-", bad), observed("-", last), observed("+", again)]
    (outage,) = detect([IndexedFact(i, fact) for i, fact in enumerate(facts)], AT_ONCE)
    duration = json_of(outage, "", Kind.IMAP, "")["duration"]
    assert duration["min"] == (93 * 60 + 55) * 60
    assert duration["max"] == (94 * 60 + 5) * 60
    assert duration["estimate"] == 94 * 3600
    assert duration["uncertainty"] == pytest.approx(4.08 * 60, abs=1)


@pytest.mark.parametrize("signs", ["+---", "---++"])
def test_unknown_bounds_are_null(signs: str) -> None:
    (outage,) = detect(events(signs), Rules())
    reported = json_of(outage, "lab", Kind.IMAP, "home")
    assert reported["duration"] == {"min": 119.0, "max": None, "estimate": None, "uncertainty": None}
    assert (reported["state"], reported["last_good"], reported["first_good"]) == (
        ("open", rfc3339(0), None) if signs == "+---" else ("closed", None, rfc3339(3 * MINUTE + 1000))
    )


def leaves(value: object) -> list[object]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, list):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


@pytest.mark.parametrize("signs", ["+---", "+---++", "---++", "+-?-_-++"])
def test_the_payload_has_no_floats_and_no_enums(signs: str) -> None:
    (outage,) = detect(events(signs), Rules())
    payload = payload_of(outage, "lab", Kind.IMAP, "home")
    assert {type(leaf) for leaf in leaves(payload)} <= {int, str, type(None)}
    assert all(type(key) is str for counts in (payload["causes"], payload["phases"]) for key in counts)


def test_counts_of_an_open_outage_keep_their_order_of_keys() -> None:
    assert list(outage_json(made_record(0, 1))["observations"]) == ["down", "up", "unknown"]
    assert list(outage_json(made_record(0, 1, 2))["observations"]) == ["down", "unknown", "up"]


def test_a_stored_payload_has_the_json_of_the_outage_itself() -> None:
    outage = closed()
    payload = payload_of(outage, "lab", Kind.IMAP, "home")
    reported = json_of(outage, "lab", Kind.IMAP, "home")
    stored = {key: payload[key] for key in sorted(payload)} | {"salt": "00"}
    assert outage_json(outage_from_payload(stored)) == reported
    assert list(outage_json(outage_from_payload(stored))) == list(reported)


# Properties.

RULES = st.builds(Rules, open_after=st.integers(1, 4), close_after=st.integers(1, 4))
SIGNS = st.text("+-?_", max_size=40)


def replayed(
    detector: Detector, facts: list[IndexedFact], rules: Rules
) -> tuple[Detector, list[tuple[Outage, ...]]]:
    """The detector after these facts, and what each of them changed."""
    changes = []
    for fact in facts:
        detector, changed = detector.feed(fact, rules)
        changes.append(changed)
    return detector, changes


def restored(facts: list[IndexedFact], rules: Rules) -> Detector:
    """The detector after a restart, which replays no more than it must.

    The last up observation outside an outage is the whole state; an open outage reports where it begins.
    """
    detector, resume_at = Detector(), 0
    for event in facts:
        detector, _ = detector.feed(event, rules)
        resume_at = event.index if detector.state.name == "up" else resume_at
    state = detector.state
    if state.outage is not None:
        assert resume_at in (0, state.outage.first_index)
        resume_at = state.outage.first_index
    return replayed(Detector(), facts[resume_at:], rules)[0]


def check_restart(facts: list[IndexedFact], rules: Rules, cut: int) -> None:
    """A detector restored at the cut decides on the rest as the one that ran throughout, and ends like it."""
    live, changes = replayed(Detector(), facts, rules)
    after, changes_after = replayed(restored(facts[:cut], rules), facts[cut:], rules)
    assert changes_after == changes[cut:]
    assert after == live


@given(signs=SIGNS, rules=RULES, cut=st.integers(0, 40))
def test_a_restart_at_any_fact_changes_no_decision(signs: str, rules: Rules, cut: int) -> None:
    check_restart(events(signs), rules, cut)


def test_a_detector_that_counts_failures_across_an_up_observation_fails_at_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = events("+--+-")
    check_restart(facts, Rules(), 4)
    on_up = detector_module._on_up

    def counting_on(state: State, *more: Any) -> tuple[State, Outage | None]:
        after, outage = on_up(state, *more)
        return replace(after, streak=state.streak), outage

    monkeypatch.setattr(detector_module, "_on_up", counting_on)
    with pytest.raises(AssertionError):
        check_restart(facts, Rules(), 4)


@given(signs=SIGNS, rules=RULES)
def test_the_live_decisions_are_the_outages_of_the_whole_record(signs: str, rules: Rules) -> None:
    live, changes = replayed(Detector(), events(signs), rules)
    closed = [outage for changed in changes for outage in changed if outage.first_good is not None]
    assert detect(events(signs), rules) == closed + ([live.state.outage] if live.state.outage else [])


@given(signs=SIGNS, rules=RULES)
def test_a_restart_needs_to_replay_only_from_the_last_up_observation(signs: str, rules: Rules) -> None:
    assert restored(events(signs), rules) == replayed(Detector(), events(signs), rules)[0]


@given(signs=SIGNS, rules=RULES)
def test_each_transition_opens_or_closes_and_they_alternate(signs: str, rules: Rules) -> None:
    detector, opened = Detector(), None
    for event in events(signs):
        detector, changed = detector.feed(event, rules)
        for outage in changed:
            if opened is None:
                assert outage.first_good is None
                assert detector.state.outage == outage
                opened = outage.id
            else:
                assert outage.first_good is not None
                assert outage.id == opened
                assert detector.state.outage is None
                opened = None


@given(signs=SIGNS, rules=RULES)
def test_an_outage_never_overlaps_another_of_its_target(signs: str, rules: Rules) -> None:
    found = detect(events(signs), rules)
    for earlier, later in pairwise(found):
        assert earlier.first_good is not None
        assert later.last_good is not None
        assert earlier.last_bad < later.first_bad
        assert earlier.last_index <= later.first_index
        if rules.close_after > 1:
            assert earlier.first_good <= later.last_good


@given(signs=SIGNS, rules=RULES)
def test_the_times_are_in_order_and_the_sums_can_be_checked(signs: str, rules: Rules) -> None:
    for outage in detect(events(signs), rules):
        duration = payload_of(outage, "", Kind.IMAP, "")["duration_ms"]
        assert outage.first_bad <= outage.last_bad
        assert duration["min"] == outage.last_bad - outage.first_bad
        assert outage.down >= rules.open_after
        assert sum(outage.causes.values()) == outage.down
        if outage.last_good is None or outage.first_good is None:
            continue
        assert outage.last_good < outage.first_bad
        assert outage.last_bad < outage.first_good
        assert duration["max"] == outage.first_good - outage.last_good
        assert duration["min"] <= duration["estimate"] <= duration["max"]
        assert 0 <= outage.unobserved <= duration["max"]
        assert 0 < outage.largest_gap <= duration["max"]


@given(signs=SIGNS, rules=RULES)
def test_unknown_observations_and_gaps_decide_nothing(signs: str, rules: Rules) -> None:
    everything = events(signs)
    conclusive = [e for e in everything if isinstance(e.fact, Observation) and e.fact.cause is not Cause.OFFLINE]

    def times(outages: list[Outage]) -> list[tuple[object, ...]]:
        return [(o.id, o.last_good, o.first_bad, o.last_bad, o.first_good) for o in outages]

    assert times(detect(everything, rules)) == times(detect(conclusive, rules))


@st.composite
def watched(draw: Callable[..., Any]) -> tuple[int, int, list[IndexedFact]]:
    """A server that is down exactly in [a, b), and observations that each see it at some moment within them."""
    kinds = st.sampled_from(["conclusive", "conclusive", "conclusive", "unknown", "gap"])
    steps = draw(st.lists(st.tuples(st.integers(1, 900), st.integers(0, 700), kinds), min_size=6, max_size=25))
    total = sum(pause + lasts for pause, lasts, _ in steps)
    a = draw(st.integers(0, total))
    b = draw(st.integers(a + 1, total + 1))
    found: list[IndexedFact] = []
    at = 0
    for pause, lasts, kind in steps:
        start, at = at + pause, at + pause + lasts
        if kind == "gap":
            fact: Observation | Gap = Gap(target="lab-imap", start=start, end=at, reason=GapReason.MISSED)
        else:
            saw = draw(st.integers(start, at))
            sign = "?" if kind == "unknown" else "-" if a <= saw < b else "+"
            fact = observed(sign, start, at)
        found.append(IndexedFact(len(found), fact))
    return a, b, found


@given(watched(), RULES)
def test_the_true_duration_lies_between_the_bounds(
    truth: tuple[int, int, list[IndexedFact]], rules: Rules
) -> None:
    a, b, seen = truth
    found = detect(seen, rules)
    assert len(found) <= 1
    for outage in found:
        last_bad = max(
            e.fact.started_at for e in seen if isinstance(e.fact, Observation) and e.fact.outcome is Outcome.DOWN
        )
        assert outage.last_bad == max(last_bad, outage.first_bad)
        assert outage.last_bad - outage.first_bad <= b - a
        assert a <= outage.first_bad
        assert last_bad <= b
        if outage.last_good is not None:
            assert outage.last_good <= a
        if outage.first_good is not None:
            assert b <= outage.first_good
        if outage.last_good is not None and outage.first_good is not None:
            assert b - a <= outage.first_good - outage.last_good


def test_a_state_does_not_grow_with_the_outage() -> None:
    def size(value: object) -> int:
        return len(repr(value))

    detector, early = Detector(), 0
    for at in range(5000):
        words = (Attempt(started_at=at, ended_at=at, replies=(f"NO {at:06d}",)),)
        observation = observed("?" if at % 5 == 4 else "-", at, attempts=words)
        detector, _ = detector.feed(IndexedFact(at, observation), Rules())
        early = size(detector) if at == 50 else early
    assert size(detector) < early + 100


@pytest.mark.parametrize(("bound", "unseen"), [(10, 3_600_000), (None, 0)])
def test_unobserved_time_over_a_restart_is_settled_once_the_clock_is_known(bound: int | None, unseen: int) -> None:
    """The machine was off for an hour, and began again with a clock that was an hour behind until NTP set it."""

    def at(sign: str, boot: str, clock: int, wall: int, known: int | None) -> Observation:
        return observed(sign, wall, wall + 1000, clock=ClockSpan(boot, clock, clock + 1000, known))

    behind = ClockSpan("b", None, 5000, None)
    gap = Gap(target="lab-imap", start=64_000, end=64_000, reason=GapReason.NOT_RUNNING, clock=behind)
    facts: list[Fact] = [
        at("+", "a", 60_000, 0, 10),
        at("-", "a", 123_000, 63_000, 10),
        gap,
        at("-", "b", 5000, 64_000, None),
        at("-", "b", 65_000, 3_660_000 + 64_000, bound),
        at("+", "b", 125_000, 3_660_000 + 124_000, bound),
    ]
    (outage,) = detect([IndexedFact(index, fact) for index, fact in enumerate(facts)], AT_ONCE)
    assert outage.clock is not None
    assert outage.clock.reboots == 1
    assert unseen <= outage.unobserved <= unseen + 120
    assert unseen <= outage.largest_gap <= unseen + 62_000
    assert (outage.durations.most is None) is (bound is None)
