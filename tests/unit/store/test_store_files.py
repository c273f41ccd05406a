"""The files of a ledger: which belong together, what becomes of them while it runs, and what a kill leaves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mailwatch.store import (
    DataDirLockedError,
    KeysMissingError,
    LedgerMissingError,
    NewEntry,
    Outbox,
    Reader,
    Store,
    StoreDamagedError,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
    Writer,
    backup,
)
from mailwatch.store import writer as writer_module

NODE = NewEntry(kind="node", time=1, target=None, payload={"event": "start"})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A ledger of two entries, under a checkpoint, that nobody has open."""
    folder = tmp_path / "data"
    store = Store.open(folder)
    store.append_batch([NODE, NODE])
    store.checkpoint()
    store.close()
    return folder


def entries(folder: Path) -> int:
    """How many entries another process reads."""
    code = "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute(sys.argv[2]).fetchone()[0])"
    command = [sys.executable, "-c", code, str(folder / "mailwatch.sqlite"), "SELECT count(*) FROM entries"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.parametrize("how", ["gone", "empty", "no tables"])
def test_keys_without_their_database_never_begin_a_second_ledger(data_dir: Path, tmp_path: Path, how: str) -> None:
    database = data_dir / "mailwatch.sqlite"
    database.unlink()
    if how != "gone":
        database.touch()
    if how == "no tables":
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("VACUUM")
    for use in (Store.open, Reader.open, lambda folder: backup(folder, tmp_path / "x")):
        if how == "no tables" and use is not Store.open:
            continue
        with pytest.raises(
            LedgerMissingError, match=r"restore the database from your backup .*`mailwatch run --successor`"
        ):
            use(data_dir)
    # On purpose, by hand: such a ledger names no predecessor.
    (data_dir / "keys").rename(tmp_path / "keys")
    database.unlink(missing_ok=True)
    store = Store.open(data_dir)
    assert store.size == 0
    store.close()


@pytest.mark.sqlite
def test_a_log_removed_after_a_kill_is_detected_by_the_stored_checkpoint(data_dir: Path) -> None:
    store = Store.open(data_dir)
    store.append_batch([NODE] * 5)
    store.checkpoint()
    # As kill -9 leaves it, with what was committed last in the log alone.
    left = data_dir.with_name("left")
    shutil.copytree(data_dir, left)
    store.close()
    Store.open(shutil.copytree(left, data_dir.with_name("whole"))).close()
    (left / "mailwatch.sqlite-wal").unlink()
    with pytest.raises(
        StoreDamagedError, match=r"7 entries were signed, but the database has 2: .*-wal was removed"
    ):
        Store.open(left)
    (left / "keys" / "ledger.checkpoint").unlink()
    store = Store.open(left)
    assert store.size == 2
    store.close()


FIRST_STARTS = """
import os, signal, sys
from pathlib import Path
from mailwatch.store import NewEntry, Store
import mailwatch.store.migrations.versions

def start(folder, at):
    seen = 0
    def trace(frame, event, _):
        nonlocal seen
        if "/mailwatch/store/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    store = Store.open(folder)
    store.append_batch([NewEntry(kind="node", time=1, target=None, payload={})])
    sys.settrace(None)
    os._exit(0)

folder, at, status = Path(sys.argv[1]), 1, 9
while status:
    child = os.fork()
    if child == 0:
        start(folder / str(at), at)
    status = os.waitpid(child, 0)[1]
    again = Store.open(folder / str(at))
    again.append_batch([NewEntry(kind="node", time=1, target=None, payload={})])
    again.checkpoint()
    again.close()
    Store.open(folder / str(at)).close()
    at += int(sys.argv[2])
print(at)
"""


@pytest.mark.parametrize("step", [31, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_first_start_that_is_killed_at_any_line_starts_cleanly_the_next_time(tmp_path: Path, step: int) -> None:
    """At lines of the store's own code, each or each eleventh; between those SQLite commits atomically."""
    command = [sys.executable, "-c", FIRST_STARTS, str(tmp_path), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 150


@pytest.mark.sqlite
def test_a_first_start_that_was_killed_before_its_key_was_made_is_no_ledger_yet(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    for key in (tmp_path / "keys").iterdir():
        key.unlink()
    with pytest.raises(FileNotFoundError, match="contains no ledger yet"):
        Reader.open(tmp_path)
    Store.open(tmp_path).close()
    Reader.open(tmp_path).close()


@pytest.mark.sqlite
def test_half_a_key_pair_of_a_ledger_without_entries_is_made_whole(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    (tmp_path / "keys" / "ledger.pem").unlink()
    store = Store.open(tmp_path)
    store.append_batch([NODE])
    store.close()
    (tmp_path / "keys" / "ledger.pem").unlink()
    with pytest.raises(KeysMissingError):
        Store.open(tmp_path)


def test_a_public_key_that_was_half_written_is_written_again(data_dir: Path) -> None:
    public = data_dir / "keys" / "ledger.pub"
    whole = public.read_bytes()
    public.write_bytes(whole[:9])
    Store.open(data_dir).close()
    assert public.read_bytes() == whole


def test_a_locked_database_is_reported_with_its_holder(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
        "c.execute('BEGIN IMMEDIATE'); print(flush=True); sys.stdin.read()"
    )
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **more: connect(*args, **{**more, "timeout": 0.05}))
    with subprocess.Popen(
        [sys.executable, "-c", code, str(data_dir / "mailwatch.sqlite")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            StoreUnavailableError, match=rf"is locked by python\S* \(process {other.pid}\); stop that program"
        ):
            Store.open(data_dir)
    Store.open(data_dir).close()


def test_a_second_process_is_refused_even_if_the_lock_file_was_removed(data_dir: Path) -> None:
    store = Store.open(data_dir)
    (data_dir / "lock").unlink()
    code = "import sys; from pathlib import Path; from mailwatch.store import Store; Store.open(Path(sys.argv[1]))"
    other = subprocess.run(
        [sys.executable, "-c", code, str(data_dir)], capture_output=True, text=True, check=False
    )
    assert "is in use by another mailwatch" in other.stderr
    assert f"(process {os.getpid()})" in other.stderr
    store.append_batch([NODE])
    assert (data_dir / "lock").read_text() == str(os.getpid())
    store.close()


@pytest.fixture
async def writing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Writer:
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.01)
    writer = Writer(Store.open(data_dir))
    await writer.start()
    await writer.submit(NODE)
    return writer


async def unhealthy(writer: Writer) -> None:
    while writer.healthy:
        await asyncio.sleep(0.01)


async def test_a_data_dir_that_is_moved_away_keeps_entries_waiting_until_it_is_back(
    data_dir: Path, writing: Writer
) -> None:
    collected: list[StoreError] = []
    writing._store.health.alarm = collected.append
    elsewhere = data_dir.rename(data_dir.with_name("elsewhere"))
    waiting = writing.submit(NODE)
    await unhealthy(writing)
    assert "mailwatch.sqlite was moved, replaced or removed while MailWatch runs" in writing.problems()[0]
    assert [type(error) for error in collected] == [StoreMovedError]
    # Who starts on the moved folder is kept out; a copy at the old place is another ledger's file.
    with pytest.raises(DataDirLockedError):
        Store.open(elsewhere)
    # Copied by another process: to close the database here would drop the locks of this one on it.
    subprocess.run(["cp", "-r", elsewhere, data_dir], check=True)
    assert entries(data_dir) == entries(elsewhere) == 3
    await asyncio.sleep(0.05)
    assert not waiting.done()
    shutil.rmtree(data_dir)
    elsewhere.rename(data_dir)
    assert (await waiting).index == 3
    assert writing.healthy
    await writing.close()
    assert entries(data_dir) == 4
    assert len(collected) == 1


@pytest.mark.parametrize("how", ["removed", "replaced"])
@pytest.mark.sqlite
async def test_a_replaced_database_is_not_written_and_the_exit_reports_it(
    data_dir: Path, writing: Writer, how: str
) -> None:
    database = data_dir / "mailwatch.sqlite"
    copy = shutil.copy(database, data_dir / "copy")
    database.unlink()
    if how == "replaced":
        Path(copy).rename(database)
    reader = Reader.open(data_dir, writing._store.health) if how == "replaced" else None
    writing.submit(NODE)
    await unhealthy(writing)
    await writing.close()
    assert writing.unwritten().startswith(
        "1 entries could not be written and are lost: mailwatch.sqlite was moved, "
    )
    assert database.exists() == (how == "replaced")
    if reader is not None:
        reader.close()


async def test_a_log_that_is_removed_loses_nothing_and_readers_go_on(data_dir: Path, writing: Writer) -> None:
    health = writing._store.health
    collected: list[StoreError] = []
    health.alarm = collected.append
    reader, outbox = Reader.open(data_dir, health), Outbox(data_dir, health)
    assert (reader.size(), outbox.cursor()) == (3, None)
    for suffix in ("-wal", "-shm"):
        (data_dir / f"mailwatch.sqlite{suffix}").unlink()
    # Until the writer has seen it, who is connected reads on, and nobody connects to what is not the ledger.
    assert reader.size() == 3
    with pytest.raises(StoreMovedError), contextlib.closing(Reader.open(data_dir, health)) as late:
        late.size()
    assert (await writing.submit(NODE)).index == 3
    assert (await writing.submit(NODE)).index == 4
    assert reader.size() == 5
    outbox.put([], at=1, cursor=5)
    assert outbox.cursor() == 5
    assert entries(data_dir) == 5
    assert [type(error) for error in collected] == [StoreMovedError, StoreMovedError]
    assert "put it back, and MailWatch writes them" in str(collected[0])
    assert "its content is in the database" in str(collected[1])
    assert writing.healthy
    await writing.close()
    reader.close()
    outbox.close()
    assert entries(data_dir) == 5
    with contextlib.closing(sqlite3.connect(data_dir / "mailwatch.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


KILLED_BACKUPS = (
    FIRST_STARTS.split("def start")[0]
    + """
from mailwatch.store import backup
def start(folder, file, at):
    seen = 0
    def trace(frame, event, _):
        nonlocal seen
        if not frame.f_code.co_filename.endswith("/store/backup.py"):
            return None
        if event == "line":
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    backup(folder, file)
    os._exit(0)

at, status = 1, 9
while status:
    child = os.fork()
    if child == 0:
        start(Path(sys.argv[1]), Path(sys.argv[2]) / f"{at}.tar.gz", at)
    status = os.waitpid(child, 0)[1]
    for path in Path(sys.argv[2]).rglob("*"):
        if path.is_file() and not path.name.endswith(".tar.gz"):
            assert b"PRIVATE KEY" not in path.read_bytes(), (at, path)
            assert path.stat().st_size != 32, (at, path)
    at += int(sys.argv[3])
print(at)
"""
)


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_backup_that_is_killed_at_any_line_leaves_no_key_behind_and_the_next_one_clears_up(
    data_dir: Path, tmp_path: Path, step: int
) -> None:
    folder = tmp_path / "backups"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", KILLED_BACKUPS, str(data_dir), str(folder), str(step)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
    assert list(folder.glob(".mailwatch-backup-*")) == []
    for file in folder.iterdir():
        with tarfile.open(file) as tar:
            assert {"mailwatch.sqlite", "keys/ledger.pem", "keys/targets.key"} <= set(tar.getnames())


def test_where_files_need_names_a_killed_backup_is_cleared_up_by_the_next(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "O_TMPFILE")
    old = tmp_path / ".mailwatch-backup-killed"
    old.mkdir()
    (old / "whole").write_text("a key")
    backup(data_dir, tmp_path / "x.tar.gz")
    assert not old.exists()
    with tarfile.open(tmp_path / "x.tar.gz") as tar:
        assert "keys/ledger.pem" in tar.getnames()


def test_a_backup_under_way_is_left_alone_by_another(data_dir: Path, tmp_path: Path) -> None:
    from mailwatch.store.backup import _work_folder

    with _work_folder(tmp_path) as made:
        backup(data_dir, tmp_path / "x.tar.gz")
        assert made.exists()


def test_a_limit_of_the_size_of_a_file_is_named_beside_the_disk(tmp_path: Path) -> None:
    program = """if True:
        import pathlib, resource, sqlite3, sys
        from mailwatch.store.errors import translate_error
        file = pathlib.Path(sys.argv[1])
        database = sqlite3.connect(file)
        database.execute("CREATE TABLE t (x)")
        resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
        try:
            with database:
                database.execute("INSERT INTO t VALUES (zeroblob(1000000))")
        except sqlite3.Error as error:
            print(translate_error(file, error))
    """
    words = [sys.executable, "-c", program, str(tmp_path / "x.sqlite")]
    result = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "reached the maximum file size, 65536 bytes: raise the limit (ulimit -f, systemd LimitFSIZE=" in result
    assert "or the disk fails" in result
