"""The index of outages is what the entries give, however much of it is kept; lists read no more than a part."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.incidents import IncidentOutage, incidents
from mailwatch.analysis.outage_record import OutageRecord, outage_from_payload
from mailwatch.model import Kind, Observation, Rules
from mailwatch.store import NewEntry, Reader, Store, queries
from mailwatch.store.kept_audit import audit_damaged_states
from mailwatch.store.outage_index import KIND, audit_heads
from mailwatch.store.outage_lists import OutageHead, head_of
from mailwatch.store.place import Place
from mailwatch.store.queries import NotInListError, Part
from mailwatch.store.replay import audit_outage_index, restore_state, rule_book
from mailwatch.store.sqlite import SqlitePlace, database
from tests.helpers.counting_reader import CountingReader
from tests.helpers.live_ledger import MARKS, Live, fact, ledger
from tests.helpers.records import payload_of


def given_by_entries(reader: Reader) -> dict[str, OutageHead]:
    found: dict[str, OutageHead] = {}
    for entry in reader.entries(kinds=["outage"]):
        record = outage_from_payload(entry.payload)
        opened = found[record.id].opened if record.id in found else entry.index
        found[record.id] = head_of(record, opened, entry.index)
    return found


def kept_by_index(reader: Reader) -> dict[str, OutageHead]:
    return {head.id: head for head in reader.outages.heads()}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(MARKS, st.booleans()), min_size=1, max_size=4))
@pytest.mark.slow
def test_the_index_follows_the_ledger_wherever_it_was_kept(parts: list[tuple[str, bool]]) -> None:
    with ledger() as (store, reader):
        live, at = Live(store, Rules(1, 1)), 0
        for marks, keeps in parts:
            for mark in marks:
                live.take(fact(mark, at := at + 1))
            if keeps:
                store.index_outages()
            expected = given_by_entries(reader)
            assert kept_by_index(reader) == expected
            # Like another process.
            reader.__dict__.pop("outages", None)
            assert kept_by_index(reader) == expected
            assert audit_heads(reader) == []


@pytest.fixture
def many(tmp_path: Path) -> Iterator[tuple[Store, CountingReader]]:
    """60 outages of one observation each; all but the last are over."""
    store = Store.open(tmp_path)
    live = Live(store, Rules(1, 1))
    for number in range(60):
        live.take(fact("-", 4 * number))
        if number < 59:
            live.take(fact("+", 4 * number + 1))
            live.take(fact("+", 4 * number + 2))
    reader = Reader.open(tmp_path)
    reader.__class__ = CountingReader
    assert isinstance(reader, CountingReader)
    yield store, reader
    reader.close()
    store.close()


def forget(reader: CountingReader) -> None:
    """Begin like another process."""
    for name in ("outages", "incidents"):
        reader.__dict__.pop(name, None)
    reader.returned = 0


def test_lists_read_the_entries_of_their_part_alone(many: tuple[Store, CountingReader]) -> None:
    store, reader = many
    whole = queries.outage_records(reader)
    assert [record.first_bad for record in whole] == sorted((r.first_bad for r in whole), reverse=True)
    assert len(whole) == 60
    while store.index_outages():
        pass
    assert reader.kept(KIND, "") is not None
    for part in (Part(5), Part(5, 10), Part(5, after=whole[30].id), Part(None, 55)):
        forget(reader)
        found = queries.outage_records(reader, part=part)
        first = 31 if part.after else part.skip
        assert found == whole[first : first + (part.limit or 60)]
        # Those of the part come by their index; a replay of the open one reads some.
        assert reader.returned < 20
    with pytest.raises(NotInListError):
        queries.outage_records(reader, part=Part(5, after="0" * 12))
    assert queries.outage_record(reader, whole[7].id) == whole[7]
    assert queries.outage_record(reader, "0" * 12) is None
    some = queries.outage_records(reader, wanted=lambda head: head.id > "8", start=whole[50].first_bad + 1)
    assert some == [record for record in whole if record.id > "8" and record.first_bad > whole[50].first_bad]


def test_incidents_are_grouped_as_their_outages_are(many: tuple[Store, CountingReader]) -> None:
    store, reader = many
    for number, target in enumerate(("other", "t2", "t3")):
        add_outage(store, target, 40_000 * number + 5_000, provider="" if number else "lab")
    store.index_outages()
    records = queries.outage_records(reader)
    expected = incidents(IncidentOutage(order=opened_at(reader, one), outage=one) for one in records)[::-1]
    found = queries.incidents(reader)
    assert found == expected
    assert [group.id for group in queries.incident_groups(reader)] == [one.id for one in expected]
    forget(reader)
    assert queries.incidents(reader, part=Part(3, 2)) == expected[2:5]
    assert queries.incidents(reader, part=Part(3, after=expected[1].id)) == expected[2:5]
    assert reader.returned < 25
    one = queries.incident(reader, expected[4].id)
    assert one is not None
    assert one.id == expected[4].id
    assert one.members[0].symptom_changes
    assert queries.incident(reader, "0" * 12) is None


def observed(mark: str) -> Observation:
    seen = fact(mark, 0)
    assert isinstance(seen, Observation)
    return seen


def opened_at(reader: Reader, record: OutageRecord) -> int:
    head = reader.outages.get(record.id)
    assert head is not None
    return head.opened


def add_outage(store: Store, target: str, at: int, provider: str) -> OutageRecord:
    """Put an outage on record whose observations are not."""
    down = replace(observed("-"), target=target, started_at=at, ended_at=at + 1000)
    up = replace(observed("+"), target=target, started_at=at + 9000, ended_at=at + 10_000)
    detector, _ = Detector().feed(IndexedFact(store.size, down), Rules(1, 1))
    _, (outage,) = detector.feed(IndexedFact(store.size, up), Rules(1, 1))
    payload = payload_of(outage, provider, Kind.IMAP, "here")
    store.append_batch([NewEntry(kind="outage", time=at, target=target, payload=payload)])
    return outage_from_payload(payload)


def test_heads_of_another_ledger_are_not_used_and_are_replaced(
    many: tuple[Store, CountingReader], tmp_path: Path
) -> None:
    store, reader = many
    store.index_outages()
    expected = given_by_entries(reader)
    for spoil in (
        "UPDATE kept_states SET leaf = 'x'",
        "UPDATE kept_states SET idx = 100000",
        "UPDATE kept_states SET state = '{}'",
        "DELETE FROM kept_states",
    ):
        with sqlite3.connect(database(tmp_path)) as raw:
            raw.execute(spoil)
            raw.execute("UPDATE outage_heads SET first_bad = 7")
        raw.close()
        forget(reader)
        assert kept_by_index(reader) == expected
        assert audit_heads(reader) == []
        assert store.index_outages() > 0
        forget(reader)
        assert kept_by_index(reader) == expected


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE outage_heads SET until_ms = until_ms + 1 WHERE id IN (SELECT min(id) FROM outage_heads)",
        "DELETE FROM outage_heads WHERE id IN (SELECT min(id) FROM outage_heads)",
        "UPDATE outage_heads SET id = '000000000000' WHERE id IN (SELECT min(id) FROM outage_heads)",
    ],
)
def test_the_audit_finds_a_head_that_its_entries_do_not_give(
    many: tuple[Store, CountingReader], tmp_path: Path, spoil: str
) -> None:
    store, reader = many
    store.index_outages()
    with sqlite3.connect(database(tmp_path)) as raw:
        raw.execute(spoil)
    raw.close()
    assert audit_heads(reader)


def test_an_outage_is_indexed_again_when_it_ends(many: tuple[Store, CountingReader], tmp_path: Path) -> None:
    store, reader = many
    store.index_outages()
    newest = reader.outages.heads()[0]
    assert (newest.state, newest.until) == ("open", None)
    live = Live(store, Rules(1, 1))
    live.detector = restore_state(reader, "t", rule_book(reader)).detector
    live.take(fact("+", 300))
    ended = reader.outages.heads()[0]
    assert (ended.id, ended.state, ended.opened) == (newest.id, "closed", newest.opened)
    assert ended.index > newest.index
    store.index_outages()
    forget(reader)
    assert reader.outages.heads()[0] == ended
    assert audit_heads(reader) == []


SPOILT = [
    "UPDATE outage_heads SET idx = idx + 1",
    "UPDATE outage_heads SET opened = opened + 1, until_ms = until_ms + 1",
    "UPDATE outage_heads SET id = 'x' || id",
    "DELETE FROM outage_heads",
    "DELETE FROM outage_heads WHERE idx % 3 = 0",
]
SPOILT_IN_SQLITE = [
    "UPDATE outage_heads SET first_bad = 'abc'",
    "UPDATE outage_heads SET idx = zeroblob(9)",
    "UPDATE outage_heads SET id = CAST(id AS BLOB)",
    "UPDATE outage_heads SET target = CAST(x'ff' AS TEXT)",
    "UPDATE kept_states SET state = CAST(state AS BLOB)",
    "UPDATE kept_states SET state = CAST(x'ff' AS TEXT)",
    "UPDATE kept_states SET idx = 'abc', digest = zeroblob(9)",
]


def twelve_outages(store: Store) -> None:
    live = Live(store, Rules(1, 1))
    for number in range(12):
        live.take(fact("-", 4 * number))
        live.take(fact("+", 4 * number + 1))


def spoil(where: Place, change: str) -> None:
    made = where.engine()
    with made.begin() as connection:
        assert connection.execute(sa.text(change)).rowcount > 0
    made.dispose()


def check_spoilt(where: Place, change: str, log: pytest.LogCaptureFixture) -> None:
    """A damaged index: lists are right at once, the audit says what to do, and the next start makes it anew."""
    with contextlib.closing(Store.open(where)) as store:
        twelve_outages(store)
        assert store.index_outages() == 24
    spoil(where, change)
    with contextlib.closing(Reader.open(where)) as reader:
        expected = given_by_entries(reader)
        assert len(expected) == 12
        assert kept_by_index(reader) == expected
        assert len(queries.outage_records(reader)) == 12
        if "outage_heads" in change:
            (found,) = audit_outage_index(reader)
            assert found.what.endswith("; the next start makes it anew")
        assert len(audit_damaged_states(reader)) == ("kept_states" in change)
        assert not reader.is_damaged
    assert "made anew" not in log.text
    with contextlib.closing(Store.open(where)) as store, contextlib.closing(Reader.open(where)) as reader:
        assert store.index_outages() == 24
        assert "it is made anew from their entries" in log.text
        assert (audit_outage_index(reader), audit_damaged_states(reader)) == ([], [])
        assert reader.kept_outages().begin > 0
        assert kept_by_index(reader) == expected
    log.clear()
    # A start with an index that fits writes nothing and says nothing.
    with contextlib.closing(Store.open(where)) as store:
        assert store.index_outages() == 0
    assert "anew" not in log.text


@pytest.mark.parametrize("change", SPOILT)
def test_an_index_with_other_rows_than_were_written_is_not_used_and_made_anew(
    place: Place, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_spoilt(place, change, caplog)


@pytest.mark.parametrize("change", SPOILT_IN_SQLITE)
def test_values_of_other_types_are_no_index(
    sqlite_place: SqlitePlace, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    check_spoilt(sqlite_place, change, caplog)


def test_the_sum_of_the_rows_follows_each_step(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailwatch.store.outage_index.ENTRIES_PER_STEP", 5)
    with contextlib.closing(Store.open(place)) as store, contextlib.closing(Reader.open(place)) as reader:
        twelve_outages(store)
        # An outage begins in one step and ends in the next.
        assert [store.index_outages() for _ in range(6)] == [5, 5, 5, 5, 4, 0]
        kept = reader.kept_outages()
        assert ({head.id: head for head in kept.heads}, kept.damaged) == (given_by_entries(reader), False)
