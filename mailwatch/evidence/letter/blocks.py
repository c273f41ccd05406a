"""What a letter is made of, before it becomes a PDF or a text to edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter


@dataclass(frozen=True, slots=True)
class Blank:
    """Something that only the owner knows; `label` says what."""

    label: str


Run = str | Blank
Line = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Text. `style` is normal, lead, title, heading, bold, item, last, to, right, by, tight or small."""

    line: Line
    style: str = "normal"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of the same number of cells; without a head the first column names the second."""

    rows: tuple[tuple[Line, ...], ...]
    head: tuple[str, ...] = ()


Block = Paragraph | Table


def fill_template(template: str, **values: Run) -> Line:
    """Put values and blanks in the places in braces."""
    runs: list[Run] = []
    for text, name, _, _ in Formatter().parse(template):
        runs += [text] if text else []
        runs += [values[name]] if name else []
    return tuple(runs)


def table(rows: Sequence[Sequence[Run]], head: Sequence[str] = ()) -> Table:
    """Make a table of single runs."""
    return Table(tuple(tuple((cell,) for cell in row) for row in rows), tuple(head))
