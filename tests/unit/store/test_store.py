"""The store on a real disk: what was acknowledged is there, whatever ends the process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from mailwatch.model import Gap, GapReason, Outcome
from mailwatch.store import (
    DataDirLockedError,
    KeysMissingError,
    NewEntry,
    Reader,
    Store,
    StoreDamagedError,
    StoreFullError,
    Writer,
    audit,
)
from mailwatch.store import writer as writer_module
from mailwatch.store.keys import load_keys as load_keys
from mailwatch.store.schema import metadata
from mailwatch.store.sqlite import database, engine
from tests.helpers.ledger_factory import observed
from tests.helpers.sqlite_access import sqlite_connection


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(data_dir: Path) -> Iterator[Store]:
    opened = Store.open(data_dir)
    yield opened
    opened.close()


def audited(data_dir: Path) -> list[str]:
    keys, reader = load_keys(data_dir), Reader.open(data_dir)
    found = [finding.what for finding in audit(reader, keys.public, keys.secret)]
    reader.close()
    return found


def test_a_start_removes_what_a_killed_process_had_half_written(data_dir: Path) -> None:
    Store.open(data_dir).close()
    (data_dir / "tokens").mkdir(exist_ok=True)
    torn = [data_dir / "keys" / "ledger.new", data_dir / "tokens" / "0.new"]
    for path in torn:
        path.write_text("half")
    Store.open(data_dir).close()
    assert not [path for path in torn if path.exists()]


def test_entries_number_themselves_and_their_target_also_after_a_restart(store: Store, data_dir: Path) -> None:
    first = store.append_batch([observed("a", 1), observed("b", 2), observed("a", 3)])
    store.close()
    store = Store.open(data_dir)
    more = store.append_batch([observed("a", 4), NewEntry(kind="node", time=5, target=None, payload={})])
    store.close()
    assert [(e.index, e.number) for e in first + more] == [(0, 1), (1, 1), (2, 2), (3, 3), (4, None)]
    assert audited(data_dir) == []


def test_entries_read_back_as_written(store: Store, data_dir: Path) -> None:
    gap = Gap(target="a", start=1, end=9, reason=GapReason.SUSPENDED)
    drafts = [observed("a", 1), observed("b", 2), NewEntry(kind="gap", time=9, target="a", payload=gap)]
    written = store.append_batch([*drafts, observed("a", 10, Outcome.DOWN)])
    reader = Reader.open(data_dir)
    assert list(reader.entries()) == written
    assert [e.index for e in reader.entries(target="a", kinds=["gap", "observation"])] == [0, 2, 3]
    assert [e.index for e in reader.entries(start_ms=2, end_ms=10)] == [1, 2]
    assert [e.index for e in reader.entries(descending=True, limit=2)] == [3, 2]
    assert [e.index for e in reader.entries(from_index=3)] == [3]
    assert written[2].fact == gap
    assert reader.last_index(target="a", outcome=Outcome.UP) == 0
    assert reader.last_index(target="a", outcome=Outcome.UP, before=0) is None
    reader.close()
    store.close()


def test_target_payloads_are_salted_so_that_equal_ones_differ(store: Store) -> None:
    one, two = store.append_batch([observed("a", 1), observed("a", 1)])
    store.close()
    assert one.payload["salt"] != two.payload["salt"]
    assert len(bytes.fromhex(one.payload["salt"])) == 16


@pytest.mark.parametrize("table", ["entries", "checkpoints"])
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET time_ms = 0"])
def test_nothing_that_was_written_can_be_changed(store: Store, data_dir: Path, table: str, change: str) -> None:
    store.append_batch([observed("a", 1)])
    store.checkpoint()
    store.close()
    connection = sqlite3.connect(data_dir / "mailwatch.sqlite")
    with pytest.raises(sqlite3.IntegrityError, match="the ledger is append-only"):
        connection.execute(change.format(table))
    connection.close()


TAMPERING = [
    ("UPDATE entries SET payload = replace(payload, 'up', 'no') WHERE idx = 1", "differs in: payload"),
    ("UPDATE entries SET time_ms = 77 WHERE idx = 1", "differs in: time"),
    ("UPDATE entries SET target = 'b' WHERE idx = 1", "filed under b, but its payload is of a"),
    ("UPDATE entries SET header = header || ' ' WHERE idx = 1", "differs in: its form"),
    ("DELETE FROM entries WHERE idx = 2", "a checkpoint covers 3 entries, but there are 2"),
    ("UPDATE checkpoints SET note = replace(note, '3', '2')", "checkpoint 3: "),
    ("UPDATE checkpoints SET hashes = zeroblob(64)", "checkpoint 3: the subtrees kept with it"),
    (
        "UPDATE entries SET header = replace(header, '\"time\":2', '\"time\":9'), time_ms = 9 WHERE idx = 1",
        "the entries give",
    ),
]


@pytest.mark.parametrize(("statement", "finding"), TAMPERING)
def test_the_audit_finds_whatever_was_tampered_with(
    store: Store, data_dir: Path, statement: str, finding: str
) -> None:
    store.append_batch([observed("a", at) for at in (1, 2, 3)])
    store.checkpoint()
    store.close()
    assert audited(data_dir) == []
    connection = sqlite3.connect(data_dir / "mailwatch.sqlite")
    for table in ("entries", "checkpoints"):
        connection.execute(f"DROP TRIGGER {table}_no_update")
        connection.execute(f"DROP TRIGGER {table}_no_delete")
    connection.execute(statement)
    connection.commit()
    connection.close()
    assert any(finding in what for what in audited(data_dir)), audited(data_dir)


@pytest.mark.parametrize("hashes", ["zeroblob(64)", "zeroblob(3)", "'text'"])
def test_damaged_subtrees_are_computed_anew_from_entries_that_give_the_signed_root(
    store: Store, data_dir: Path, hashes: str
) -> None:
    store.append_batch([observed("a", at) for at in (1, 2, 3)])
    store.checkpoint()
    store.append_batch([observed("a", 4)])
    store.close()
    tamper(data_dir, f"UPDATE checkpoints SET hashes = {hashes}")
    store = Store.open(data_dir)
    assert "the subtrees kept with checkpoint 3 are damaged; the entries give the signed root" in store.findings
    store.append_batch([observed("a", 5)])
    store.checkpoint()
    store.close()
    assert [what.partition(",")[0] for what in audited(data_dir)] == ["checkpoint 3: the subtrees kept with it"]
    tamper(data_dir, "UPDATE checkpoints SET hashes = zeroblob(64)", "UPDATE entries SET header = header || ' '")
    with pytest.raises(StoreDamagedError, match=r"signs 5 entries with root .* but 5 entries give"):
        Store.open(data_dir)


def tamper(data_dir: Path, *statements: str) -> None:
    with contextlib.closing(sqlite3.connect(data_dir / "mailwatch.sqlite")) as connection:
        for table in ("entries", "checkpoints"):
            connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_update")
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def test_a_second_process_is_refused(store: Store, data_dir: Path) -> None:
    with pytest.raises(DataDirLockedError, match=f"process {os.getpid()}"):
        Store.open(data_dir)
    store.close()
    Store.open(data_dir).close()


@pytest.mark.sqlite
def test_files_are_readable_only_by_their_owner(store: Store, data_dir: Path) -> None:
    store.append_batch([observed("a", 1)])
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data_dir.rglob("*") if path.is_file()}
    store.close()
    assert {"mailwatch.sqlite", "mailwatch.sqlite-wal", "ledger.pem", "targets.key", "lock"} <= modes.keys()
    assert {name for name, mode in modes.items() if mode & 0o077} <= {"ledger.pub"}
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700


def test_lost_keys_stop_the_start_with_advice(store: Store, data_dir: Path) -> None:
    store.append_batch([observed("a", 1)])
    store.close()
    (data_dir / "keys" / "ledger.pem").unlink()
    with pytest.raises(KeysMissingError, match=r"ledger\.pem is missing; restore it from your backup"):
        Store.open(data_dir)
    (data_dir / "keys" / "targets.key").unlink()
    with pytest.raises(KeysMissingError, match="there is a ledger; restore the keys"):
        Store.open(data_dir)


def test_other_keys_are_refused_at_the_start(store: Store, data_dir: Path, tmp_path: Path) -> None:
    store.append_batch([observed("a", 1)])
    store.checkpoint()
    store.close()
    Store.open(tmp_path / "other").close()
    (tmp_path / "other" / "keys" / "ledger.pem").rename(data_dir / "keys" / "ledger.pem")
    with pytest.raises(StoreDamagedError, match="expected the origin"):
        Store.open(data_dir)


@pytest.mark.sqlite
def test_a_database_that_is_not_one_is_refused_with_advice(store: Store, data_dir: Path) -> None:
    store.close()
    (data_dir / "mailwatch.sqlite").write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreDamagedError, match="restore it from your backup"):
        Store.open(data_dir)
    # The lock is free again: the next start reports no process that is not there.
    with pytest.raises(StoreDamagedError):
        Store.open(data_dir)


def test_the_tables_are_what_the_migrations_make(store: Store, data_dir: Path) -> None:
    store.close()
    made = engine(data_dir, read_only=True)
    with made.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    made.dispose()


WRITING = """
import asyncio, sys
from pathlib import Path
from typing import Any
from mailwatch.store import Store, Writer
from tests.helpers.ledger_factory import observed
from tests.helpers.sqlite_access import sqlite_connection

