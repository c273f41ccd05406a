"""Maintenance: when it is, since when it was announced, and that it hides nothing."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.analysis.availability import availability
from mailwatch.analysis.maintenance import (
    Announcement,
    Announcements,
    MaintenanceRule,
    RecurrenceRule,
    check_rule,
    windows_of_rule,
)
from mailwatch.analysis.recurrence import InvalidRuleError
from mailwatch.times import Millis, Window, merge_windows, overlap_length, subtract_windows

HOUR = 3_600_000
ROME = ZoneInfo("Europe/Rome")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def ms(text: str) -> Millis:
    """Write a time in UTC."""
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)


def when(**keys: Any) -> RecurrenceRule:
    made = RecurrenceRule.canonical(**{"timezone": "Europe/Rome", **keys})
    check_rule(made)
    return made


def starts(rule: RecurrenceRule, first: str, until: str) -> list[str]:
    """The starts between two days of UTC, in UTC, without the year."""
    found = windows_of_rule(rule, ms(first), ms(until))
    return [f"{EPOCH + timedelta(milliseconds=begin):%m-%d %H:%M}" for begin, _ in found]


SUNDAYS = {"rrule": "FREQ=WEEKLY;BYDAY=SU;BYHOUR=3", "start": "2026-01-04T03:00", "duration": HOUR}


# Wall clocks.


@pytest.mark.parametrize(
    "rule",
    [SUNDAYS, {"cron": "0 3 * * 0", "duration": HOUR}, {"cron": "0 3 * * sun", "duration": HOUR}],
    ids=["rrule", "cron", "named"],
)
def test_a_weekly_window_keeps_its_wall_clock_through_both_changes(rule: dict[str, Any]) -> None:
    weekly = when(**rule)
    # The clocks change on Sunday 29 March at 2 o'clock and on Sunday 25 October at 3.
    assert starts(weekly, "2026-03-20", "2026-04-06") == ["03-22 02:00", "03-29 01:00", "04-05 01:00"]
    assert starts(weekly, "2026-10-16", "2026-11-02") == ["10-18 01:00", "10-25 02:00", "11-01 02:00"]


@pytest.mark.parametrize(
    "rule",
    [
        {"rrule": "FREQ=DAILY", "start": "2026-01-01T02:30", "duration": HOUR},
        {"cron": "30 2 * * *", "duration": HOUR},
    ],
    ids=["rrule", "cron"],
)
def test_skipped_times_use_the_offset_before_and_repeated_times_the_first(
    rule: dict[str, Any],
) -> None:
    daily = when(**rule)
    # 02:30 on 29 March is 01:30 UTC, which the clock on the wall calls 03:30.
    assert starts(daily, "2026-03-28", "2026-03-31") == ["03-28 01:30", "03-29 01:30", "03-30 00:30"]
    # 02:30 on 25 October comes at 00:30 and at 01:30 UTC.
    assert starts(daily, "2026-10-24", "2026-10-27") == ["10-24 00:30", "10-25 00:30", "10-26 01:30"]


def test_a_window_keeps_its_duration_while_the_clocks_change() -> None:
    daily = when(rrule="FREQ=DAILY", start="2026-01-01T01:00", duration=4 * HOUR)
    for day in ("2026-03-29", "2026-10-25"):
        ((begin, end),) = windows_of_rule(daily, ms(f"{day}T02:00"), ms(f"{day}T03:00"))
        assert end - begin == 4 * HOUR


def test_a_single_window_is_as_long_as_the_clocks_make_it() -> None:
    spring = when(start="2026-03-29T01:00", end="2026-03-29T04:00")
    assert list(windows_of_rule(spring, 0, ms("2100-01-01"))) == [(ms("2026-03-29T00:00"), ms("2026-03-29T02:00"))]
    autumn = when(start="2026-10-25 01:00", end="2026-10-25 04:00:00")
    assert list(windows_of_rule(autumn, 0, ms("2100-01-01"))) == [(ms("2026-10-24T23:00"), ms("2026-10-25T03:00"))]


@given(
    rule=st.sampled_from(
        [
            {"rrule": "FREQ=DAILY;BYHOUR=2,14;BYMINUTE=30", "start": "2020-01-01T00:00"},
            {"rrule": "FREQ=MONTHLY;BYDAY=-1SU;BYHOUR=2;BYMINUTE=15", "start": "2020-01-01T00:00"},
            {"rrule": "FREQ=WEEKLY;INTERVAL=2;BYDAY=SU,WE", "start": "2020-01-05T02:59"},
            {"cron": "30 2,14 * * *"},
            {"cron": "59 2 * 3,10 0"},
        ]
    ),
    zone=st.sampled_from(["Europe/Rome", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    first=st.datetimes(*map(datetime.fromisoformat, ("2024-01-01", "2027-01-01"))),
    days=st.integers(1, 60),
)
@pytest.mark.slow
def test_each_start_is_the_wall_time_of_the_rule_unless_that_does_not_exist(
    rule: dict[str, Any], zone: str, first: datetime, days: int
) -> None:
    made = when(**rule, timezone=zone, duration=HOUR)
    start = ms(first.isoformat())
    for begin, end in windows_of_rule(made, start, start + days * 24 * HOUR):
        assert begin < start + days * 24 * HOUR
        assert end > start
        assert end - begin == HOUR
        at = EPOCH + timedelta(milliseconds=begin)
        local = at.astimezone(ZoneInfo(zone))
        minutes = {15, 30} if "15" in rule.get("rrule", "") else {30, 59}
        if local.minute in minutes and local.hour in (2, 14):
            assert local.fold == 0
        else:
            # It fell into a gap: an hour earlier the offset was another.
            assert (at - timedelta(hours=1)).astimezone(ZoneInfo(zone)).utcoffset() != local.utcoffset()


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 400))
def test_windows_asked_in_parts_equal_the_whole(one: int, two: int, three: int) -> None:
    rule = when(**SUNDAYS)
    first, middle, last = sorted(ms("2026-01-01") + day * 24 * HOUR for day in (one, two, three))
    parts = {*windows_of_rule(rule, first, middle), *windows_of_rule(rule, middle, last)}
    assert parts == set(windows_of_rule(rule, first, last))


def test_cron_days_are_those_of_cron_and_not_of_the_scheduler() -> None:
    for text, days in [
        ("0", "SU"),
        ("7", "SU"),
        ("1-5", "MO,TU,WE,TH,FR"),
        ("*/2", "SU,TU,TH,SA"),
        ("6-7", "SU,SA"),
    ]:
        cron = when(cron=f"0 3 * * {text}", duration=HOUR)
        same = when(rrule=f"FREQ=WEEKLY;BYDAY={days}", start="2026-01-01T03:00", duration=HOUR)
        assert starts(cron, "2026-02-01", "2026-03-01") == starts(same, "2026-02-01", "2026-03-01"), text


def test_equal_rules_are_written_the_same() -> None:
    one = when(rrule="rrule:byhour=3;byday=su;freq=weekly", start="2026-01-04 03:00", duration=HOUR)
    assert one == when(rrule="FREQ=WEEKLY;BYDAY=SU;BYHOUR=3", start="2026-01-04T03:00:00", duration=HOUR)
    assert one.rrule == "FREQ=WEEKLY;BYDAY=SU;BYHOUR=3"
    assert when(cron="0  3 * * 7", duration=1).cron == when(cron="0 3 * * SUN", duration=1).cron == "0 3 * * sun"


def test_until_and_count_end_a_rule() -> None:
    until = when(rrule="FREQ=DAILY;UNTIL=20260103", start="2026-01-01T03:00", duration=HOUR)
    assert starts(until, "2025-01-01", "2030-01-01") == ["01-01 02:00", "01-02 02:00", "01-03 02:00"]
    count = when(rrule="FREQ=DAILY;COUNT=2", start="2026-01-01T03:00", duration=HOUR)
    assert starts(count, "2025-01-01", "2030-01-01") == ["01-01 02:00", "01-02 02:00"]


@pytest.mark.slow
def test_any_recurrence_is_answered_within_bounded_work() -> None:
    began = time.process_time()
    hourly = when(cron="0 * * * *", duration=HOUR // 2)
    assert next(iter(windows_of_rule(hourly, 0, 10**15)))
    with pytest.raises(InvalidRuleError, match="never fires"):
        when(rrule="FREQ=DAILY;BYMONTH=2;BYMONTHDAY=30", start="2026-01-01T00:00", duration=HOUR)
    assert list(windows_of_rule(when(**SUNDAYS), ms("2198-12-25"), 10**15))
    assert list(windows_of_rule(when(**SUNDAYS), 10**14, 2 * 10**14)) == []
    assert time.process_time() - began < 20


SOON = "2026-01-01T03:00"


@pytest.mark.parametrize(
    ("keys", "field", "reported"),
    [
        ({}, "", "needs one of rrule, cron, or start and end; keep one"),
        ({"cron": "0 3 * * *", "end": SOON, "start": SOON}, "", "needs one of"),
        ({"rrule": "FREQ=DAILY", "duration": 1}, "", "has no start"),
        ({"end": SOON}, "", "has no start"),
        ({"cron": "0 3 * * *", "duration": 1, "start": SOON}, "start", "does not go with cron"),
        ({"start": SOON, "end": "2026-01-02T03:00", "duration": 1}, "duration", "follows from start and end"),
        ({"cron": "0 3 * * *"}, "", "has no duration"),
        ({"cron": "0 3 * * *", "duration": 1, "timezone": "Europe/Roma"}, "timezone", "is not a time zone"),
        ({"cron": "0 3 * * *", "duration": 1, "timezone": "Europe"}, "timezone", "is not a time zone"),
        ({"cron": "0 3 * * *", "duration": 1, "timezone": "../zone"}, "timezone", "is not a time zone"),
        ({"start": SOON, "end": SOON}, "end", "is not after start"),
        ({"start": "2026-02-30T03:00", "end": SOON}, "start", "is not a local time"),
        ({"start": SOON + "Z", "end": SOON}, "start", "is not a local time"),
        ({"start": "3026-02-03T03:00", "end": SOON}, "start", "must lie between 1970 and 2199"),
        ({"cron": "0 3 * *", "duration": 1}, "cron", "must have five fields"),
        ({"cron": "0 3 * * mo", "duration": 1}, "cron", "'mo' cannot be read"),
        ({"cron": "0 3 * * 8", "duration": 1}, "cron", "'8' is not a day of the week"),
        ({"cron": "0 3 * * fri-mon", "duration": 1}, "cron", "runs backwards"),
        ({"cron": "0 25 * * *", "duration": 1}, "cron", "is not a cron line"),
        ({"cron": "0 3 1 * 0", "duration": 1}, "cron", "differently to different crons"),
        ({"cron": "*/5 * * * *", "duration": 1}, "cron", "more than once an hour"),
        ({"cron": "0 3 30 2 *", "duration": 1}, "cron", "never fires within 10 years"),
        (
            {"cron": "0 3 * * *", "duration": 24 * HOUR},
            "duration",
            "must be shorter than the 24 h between two windows",
        ),
    ],
)
def test_an_impossible_rule_is_refused_with_a_reason(keys: dict[str, Any], field: str, reported: str) -> None:
    with pytest.raises(InvalidRuleError) as caught:
        when(**keys)
    assert caught.value.field == field
    assert reported in str(caught.value)


@pytest.mark.parametrize(
    ("rrule", "reported"),
    [
        ("weekly", "is not an RRULE"),
        ("FREQ=HOURLY", "needs FREQ, one of YEARLY, MONTHLY, WEEKLY, DAILY"),
        ("BYDAY=SU", "needs FREQ"),
        ("FREQ=DAILY;FREQ=DAILY", "has FREQ twice"),
        ("FREQ=DAILY;BYSECOND=1", "BYSECOND is not supported"),
        ("FREQ=DAILY;DTSTART=20260101", "DTSTART is not supported"),
        ("FREQ=DAILY;INTERVAL=0", "INTERVAL must lie between 1 and 999"),
        ("FREQ=DAILY;COUNT=0", "COUNT must lie between 1 and 999"),
        ("FREQ=DAILY;COUNT=1;UNTIL=20260101", "has both COUNT and UNTIL"),
        ("FREQ=DAILY;UNTIL=20260101T000000Z", "UNTIL is a local time"),
        ("FREQ=DAILY;UNTIL=99990101", "is not an RRULE"),
        ("FREQ=DAILY;UNTIL=20250101", "never fires"),
        ("FREQ=DAILY;BYMINUTE=0,30", "more than once an hour"),
        ("FREQ=DAILY;BYHOUR=25", "is not an RRULE"),
        ("FREQ=DAILY;BYHOUR=x", "is not an RRULE"),
        ("FREQ=WEEKLY;BYDAY=XX", "is not an RRULE"),
        ("FREQ=WEEKLY;BYDAY=2SU", "BYDAY takes a number only with"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", "never fires"),
        ("FREQ=YEARLY;BYMONTH=13", "never fires"),
        ("FREQ=DAILY;BYHOUR=3,4", "shorter than the 1 h between"),
    ],
)
def test_an_impossible_rrule_is_refused_with_a_reason(rrule: str, reported: str) -> None:
    with pytest.raises(InvalidRuleError) as caught:
        when(rrule=rrule, start=SOON, duration=HOUR)
    assert reported in str(caught.value)


# Windows as sets of time.

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8)


def moments(spans: Any) -> set[int]:
    return {at for begin, end in spans for at in range(begin, end)}


@given(SPANS, st.integers(0, 60), st.integers(0, 60))
def test_excused_and_counted_time_make_the_whole(spans: list[Window], start: int, end: int) -> None:
    apart = merge_windows(spans)
    assert moments(apart) == moments(spans)
    assert all(one[1] < two[0] for one, two in pairwise(apart))
    outside = list(subtract_windows(apart, start, end))
    assert moments(outside) == set(range(start, end)) - moments(spans)
    assert overlap_length(apart, start, end) == len(set(range(start, end)) & moments(spans))


# Announced before it came.

DAILY = MaintenanceRule(
    name="nightly", recurrence=RecurrenceRule.canonical(timezone="UTC", cron="0 3 * * *", duration=HOUR)
)
ONCE = MaintenanceRule(
    name="move",
    recurrence=RecurrenceRule.canonical(timezone="UTC", start="2026-05-01T10:00", end="2026-05-01T12:00"),
    targets=frozenset({"aa", "bb"}),
    providers=("lab",),
)
T0 = ms("2026-05-01")


def announced_windows(notices: Announcements, target: str = "aa") -> list[tuple[float, float]]:
    """The maintenance of the first of May, in hours."""
    return [((b - T0) / HOUR, (e - T0) / HOUR) for b, e in notices.windows_of(target, T0, T0 + 24 * HOUR)]


@pytest.mark.parametrize(
    ("at", "expected"),
    [(-5, [(10, 12)]), (10, [(10, 12)]), (11, [(11, 12)]), (12, []), (20, [])],
    ids=["before", "just then", "while it lasts", "at its end", "afterwards"],
)
def test_a_window_counts_from_its_announcement_on(at: int, expected: list[tuple[float, float]]) -> None:
    assert announced_windows(Announcements((Announcement(T0 + at * HOUR, (ONCE,)),))) == expected


def test_a_rule_counts_from_its_announcement_until_it_is_withdrawn() -> None:
    first = Announcement(T0 - HOUR, (DAILY, ONCE))
    assert announced_windows(Announcements((first,))) == [(3, 4), (10, 12)]
    assert announced_windows(Announcements((first, Announcement(T0 + 11 * HOUR, ())))) == [(3, 4), (10, 11)]
    assert announced_windows(Announcements((first, Announcement(T0 + 11 * HOUR, (ONCE,))))) == [(3, 4), (10, 12)]
    assert announced_windows(Announcements((Announcement(T0 + 4 * HOUR, (DAILY,)),))) == []


def test_rules_that_overlap_count_as_their_union() -> None:
    over = MaintenanceRule(
        name="over",
        recurrence=RecurrenceRule.canonical(timezone="UTC", start="2026-05-01T11:00", end="2026-05-01T14:00"),
    )
    inside = MaintenanceRule(
        name="inside",
        recurrence=RecurrenceRule.canonical(timezone="UTC", start="2026-05-01T03:15", end="2026-05-01T03:30"),
    )
    notices = Announcements(
        (Announcement(0, (DAILY, ONCE, over, inside)), Announcement(T0 + 12 * HOUR, (over, ONCE)))
    )
    assert announced_windows(notices) == [(3, 4), (10, 14)]
    assert announced_windows(notices, "cc") == [(3, 4), (11, 14)]
    # What is left out of the availability is left out once.
    left_out = notices.windows_of("aa", T0, T0 + 24 * HOUR)
    result = availability([], T0, T0 + 24 * HOUR, interval=60, excluded=left_out)
    assert result.maintenance == 5 * HOUR
    assert result.as_json()["unobserved"] == 19 * HOUR / 1000


def test_only_the_targets_of_a_rule_are_excused() -> None:
    notices = Announcements((Announcement(0, (ONCE, DAILY)),))
    assert announced_windows(notices, "bb") == [(3, 4), (10, 12)]
    assert announced_windows(notices, "cc") == [(3, 4)]
    # A rule for targets that are no longer there is not one for all.
    nobody = MaintenanceRule(name="x", recurrence=DAILY.recurrence, targets=frozenset())
    assert announced_windows(Announcements((Announcement(0, (nobody,)),)), "aa") == []


@pytest.mark.parametrize(
    "rule", [DAILY, ONCE, MaintenanceRule(name="s", recurrence=when(**SUNDAYS), targets=frozenset())]
)
def test_a_rule_on_record_reads_as_the_same(rule: MaintenanceRule) -> None:
    assert MaintenanceRule.from_payload(rule.payload()) == rule


@given(
    st.lists(st.tuples(st.integers(0, 48), st.booleans(), st.booleans()), max_size=5),
    st.integers(0, 48),
    st.integers(0, 48),
    st.integers(0, 48),
)
def test_announced_time_adds_up(changes: list[tuple[int, bool, bool]], one: int, two: int, three: int) -> None:
    found = [
        Announcement(T0 + at * HOUR, (DAILY,) * daily + (ONCE,) * once) for at, daily, once in sorted(changes)
    ]
    notices = Announcements(tuple(found))
    first, middle, last = sorted(T0 + hour * HOUR for hour in (one, two, three))
    parts = merge_windows([*notices.windows_of("aa", first, middle), *notices.windows_of("aa", middle, last)])
    assert parts == notices.windows_of("aa", first, last)
    for begin, end in parts:
        assert found
        assert first <= begin < end <= last
        assert begin >= found[0].at
