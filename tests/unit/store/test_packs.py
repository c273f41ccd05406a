"""Packs: every answer is the same before and after, and whatever ends the process, no entry is lost."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.entry import EncodedEntry, encode_entry
from mailwatch.model import Gap, GapReason, Outcome
from mailwatch.store import NewEntry, Reader, Store, StoreDamagedError, audit
from mailwatch.store.packing import MergedWindows, Packer, PackRange, level_for, pack_next
from mailwatch.store.place import Place, place_of
from mailwatch.store.sqlite import SqlitePlace, database
from mailwatch.times import Millis
from tests.helpers import ledger_factory as ledgers
from tests.helpers.ledger_answers import answers
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, observed

START: Millis = 1_767_225_600_000
EVER: Millis = 1 << 50


def written(folder: Path | Place, hours: int = 28, *, interval: Millis = 15 * MINUTE) -> Store:
    """A ledger of three targets with a gap, an outage and an entry of its own between; signed to its end."""

    def one(at: Millis) -> str:
        return "-" if START + 9 * HOUR <= at < START + 10 * HOUR else "+"

    def two(at: Millis) -> str:
        return " " if START + 3 * HOUR <= at < START + 5 * HOUR else "?" if at % (7 * interval) == 0 else "+"

    patterns = {"imap": one, "smtp": two, "pop3": lambda _: "+"}
    own = [("guard", START + 2 * HOUR, {"online": False, "at": START + 2 * HOUR})]
    return ledgers.write(
        folder, patterns, START, START + hours * HOUR, interval=interval, every=7, monitor_entries=own
    )  # fmt: skip


def pack_all(folder: Path | Place, store: Store, level: int = 5, before_ms: Millis = EVER) -> int:
    """Pack what there is; return how many packs were made."""
    made = 0
    with contextlib.closing(Reader.open(folder)) as reader:
        packer = Packer(reader)
        while pack_next(packer, store, before_ms, level) is not None:
            made += 1
    return made


def read(folder: Path | Place) -> dict[str, Any]:
    with contextlib.closing(Reader.open(folder)) as reader:
        return answers(reader)


def faults(folder: Path | Place, store: Store) -> list[str]:
    with contextlib.closing(Reader.open(folder)) as reader:
        return [finding.what for finding in audit(reader, store.keys.public, store.keys.secret)]


def compare(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Assert that the answers are the same; of those that differ, name the first."""
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []


def indices(folder: Path | Place, what: str = "SELECT idx FROM entries ORDER BY idx") -> list[int]:
    made = place_of(folder).engine(read_only=True)
    with made.connect() as connection:
        found = list(connection.exec_driver_sql(what).scalars())
    made.dispose()
    return found


@pytest.fixture
def store(place: Place) -> Iterator[Store]:
    opened = written(place)
    yield opened
    opened.close()


def test_every_answer_is_the_same_after_packing_and_after_a_restart(store: Store, place: Place) -> None:
    before = read(place)
    assert pack_all(place, store) > 5
    assert len(indices(place)) < before["size"] // 2
    assert read(place) == before
    assert faults(place, store) == []
    store.close()
    again = Store.open(place)
    assert (again.size, again.root, again.findings) == (store.size, store.root, [])
    more = again.append_batch([observed("pop3", EVER), observed("new", EVER)])
    numbers = [entry.number for entry in before["entries"] if entry.target == "pop3"]
    assert [entry.number for entry in more] == [numbers[-1] + 1, 1]
    again.close()


def test_observations_around_an_outage_stay_rows_and_so_does_all_else(store: Store, place: Place) -> None:
    there = {entry.index: entry for entry in read(place)["entries"]}
    pack_all(place, store)
    rows = indices(place)
    end = max(there.keys() - set(rows))
    """The last entry that is in a pack alone: what comes after it waits for more."""
    kept = [there[index] for index in rows if index < end]
    around = [entry for entry in kept if entry.kind in ("observation", "gap")]
    assert {entry.target for entry in around} == {"imap"}
    assert START + 8 * HOUR - MINUTE <= min(entry.time for entry in around) <= START + 8 * HOUR + 10 * MINUTE
    assert START + 10 * HOUR + 20 * MINUTE <= max(entry.time for entry in around) <= START + 11 * HOUR
    others = [entry.index for entry in kept if entry.kind not in ("observation", "gap")]
    assert others == [i for i, e in there.items() if e.kind not in ("observation", "gap") and i < end]


