"""How fast the ledger grows, and when its disk is full."""

from __future__ import annotations

import math

import pytest

from mailwatch.analysis.storage_budget import LedgerSizes, storage_budget
from mailwatch.times import DAY_MS

WEEK = 7 * DAY_MS
ROW = 1000


def sizes(*, days: float, packed: float = 0, disk: int | None = 10**9, free: int = 0) -> LedgerSizes:
    """A ledger of so many days of 1,000 entries, of which some are packed to 50 bytes."""
    rows, in_packs = round(1000 * (days - packed)), round(1000 * packed)
    return LedgerSizes(
        rows=rows * ROW, packs=in_packs * 50, free=free, entries=rows + in_packs, packed=in_packs,
        last_day=1000 if days >= 1 else None, disk_free=disk,
    )  # fmt: skip


def test_a_ledger_of_an_hour_cannot_say() -> None:
    found = storage_budget(sizes(days=0.04), WEEK)
    assert (found.bytes_a_day, found.days_until_full) == (None, None)
    assert found.sizes.total == 40_000


def test_rows_that_are_never_packed_fill_the_disk() -> None:
    found = storage_budget(sizes(days=2))
    assert (found.bytes_a_day, found.days_until_full) == (1_000_000, 1000)


@pytest.mark.parametrize(
    ("disk", "days"),
    [
        (2_000_000, 2),  # before the first rows are a week old
        (6_000_000, 5 + 1_000_000 / 70_000),
    ],
)
def test_the_ledger_grows_by_rows_until_the_first_are_packed(disk: int, days: float) -> None:
    found = storage_budget(sizes(days=2, disk=disk), WEEK)
    assert found.bytes_a_day == 1_000_000
    assert found.days_until_full == pytest.approx(days)


def test_from_then_on_it_grows_by_packs_as_they_were_measured() -> None:
    found = storage_budget(sizes(days=107, packed=100, disk=5_000_000, free=500_000), WEEK)
    assert found.bytes_a_day == 50_000
    assert found.days_until_full == pytest.approx(110)


def test_rows_that_wait_to_be_packed_give_room_back() -> None:
    found = storage_budget(sizes(days=17, packed=0, disk=0), WEEK)
    assert found.days_until_full == pytest.approx(10_000 * (ROW - 70) / 70_000)


def test_packs_that_are_dropped_in_time_never_fill_the_disk() -> None:
    year = 365 * DAY_MS
    ledger = sizes(days=107, packed=100, disk=20_000_000)
    assert storage_budget(ledger, WEEK, year).days_until_full == math.inf
    assert storage_budget(sizes(days=107, packed=100, disk=5_000_000), WEEK, year).days_until_full == 100


def test_what_is_not_known_is_not_invented() -> None:
    assert storage_budget(sizes(days=3, disk=None), WEEK).days_until_full is None
    still = LedgerSizes(rows=5000, entries=5, last_day=0, disk_free=10)
    assert storage_budget(still, WEEK).days_until_full == math.inf
