"""Durations as people write them: 500ms, 5s, 1m, 2h, 1d."""

from __future__ import annotations

import re

DURATION_PATTERN = r"^\d+(\.\d+)?(ms|s|m|h|d)$"

_MILLISECONDS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


def parse_duration(value: object) -> float:
    """Read a duration into seconds. A bare number is refused, since it does not say of what. Raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit; write {value}s, or ms, m, h, d")
    # fullmatch with ASCII digits: $ would let a line feed through, \d Arabic-Indic digits.
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError("is not a duration; write for example 500ms, 5s, 1m, 2h or 1d")
    # Whole milliseconds, so that 0.1s and 100ms are one and the same number.
    return round(float(found[1]) * _MILLISECONDS[found[2]]) / 1000


def written_duration(seconds: float) -> str:
    """Write seconds in the largest unit that holds them as a whole number."""
    milliseconds = round(seconds * 1000)
    unit = max((u for u in _MILLISECONDS if milliseconds % _MILLISECONDS[u] == 0), key=_MILLISECONDS.__getitem__)
    return f"{milliseconds // _MILLISECONDS[unit]}{unit}" if milliseconds else "0s"
