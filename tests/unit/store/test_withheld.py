"""Every question of a reader on the ledger of a hub's member that withholds one of two targets."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mailwatch.model import Outcome
from mailwatch.store import Reader, queries
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.member_ledger import member_place
from mailwatch.store.member_reader import MemberReader
from mailwatch.store.replay import rule_book
from mailwatch.store.schema import checkpoints
from mailwatch.store.selection import WITHHELD
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE, Pattern

MINUTES = 20
Readers = tuple[Reader, MemberReader]


def down(begin: int, end: int) -> Pattern:
    return lambda at: "-" if begin * MINUTE <= at - START < end * MINUTE else "+"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("withheld")


@pytest.fixture(scope="module")
def pushed_file(readers: Readers, folder: Path) -> Path:
    """The database of what was pushed."""
    del readers
    (found,) = (folder / "hub" / "hub").rglob("mailwatch.sqlite")
    return found


@pytest.fixture(scope="module")
def readers(folder: Path) -> Iterator[Readers]:
    """Of the whole ledger, and of what the hub has of it: one of two targets."""
    shown, hidden = down(5, 10), down(6, 12)
    member = WrittenMember(folder / "member", shown, MINUTES, "box", others={"secret": hidden})
    hub = LivingHub(folder / "hub", 2)
    hub.join(member, "grandma")
    for minute in range(0, MINUTES + 1, 4):
        hub.at = START + minute * MINUTE
        hub.take(member, member.size_at(hub.at), frozenset({"box"}))
    with (
        contextlib.closing(Reader.open(member.folder)) as own,
        contextlib.closing(MemberReader.open(member_place(hub.data_dir, member.origin))) as pushed,
    ):
        yield own, pushed
    hub.close()


def test_it_answers_as_the_owners_ledger_about_what_is_shown(readers: Readers) -> None:
    own, pushed = readers
    size = pushed.size()
    window = START + 3 * MINUTE, START + 15 * MINUTE
    questions: dict[str, Callable[[Reader], Any]] = {
        "entries": lambda one: list(one.entries(target="box", to_index=size)),
        "backwards": lambda one: list(one.entries(target="box", to_index=size, descending=True, limit=7)),
        "kinds": lambda one: list(one.entries(kinds=["node", "clock", "token"], to_index=size)),
        "outcome": lambda one: list(one.entries(target="box", outcome=Outcome.DOWN, to_index=size)),
        "times": lambda one: list(one.entries(target="box", start_ms=window[0], end_ms=window[1])),
        "latest": lambda one: one.latest("box", "outage", at_most=size - 1),
        "between": lambda one: one.between("box", *window),
        "latest_time": lambda one: one.latest_time(2, size),
        "leaves": lambda one: list(one.leaf_hashes(0, size)),
        "tree": lambda one: list(one.tree_parts(0, size)),
        "payloads": lambda one: list(one.observation_payloads("box", *window)),
        "observed": lambda one: list(one.observation_times("box", 0))[:15],
        "last": lambda one: one.last_index(target="box", outcome=Outcome.DOWN, before=size),
        "headers": lambda one: [row[4] for row in one.raw_entries(0, size)],
        "rules": lambda one: rule_book(one).at(size),
        "outages": lambda one: queries.outage_records(one, wanted=lambda head: head.target == "box"),
        "availability": lambda one: queries.availability(one, ["box"], *window),
        "interval": lambda one: queries.inferred_interval(one, "box"),
    }
    for name, ask in questions.items():
        assert ask(pushed) == ask(own), name
        assert ask(pushed), name
    assert pushed.targets() == ["box"]
    assert own.targets() == ["box", "secret"]


def test_what_is_withheld_has_its_place_and_nothing_else(readers: Readers) -> None:
    own, pushed = readers
    shown = {entry.index: entry for entry in pushed.entries()}
    assert [*shown] == list(range(pushed.size()))
    hidden = [entry for entry in shown.values() if entry.kind == WITHHELD]
    for entry, original in zip(hidden, own.entries(target="secret"), strict=False):
        assert (entry.index, entry.time, entry.header, entry.target_id) == (
            original.index, original.time, original.header, original.target_id,
        )  # fmt: skip
        assert (entry.text, entry.payload, entry.target, entry.number, entry.fact) == ("", {}, None, None, None)
    assert len(hidden) > MINUTES
    assert list(pushed.entries(kinds=[WITHHELD])) == hidden
    assert list(pushed.entries_at([entry.index for entry in hidden])) == hidden
    assert b"secret" not in "".join(entry.header for entry in hidden).encode()
    assert not list(pushed.entries(target="secret"))
    assert {record.target for record in queries.outage_records(pushed)} == {"box"}
    assert queries.incidents(pushed)
    assert next(pushed.entries(descending=True, limit=1)).index == pushed.size() - 1


def test_the_newest_push_is_the_last_checkpoint(readers: Readers) -> None:
    own, pushed = readers
    with pushed.snapshot() as connection:
        kept = connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar_one()
    newest, size = pushed.last_checkpoint(), pushed.size()
    assert newest is not None
    assert kept < newest.size == size
    assert newest == pushed.checkpoint(at_most=size) == pushed.checkpoint(at_least=kept + 1)
    assert pushed.checkpoint(at_most=size - 1) == pushed.checkpoint(at_least=kept)
    assert pushed.checkpoint(at_least=size + 1) is None
    assert [row.size for row in pushed.checkpoints()][-2:] == [kept, size]
    assert [row.size for row in pushed.checkpoints(kept, size - 1)] == [kept]
    assert [row.size for row in pushed.checkpoints(size, size)] == [size]
    signed = own.checkpoint(at_most=size)
    assert signed is not None
    assert (newest.note, newest.hashes) == (signed.note, signed.hashes)


CHANGES = {
    "payload": "'{}'",
    "target": "'secret'",
    "number": "1",
    "header": "replace(header, '\"time\":', '\"time\":1')",
}


@pytest.mark.sqlite
@pytest.mark.parametrize("column", CHANGES)
def test_a_row_that_pretends_to_be_withheld_is_damage(tmp_path: Path, pushed_file: Path, column: str) -> None:
    copy = tmp_path / "mailwatch.sqlite"
    with (
        contextlib.closing(sqlite3.connect(pushed_file)) as one,
        contextlib.closing(sqlite3.connect(copy)) as other,
    ):
        one.backup(other)
        for (name,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            other.execute(f'DROP TRIGGER "{name}"')
        first = f"SELECT min(idx) FROM entries WHERE kind = '{WITHHELD}'"
        other.execute(f"UPDATE entries SET {column} = {CHANGES[column]} WHERE idx = ({first})")
        other.commit()
    made = sa.create_engine(f"sqlite:///{copy}")
    with pytest.raises(StoreDamagedError, match="not what was written"):
        list(Reader(made).entries())
    made.dispose()
