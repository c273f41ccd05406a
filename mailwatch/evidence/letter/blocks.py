"""The blocks of a letter, before it becomes a PDF or an editable document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter


@dataclass(frozen=True, slots=True)
class Blank:
    """A blank for a fact that only the owner knows; `label` says which."""

    label: str


Run = str | Blank
Line = tuple[Run, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph. `style`: normal, lead, title, heading, bold, item, last, to, right, by, tight or small."""

    line: Line
    style: str = "normal"


@dataclass(frozen=True, slots=True)
class Table:
    """Rows with equal numbers of cells; without a head the first column labels the second."""

    rows: tuple[tuple[Line, ...], ...]
    head: tuple[str, ...] = ()


Block = Paragraph | Table


def fill_template(template: str, **values: Run) -> Line:
    """Fill the fields of a template with texts and blanks."""
    runs: list[Run] = []
    for text, name, _, _ in Formatter().parse(template):
        runs += [text] if text else []
        runs += [values[name]] if name else []
    return tuple(runs)


def table(rows: Sequence[Sequence[Run]], head: Sequence[str] = ()) -> Table:
    """Return a table whose cells are single runs."""
    return Table(tuple(tuple((cell,) for cell in row) for row in rows), tuple(head))
