"""An audit that was interrupted goes on where it stopped, and finds what an audit from entry 0 finds there."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Outcome
from mailwatch.store import Reader, Store, audit
from mailwatch.store.audit import AuditPosition
from mailwatch.store.audit_position import position_to_keep, read_position
from mailwatch.store.sqlite import database
from tests.helpers.ledger_factory import observed

COUNT = 2500


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = Store.open(tmp_path)
    names = ("a", "b")
    made.append_batch([observed(names[number % 2], number, Outcome.UP) for number in range(COUNT)])
    made.checkpoint()
    yield made
    made.close()


def audited(store: Store, reader: Reader, begin: AuditPosition | None) -> tuple[list[str], list[AuditPosition]]:
    """The findings of an audit, and the positions that it reached."""
    keys, positions = store.keys, list[AuditPosition]()
    found = audit(
        reader, keys.public, keys.secret, begin=begin, reached=lambda position: positions.append(position())
    )
    return [f"{one.index}: {one.what}" for one in found], positions


def test_an_audit_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    reader = Reader.open(tmp_path)
    found, positions = audited(store, reader, None)
    assert found == []
    assert [position.size for position in positions] == [1000, 2000, 2500]
    for position in positions:
        state = position_to_keep(reader, position)
        assert state is not None
        store.keep([state])
        kept = read_position(reader)
        assert kept == position
        found, again = audited(store, reader, kept)
        assert found == []
        assert again == positions[len(positions) - len(again) :]
        assert all(later.size > position.size for later in again)
    ended = position_to_keep(reader, None)
    assert ended is not None
    store.keep([ended])
    assert read_position(reader) is None
    # What is wrong after the position is found, with the same words.
    with sqlite3.connect(database(tmp_path)) as raw:
        for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            raw.execute(f"DROP TRIGGER {name}")
        raw.execute("UPDATE entries SET time_ms = time_ms + 1 WHERE idx = 2100")
    raw.close()
    whole, _ = audited(store, reader, None)
    assert whole
    assert audited(store, reader, positions[1])[0] == whole
    reader.close()


def test_a_position_that_does_not_fit_is_not_used(store: Store, tmp_path: Path) -> None:
    reader = Reader.open(tmp_path)
    _, positions = audited(store, reader, None)
    state = position_to_keep(reader, positions[0])
    assert state is not None
    for unfit in (
        replace(state, leaf=""),
        replace(state, index=5),
        replace(state, index=COUNT),
        replace(state, text="{}"),
        replace(state, text=canonical(json.loads(state.text) | {"version": 0})),
        replace(state, text=canonical(json.loads(state.text) | {"position": {}})),
    ):
        store.keep([unfit])
        assert read_position(reader) is None
    reader.close()
