"""`mailwatch ledger compact` on real files: it gives space back, and a kill at any step leaves a whole ledger."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest

from mailwatch.store import (
    DataDirLockedError,
    DiskFullError,
    Reader,
    Store,
    StoreUnavailableError,
    audit,
    load_keys,
)
from mailwatch.store.compact import CompactStep, compact
from mailwatch.store.sqlite import AUTO_VACUUM, COPY_FOLDER, database
from tests.helpers.ledger_factory import MINUTE, write

START = 1_767_225_600_000
ENTRIES = 301


def spaced(folder: Path, *, made_for_it: bool = False) -> None:
    """Write a ledger whose file is mostly free pages, made by a version that could not shorten it."""
    write(folder, {"mail": lambda _: "+"}, START, START + 300 * MINUTE, every=100, durable=False).close()
    with contextlib.closing(sqlite3.connect(database(folder), isolation_level=None)) as raw:
        raw.execute("PRAGMA journal_mode=DELETE")
        if not made_for_it:
            raw.execute("PRAGMA auto_vacuum=NONE")
            raw.execute("VACUUM")
        raw.execute("CREATE TABLE more (content BLOB)")
        raw.execute("INSERT INTO more VALUES (zeroblob(2000000))")
        raw.execute("DROP TABLE more")


def pragma(folder: Path, name: str) -> int:
    with contextlib.closing(sqlite3.connect(database(folder))) as raw:
        return int(raw.execute(f"PRAGMA {name}").fetchone()[0])


def is_whole(folder: Path) -> bool:
    """Whether the ledger opens, has all entries and is as it was written."""
    with contextlib.closing(Store.open(folder)) as store:
        entries = store.size
    keys = load_keys(folder)
    with contextlib.closing(Reader.open(folder)) as reader:
        return entries == ENTRIES and audit(reader, keys.public, keys.secret) == []


def test_it_gives_the_free_pages_back_and_changes_nothing_else(tmp_path: Path) -> None:
    spaced(tmp_path)
    before = database(tmp_path).stat()
    done = compact(tmp_path)
    after = database(tmp_path).stat()
    assert (done.before, done.after, done.entries) == (before.st_size, after.st_size, ENTRIES)
    assert before.st_size - after.st_size > 1_900_000
    assert after.st_mode & 0o777 == 0o600
    assert is_whole(tmp_path)
    # From now on it can be shortened while MailWatch runs.
    assert f"auto_vacuum={'INCREMENTAL'}" == AUTO_VACUUM
    assert pragma(tmp_path, "auto_vacuum") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["keys", "lock", "mailwatch.sqlite"]


@pytest.mark.parametrize("step", list(CompactStep))
def test_a_kill_at_any_step_leaves_a_whole_ledger(tmp_path: Path, step: CompactStep) -> None:
    spaced(tmp_path)

    def killed() -> None:
        compact(tmp_path, lambda now: os.kill(os.getpid(), signal.SIGKILL) if now is step else None)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert is_whole(tmp_path)
    assert not (tmp_path / COPY_FOLDER).exists()
    done = compact(tmp_path)
    assert (done.before > 1_900_000) is (step is not CompactStep.DONE)
    assert done.after < 1_000_000


def test_it_is_refused_while_the_ledger_is_in_use(tmp_path: Path) -> None:
    spaced(tmp_path)
    with contextlib.closing(Store.open(tmp_path)), pytest.raises(DataDirLockedError):
        compact(tmp_path)
    with contextlib.closing(Reader.open(tmp_path)) as reader:
        found = reader.entries()
        next(found)
        with pytest.raises(StoreUnavailableError, match="locked by"):
            compact(tmp_path)
        found.close()  # type: ignore[attr-defined]
    assert is_whole(tmp_path)


def test_a_disk_without_room_for_the_copy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaced(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    with pytest.raises(DiskFullError, match="the copy needs 0"):
        compact(tmp_path)
    assert is_whole(tmp_path)


@pytest.mark.parametrize("made_for_it", [True, False])
def test_a_file_that_was_made_for_it_is_shortened_in_steps(tmp_path: Path, made_for_it: bool) -> None:
    spaced(tmp_path, made_for_it=made_for_it)
    size = pragma(tmp_path, "page_count")
    with contextlib.closing(Store.open(tmp_path)) as store:
        assert store.give_back(keep=0, pages=100) == (100 if made_for_it else 0)
        free = size - 100 - store.size
        while given := store.give_back(keep=50 * 4096, pages=100):
            assert given <= 100
        assert free > 0
    assert pragma(tmp_path, "freelist_count") == 50 if made_for_it else pragma(tmp_path, "freelist_count") > 400
    assert (pragma(tmp_path, "page_count") < size - 300) is made_for_it
    assert is_whole(tmp_path)
