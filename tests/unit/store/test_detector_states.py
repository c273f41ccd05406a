"""The kept state of the detector: what a start has from it is what the replay gives, and it is used only then."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.state_json import state_from, state_json
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Cause, ClockSpan, Observation, Phase, Rules
from mailwatch.store import Reader, Store
from mailwatch.store import detector_states as kept_detectors
from mailwatch.store.detector_states import KIND, keep_detector, read_detector
from mailwatch.store.kept_states import KeptState
from mailwatch.store.replay import (
    RestoredState,
    audit_detector,
    audit_outages,
    restore_state,
    rule_book,
    state_to_keep,
)
from mailwatch.store.sqlite import database
from tests.helpers.counting_reader import CountingReader
from tests.helpers.live_ledger import MARKS, Live, fact, ledger

MANY = st.lists(MARKS, min_size=1, max_size=4)


def keep(store: Store, reader: Reader, *, size: int | None = None) -> KeptState | None:
    """Keep the state of the target as it is on record, whatever it took to replay."""
    book = rule_book(reader)
    restored = restore_state(reader, "t", book, size=size)
    if restored.unrecorded or restored.history.index < 0:
        return None
    last = next(reader.entries(from_index=restored.history.index, limit=1))
    state = keep_detector("t", restored.history, last.header, book.at(last.index))
    store.keep([state])
    return state


def same(one: RestoredState, other: RestoredState) -> bool:
    ours, theirs = (replace(each, history=other.history) for each in (one, other))
    return one.history.describes(other.history) and ours == theirs


@settings(max_examples=25, deadline=None)
@given(MANY, st.booleans(), st.sampled_from([(1, 1), (2, 1), (3, 2)]))
@pytest.mark.slow
def test_a_start_from_a_kept_state_is_a_start_from_the_replay(
    parts: list[str], crash: bool, opens: tuple[int, int]
) -> None:
    with ledger() as (store, reader):
        live = Live(store, Rules(*opens))
        at = 0
        for part in parts:
            for mark in part:
                live.take(fact(mark, at := at + 1))
            keep(store, reader)
        # A kill between the last observation and its outage.
        live.take(fact("-", at + 1), crash=crash)
        book = rule_book(reader)
        kept, replayed = (restore_state(reader, "t", book, use_kept=use) for use in (True, False))
        assert same(kept, replayed)
        found = [finding for finding in audit_outages(reader, book, "t") if not finding.pending]
        assert found == []


def opened(outcome: str, at: int, *, secret: str = "") -> Observation:
    seen = fact(outcome, at)
    assert isinstance(seen, Observation)
    clock = ClockSpan("boot", at * 10_000, at * 10_000 + 1000, 50)
    return replace(seen, clock=clock, interval=10_000, with_login=bool(secret), secret=secret)


def test_the_state_is_written_and_read_whole() -> None:
    detector, rules = Detector(), Rules(1, 2)
    seen = [opened("+", 0, secret="s"), opened("-", 1), opened("?", 2), opened("-", 3), opened("+", 4, secret="s")]
    rejected = replace(opened("?", 5, secret="s"), cause=Cause.CREDENTIALS, failed_phase=Phase.AUTH)
    moved = replace(opened("-", 6), clock=ClockSpan("another boot", 100, 200, 70))
    for index, each in enumerate([*seen, rejected, moved]):
        detector, _ = detector.feed(IndexedFact(index, each), rules)
        written = json.loads(canonical(state_json(detector)))
        assert state_from(Detector, written) == detector
    text = canonical(state_json(detector))
    assert canonical(state_json(state_from(Detector, json.loads(text)))) == text
    # Where this differs, the rules or their state changed: raise STATE_VERSION, and write the new digest here.
    digest = KeptState(KIND, "t", 6, "", text).digest[:16]
    assert (kept_detectors.STATE_VERSION, digest) == (1, "85887c0ac554a758")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda written: written | {"extra": 1},
        lambda written: {key: value for key, value in written.items() if key != "state"},
        lambda written: written | {"state": written["state"] | {"is_open": 1}},
        lambda written: written | {"state": written["state"] | {"name": "elsewhere"}},
        lambda written: written | {"state": written["state"] | {"counters": []}},
        lambda written: written | {"state": None},
        lambda written: [],
    ],
)
def test_no_other_shape_is_taken_for_a_state(spoil: Any) -> None:
    detector, _ = Detector().feed(IndexedFact(0, opened("-", 1)), Rules())
    with pytest.raises(ValueError, match=r"^no "):
        state_from(Detector, spoil(state_json(detector)))


@pytest.fixture
def down(tmp_path: Path) -> Iterator[tuple[Store, CountingReader, Live]]:
    """A target that is down, and stays so."""
    store = Store.open(tmp_path)
    live = Live(store, Rules())
    reader = Reader.open(tmp_path)
    reader.__class__ = CountingReader
    assert isinstance(reader, CountingReader)
    for at, mark in enumerate("++" + "-" * 40):
        live.take(fact(mark, at))
    yield store, reader, live
    reader.close()
    store.close()


def read_by_start(reader: CountingReader) -> int:
    book = rule_book(reader)
    before = reader.returned
    restore_state(reader, "t", book)
    return reader.returned - before


def test_a_start_reads_only_what_came_after_the_kept_state(down: tuple[Store, CountingReader, Live]) -> None:
    store, reader, live = down
    assert read_by_start(reader) > 40
    keep(store, reader)
    few = read_by_start(reader)
    assert few < 6
    for at in range(50, 60):
        live.take(fact("-", at))
    assert read_by_start(reader) == few + 10
    live.take(fact("+", 60))
    live.take(fact("+", 61))
    assert restore_state(reader, "t", rule_book(reader)).detector.state.name == "up"


def test_a_long_replay_gives_a_state_to_keep_and_a_short_one_none(
    down: tuple[Store, CountingReader, Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reader, live = down
    book = rule_book(reader)
    assert state_to_keep(reader, "t", book, restore_state(reader, "t", book)) is None
    monkeypatch.setattr("mailwatch.store.replay.KEEP_AFTER", 20)
    state = state_to_keep(reader, "t", book, restore_state(reader, "t", book))
    assert state is not None
    store.keep([state])
    assert state_to_keep(reader, "t", book, restore_state(reader, "t", book)) is None
    for at in range(50, 90):
        live.take(fact("+" if at == 50 else "?", at))
    later = state_to_keep(reader, "t", book, restore_state(reader, "t", book))
    assert later is not None
    assert later.index > state.index


def test_a_replay_that_is_interrupted_goes_on_where_a_state_was_kept(
    down: tuple[Store, CountingReader, Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, reader, _ = down
    book, kept = rule_book(reader), list[KeptState]()
    monkeypatch.setattr("mailwatch.store.replay.KEEP_WITHIN", 10)
    whole = restore_state(reader, "t", book, keep=kept.append)
    assert len(kept) == 4
    for state in kept:
        store.keep([state])
        restored = restore_state(reader, "t", book)
        assert same(restored, whole)
        assert restored.history.facts == whole.history.facts - 10 * (kept.index(state) + 1)
        assert audit_detector(reader, book, "t") == []


def test_no_state_is_kept_before_its_outage_is_on_record(
    down: tuple[Store, CountingReader, Live], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reader, live = down
    monkeypatch.setattr("mailwatch.store.replay.KEEP_AFTER", 1)
    live.take(fact("+", 50))
    live.take(fact("+", 51), crash=True)
    book = rule_book(reader)
    restored = restore_state(reader, "t", book)
    assert len(restored.unrecorded) == 1
    assert state_to_keep(reader, "t", book, restored) is None


def changed(state: KeptState, **more: Any) -> KeptState:
    """The state with another text, whole and with its digest."""
    return replace(state, text=canonical(json.loads(state.text) | more))


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(lambda state: changed(state, version=99), id="another version"),
        pytest.param(lambda state: changed(state, rules=None), id="other rules"),
        pytest.param(lambda state: changed(state, detector={}), id="another shape"),
        pytest.param(lambda state: changed(state, latest=0), id="no observation"),
        pytest.param(lambda state: changed(state, gap=state.index), id="no gap"),
        pytest.param(lambda state: replace(state, text="x"), id="no json"),
        pytest.param(lambda state: replace(state, leaf="0" * 64), id="another entry"),
        pytest.param(lambda state: replace(state, index=0), id="no entry of the target"),
        pytest.param(lambda state: replace(state, index=10_000), id="beyond the ledger"),
    ],
)
def test_a_state_that_does_not_fit_is_not_used(down: tuple[Store, CountingReader, Live], unfit: Any) -> None:
    store, reader, _ = down
    state = keep(store, reader)
    assert state is not None
    book = rule_book(reader)
    assert read_detector(reader, "t", book.at) is not None
    assert read_detector(reader, "t", book.at, state.index) is None
    store.keep([unfit(state)])
    assert read_detector(reader, "t", book.at) is None
    assert same(restore_state(reader, "t", book), restore_state(reader, "t", book, use_kept=False))
    assert audit_outages(reader, book, "t") == []


def test_a_damaged_state_and_a_missing_table_are_no_state(
    down: tuple[Store, CountingReader, Live], tmp_path: Path
) -> None:
    store, reader, _ = down
    keep(store, reader)
    with sqlite3.connect(database(tmp_path)) as raw:
        raw.execute("UPDATE kept_states SET state = replace(state, '\"down\"', '\"up\"')")
    raw.close()
    assert reader.kept(KIND, "t") is None
    with sqlite3.connect(database(tmp_path)) as raw:
        raw.execute("DROP TABLE kept_states")
    raw.close()
    # As a process finds it whose ledger an older version made.
    with contextlib.closing(Reader.open(tmp_path)) as older:
        assert older.kept(KIND, "t") is None
        assert older.kept_subjects(KIND) == []
        assert restore_state(older, "t", rule_book(older)).detector.state.name == "down"


def test_the_audit_finds_a_state_that_the_replay_does_not_give(down: tuple[Store, CountingReader, Live]) -> None:
    store, reader, _ = down
    state = keep(store, reader)
    assert state is not None
    detector = json.loads(state.text)["detector"]
    detector["state"]["counters"]["down"] += 1
    store.keep([changed(state, detector=detector)])
    (finding,) = audit_outages(reader, rule_book(reader), "t")
    assert finding.what == f"the state of t kept with entry {state.index} differs from the replay"
    assert not finding.pending
    # Evidence never uses it.
    replayed = restore_state(reader, "t", rule_book(reader), use_kept=False)
    outage = replayed.detector.state.outage
    assert outage is not None
    assert outage.down == 40
