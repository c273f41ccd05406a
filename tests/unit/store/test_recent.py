"""What the newest entries in memory answer is what the database answers, in a hundredth of the queries."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from mailwatch.model import Outcome, TargetEvent
from mailwatch.store import NewEntry, Reader, replay
from mailwatch.store.place import Place
from mailwatch.store.recent import RecentReader
from mailwatch.store.replay import recent_reader, restore_state, rule_book, state_to_keep
from tests.helpers.ledger_factory import MINUTE, Pattern, change, write

START = 1_760_000_000_000
MINUTES = 40
QUIET = "quiet"
"""A target without observations lately: nothing of it is in memory."""


def patterns() -> dict[str, Pattern]:
    """Targets that are up, were down, are down, and are not probed any more."""

    def pattern(number: int) -> Pattern:
        def mark(at: int) -> str:
            minute = (at - START) // MINUTE
            down = number % 3 == 0 and 20 <= minute < (99 if number % 6 == 0 else 26 + number)
            return "-" if down else "?" if (minute + number) % 17 == 0 else "+"

        return mark

    return {f"t{number:02d}": pattern(number) for number in range(24)} | {
        QUIET: lambda at: "+" if at < START + 10 * MINUTE else " "
    }


@pytest.fixture
def reader(place: Place) -> Iterator[Reader]:
    """A ledger of 25 targets, whose index of outages is up to date."""
    store = write(place, patterns(), START, START + MINUTES * MINUTE, durable=False, every=3)
    settings = [
        change(TargetEvent.BEGIN, START + MINUTES * MINUTE, MINUTE, name) for name in list(patterns())[:20]
    ]
    store.append_batch([NewEntry(kind="watch", time=one.at, target=one.target, payload=one) for one in settings])
    while store.index_outages():
        pass
    store.close()
    made = Reader.open(place)
    yield made
    made.close()


def test_states_are_the_same_and_take_few_queries(reader: Reader) -> None:
    names, book = reader.targets(), rule_book(reader)
    assert names == sorted(patterns())
    queries = []
    sa.event.listen(reader._engine, "before_cursor_execute", lambda *found: queries.append(found[2]))
    recent = recent_reader(reader, names)
    assert isinstance(recent, RecentReader)
    found = {name: restore_state(recent, name, book) for name in names if name != QUIET}
    # The plain reader takes 400.
    assert len([one for one in queries if one != "BEGIN"]) < 40, queries
    for name, mine in found.items():
        theirs = restore_state(reader, name, book)
        assert mine.history.describes(theirs.history)
        assert (mine.recorded, mine.unrecorded, mine.settings) == (
            theirs.recorded,
            theirs.unrecorded,
            theirs.settings,
        )
    assert any(one.history.detector.state.is_open for one in found.values())
    assert restore_state(recent, QUIET, book).latest == restore_state(reader, QUIET, book).latest


def test_each_question_has_the_same_answer(reader: Reader) -> None:
    recent = RecentReader(reader, list(patterns())[:20])
    size = reader.size()
    assert 0 < recent._floor < size
    marks = [None, recent._floor - 1, recent._floor, size - 30, size]
    names = ["t00", QUIET, "none"]
    for name, outcome, before, after in itertools.product(names, (Outcome.UP, Outcome.DOWN), marks, marks):
        mine, theirs = (
            one.last_index(target=name, outcome=outcome, before=before, after=after) for one in (recent, reader)
        )
        assert mine == theirs, (name, outcome, before, after)
    kinds: list[tuple[str, ...]] = [(), ("observation", "gap"), ("outage",), ("watch",)]
    for target, kind, first, last in itertools.product(["t00", QUIET, None], kinds, marks, marks[3:]):
        for descending, limit in ((True, 2), (False, 3)):
            asked: dict[str, Any] = {"from_index": first, "to_index": last, "descending": descending}
            here, there = (
                list(one.entries(target=target, kinds=kind, limit=limit, **asked)) for one in (recent, reader)
            )
            assert here == there, (target, kind, first, last, descending, limit)
    for name, what, at_most in itertools.product(names, ("watch", "outage", "gap"), marks):
        assert recent.latest(name, what, at_most=at_most) == reader.latest(name, what, at_most=at_most)
    some = [0, recent._floor - 1, recent._floor, size - 1, size]
    assert list(recent.entries_at(some)) == list(reader.entries_at(some))


def test_what_another_node_kept_meanwhile_is_not_kept_again(
    reader: Reader, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that stands by reads the newest entries, and the active one appends and keeps more."""
    monkeypatch.setattr(replay, "KEEP_AFTER", 1)
    recent, book = recent_reader(reader, reader.targets()), rule_book(reader)
    later = START + MINUTES * MINUTE
    write(place, {"t01": lambda _: "-"}, later, later + MINUTE, durable=False).close()
    restored = restore_state(reader, "t01", book)
    assert restored.history.index >= MINUTES * 24
    assert state_to_keep(recent, "t01", book, restored) is None
    assert state_to_keep(reader, "t01", book, restored) is not None
