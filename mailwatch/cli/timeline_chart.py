"""A timeline of outages in text: one bar per target, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from rich.text import Text

from mailwatch.cli.language import tr
from mailwatch.cli.terminal_format import UTC_ZONE
from mailwatch.cli.text_table import shorten
from mailwatch.times import Millis

SURE_MARK, POSSIBLE_MARK, SERVED_MARK = "█", "▒", "─"
_STYLES = {SURE_MARK: "red", POSSIBLE_MARK: "dim red", SERVED_MARK: "dim green"}
_MIN_CELLS = 16
"""Cells of the shortest bar worth drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One row. `sure` and `possible`: periods [start, end] in which the target was surely, or possibly, down."""

    label: str
    sure: Sequence[tuple[Millis, Millis]]
    possible: Sequence[tuple[Millis, Millis]]
    note: str = ""


def draw_timeline(
    bars: Sequence[Bar], start: Millis, end: Millis, width: int, zone: ZoneInfo = UTC_ZONE, italian: bool = False
) -> Text:
    """Return the bars from `start` to `end` in `width` columns, under an axis of times in `zone`."""
    note = max((len(bar.note) for bar in bars), default=0)
    label = min(max((len(bar.label) for bar in bars), default=0), max(8, (width - note) // 3))
    cells = max(_MIN_CELLS, width - label - note - 4)
    text = Text(no_wrap=True)
    text.append(" " * (label + 2) + draw_axis(start, end, cells, zone, italian) + "\n", "dim")
    for bar in bars:
        text.append(shorten(bar.label, label).ljust(label) + "  ")
        for cell in _cells(bar, start, end, cells):
            text.append(cell, _STYLES[cell])
        text.append(f"  {bar.note.rjust(note)}\n")
    text.append(" " * (label + 2))
    for cell, words in (
        (SURE_MARK, tr("certainly down")),
        (POSSIBLE_MARK, tr("possibly")),
        (SERVED_MARK, tr("up, or not checked")),
    ):
        text.append(cell, _STYLES[cell])
        text.append(f" {words}  ", "dim")
    text.rstrip()
    return text


def draw_axis(start: Millis, end: Millis, cells: int, zone: ZoneInfo = UTC_ZONE, italian: bool = False) -> str:
    """Return an axis for bars of `cells` cells: as many times as fit, each starting at its cell."""
    day = "%d/%m" if italian else "%m-%d"
    form = f"{day} %H:%M" if end - start >= 86_400_000 else "%H:%M:%S" if end - start < 3_600_000 else "%H:%M"
    length = len(f"{datetime.fromtimestamp(0, zone):{form}}")
    count = max(1, (cells + 4) // (length + 4))
    line = ""
    for number in range(count):
        cell = number * cells // count
        at = start + (end - start) * cell // cells
        line = line.ljust(cell) + f"{datetime.fromtimestamp(at // 1000, zone):{form}}"
    return line


def _cells(bar: Bar, start: Millis, end: Millis, cells: int) -> str:
    row = [SERVED_MARK] * cells
    for mark, spans in ((POSSIBLE_MARK, bar.possible), (SURE_MARK, bar.sure)):
        for begin, until in spans:
            # A short period still fills a cell: an outage must not vanish from a chart of days.
            first = min(cells - 1, (begin - start) * cells // max(1, end - start))
            last = max(first + 1, -((start - until) * cells // max(1, end - start)))
            row[max(0, first) : min(cells, last)] = mark * (min(cells, last) - max(0, first))
    return "".join(row)
