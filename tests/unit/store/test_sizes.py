"""What the ledger takes on disk, measured on real files."""

from __future__ import annotations

from pathlib import Path

import pytest

from mailwatch.store.sizes import SizeMeter
from mailwatch.store.sqlite import database, write_ahead_log
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, write

START = 1_767_225_600_000


@pytest.mark.parametrize(("hours", "last_day"), [(1, None), (48, 24 * 60)])
def test_the_forms_add_up_to_the_files(tmp_path: Path, hours: int, last_day: int | None) -> None:
    end = START + hours * HOUR
    store = write(tmp_path, {"mail": lambda _: "+"}, START, end, every=500, durable=False)
    meter = SizeMeter(tmp_path)
    try:
        found = meter.measure(end)
        files = database(tmp_path).stat().st_size, write_ahead_log(tmp_path).stat().st_size
        assert found.log == files[1]
        # The log may hold pages that the file has not yet.
        assert found.rows + found.free >= files[0]
        assert found.rows > found.entries * 500
        assert (found.entries, found.packed, found.packs) == (hours * 60 + 1, 0, 0)
        assert found.last_day is None if last_day is None else found.last_day == pytest.approx(last_day, abs=1)
        assert found.disk_free
    finally:
        meter.close()
        store.close()


def test_a_day_without_an_entry_has_none(tmp_path: Path) -> None:
    store = write(tmp_path, {"mail": lambda _: "+"}, START, START + 5 * MINUTE, durable=False)
    meter = SizeMeter(tmp_path)
    try:
        assert meter.measure(START + 3 * DAY).last_day == 0
    finally:
        meter.close()
        store.close()
