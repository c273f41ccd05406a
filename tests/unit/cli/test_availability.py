"""The table of `mailwatch availability`: no bound says too much, and no data is no data."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from mailwatch.cli.availability import _table


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
    console = Console(width=200)
    with console.capture() as captured:
        console.print(_table([answer], with_maintenance=False))
    return captured.get()


def test_at_least_is_cut_down_and_at_most_rounded_up() -> None:
    table = shown()
    assert "99.9999%" in table
    assert "99.9991%" in table
    assert "90.0000%" in table
    assert "4 d 5 min" in table
    assert "4 d 7 min" in table
    assert "1 min 30 s" in table
    assert "100.0000%" not in table


def test_without_observations_no_downtime_is_stated() -> None:
    table = shown(
        availability={"lower": None, "upper": None}, coverage=0.0, downtime={"min": None, "max": None}, mttr=None
    )
    assert table.count("no data") == 4
    assert "0 s" not in table
