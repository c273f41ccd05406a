"""The drawing of one outage: what was seen as bands, its times as marks, and each look where there is room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mailwatch.evidence.report.sightings import Run
from mailwatch.evidence.report.writing import Writing
from mailwatch.models import Millis

MAX_STROKES = 160
"""More observations than this run into one another; then only the bands are drawn."""
MAX_BANDS = 400
NARROW = 0.16
"""Below this share of the width two times do not fit side by side under the outage."""


def timeline(outage: dict[str, Any], runs: Sequence[Run], writing: Writing) -> dict[str, Any]:
    """Return the drawing, its places between 0 and 1. `outage` is a payload; `looks` is empty for too many."""
    start, end = _window(outage)

    def x(at: Millis) -> float:
        return float(min(1.0, max(0.0, (at - start) / (end - start))))

    shown = [run for run in runs if run.end >= start and run.start <= end]
    looks = [run for run in shown if run.what != "gap"]
    strokes = [
        {"at": x(at), "what": run.what}
        for run in looks
        if sum(one.count for one in looks) <= MAX_STROKES
        for at in _spread(run)
        if start <= at <= end
    ]
    return {"spans": _bands(outage, shown, x), "looks": strokes, "marks": _marks(outage, x, writing)}


def _window(outage: dict[str, Any]) -> tuple[Millis, Millis]:
    """From a little before the outage to a little after it; an open one ends with its last observation."""
    begin = outage["first_bad"] if outage["last_good"] is None else outage["last_good"]
    end = outage["last_bad"] if outage["first_good"] is None else outage["first_good"]
    margin = max(1000, (end - begin) // 12)
    return begin - margin, end + (0 if outage["first_good"] is None else margin)


def _bands(outage: dict[str, Any], runs: list[Run], x: Any) -> list[dict[str, Any]]:
    first, last, good, over = (outage[key] for key in ("first_bad", "last_bad", "last_good", "first_good"))
    bands = [{"kind": "down", "a": x(first), "b": x(last)}]
    if good is not None:
        bands += [{"kind": "edge", "a": x(good), "b": x(first)}, {"kind": "up", "a": 0.0, "b": x(good)}]
    if over is not None:
        bands += [{"kind": "edge", "a": x(last), "b": x(over)}, {"kind": "up", "a": x(over), "b": 1.0}]
    odd = [run for run in runs if run.what in ("unknown", "gap") and run.end > first and run.start < last]
    inside = [run for run in runs if run.what == "up" and first <= run.start < last]
    if len(odd) + len(inside) <= MAX_BANDS:
        bands += [{"kind": run.what, "a": x(run.start), "b": x(run.end)} for run in (*odd, *inside)]
    return bands


def _marks(outage: dict[str, Any], x: Any, writing: Writing) -> list[dict[str, Any]]:
    first, last, good, over = (outage[key] for key in ("first_bad", "last_bad", "last_good", "first_good"))
    narrow = x(last) - x(first) < NARROW
    begin = first if good is None else good
    end = last if over is None else over
    marks = [
        {"at": x(begin), "above": True, "left": False, "text": writing.both(begin)},
        {"at": x(end), "above": True, "left": True, "text": writing.both(end, up=over is not None)},
    ]
    if good is not None:
        marks.append({"at": x(first), "above": False, "left": narrow, "text": writing.clock(first, up=True)})
    if over is not None:
        marks.append({"at": x(last), "above": False, "left": not narrow, "text": writing.clock(last)})
    return marks


def _spread(run: Run) -> list[Millis]:
    """Where the strokes of a run stand: evenly, since runs keep no single times."""
    step = (run.end - run.start) / max(1, run.count - 1) if run.count > 1 else 0
    return [round(run.start + number * step) for number in range(run.count)]
