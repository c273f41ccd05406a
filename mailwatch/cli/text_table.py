"""Tables and lists of facts for the terminal: no boxes, as wide as the terminal, each row on one line in a pipe.

Where the terminal is too narrow, the last columns move to a line of their own below each row, and long names are
cut in the middle. rich's tables would wrap every cell, and cannot let a text span a row.
"""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mailwatch.cli.language import tr

GAP = 2
"""Blanks between two columns."""
_INDENT = "    "
_LEAST_NAME = 12
"""Columns of the terminal that a cut name keeps."""
_LEAST_WIDTH = 24


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column. `shrinks`: its texts may be cut in the middle. `below`: it may move below the row.

    `label`: what stands before a text below the row; default: the header. "" for texts that explain themselves.
    `empty`: a text that is left out there.
    """

    header: str
    shrinks: bool = False
    below: bool = False
    right: bool = False
    label: str | None = None
    empty: str = ""


@dataclass(slots=True)
class TextTable:
    """A table. `note`: a line below it. `headings`: lines above rows, by the row's number."""

    columns: Sequence[Column]
    note: str = ""
    rows: list[list[Text]] = field(default_factory=list)
    headings: dict[int, Text] = field(default_factory=dict)

    def add_row(self, *cells: str | Text) -> None:
        """Add a row. Text in brackets is no markup."""
        self.rows.append([Text(cell) if isinstance(cell, str) else cell for cell in cells])

    def add_heading(self, text: str) -> None:
        """Add a line above the next row."""
        self.headings[len(self.rows)] = Text(text, "bold")

    def lines(self, width: int | None) -> Iterator[Text]:
        """Yield the lines for a terminal of `width` columns, None for one without an end."""
        inline, below = self._arrangement(width)
        widths = self._widths(inline, width)
        titles = [Text(tr(self.columns[number].header), "bold") for number in inline]
        yield self._line(inline, widths, titles)
        for number, row in enumerate(self.rows):
            if number in self.headings:
                yield self.headings[number]
            yield self._line(inline, widths, [row[column] for column in inline])
            yield from self._lines_below(row, below, width)
        if self.note:
            yield Text(self.note, "dim")

    def _arrangement(self, width: int | None) -> tuple[list[int], list[int]]:
        """Return which columns stand in the row, and which below it. An empty column is in neither."""
        inline = [n for n, _ in enumerate(self.columns) if not self.rows or any(row[n].plain for row in self.rows)]
        below: list[int] = []
        while width is not None and self._least_total(inline) > width:
            movable = [number for number in inline if self.columns[number].below]
            if not movable:
                break
            inline.remove(movable[-1])
            below.insert(0, movable[-1])
        return inline, below

    def _natural(self, number: int) -> int:
        texts = [tr(self.columns[number].header), *(row[number].plain for row in self.rows)]
        return max(map(cell_len, texts))

    def _least_total(self, inline: Sequence[int]) -> int:
        """Return the columns of the terminal that a row needs, with its names cut as far as is readable."""
        least = [
            min(self._natural(number), 2 * _LEAST_NAME) if self.columns[number].shrinks else self._natural(number)
            for number in inline
        ]
        return sum(least) + GAP * (len(inline) - 1)

    def _widths(self, inline: Sequence[int], width: int | None) -> list[int]:
        widths = [self._natural(number) for number in inline]
        while width is not None and sum(widths) + GAP * (len(widths) - 1) > width:
            cuttable = [
                n for n, column in enumerate(inline) if self.columns[column].shrinks and widths[n] > _LEAST_NAME
            ]
            if not cuttable:
                break
            widths[max(cuttable, key=lambda n: widths[n])] -= 1
        return widths

    def _line(self, inline: Sequence[int], widths: Sequence[int], cells: Sequence[Text]) -> Text:
        line = Text(no_wrap=True)
        for number, width, cell in zip(inline, widths, cells, strict=True):
            shown = cell if cell_len(cell.plain) <= width else Text(shorten(cell.plain, width), cell.style)
            blanks = " " * (width - cell_len(shown.plain))
            line.append_text(
                Text.assemble(blanks, shown) if self.columns[number].right else Text.assemble(shown, blanks)
            )
            line.append(" " * GAP)
        line.rstrip()
        return line

    def _lines_below(self, row: Sequence[Text], below: Sequence[int], width: int | None) -> Iterator[Text]:
        parts = []
        for number in below:
            column = self.columns[number]
            label = column.header if column.label is None else column.label
            if row[number].plain not in ("", column.empty):
                parts.append(f"{tr(label)} {row[number].plain}" if label else row[number].plain)
        if parts:
            yield from (Text(line, "dim") for line in _wrapped("; ".join(parts), _INDENT, width))


@dataclass(slots=True)
class FactList:
    """Labels and texts, one below the other. `title`: the line above."""

    title: Text
    facts: list[tuple[str, str]] = field(default_factory=list)

    def add(self, label: str, text: str) -> None:
        """Add a fact; the label is translated."""
        self.facts.append((tr(label), text))

    def lines(self, width: int | None) -> Iterator[Text]:
        """Yield the lines for a terminal of `width` columns; on a narrow one, each text below its label."""
        yield self.title
        room = max((cell_len(label) for label, _ in self.facts), default=0) + GAP
        narrow = width is not None and width < room + _LEAST_WIDTH
        last = ""
        for label, text in self.facts:
            # A label that comes again stands once.
            head = "" if label == last else label
            last = label
            if narrow:
                yield Text(head, "bold")
            if narrow:
                yield from map(Text, _wrapped(text, _INDENT, width))
            else:
                yield from hanging_lines(Text(head, "bold"), text, room, width)


def hanging_lines(head: Text, text: str, room: int, width: int | None) -> Iterator[Text]:
    """Yield a text beside `head`, which gets `room` columns, wrapped for a terminal of `width` columns."""
    first, *others = _wrapped(text, " " * room, width)
    yield Text.assemble(head, " " * (room - cell_len(head.plain)), first[room:])
    yield from map(Text, others)


def _wrapped(text: str, indent: str, width: int | None) -> list[str]:
    if width is None or cell_len(text) + len(indent) <= width:
        return [indent + text]
    return textwrap.wrap(
        text, max(width, len(indent) + _LEAST_NAME), initial_indent=indent, subsequent_indent=indent,
        break_on_hyphens=False,
    ) or [indent]  # fmt: skip


def shorten(text: str, width: int) -> str:
    """Shorten a long name in the middle: both its ends carry meaning."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def table_width(console: Console) -> int | None:
    """Return the columns for tables: COLUMNS, else the terminal's, else, in a pipe, no end."""
    return console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdigit() else None


def print_text(console: Console, text: str) -> None:
    """Print a sentence, wrapped for the terminal."""
    for line in hanging_lines(Text(), text, 0, table_width(console)):
        console.print(line, soft_wrap=True, highlight=False)


def print_lines(console: Console, shown: TextTable | FactList) -> None:
    """Print a table or a list of facts."""
    for line in shown.lines(table_width(console)):
        # Never wrapped or cut here: the lines fit, or the terminal wraps them.
        console.print(line, soft_wrap=True, highlight=False)