def test_the_middle_of_a_long_outage_is_packed(tmp_path: Path) -> None:
    patterns = {"imap": lambda at: "-" if at >= START + HOUR else "+"}
    store = ledgers.write(tmp_path, patterns, START, START + 4 * DAY, interval=20 * MINUTE, every=7)
    before = read(tmp_path)
    pack_all(tmp_path, store)
    times = {entry.index: entry.time for entry in before["entries"]}
    last = max(times[index] for index in indices(tmp_path, "SELECT idx FROM entries WHERE kind = 'observation'"
                                                 " AND idx < 200"))  # fmt: skip
    assert START + 25 * HOUR <= last <= START + 27 * HOUR
    assert read(tmp_path) == before
    store.close()


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)), max_size=12), st.integers(-1, 80))
def test_merged_windows_include_what_one_of_them_includes(given_windows: list[tuple[int, int]], at: int) -> None:
    windows = [(begin, begin + length) for begin, length in given_windows]
    assert MergedWindows(windows).include(at) == any(begin <= at <= end for begin, end in windows)


def test_only_what_is_old_signed_and_aligned_is_packed(store: Store, place: Place) -> None:
    with contextlib.closing(Reader.open(place)) as reader:
        packer = Packer(reader)
        assert packer.next_range(START, 5) is None
        assert packer.next_range(START + 5 * HOUR, 5) == PackRange(0, 5)
        assert packer.next_range(EVER, 20) is None
        for expected in (PackRange(0, 3), PackRange(8, 3), PackRange(16, 4), PackRange(32, 5), PackRange(64, 6)):
            assert packer.next_range(EVER, 3 if expected.first < 9 else 9) == expected
            store.save_pack(packer.prepare(expected))
        with pytest.raises(ValueError, match="does not follow"):
            store.save_pack(packer.prepare(PackRange(256, 5)))
    assert (level_for(5_760), level_for(1_440_000)) == (12, 16)


def test_a_clock_that_ran_ahead_does_not_hold_up_what_came_later(tmp_path: Path) -> None:
    store = Store.open(tmp_path)
    ahead = [observed("a", EVER - 1) for _ in range(8)]
    store.append_batch([*ahead, *(observed("a", START + at) for at in range(9))])
    store.checkpoint()
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        assert Packer(reader).next_range(START + DAY, 3) == PackRange(0, 3)
        assert Packer(reader).next_range(START, 3) is None
    store.close()


REFUSED = (
    "DELETE FROM entries WHERE idx = {free}", "DELETE FROM entries WHERE idx = {kept}",
    "DELETE FROM entries WHERE kind = 'outage'", "DELETE FROM entries WHERE kind = 'node'",
    "UPDATE entries SET time_ms = 0 WHERE idx = {kept}", "DELETE FROM packs", "DELETE FROM runs",
    "UPDATE runs SET data = {none}", "UPDATE packs SET root = {none}", "UPDATE packs SET dictionary = NULL",
    "UPDATE packs SET first = first + 1 WHERE first = 0", "UPDATE packs SET dictionary_of = NULL",
)  # fmt: skip


def test_the_database_refuses_to_lose_what_no_pack_holds(store: Store, place: Place) -> None:
    pack_all(place, store, before_ms=START + 20 * HOUR)
    kept = indices(place, "SELECT min(idx) FROM entries WHERE target = 'imap' AND kind = 'observation'")[0]
    assert len(indices(place)) < store.size
    made = place.engine()
    for statement in REFUSED:
        # PostgreSQL has other words for bytes.
        said = statement.format(free=store.size - 1, kept=kept, none="''" if place.is_shared else "x''")
        with pytest.raises(StoreDamagedError, match="append-only"), made.begin() as connection:
            connection.exec_driver_sql(said)
    made.dispose()


