"""The table of `mailwatch availability`: no bound says too much, and no data is no data."""

from __future__ import annotations

from typing import Any

import pytest

from mailwatch.cli.availability import availability_table
from mailwatch.cli.terminal_format import UTC_ZONE, TerminalFormat


def shown(**changes: Any) -> str:
    answer: Any = {
        "target": "t",
        "from": "2026-01-01T00:00:00.000Z",
        "to": "2026-02-01T00:00:00.000Z",
        "availability": {"lower": 0.99999999, "upper": 0.999990001},
        "coverage": 0.9,
        "downtime": {"min": 345_959.99, "max": 346_000.01},
        "mttr": 90.0,
        **changes,
    }
    table = availability_table([answer], TerminalFormat(UTC_ZONE, "en"), with_maintenance=False)
    return "\n".join(line.plain for line in table.lines(None))


@pytest.mark.parametrize(
    ("lower", "upper", "text"),
    [
        (0.99999, 0.99999999, "99.9990\u2013100 %"),
        (0.94263, 0.94296, "94.26\u201394.30 %"),
        (0.5, 0.7, "50.0\u201370.0 %"),
        (1.0, 1.0, "100 %"),
        (0.0, 0.0, "0 %"),
        (0.9999999, 0.9999999, "99.999 %"),
    ],
)
def test_bounds_have_as_many_decimals_as_they_differ_by(lower: float, upper: float, text: str) -> None:
    assert text in shown(availability={"lower": lower, "upper": upper})


def test_at_least_is_cut_down_and_at_most_rounded_up() -> None:
    table = shown()
    assert "90.0 %" in table
    assert "4 d 5 min" in table
    assert "4 d 7 min" in table
    assert "1 min 30 s" in table
    assert "From 2026-01-01 00:00:00 to 2026-02-01 00:00:00 (UTC)" in table


def test_without_observations_no_downtime_is_stated() -> None:
    table = shown(
        availability={"lower": None, "upper": None}, coverage=0.0, downtime={"min": None, "max": None}, mttr=None
    )
    assert table.count("no data") == 4
    assert "0 s" not in table
