"""The kept symptoms of an outage are what its observations give, and a page reads only what came after them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Observation, Phase, Rules
from mailwatch.store import Reader, Store, queries
from mailwatch.store.kept_audit import audit_kept_symptoms
from mailwatch.store.kept_states import KeptState
from mailwatch.store.symptom_states import Symptoms, read_symptoms, symptom_changes_of, symptoms_to_keep
from tests.helpers.counting_reader import CountingReader
from tests.helpers.live_ledger import Live, fact, ledger

PHASES = (None, Phase.CONNECT, Phase.AUTH, Phase.MAILBOX)


def failed(at: int, phase: Phase | None) -> Observation:
    seen = fact("-", at)
    assert isinstance(seen, Observation)
    return replace(seen, failed_phase=phase)


def opened(reader: Reader) -> OutageRecord:
    return queries.outage_records(reader, only_open=True)[0]


def keep(store: Store, reader: Reader) -> KeptState | None:
    outage = opened(reader)
    state = symptoms_to_keep(reader, outage, read_symptoms(reader, outage))
    if state is not None:
        store.keep([state])
    return state


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PHASES), min_size=1, max_size=9), min_size=2, max_size=4))
def test_kept_symptoms_are_those_of_the_observations(parts: list[list[Phase | None]]) -> None:
    with ledger() as (store, reader):
        live, at = Live(store, Rules(1, 1)), 0
        live.take(fact("+", at))
        for part in parts:
            for phase in part:
                live.take(failed(at := at + 1, phase))
                live.take(fact("?", at := at + 1))
            outage = opened(reader)
            kept, read = (read_symptoms(reader, outage, use_kept=use) for use in (True, False))
            assert kept.history == read.history
            # One trouble is known by the record alone.
            changes = symptom_changes_of(reader, outage)
            assert [trouble for _, trouble in changes] == [trouble for _, trouble in read.history.found]
            assert changes[1:] == read.history.found[1:]
            keep(store, reader)
        assert list(audit_kept_symptoms(reader)) == []


@pytest.fixture
def down(tmp_path: Path) -> Iterator[tuple[Store, CountingReader, Live]]:
    """A target that is down with one trouble after another."""
    store = Store.open(tmp_path)
    live = Live(store, Rules())
    reader = Reader.open(tmp_path)
    reader.__class__ = CountingReader
    assert isinstance(reader, CountingReader)
    live.take(fact("+", 0))
    for at in range(1, 60):
        live.take(failed(at, PHASES[at // 20 + 1]))
    yield store, reader, live
    reader.close()
    store.close()


def shown(reader: CountingReader) -> tuple[int, int]:
    """How many entries are read for an outage's symptoms, and how many changes there are."""
    outage = opened(reader)
    before = reader.returned
    found = read_symptoms(reader, outage).history.found
    return reader.returned - before, len(found)


def test_only_what_came_after_the_kept_symptoms_is_read(down: tuple[Store, CountingReader, Live]) -> None:
    store, reader, live = down
    assert shown(reader) == (60, 3)
    assert keep(store, reader) is not None
    few, changes = shown(reader)
    assert (few, changes) == (1, 3)
    for at in range(60, 70):
        live.take(failed(at, Phase.CONNECT))
    assert shown(reader) == (few + 10, 4)
    keep(store, reader)
    live.take(fact("+", 70))
    live.take(fact("+", 71))
    (incident,) = queries.incidents(reader)
    whole = queries.incident(reader, incident.id)
    assert whole is not None
    assert len(whole.members[0].symptom_changes) == 4


def changed(state: KeptState, **more: Any) -> KeptState:
    return replace(state, text=canonical(json.loads(state.text) | more))


@pytest.mark.parametrize(
    "unfit",
    [
        pytest.param(lambda state: changed(state, version=99), id="another version"),
        pytest.param(lambda state: changed(state, first=3), id="another outage"),
        pytest.param(lambda state: changed(state, history={}), id="another shape"),
        pytest.param(lambda state: replace(state, text="x"), id="no json"),
        pytest.param(lambda state: replace(state, leaf="0" * 64), id="another entry"),
        pytest.param(lambda state: replace(state, index=0), id="no entry of the target"),
        pytest.param(lambda state: replace(state, index=10_000), id="beyond the ledger"),
    ],
)
def test_symptoms_that_do_not_fit_are_not_used(down: tuple[Store, CountingReader, Live], unfit: Any) -> None:
    store, reader, _ = down
    state = keep(store, reader)
    assert state is not None
    assert shown(reader)[0] == 1
    store.keep([unfit(state)])
    read, changes = shown(reader)
    assert (read >= 60, changes) == (True, 3)


def test_the_audit_finds_symptoms_that_the_observations_do_not_give(
    down: tuple[Store, CountingReader, Live],
) -> None:
    store, reader, _ = down
    state = keep(store, reader)
    assert state is not None
    history: dict[str, Any] = json.loads(state.text)["history"]
    store.keep([changed(state, history=history | {"found": history["found"][:1]})])
    (finding,) = audit_kept_symptoms(reader)
    assert finding.what.startswith(f"the symptoms of {opened(reader).id} kept with entry {state.index} differ")


def test_there_is_nothing_to_keep_of_what_was_not_read(down: tuple[Store, CountingReader, Live]) -> None:
    _, reader, _ = down
    outage = opened(reader)
    read = read_symptoms(reader, outage)
    assert symptoms_to_keep(reader, outage, Symptoms(read.history, read.index)) is None
