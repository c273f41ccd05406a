"""The running numbers of many targets come in one question, from rows and packs alike."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import sqlalchemy as sa

from mailwatch.store import Reader, Store
from mailwatch.store.errors import StoreHealth
from mailwatch.store.last_numbers import last_numbers
from mailwatch.store.place import Place
from mailwatch.store.schema import entries
from tests.helpers.ledger_factory import observed
from tests.helpers.long_ledger import steady, write_long_ledger

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


@pytest.mark.sqlite
def test_the_numbers_go_on_after_those_in_packs(tmp_path: Path) -> None:
    patterns = {f"t{number}": steady for number in range(40)}
    write_long_ledger(tmp_path, patterns, 1_800_000_000_000, 0.05, rows_days=0.0, level=4)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        highest = {name: max(entry.number or 0 for entry in reader.entries(target=name)) for name in patterns}
    with contextlib.closing(Store.open(tmp_path)) as store:
        with store._hold.transaction() as connection:
            in_rows = sa.select(entries.c.target, sa.func.max(entries.c.number)).group_by(entries.c.target)
            newest = {name: number for name, number in connection.execute(in_rows) if name is not None}
            # Some have only the first entry, and what is around an outage, in a row.
            assert {newest[name] == highest[name] for name in patterns} == {True, False}
            assert last_numbers(connection, StoreHealth(), list(patterns)) == highest
        appended = store.append_batch([observed(name, 1_800_000_000_001) for name in patterns])
    assert [entry.number for entry in appended] == [highest[name] + 1 for name in patterns]