async def main():
    writer = Writer(Store.open(Path(sys.argv[1])))
    await writer.start()
    for at in range(1_000_000):
        futures = [writer.submit(observed("a", at)) for _ in range(7)]
        for future in futures:
            print((await future).index, flush=True)
        if at % 3 == 0:
            await writer.checkpoint()

asyncio.run(main())
"""


def test_kill_9_loses_nothing_that_was_acknowledged(data_dir: Path) -> None:
    acknowledged = -1
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITING, str(data_dir)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(20):
            acknowledged = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            acknowledged = int(line) if line.endswith("\n") else acknowledged
        process.wait()
        process.stdout.close()
        store = Store.open(data_dir)
        assert store.size > acknowledged
        store.close()
        assert audited(data_dir) == []


async def test_a_batch_is_one_commit_and_answers_in_order(store: Store) -> None:
    commits: list[int] = []
    writer = Writer(store, on_commit=lambda _seconds, entries: commits.append(entries))
    await writer.start()
    written = await asyncio.gather(*(writer.submit(observed("a", at)) for at in range(50)))
    await writer.close()
    assert [entry.index for entry in written] == list(range(50))
    assert commits == [50]


async def test_closing_commits_what_waits_and_signs_it(store: Store, data_dir: Path) -> None:
    writer = Writer(store)
    await writer.start()
    future = writer.submit(observed("a", 1))
    await writer.close()
    assert (await future).index == 0
    reader = Reader.open(data_dir)
    last = reader.last_checkpoint()
    assert last is not None
    assert last.size == 1
    assert next(reader.checkpoints()) == last
    reader.close()


async def test_a_full_disk_keeps_entries_in_memory_until_it_has_space(
    store: Store, data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.05)
    monkeypatch.setattr(writer_module, "MAX_PENDING", 2)
    # SQLite's own page limit gives the very error of a full disk.
    connection = sqlite_connection(store)
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")
    big = NewEntry(kind="node", time=1, target=None, payload={"text": "x" * 100_000})
    failed = asyncio.Event()
    monkeypatch.setattr(writer_module.logger, "error", lambda *_: failed.set())
    writer = Writer(store)
    await writer.start()
    waiting = [writer.submit(big), writer.submit(big)]
    await failed.wait()
    assert not writer.healthy
    assert writer.pending == 2
    with pytest.raises(StoreFullError, match="2 entries wait for the disk"):
        writer.submit(big)
    connection.execute("PRAGMA max_page_count = 1000000")
    assert [entry.index for entry in await asyncio.gather(*waiting)] == [0, 1]
    assert writer.healthy
    await writer.close()
    assert audited(data_dir) == []


def test_a_failed_batch_leaves_no_trace(store: Store, data_dir: Path) -> None:
    store.append_batch([observed("a", 1)])
    missing: Any = None
    unwritable = NewEntry(kind=missing, time=1, target=None, payload={})
    with pytest.raises(sa.exc.IntegrityError):
        store.append_batch([observed("a", 2), unwritable])
    assert [(e.index, e.number) for e in store.append_batch([observed("a", 3)])] == [(1, 2)]
    store.close()
    assert audited(data_dir) == []


def test_headers_are_canonical_json(store: Store) -> None:
    (entry,) = store.append_batch([observed("è", 1)])
    store.close()
    assert json.loads(entry.header)["payload"] == hashlib.sha256(entry.text.encode()).hexdigest()


async def test_an_entry_that_cannot_be_written_does_not_hold_up_the_others(store: Store) -> None:
    writer = Writer(store)
    await writer.start()
    faulty = NewEntry(kind="node", time=1, target=None, payload={"text": "\ud800"})
    futures = [writer.submit(draft) for draft in (observed("a", 1), faulty, observed("a", 2))]
    good, bad, better = await asyncio.gather(*futures, return_exceptions=True)
    await writer.close()
    assert isinstance(bad, TypeError)
    assert not isinstance(good, BaseException)
    assert not isinstance(better, BaseException)
    assert (good.index, better.index) == (0, 1)


def test_opening_once_more_keeps_the_locks_of_the_first(tmp_path: Path) -> None:
    """A file that is opened and closed loses its process's locks; then others would take the log away under it."""
    store = Store.open(tmp_path)
    again = engine(tmp_path)
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('PRAGMA journal_mode=DELETE')"
    other = subprocess.run(
        [sys.executable, "-c", code, str(database(tmp_path))], capture_output=True, text=True, check=False
    )
    assert "database is locked" in other.stderr
    again.dispose()
    store.close()


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ({"kinds": ["outage"]}, "entries_by_kind (kind=?)"),
        ({"kinds": ["node", "token"]}, "entries_by_kind (kind=?)"),
        (
            {"kinds": ["token"], "to_index": 9, "descending": True, "limit": 1},
            "entries_by_kind (kind=? AND idx<?)",
        ),
        ({"target": "a", "kinds": ["outage"], "from_index": 9}, "entries_by_kind (kind=? AND idx>?)"),
        ({"target": "a", "kinds": ["observation"], "from_index": 9}, "entries_by_target (target=? AND idx>?)"),
        (
            {"target": "a", "start_ms": 1, "end_ms": 2},
            "entries_by_target_time (target=? AND time_ms>? AND time_ms<?)",
        ),
        (
            {"target": "a", "kinds": ["observation", "gap"], "start_ms": 1},
            "entries_by_target (target=? AND idx>? AND idx<?)",
        ),
    ],
)
def test_a_query_of_a_range_does_not_read_the_whole_ledger(
    store: Store, data_dir: Path, asked: dict[str, Any], index: str
) -> None:
    """With ten million entries a query past the indexes takes seconds, and each web page asks several."""
    made = engine(data_dir, read_only=True)
    plans: list[str] = []

    @sa.event.listens_for(made, "before_cursor_execute")
    def _explain(_connection: Any, cursor: Any, text: str, values: Any, _context: Any, _many: bool) -> None:
        plans.extend(row[3] for row in cursor.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall())

    assert list(Reader(made).entries(**asked)) == []
    made.dispose()
    assert any(index in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN") for plan in plans), plans
    assert ("kinds" in asked and "node" in asked["kinds"]) or not any("ORDER BY" in plan for plan in plans), plans


def test_a_ledger_of_an_older_version_is_brought_up_to_date_and_loses_nothing(
    store: Store, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written = store.append_batch([observed("a", 1), observed("a", 2)])
    store.close()
    with sqlite3.connect(database(data_dir)) as connection:
        connection.execute("DROP INDEX entries_by_target_time")
        for table in (
            "kept_states",
            "outage_heads",
            "runs",
            "packs",
            "acknowledgements",
            "channels",
            "witnessed",
            "witnessed_mailboxes",
            "witness_refusals",
            "hub_invitations",
            "hub_members",
        ):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("UPDATE alembic_version SET version_num = '0002'")
    connection.close()
    caplog.set_level("INFO", "mailwatch")
    Store.open(data_dir).close()
    assert "to this version" in caplog.text
    caplog.clear()
    again = Store.open(data_dir)
    assert (caplog.text, again.size) == ("", 2)
    again.close()
    reader = Reader.open(data_dir)
    assert list(reader.entries(target="a", start_ms=0)) == written
    reader.close()