def test_runs_go_only_once_their_pack_is_pruned(sqlite_place: SqlitePlace) -> None:
    tmp_path, store = sqlite_place.data_dir, written(sqlite_place)
    pack_all(tmp_path, store)
    with contextlib.closing(sqlite3.connect(database(tmp_path))) as connection, connection:
        connection.execute("UPDATE packs SET pruned_ms = 5 WHERE first = 32")
        connection.execute("DELETE FROM runs WHERE pack = 32")
        for change in ("UPDATE packs SET pruned_ms = NULL", "UPDATE packs SET pruned_ms = 6 WHERE first = 32"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(change)
    store.close()


class Killed(BaseException):
    """Ends a step as a kill would."""


def statements(store: Store, stop_at: int, how: str) -> Iterator[None]:
    """End this process, or the step, before its statement (or commit) number `stop_at`."""
    count = 0

    def stop(*_: object) -> None:
        nonlocal count
        count += 1
        if count == stop_at:
            if how == "kill":
                os._exit(9)
            raise Killed

    events = ("before_cursor_execute", "commit") if how == "kill" else ("before_cursor_execute",)
    made = vars(store._hold)["_engine"]
    for event in events:
        sa.event.listen(made, event, stop)
    try:
        yield
    finally:
        for event in events:
            sa.event.remove(made, event, stop)


def test_a_step_that_fails_at_any_statement_leaves_every_entry_in_place(store: Store, place: Place) -> None:
    stop_at, failed = 0, True
    with contextlib.closing(Reader.open(place)) as reader:
        before = list(reader.entries())
        packer = Packer(reader)
        while failed:
            stop_at += 1
            with contextlib.contextmanager(statements)(store, stop_at, "raise"):
                try:
                    for wanted in iter(partial(packer.next_range, START + 15 * HOUR, 4), None):
                        store.save_pack(packer.prepare(wanted))
                        while store.sweep_packs(3):
                            pass
                    while store.sweep_packs(3):
                        pass
                    failed = False
                except Killed:
                    assert list(reader.entries()) == before
    assert stop_at > 12  # no step has as many statements
    assert indices(place, "SELECT count(*) FROM packs WHERE swept = 0") == [0]
    assert faults(place, store) == []


def test_a_kill_at_any_statement_leaves_every_entry_in_place(tmp_path: Path) -> None:
    written(tmp_path, 4, interval=20 * MINUTE).close()
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        before, stop_at, status = list(reader.entries()), 0, 9
        while status == 9:
            stop_at += 1
            child = os.fork()
            if child == 0:
                store = Store.open(tmp_path)
                with contextlib.contextmanager(statements)(store, stop_at, "kill"):
                    pack_all(tmp_path, store, 4)
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            assert list(reader.entries()) == before
    assert (status, stop_at > 10) == (0, True)
    assert indices(tmp_path, "SELECT count(*) FROM packs WHERE swept = 0") == [0]


def test_rows_are_deleted_in_ledger_order_of_all_targets_at_once(store: Store, place: Place) -> None:
    """Rows that follow each other share pages, which run by run would be written once for each target."""
    before = indices(place)
    with contextlib.closing(Reader.open(place)) as reader:
        prepared = Packer(reader).prepare(PackRange(0, 5))
        store.save_pack(prepared)
        assert {run.target for run in prepared.runs} == {"imap", "smtp", "pop3"}
        assert store.sweep_packs(12) == prepared.count
        assert indices(place) == before
        assert store.sweep_packs(12) == 12
    kinds = "SELECT idx FROM entries WHERE kind IN ('observation', 'gap') ORDER BY idx"
    gone = set(before) - set(indices(place))
    assert len(gone) == 12
    assert max(gone) < min(indices(place, kinds))


def test_a_row_that_differs_from_its_copy_in_a_pack_stays(sqlite_place: SqlitePlace) -> None:
    tmp_path, store = sqlite_place.data_dir, written(sqlite_place)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        store.save_pack(Packer(reader).prepare(PackRange(0, 5)))
    with contextlib.closing(sqlite3.connect(database(tmp_path))) as connection, connection:
        connection.execute("DROP TRIGGER entries_no_update")
        connection.execute("UPDATE entries SET outcome = 'down' WHERE idx = 4")
    while store.sweep_packs(1):
        pass
    assert 4 in indices(tmp_path)
    assert len(indices(tmp_path, "SELECT idx FROM entries WHERE idx < 32")) < 25
    assert indices(tmp_path, "SELECT swept FROM packs") == [0]
    assert store.sweep_findings() == ["entry 4 differs from its copy in a pack, and stays"]
    store.close()


def test_a_damaged_run_is_found_by_every_reading_of_it(sqlite_place: SqlitePlace) -> None:
    tmp_path, store = sqlite_place.data_dir, written(sqlite_place)
    pack_all(tmp_path, store)
    with contextlib.closing(sqlite3.connect(database(tmp_path))) as connection, connection:
        connection.execute("DROP TRIGGER runs_no_update")
        where = "WHERE target = 'pop3' AND pack = 64"
        ((data,),) = connection.execute(f"SELECT data FROM runs {where}")
        spoiled = data[:40] + bytes([data[40] ^ 1]) + data[41:]
        connection.execute(f"UPDATE runs SET data = ? {where}", (spoiled,))
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        for ask in (
            lambda: list(reader.entries(target="pop3")),
            lambda: list(reader.raw_entries(0, 200)),
            lambda: list(reader.raw_entries(0, 200, headers=False)),
            lambda: list(reader.leaf_hashes(70, 90)),
            lambda: list(reader.observation_payloads("pop3", 0, EVER)),
            lambda: list(reader.observation_times("pop3", 0)),
        ):
            with pytest.raises(StoreDamagedError, match=r"from 6\d on are not what was written"):
                ask()
        assert reader.is_damaged
        assert list(reader.entries(target="smtp"))
    store.close()


@st.composite
def drafts(draw: st.DrawFn) -> list[tuple[NewEntry, int]]:
    """Entries of all kinds with the version of their header; clocks are set back and forth."""
    made, at = list[tuple[NewEntry, int]](), START
    for _ in range(draw(st.integers(20, 90))):
        target = draw(st.sampled_from(["a", "b", 'ünï "%s" 1']))
        kind = draw(st.sampled_from(["up", "up", "up", "down", "unknown", "gap", "odd", "token", "watch"]))
        if kind in ("up", "down", "unknown"):
            entry = observed(target, at, Outcome(kind))
        elif kind == "gap":
            entry = NewEntry(
                kind="gap", time=at, target=target,
                payload=Gap(target=target, start=at - 5, end=at, reason=GapReason.SUSPENDED),
            )  # fmt: skip
        else:
            payload = {"detail": draw(st.text(max_size=8)), "of": draw(st.integers(-9, 9))}
            named = target if kind == "watch" or (kind == "odd" and draw(st.booleans())) else None
            entry = NewEntry(kind="observation" if kind == "odd" else kind, time=at, target=named, payload=payload)
        made.append((entry, draw(st.sampled_from([1, 2, 2]))))
        at += draw(st.sampled_from([1000, 60_000, 60_013, 0, -3_600_000, 7_200_000]))
    return made


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate])
@given(drafts(), st.integers(2, 4), st.booleans())
def test_whatever_a_ledger_holds_every_answer_is_the_same(
    tmp_path_factory: pytest.TempPathFactory, made: list[tuple[NewEntry, int]], level: int, is_salted: bool
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    versions = iter([version for _, version in made])

    def encode(**what: Any) -> EncodedEntry:
        if not is_salted:
            what["payload"] = {key: value for key, value in what["payload"].items() if key != "salt"}
        if next(versions) == 2:
            return encode_entry(**what)
        text = canonical(what["payload"])
        header = {key: what[key] for key in ("index", "kind", "number", "target", "time")}
        return EncodedEntry(canonical({**header, "payload": digest(text), "v": 1}), text)

    with contextlib.closing(Store.open(folder)) as store:
        with patch("mailwatch.store.store.encode_entry", encode):
            store.append_batch([entry for entry, _ in made])
        store.checkpoint()
        before = read(folder)
        with contextlib.closing(Reader.open(folder)) as reader:
            packer = Packer(reader)
            while (wanted := packer.next_range(EVER, level)) is not None:
                store.save_pack(packer.prepare(wanted))
                if wanted.first % 3 == 0:
                    store.sweep_packs(5)  # reads
                    store.sweep_packs(5)  # deletes
        # Some rows are in packs as well by now.
        compare(before, read(folder))
        while store.sweep_packs(3):
            pass
        compare(before, read(folder))


def test_the_audit_finds_a_damaged_run_and_a_pack_of_another_root(sqlite_place: SqlitePlace) -> None:
    folder, store = sqlite_place.data_dir, written(sqlite_place, 8)
    pack_all(folder, store)
    assert faults(folder, store) == []
    with contextlib.closing(sqlite3.connect(database(folder))) as connection, connection:
        connection.execute("DROP TRIGGER packs_no_update")
        connection.execute("UPDATE packs SET root = zeroblob(32) WHERE first = 32")
    assert faults(folder, store) == ["the pack of the entries from 32 on has another root than its entries"]
    with contextlib.closing(sqlite3.connect(database(folder))) as connection, connection:
        connection.execute("DROP TRIGGER runs_no_update")
        connection.execute("UPDATE runs SET data = zeroblob(200) WHERE first = (SELECT min(first) FROM runs)")
    assert any("from 1 on are not what was written" in what for what in faults(folder, store))
    store.close()
