"""Windows: calendar months are right across the change of the clocks, and mistakes are named."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.times import month, parse_window, rfc3339

ROME = ZoneInfo("Europe/Rome")
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("year", "number", "hours"),
    [
        (2026, 1, 31 * 24),
        (2026, 2, 28 * 24),
        (2028, 2, 29 * 24),
        (2026, 3, 743),  # clocks go forward
        (2026, 10, 745),  # clocks go back
        (2026, 12, 31 * 24),
    ],
)
def test_a_month_has_the_hours_that_its_clocks_give_it(year: int, number: int, hours: int) -> None:
    start, end = month(year, number, ROME)
    assert (end - start) / HOUR == hours


def test_a_month_begins_at_midnight_of_its_zone() -> None:
    assert [rfc3339(at) for at in month(2026, 7, ROME)] == [
        "2026-06-30T22:00:00.000Z",
        "2026-07-31T22:00:00.000Z",
    ]


@given(
    year=st.integers(1980, 2060),
    number=st.integers(1, 12),
    zone=st.sampled_from(["Europe/Rome", "America/Sao_Paulo", "Africa/Cairo", "UTC", "Pacific/Auckland"]),
)
def test_months_follow_each_other_without_a_gap(year: int, number: int, zone: str) -> None:
    _, end = month(year, number, ZoneInfo(zone))
    start, _ = month(year + number // 12, number % 12 + 1, ZoneInfo(zone))
    assert end == start


@pytest.mark.parametrize(
    ("text_from", "text_to", "expected"),
    [
        ("2026-01", "2026-02", ("2025-12-31T23:00:00.000Z", "2026-01-31T23:00:00.000Z")),
        ("2026-01-22", "2026-01-23", ("2026-01-21T23:00:00.000Z", "2026-01-22T23:00:00.000Z")),
        ("2026-03-29", "2026-03-30", ("2026-03-28T23:00:00.000Z", "2026-03-29T22:00:00.000Z")),
        (
            "2026-01-22T21:55:00.250+01:00",
            "2026-01-22T21:00:00Z",
            ("2026-01-22T20:55:00.250Z", "2026-01-22T21:00:00.000Z"),
        ),
        ("2026-01", "2026-01-02T00:00:00Z", ("2025-12-31T23:00:00.000Z", "2026-01-02T00:00:00.000Z")),
    ],
)
def test_times_dates_and_months_are_read(text_from: str, text_to: str, expected: tuple[str, str]) -> None:
    start, end = parse_window(text_from, text_to, ROME)
    assert (rfc3339(start), rfc3339(end)) == expected


def test_a_day_whose_midnight_does_not_exist_begins_when_the_clocks_change() -> None:
    start, end = parse_window("2018-11-04", "2018-11-05", ZoneInfo("America/Sao_Paulo"))
    assert rfc3339(start) == "2018-11-04T03:00:00.000Z"
    assert (end - start) / HOUR == 23


def test_a_day_whose_midnight_comes_twice_begins_at_the_first() -> None:
    start, end = parse_window("2026-11-01", "2026-11-02", ZoneInfo("America/Havana"))
    assert rfc3339(start) == "2026-11-01T04:00:00.000Z"
    assert (end - start) / HOUR == 25


@pytest.mark.parametrize(
    ("text_from", "text_to", "message"),
    [
        ("yesterday", "2026-02", r"^from: 'yesterday' is not a date or time; write 2026-01-22T21:55:00\+01:00"),
        ("2026-01", "2026-13", r"^to: '2026-13' is not a date or time \(month must be in 1\.\.12\)"),
        (
            "2026-02-30",
            "2026-03",
            r"^from: '2026-02-30' is not a date or time \(the month has no such day\)",
        ),
        ("2026-02-01T25:00:00Z", "2026-03", r"^from: '2026-02-01T25:00:00Z' is not a date or time; write"),
        ("2026-01-22T10:00", "2026-02", r"^from: .* has no UTC offset"),
        ("2026-01-01", "9999-12-31T24:00", r"^to: "),
        ("٢٠٢٦-٠١", "2026-02", r"^from: "),
        ("2026-01\n", "2026-02", r"^from: "),
        ("", "2026-02", r"^from: "),
        ("2026-02", "2026-01", r"^to \(2026-01\) must be later than from \(2026-02\)"),
        ("2026-01-22", "2026-01-22", r"one day ends at the next date"),
    ],
)
def test_a_faulty_window_is_refused_with_advice(text_from: str, text_to: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_window(text_from, text_to, ROME)
