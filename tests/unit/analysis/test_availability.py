"""Service levels: an interval with its coverage; what nobody saw is neither up nor down."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mailwatch.analysis.availability import Availability, AvailabilityMeter, availability
from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.analysis.segments import Segmenter
from mailwatch.ledger.payloads import ObservationPayload, fact_payload
from mailwatch.model import ClockSpan, Gap, GapReason, Observation, Outcome
from mailwatch.monotonic import STEP_MS
from mailwatch.times import Millis, Window, merge_windows, overlap_length, subtract_windows

MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR
OUTCOMES = {"+": Outcome.UP, "-": Outcome.DOWN, "?": Outcome.UNKNOWN}


@dataclass(frozen=True)
class Fact:
    fact: Observation | Gap


@dataclass(frozen=True)
class Span:
    """The four times of an outage."""

    last_good: Millis | None
    first_bad: Millis
    last_bad: Millis
    first_good: Millis | None

    @property
    def durations(self) -> Durations:
        known = self.last_good is not None and self.first_good is not None
        return Durations(self.last_bad - self.first_bad, self.first_good - self.last_good if known else None)  # type: ignore[operator]


def observed(sign: str, start: Millis, end: Millis | None = None) -> Observation:
    return Observation(
        target="t",
        scheduled_at=start,
        started_at=start,
        ended_at=start if end is None else end,
        outcome=OUTCOMES[sign],
    )


def facts(signs: str, lasts: Millis = 0, first: Millis = 0) -> list[Fact]:
    """One observation a minute, "_" for a gap at that minute, " " for nothing at all."""
    found: list[Fact] = []
    for index, sign in enumerate(signs):
        at = first + index * MINUTE
        if sign == "_":
            found.append(Fact(Gap(target="t", start=at, end=at + 1, reason=GapReason.MISSED)))
        elif sign != " ":
            found.append(Fact(observed(sign, at, at + lasts)))
    return found


def minutes(result: Availability) -> tuple[float, float, float]:
    return result.up / MINUTE, result.down / MINUTE, result.indeterminate / MINUTE


@pytest.mark.parametrize(
    ("signs", "up", "down", "undecided"),
    [
        ("", 0, 0, 0),
        ("+", 0, 0, 0),  # a single observation says nothing of any duration
        ("++", 1, 0, 0),
        ("--", 0, 1, 0),
        ("+-", 0, 0, 1),
        ("-+", 0, 0, 1),
        ("+--+", 0, 1, 2),
        ("++--++", 2, 1, 2),
        ("?????", 0, 0, 0),  # no data is neither up nor down
        ("++?++", 2, 0, 0),  # ... nor is what lies around an unknown observation
        ("--_--", 0, 2, 0),
        ("-?+", 0, 0, 0),
        ("+ +", 0, 0, 0),  # two intervals apart: one observation is missing
        ("++ ++", 2, 0, 0),
    ],
)
def test_time_is_known_only_between_two_observations_within_the_interval(
    signs: str, up: int, down: int, undecided: int
) -> None:
    result = availability(facts(signs), 0, 10 * MINUTE, interval=60)
    assert minutes(result) == (up, down, undecided)


@pytest.mark.parametrize(
    ("pause", "covered"), [(91_000, 91_000), (91_001, 0)], ids=["on the interval", "too far apart"]
)
def test_coverage_between_observations_reaches_as_far_as_the_schedule_allows(pause: int, covered: int) -> None:
    result = availability([Fact(observed("+", 0)), Fact(observed("+", pause))], 0, HOUR, interval=60)
    assert result.covered == covered


@pytest.mark.parametrize(
    ("signs", "up", "down", "undecided"),
    [
        ("+++", 2 * 50 + 10, 0, 0),
        ("---", 0, 2 * 50 + 10, 0),
        ("+-+", 0, 0, 2 * 50 + 2 * 10),  # the last one waits for the observation after it
        ("++-", 50, 0, 10 + 50),  # the second observation borders on the change
        ("++?", 50, 0, 0),  # ... here on nothing that was seen
        ("+-?", 0, 0, 10 + 50 + 10),
    ],
)
def test_the_time_of_an_observation_is_decided_by_both_its_sides(
    signs: str, up: int, down: int, undecided: int
) -> None:
    result = availability(facts(signs, lasts=10_000), 0, HOUR, interval=60)
    assert (result.up, result.down, result.indeterminate) == (up * 1000, down * 1000, undecided * 1000)


def test_downtime_is_bounded_like_an_outage() -> None:
    """At least from the end of the first bad one to the start of the last, at most between the good ones."""
    result = availability(facts("++---++", lasts=10_000), 0, HOUR, interval=60).as_json()["downtime"]
    assert result == {"min": 4 * 60 - (2 * 60 + 10), "max": (5 * 60 + 10) - 60}


def test_the_json_is_the_contract_to_the_letter() -> None:
    outage = Span(3 * MINUTE, 4 * MINUTE, 5 * MINUTE, 6 * MINUTE)
    result = availability(facts("+++" + "+--+" + "?"), 0, 10 * MINUTE, interval=60, outages=[outage])
    assert result.as_json() == {
        "availability": {"lower": 3 / 6, "upper": 5 / 6},
        "coverage": 0.6,
        "downtime": {"min": 60.0, "max": 180.0},
        "observations": {"up": 5, "down": 2, "unknown": 1},
        "unobserved": 240.0,
        "mttr": 120.0,
        "mtbf": 240.0,
    }


@pytest.mark.parametrize("signs", ["", "?", "????", "_", "+"])
def test_no_data_is_neither_all_up_nor_all_down(signs: str) -> None:
    result = availability(facts(signs), 0, 10 * MINUTE, interval=60).as_json()
    assert result["availability"] == {"lower": None, "upper": None}
    assert result["coverage"] == 0
    assert result["unobserved"] == 600
    assert (result["mttr"], result["mtbf"]) == (None, None)


def test_observations_outside_the_window_decide_its_edges_but_are_not_counted() -> None:
    result = availability(facts("++--"), MINUTE // 2, 2 * MINUTE + MINUTE // 2, interval=60)
    assert minutes(result) == (0.5, 0.5, 1)
    assert (result.observations[Outcome.UP], result.observations[Outcome.DOWN]) == (1, 1)
    assert result.coverage == 1


def test_the_window_is_half_open() -> None:
    result = availability(facts("+++"), 0, 2 * MINUTE, interval=60)
    assert result.observations[Outcome.UP] == 2


def test_an_empty_window_is_refused() -> None:
    with pytest.raises(ValueError, match="the window is empty: its end 5 is not after its start 5"):
        availability([], 5, 5, interval=60)


def test_a_clock_set_back_covers_no_time_twice() -> None:
    result = availability([*facts("+" * 11), *facts("-" * 11, first=5 * MINUTE)], 0, 20 * MINUTE, interval=60)
    assert minutes(result) == (10, 5, 0)


def test_the_observations_beside_a_step_back_of_the_clock_have_nothing_on_that_side() -> None:
    seen = [*facts("++", lasts=10_000, first=30 * MINUTE), *facts("--", lasts=10_000)]
    result = availability(seen, 0, HOUR, interval=60)
    assert (result.up, result.down, result.indeterminate) == (50_000, 0, 0)


DAYS_AHEAD = 20_000 * DAY
"""What the wall clock shows when the steady one is at 0."""


@given(
    signs=st.text("++++++--_", min_size=2, max_size=12),
    lasts=st.integers(1, 20_000),
    steps=st.lists(
        st.tuples(st.integers(1, 12 * MINUTE), st.sampled_from([-40, -4, 4, 40]).map(lambda days: days * DAY)),
        max_size=3,
    ),
)
@example(signs="++++", lasts=20_000, steps=[(MINUTE + 1, 4 * DAY)])  # while an up observation was made
@example(signs="+---", lasts=20_000, steps=[(MINUTE + 1, 4 * DAY)])
@example(signs="+_++", lasts=20_000, steps=[(MINUTE + 1, 4 * DAY)])  # in a gap
def test_a_window_is_as_long_as_it_truly_was_whenever_the_clock_was_set(
    signs: str, lasts: Millis, steps: list[tuple[Millis, Millis]]
) -> None:
    def wall(steady: Millis) -> Millis:
        return DAYS_AHEAD + steady + sum(by for at, by in steps if at <= steady)

    seen: list[Observation | Gap] = []
    for index, sign in enumerate(signs):
        begun, done = index * MINUTE, index * MINUTE + lasts
        clock = ClockSpan("boot", begun, done)
        # A probe never ends before it began; a gap does where the clock was set back in it.
        end = wall(done) if sign == "_" else max(wall(begun), wall(done))
        seen.append(
            Gap(target="t", start=wall(begun), end=end, reason=GapReason.MISSED, clock=clock)
            if sign == "_"
            else replace(observed(sign, wall(begun), end), clock=clock)
        )
    # The window holds all that the clock ever showed.
    one_by_one, amid_others = (
        AvailabilityMeter(DAYS_AHEAD - 1000 * DAY, DAYS_AHEAD + 1000 * DAY, interval=60) for _ in range(2)
    )
    for fact in seen:
        one_by_one.feed(fact)
        payload = fact_payload(fact)
        if not (
            isinstance(fact, Observation)
            and fact.outcome is Outcome.UP
            and amid_others.feed_up(cast(ObservationPayload, payload))
        ):
            amid_others.feed(fact)
    one_by_one.flush()
    amid_others.flush()
    last = seen[-1]
    ended = last.end if isinstance(last, Gap) else last.ended_at
    for meter in (one_by_one, amid_others):
        found = meter.result(ended=ended)
        passed = 1000 * DAY + (len(signs) - 1) * MINUTE + lasts
        tolerance = len(steps) * STEP_MS
        # A clock that was set back in the last probe is seen with the next one: the record ends when it began.
        assert passed - lasts - tolerance <= found.window <= passed + tolerance
        assert found.covered <= (len(signs) - 1) * MINUTE + lasts


def good(wall: Millis, steady: Millis, lasts: Millis = 200, *, set_by: Millis = 0) -> Observation:
    """A good observation; `set_by`: by how much the wall clock is set within it."""
    clock = ClockSpan("boot", steady, steady + lasts)
    return replace(observed("+", wall, wall + lasts + set_by), clock=clock)


def in_run(segmenter: Segmenter, fact: Observation) -> bool:
    return segmenter.feed_up(cast(ObservationPayload, fact_payload(fact)))


def test_a_step_after_a_run_of_good_observations_is_noted_from_its_latest() -> None:
    segmenter = Segmenter(60)
    for index in range(2):
        segmenter.feed(good(DAY + index * MINUTE, index * MINUTE))
    assert [in_run(segmenter, good(DAY + index * MINUTE, index * MINUTE)) for index in (2, 3)] == [True, True]
    later = good(DAY + HOUR + 4 * MINUTE, 4 * MINUTE)
    assert not in_run(segmenter, later)
    segmenter.feed(later)
    ended = DAY + 3 * MINUTE + 200
    assert segmenter.jumps == [(ended, ended + HOUR)]


@pytest.mark.parametrize(
    ("set_by", "continues"), [(0, True), (STEP_MS, True), (STEP_MS + 1, False), (-HOUR, False)]
)
def test_a_step_within_a_good_observation_ends_its_run(set_by: Millis, continues: bool) -> None:
    segmenter = Segmenter(60)
    for index in range(2):
        segmenter.feed(good(DAY + index * MINUTE, index * MINUTE))
    assert in_run(segmenter, good(DAY + 2 * MINUTE, 2 * MINUTE, set_by=set_by)) is continues


def test_mean_times_are_those_of_the_outages_that_end_or_begin_in_the_window() -> None:
    outages = [
        Span(None, 1000, 2000, 3000),  # its beginning is unknown: no time to repair, but a failure
        Span(4000, 5000, 6000, 7000),
        Span(10_000, 11_000, 14_000, 15_000),
        Span(55_000, 59_000, 61_000, 65_000),  # ends after the window
        Span(70_000, 71_000, 72_000, 73_000),
    ]
    result = availability(facts("++"), 0, MINUTE, interval=60, outages=outages)
    assert result.mttr is not None
    assert result.mtbf is not None
    assert (result.mttr.lower, result.mttr.upper) == (2.0, 4.0)
    assert (result.mtbf.lower, result.mtbf.upper) == (15.0, 15.0)
    assert result.as_json()["mttr"] == 3.0


# Properties.

SIGNS = st.text("++++---?_ ", max_size=60)
LASTS = st.integers(0, 40_000)


@given(signs=SIGNS, lasts=LASTS, start=st.integers(0, HOUR), length=st.integers(1, HOUR))
def test_the_bounds_are_in_order(signs: str, lasts: int, start: int, length: int) -> None:
    result = availability(facts(signs, lasts), start, start + length, interval=60)
    assert result.coverage is not None
    assert 0 <= result.coverage <= 1
    assert (result.lower is None) == (result.upper is None) == (result.covered == 0)
    if result.lower is not None and result.upper is not None:
        assert 0 <= result.lower <= result.upper <= 1


@given(signs=SIGNS, lasts=LASTS, cut=st.integers(1, HOUR - 1))
def test_the_halves_of_a_window_add_up_to_it(signs: str, lasts: int, cut: int) -> None:
    seen = facts(signs, lasts)
    whole, left, right = (
        availability(seen, start, end, interval=60) for start, end in [(0, HOUR), (0, cut), (cut, HOUR)]
    )
    for part in ("up", "down", "indeterminate"):
        assert getattr(whole, part) == getattr(left, part) + getattr(right, part)
    assert whole.observations == {o: left.observations[o] + right.observations[o] for o in Outcome}


@given(
    signs=st.text("+-", min_size=2, max_size=40),
    lasts=LASTS,
    saw=st.floats(0, 1),
    changed=st.floats(0, 1),
)
def test_the_true_downtime_lies_between_the_bounds(signs: str, lasts: int, saw: float, changed: float) -> None:
    """Each observation sees the truth at some moment in it; between two that differ it changes at some moment."""
    truth, moment = 0, round(lasts * saw)
    change = round(MINUTE * changed)
    for before, after in pairwise(signs):
        truth += {"--": MINUTE, "+-": MINUTE - change, "-+": change, "++": 0}[before + after]
    result = availability(facts(signs, lasts), 0, HOUR, interval=60)
    # The rest of the first one and the beginning of the last have no observation beyond them to decide them.
    edges = (lasts - moment) * (signs[0] == "-") + moment * ("-" in signs[-2:])
    assert result.down <= truth <= result.down + result.indeterminate + edges


# Maintenance.

WINDOWS = st.lists(st.tuples(st.integers(-HOUR, 2 * HOUR), st.integers(0, HOUR)), max_size=4).map(
    lambda spans: merge_windows((start, start + length) for start, length in spans)
)


def test_maintenance_is_left_out_and_shown_separately() -> None:
    result = availability(facts("++++++"), 0, 10 * MINUTE, interval=60, excluded=[(MINUTE, 3 * MINUTE)])
    assert minutes(result) == (3, 0, 0)
    assert result.coverage == 3 / 8
    assert (result.as_json()["maintenance"], result.as_json()["unobserved"]) == (120.0, 300.0)


def test_unobserved_time_during_maintenance_is_no_lack_of_coverage() -> None:
    result = availability(facts("+++  +++"), 0, 7 * MINUTE, interval=60, excluded=[(2 * MINUTE, 5 * MINUTE)])
    assert result.coverage == 1
    assert availability([], 0, HOUR, interval=60, excluded=[(0, HOUR)]).coverage is None
    nothing_else = RollingAvailability(interval=60, excluded=lambda start, end: [(start, end)])
    for observation in (observed("+", 0), observed("+", MINUTE)):
        nothing_else.feed(observation)
    assert nothing_else.ratio(DAY, MINUTE).coverage is None


def test_an_outage_that_lies_in_maintenance_as_a_whole_is_no_failure() -> None:
    outages = [Span(4000, 5000, 6000, 7000), Span(10_000, 11_000, 14_000, 15_000)]
    for excluded, failures in (((4500, 6500), 1), ((5500, 6500), 2)):
        result = availability(facts("++"), 0, MINUTE, interval=60, outages=outages, excluded=[excluded])
        assert result.mtbf is not None
        assert result.mtbf.lower == result.up / 1000 / failures


@given(signs=SIGNS, lasts=LASTS, excluded=WINDOWS, start=st.integers(0, HOUR), length=st.integers(1, HOUR))
def test_excluded_and_counted_and_unobserved_make_the_window(
    signs: str, lasts: int, excluded: tuple[Window, ...], start: int, length: int
) -> None:
    seen = facts(signs, lasts)
    result = availability(seen, start, start + length, interval=60, excluded=excluded)
    unobserved = round(result.as_json()["unobserved"] * 1000)
    assert result.covered + result.maintenance + unobserved == length
    assert unobserved >= 0
    assert result.maintenance == overlap_length(excluded, start, start + length)
    # What is counted is what would be counted of the pieces that remain.
    pieces = [availability(seen, b, e, interval=60) for b, e in subtract_windows(excluded, start, start + length)]
    for part in ("up", "down", "indeterminate"):
        assert getattr(result, part) == sum(getattr(piece, part) for piece in pieces)


# Rolling windows.


def filled(
    signs: str, every: Millis, lasts: Millis = 0, excluded: tuple[Window, ...] = ()
) -> tuple[RollingAvailability, list[Observation]]:
    starts = [1000 * DAY + index * every for index in range(len(signs))]
    probed = [observed(sign, start, start + lasts) for sign, start in zip(signs, starts, strict=True)]
    buckets = RollingAvailability(
        interval=every / 1000,
        excluded=lambda start, end: merge_windows((max(b, start), min(e, end)) for b, e in excluded if b < end),
    )
    for observation in probed:
        buckets.feed(observation)
    return buckets, probed


def test_before_any_observation_the_rolling_ratio_is_no_data() -> None:
    result = RollingAvailability(interval=60).ratio(DAY, 1000 * DAY)
    assert (result.lower, result.upper, result.coverage) == (None, None, 0)


@pytest.mark.parametrize("signs", ["?" * 10, "+", "+?+?+"])
def test_unknown_observations_alone_leave_no_data(signs: str) -> None:
    buckets, _ = filled(signs, MINUTE)
    assert buckets.ratio(DAY, 1000 * DAY + HOUR).lower is None


@given(
    signs=st.lists(st.sampled_from(["+" * 40, "-" * 7, "?" * 3, "-+-", "+?"]), max_size=8).map("".join),
    lasts=st.integers(0, 90_000),
    window=st.sampled_from([DAY, 7 * DAY, 30 * DAY, 90 * DAY]),
    later=st.integers(1, 100 * DAY),
    spans=st.lists(st.tuples(st.integers(0, 10 * DAY), st.integers(0, 2 * DAY)), max_size=3),
)
def test_a_rolling_window_is_the_availability_from_its_first_bucket_on(
    signs: str, lasts: int, window: int, later: int, spans: list[Window]
) -> None:
    every = 47 * MINUTE
    excluded = merge_windows((1000 * DAY + start, 1000 * DAY + start + length) for start, length in spans)
    buckets, seen = filled(signs, every, lasts, excluded)
    now = 1000 * DAY + len(signs) * every + later
    bucket = HOUR if window <= 7 * DAY else 6 * HOUR
    result = buckets.ratio(window, now)
    start = (now - window) // bucket * bucket
    exact = availability(map(Fact, seen), start, now, interval=every / 1000, excluded=excluded)
    assert (result.lower, result.upper) == (exact.lower, exact.upper)
    assert result.coverage == pytest.approx(exact.coverage)


def test_observations_older_than_the_window_are_dropped() -> None:
    buckets, _ = filled("-" * 48 + "+" * 49, HOUR)
    now = 1000 * DAY + 96 * HOUR
    assert buckets.ratio(DAY, now).lower == 1
    assert buckets.ratio(7 * DAY, now).lower == pytest.approx(48 / 95, abs=0.02)


def test_ninety_days_are_remembered() -> None:
    buckets, _ = filled("-" * 25 + "+" * (89 * 24), HOUR)
    result = buckets.ratio(90 * DAY, 1090 * DAY)
    assert result.lower == pytest.approx(89 / 90, abs=0.001)
    assert result.coverage == pytest.approx(1, abs=0.001)


def test_a_clock_set_back_never_covers_more_than_all() -> None:
    buckets, seen = filled("+" * 600, MINUTE)
    for observation in seen:
        buckets.feed(observation)
    result = buckets.ratio(DAY, 1000 * DAY + 10 * HOUR)
    assert result.coverage is not None
    assert result.coverage <= 1
    assert result.upper == 1


def test_a_clock_that_was_years_ahead_does_not_blind_the_windows() -> None:
    buckets, _ = filled("++", MINUTE)
    for index in range(60):
        buckets.feed(observed("+", 3000 * DAY + index * MINUTE))
    for index in range(61):
        buckets.feed(observed("-", 1001 * DAY + index * MINUTE))
    for window in (DAY, 90 * DAY):
        result = buckets.ratio(window, 1001 * DAY + HOUR)
        assert (result.lower, result.upper) == (0, 0)
        assert result.coverage is not None
        assert result.coverage > 0


def test_a_window_longer_than_is_remembered_is_refused() -> None:
    buckets, _ = filled("++", MINUTE)
    with pytest.raises(ValueError, match="the longest window is 7776000000 ms"):
        buckets.ratio(91 * DAY, 1000 * DAY)


@pytest.mark.slow
def test_ten_thousand_targets_fit() -> None:
    def watched() -> RollingAvailability:
        buckets = RollingAvailability(interval=HOUR / 1000)
        for index in range(91 * 24):
            buckets.feed(observed("+-"[index % 5 == 0], index * HOUR, index * HOUR + 500))
        return buckets

    watched()
    tracemalloc.start()
    kept = [watched() for _ in range(5)]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size / len(kept) <= 10_000


@pytest.mark.parametrize("signs", ["", "?", "????", "_", "+"])
def test_unobserved_time_has_no_downtime(signs: str) -> None:
    result = availability(facts(signs), 0, 10 * MINUTE, interval=60)
    assert result.public_json() == result.as_json() | {"downtime": {"min": None, "max": None}, "mtbf": None}


def test_observed_downtime_agrees_with_the_evidence() -> None:
    for signs in ("+++", "+++---+", "+-?"):
        result = availability(facts(signs), 0, 10 * MINUTE, interval=60)
        assert result.public_json() == result.as_json()


def test_failures_too_far_apart_to_cover_anything_give_no_time_between_them() -> None:
    outage = Span(3 * MINUTE, 4 * MINUTE, 5 * MINUTE, 6 * MINUTE)
    result = availability(facts(""), 0, 10 * MINUTE, interval=60, outages=[outage]).public_json()
    assert (result["mtbf"], result["downtime"]) == (None, {"min": None, "max": None})
