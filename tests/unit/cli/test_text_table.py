"""Tables and lists on the terminal: nothing is wider than the terminal, and a pipe has one line a row."""

from __future__ import annotations

import io
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from mailwatch.cli.terminal_format import TerminalFormat
from mailwatch.cli.text_table import Column, FactList, TextTable, print_lines, table_width

COLUMNS = (
    Column(header="id"),
    Column(header="name", shrinks=True),
    Column(header="share", right=True),
    Column(header="most", below=True),
    Column(header="why", below=True, label="", empty="."),
)
ROME = TerminalFormat(ZoneInfo("Europe/Rome"), "en")


def made(*rows: tuple[str, str, str, str, str]) -> TextTable:
    table = TextTable(COLUMNS, "a note")
    for row in rows:
        table.add_row(*row)
    return table


def plain(table: TextTable | FactList, width: int | None) -> list[str]:
    return [line.plain for line in table.lines(width)]


ROW = ("1", "mario.rossi@libero.it/imap", "94.3 %", "5 min", "the connection was refused")


def test_a_pipe_has_one_line_a_row_and_no_trailing_blank() -> None:
    lines = plain(made(ROW, ("2", "b", "1 %", "", ".")), None)
    assert lines == [
        "id  name                         share  most   why",
        "1   mario.rossi@libero.it/imap  94.3 %  5 min  the connection was refused",
        "2   b                              1 %         .",
        "a note",
    ]


def test_what_does_not_fit_stands_below_its_row() -> None:
    assert plain(made(ROW, ("2", "b", "1 %", "", ".")), 50) == [
        "id  name                         share  most",
        "1   mario.rossi@libero.it/imap  94.3 %  5 min",
        "    the connection was refused",
        "2   b                              1 %",
        "a note",
    ]
    assert plain(made(ROW), 32) == [
        "id  name                   share",
        "1   mario.ross…o.it/imap  94.3 %",
        "    most 5 min; the connection",
        "    was refused",
        "a note",
    ]


@given(
    st.lists(st.tuples(*[st.text(st.characters(categories=["Ll", "Nd"]), max_size=40)] * 5), max_size=6),
    st.integers(60, 200),
)
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str, str, str]], width: int) -> None:
    short = [(one[:8], two, three[:8], four, five) for one, two, three, four, five in rows]
    assert all(cell_len(line) <= width for line in plain(made(*short), width))


def test_an_empty_column_is_left_out() -> None:
    assert plain(made(("1", "a", "", "", "x")), None)[0] == "id  name  why"


def test_facts_wrap_beside_their_label_and_on_a_narrow_terminal_below_it() -> None:
    facts = FactList(Text("Title"))
    facts.add("server replies", "one two three four five six")
    facts.add("server replies", "seven")
    assert plain(facts, None) == ["Title", "server replies  one two three four five six", " " * 16 + "seven"]
    assert plain(facts, 42)[1:3] == ["server replies  one two three four five", " " * 16 + "six"]
    assert plain(facts, 20) == [
        "Title",
        "server replies",
        "    one two three",
        "    four five six",
        "",
        "    seven",
    ]


def test_columns_is_heeded_in_a_pipe_and_nothing_else_bounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert table_width(Console(file=io.StringIO())) is None
    monkeypatch.setenv("COLUMNS", "50")
    console = Console(file=io.StringIO())
    assert table_width(console) == 50
    print_lines(console, made(ROW))
    assert isinstance(console.file, io.StringIO)
    assert "\x1b" not in console.file.getvalue()
    assert max(map(len, console.file.getvalue().splitlines())) <= 50


def test_times_are_local_and_an_hour_that_comes_twice_has_its_offset() -> None:
    first, second = 1_792_888_200_000, 1_792_891_800_000  # 02:30 in Rome on 25 October 2026, twice
    assert ROME.second(first) == "2026-10-25 02:30:00+0200"
    assert ROME.second(second) == "2026-10-25 02:30:00+0100"
    assert ROME.minute(first - 7_200_000) == "2026-10-25 00:30"
    italian = TerminalFormat(ROME.zone, "it")
    assert italian.minute(first - 7_200_000) == "25/10/2026 00:30"
    assert italian.duration(90_061_000) == "1 g 1 h 1 min"
    assert italian.bounds(0.94263, 0.94296) == "94,26\u201394,30 %"
