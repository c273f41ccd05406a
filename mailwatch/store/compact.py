"""Writes the file of a ledger anew without its free pages, while no MailWatch uses it.

SQLite uses free pages again, but only a file that was made for it can be shortened in steps; and a `VACUUM` in
place needs space for the file twice. Here SQLite writes what is in use into a new file. That is checked like a
backup, and takes the place of the old one in one step. A crash before that leaves the old file, a crash after it
the new. Nothing writes to the old one meanwhile: it is locked.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from mailwatch.files import sync_file, sync_folder
from mailwatch.store.backup import check_ledger_exists, check_undamaged
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import DiskFullError, StoreError, database_locked, translate_error
from mailwatch.store.keys import load_keys
from mailwatch.store.sqlite import AUTO_VACUUM, COPY_FOLDER, SqlitePlace, database
from mailwatch.store.store import Store


class CompactStep(Enum):
    """The steps, in their order."""

    OPENING = "opening the ledger"
    COPYING = "copying what is in use"
    CHECKING = "checking the copy"
    REPLACING = "replacing the file"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Compaction:
    """The ledger, its number of entries, and the bytes of its file before and after."""

    origin: str
    entries: int
    before: int
    after: int


def compact(data_dir: Path, progress: Callable[[CompactStep], None] = lambda _step: None) -> Compaction:
    """Shorten the file of a ledger to what is in use. `progress` is called before each step.

    Raises FileNotFoundError without a ledger, DataDirLockedError while MailWatch uses it, StoreError, OSError.
    """
    check_ledger_exists(data_dir)
    keys, file, work = load_keys(data_dir), database(data_dir), data_dir / COPY_FOLDER
    progress(CompactStep.OPENING)
    with contextlib.closing(Store.open(data_dir)) as store:
        entries, root = store.size, store.root
    with contextlib.closing(_Lock(data_dir)), alone(file) as raw:
        before = file.stat().st_size
        _check_space(raw, file)
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            copy = database(work)
            progress(CompactStep.COPYING)
            _copy(raw, file, copy)
            progress(CompactStep.CHECKING)
            # As `mailwatch run` would open it: the last checkpoint must be of this key and match its tree.
            with contextlib.closing(Store.open(work, keys=keys)) as copied:
                if (copied.size, copied.root) != (entries, root):
                    raise StoreError(f"the copy of {file} is not what was copied; the file stays as it is")
            check_undamaged(work, SqlitePlace(data_dir), entries, root)
            sync_file(copy)
            progress(CompactStep.REPLACING)
            copy.replace(file)
            sync_folder(data_dir)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress(CompactStep.DONE)
    return Compaction(origin=keys.origin, entries=entries, before=before, after=file.stat().st_size)


class _Lock(DataDirLock):
    """The lock of the data_dir, to close."""

    def close(self) -> None:
        """Release it."""
        self.release()


@contextlib.contextmanager
def alone(file: Path) -> Iterator[sqlite3.Connection]:
    """Open a database without a write-ahead log, locked for all other connections. Raises StoreError."""
    # Outside of SQLAlchemy, whose engine switches the log on again.
    raw = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=1, isolation_level=None)
    try:
        raw.execute("PRAGMA locking_mode=EXCLUSIVE")
        if raw.execute("PRAGMA journal_mode=DELETE").fetchone()[0] != "delete":
            raise database_locked(file)
        raw.execute("BEGIN EXCLUSIVE")
        raw.execute("COMMIT")
        yield raw
    except sqlite3.Error as error:
        raise translate_error(file, error) or StoreError(f"{file} cannot be used: {error}") from error
    finally:
        raw.close()


def _check_space(raw: sqlite3.Connection, file: Path) -> None:
    """Raise DiskFullError if the copy surely does not fit beside the file."""
    size, free, page = (
        raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    needed, left = (size - free) * page, shutil.disk_usage(file.parent).free
    if left < needed:
        raise DiskFullError(
            f"{file}: the disk there has {left / 1e6:.1f} MB free, and the copy needs {needed / 1e6:.1f} MB; free "
            "some space there",
            "the disk is full",
        )


def _copy(raw: sqlite3.Connection, file: Path, copy: Path) -> None:
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    # The copy can be shortened in steps from now on, also if the file could not.
    raw.execute(f"PRAGMA {AUTO_VACUUM}")
    try:
        raw.execute("VACUUM INTO ?", (str(copy),))
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
        what = translate_error(copy if full else file, error) or StoreError(f"{file} cannot be copied: {error}")
        raise what from None
