"""The running numbers of many targets come in one question, from rows and packs alike."""

from __future__ import annotations

import contextlib

import sqlalchemy as sa

from mailwatch.store import Store
from mailwatch.store.errors import StoreHealth
from mailwatch.store.last_numbers import last_numbers
from mailwatch.store.place import Place
from tests.helpers.ledger_factory import observed

NAMES = [f"box {number} \u00e8'\"" for number in range(200)]


def test_the_numbers_of_many_targets_are_read_at_once_and_go_on(place: Place) -> None:
    with contextlib.closing(Store.open(place)) as store:
        for turn in range(3):
            store.append_batch([observed(name, turn) for name in NAMES[turn:]])
    asked: list[str] = []
    made = place.engine()
    sa.event.listen(made, "before_cursor_execute", lambda *given: asked.append(given[2]))
    with made.connect() as connection:
        found = last_numbers(connection, StoreHealth(), [*NAMES, "unknown"])
    made.dispose()
    assert found == {name: min(number, 2) + 1 for number, name in enumerate(NAMES)} | {"unknown": 0}
    # The second one asks whether there are packs.
    assert len([query for query in asked if query.startswith("SELECT")]) <= 2
    with contextlib.closing(Store.open(place)) as store:
        again = store.append_batch(
            [observed(name, 9) for name in (NAMES[0], NAMES[1], NAMES[2], NAMES[0], "unknown")]
        )
    assert [entry.number for entry in again] == [2, 3, 4, 3, 1]
