"""The kept availability of a target is what its entries give, and a start reads only what came after it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.analysis.maintenance import Announcement, Announcements
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Rules, TargetEvent
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.store.availability_history import (
    KIND,
    History,
    Subject,
    audit_history,
    history_to_keep,
    read_history,
)
from mailwatch.store.kept_states import KeptState
from tests.helpers.counting_reader import CountingReader
from tests.helpers.ledger_factory import change
from tests.helpers.live_ledger import MARKS, Live, fact, ledger

SUBJECT = Subject("t", "opaque", Announcements())
AT = 400_000


def keep(store: Store, reader: Reader) -> KeptState | None:
    state = history_to_keep(SUBJECT, read_history(reader, SUBJECT, AT))
    if state is not None:
        store.keep([state])
    return state


def watched(store: Store) -> Live:
    """A target whose interval is on record from the beginning."""
    live = Live(store, Rules())
    begin = change(TargetEvent.BEGIN, 1, 10_000, "t")
    store.append_batch([NewEntry(kind="watch", time=1, target="t", payload=begin)])
    return live


def forgotten(store: Store, reader: Reader) -> History:
    """The history by the entries alone."""
    store.keep([KeptState(KIND, "t", 0, "", "{}")])
    return read_history(reader, SUBJECT, AT)


def same(one: History, other: History) -> bool:
    mine, theirs = ((h.availability.memory, h.responses.memory, h.first, h.last) for h in (one, other))
    return mine == theirs


@settings(max_examples=25, deadline=None)
@given(st.lists(MARKS, min_size=1, max_size=4))
@pytest.mark.slow
def test_a_history_from_a_kept_one_is_that_of_all_entries(parts: list[str]) -> None:
    with ledger() as (store, reader):
        live, at = watched(store), 0
        for part in parts:
            for mark in part:
                live.take(fact(mark, at := at + 1))
            keep(store, reader)
        live.take(fact("+", at + 1))
        assert audit_history(reader, SUBJECT) == []
        kept = read_history(reader, SUBJECT, AT)
        assert kept.read == 1
        assert same(kept, forgotten(store, reader))


@pytest.fixture
def written(tmp_path: Path) -> Iterator[tuple[Store, CountingReader, Live]]:
    store = Store.open(tmp_path)
    live = watched(store)
    for at, mark in enumerate("+++--?~-++++" * 3):
        live.take(fact(mark, at))
    reader = Reader.open(tmp_path)
    reader.__class__ = CountingReader
    assert isinstance(reader, CountingReader)
    yield store, reader, live
    reader.close()
    store.close()


def test_a_start_reads_only_what_came_after(written: tuple[Store, CountingReader, Live]) -> None:
    store, reader, live = written
    assert read_history(reader, SUBJECT, AT).read == 37
    assert keep(store, reader) is not None
    live.take(fact("+", 50))
    reader.returned = 0
    found = read_history(reader, SUBJECT, AT)
    assert (found.read, reader.returned) == (1, 2)
    assert found.availability.ratio(86_400_000, AT) == forgotten(store, reader).availability.ratio(86_400_000, AT)
    # Nothing new: nothing to keep.
    keep(store, reader)
    assert keep(store, reader) is None
    assert history_to_keep(Subject("another", "", Announcements()), read_history(
        reader, Subject("another", "", Announcements()), AT
    )) is None  # fmt: skip


@pytest.mark.parametrize(
    "unfit",
    [
        lambda state, text: (state, text | {"version": 0}),
        lambda state, text: (state, text | {"announced": ""}),
        lambda state, text: (state, text | {"availability": text["availability"] | {"rings": [{}]}}),
        lambda state, text: (state, text | {"responses": text["responses"] | {"medians": [1]}}),
        lambda state, text: (
            state,
            text | {"availability": text["availability"] | {"rings": [{"newest": 0, "spent": [[]]}] * 2}},
        ),
        lambda state, text: (replace(state, leaf=""), text),
        lambda state, text: (replace(state, index=0), text),
    ],
)
def test_a_history_that_does_not_fit_is_not_used(written: tuple[Store, CountingReader, Live], unfit: Any) -> None:
    store, reader, _ = written
    state = keep(store, reader)
    assert state is not None
    spoilt, changed = unfit(state, json.loads(state.text))
    store.keep([replace(spoilt, text=canonical(changed))])
    assert read_history(reader, SUBJECT, AT).read == 37
    assert audit_history(reader, SUBJECT) == []


def test_another_announcement_counts_anew(written: tuple[Store, CountingReader, Live]) -> None:
    store, reader, _ = written
    keep(store, reader)
    announced = replace(SUBJECT, announced=Announcements((Announcement(7, ()),)))
    assert read_history(reader, announced, AT).read == 37


def test_the_audit_finds_a_history_that_the_entries_do_not_give(
    written: tuple[Store, CountingReader, Live],
) -> None:
    store, reader, _ = written
    state = keep(store, reader)
    assert state is not None
    changed = json.loads(state.text)
    changed["availability"]["rings"][0]["spent"][0][0] += 1
    store.keep([replace(state, text=canonical(changed))])
    (finding,) = audit_history(reader, SUBJECT)
    assert finding.what == f"the availability of t kept with entry {state.index} differs from its entries"
    assert audit_history(reader, SUBJECT, state.index) == []
