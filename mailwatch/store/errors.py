"""What ails the store of a running MailWatch, as any of its parts meets it.

Which other programs have a file open, as far as the system lets us see: Linux, by /proc.

Whether there is room on the disk: one that is full is waited for, all else that it refuses is a fault.

What the store raises, whatever its libraries raised: one family, each with what is wrong and what to do.

A passing failure (the disk is full, another program holds the file) is tried again; a damaged ledger is not what
was written, and needs a person. What is neither is the fault of the one entry that was to be written.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

from mailwatch.errors import Refused

MOST = 3
"""Programs that are named."""


def holders(file: Path) -> str:
    """Name the other programs that have a file open; "another program" where none can be seen."""
    try:
        wanted = file.stat()
        others = [folder for folder in Path("/proc").iterdir() if folder.name.isdigit()]
    except OSError:
        return "another program"
    names = [
        f"{_name(folder)} (process {folder.name})"
        for folder in others
        if folder.name != str(os.getpid()) and _has_open(folder, wanted)
    ]
    return " and ".join(names[:MOST]) or "another program"


def _has_open(process: Path, wanted: os.stat_result) -> bool:
    try:
        opened = list((process / "fd").iterdir())
    except OSError:
        return False
    for name in opened:
        try:
            found = name.stat()
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "a program"


LEAST = 128 * 1024
"""Bytes without which SQLite cannot open a database: its -wal and -shm files take as much."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""Numbers by which the system says so."""


def no_room(folder: Path) -> bool:
    """Whether the disk of a folder is full: SQLite says so only of a few writes, and of others that they fail."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < LEAST or (disk.f_files > 0 and disk.f_favail == 0)


CURE = (
    "`mailwatch ledger audit` says how much of it; restore it from your backup (docs/how-to/backup.md), or, "
    "without one, move the whole data_dir away to begin a new ledger"
)


class StoreError(Refused):
    """The store cannot be used as it must be. `why` is the same without paths and cures, for strangers' eyes."""

    def __init__(self, words: str, why: str = "") -> None:
        super().__init__(words)
        self.why = why or words


class StoreUnavailable(StoreError):
    """The disk, the system or another program does not let us at it now; it may pass."""


class DiskFull(StoreUnavailable):
    """There is no room for the ledger now. It may be used once there is."""


class StoreMoved(StoreUnavailable):
    """What is at the ledger's path is no longer the file that was opened."""


class StoreBroken(StoreError):
    """The ledger on disk is not what was written; says what is wrong and what to do."""


class KeysMissing(StoreBroken):
    """The ledger has entries, but the key that signs it is gone or is another one."""


class LedgerMissing(StoreBroken):
    """The keys of a ledger are there, but its database is gone or empty."""


_DAMAGED = {
    sqlite3.SQLITE_ERROR,  # Our statements are fixed: what they name must be there.
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_EMPTY,
    sqlite3.SQLITE_INTERNAL,
    sqlite3.SQLITE_NOTFOUND,
}
_OF_THE_ENTRY = {"SQLITE_CONSTRAINT_NOTNULL", "SQLITE_TOOBIG", "SQLITE_RANGE", "SQLITE_MISUSE"}
_DAMAGED_DISK = {"SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA"}
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SHORT_READ = "SQLITE_IOERR_SHORT_READ"


def fault(file: Path, error: sqlite3.Error) -> StoreError | None:
    """Say what an error of SQLite means for the database `file`; None when it is the fault of what was asked.

    The codes are those of https://www.sqlite.org/rescode.html.
    """
    code, name = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlite_errorname", "") or ""
    if code is None:
        # Without a code: what Python's own module says of text that is no UTF-8, or of a wrong use.
        return broken(file, "text in it is not UTF-8") if "decode" in str(error) else None
    if name in _OF_THE_ENTRY:
        return None
    if code & 0xFF in _DAMAGED or name in _DAMAGED_DISK or name == _SHORT_READ:
        return broken(file, str(error))
    return _unavailable(file, code & 0xFF, str(error))


def first_of(group: BaseExceptionGroup[StoreError]) -> StoreError:
    """Return the first error of a group, however deep it lies."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def broken(file: Path, what: str) -> StoreBroken:
    """Say that a database is damaged."""
    return StoreBroken(f"{file} is damaged ({what}); {CURE}", f"the database is damaged: {what}")


def not_sealed(index: object) -> StoreBroken:
    """Say that an entry is not what its header seals."""
    what = f"entry {index} of the ledger is not what was written"
    return StoreBroken(f"{what}; {CURE}", what)


def locked(file: Path) -> StoreUnavailable:
    """Say that another program keeps us from a database, and which."""
    return StoreUnavailable(f"{file} is locked by {holders(file)}; end it", "another program locks the database")


def full(data_dir: Path) -> DiskFull:
    """Say that there is no room."""
    return DiskFull(f"the disk of {data_dir} is full; make room there", "the disk is full")


def _unavailable(file: Path, code: int, what: str) -> StoreUnavailable:
    if code in _LOCKED:
        return locked(file)
    if code == sqlite3.SQLITE_FULL or no_room(file.parent):
        return full(file.parent)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    words = {
        sqlite3.SQLITE_IOERR: (
            f"the disk fails ({what})",
            f"the disk of {file} fails ({what}); see the kernel's messages (dmesg)",
        )
        if limit == resource.RLIM_INFINITY
        else (
            f"a file may have become as large as it may be, or the disk fails ({what})",
            f"{file} or a file beside it may have become as large as it may be, {limit} bytes: raise the limit "
            f"(ulimit -f, systemd LimitFSIZE=, docker --ulimit fsize=); or the disk fails ({what}): see the "
            "kernel's messages (dmesg)",
        ),
        sqlite3.SQLITE_READONLY: (
            f"the database may not be written ({what})",
            f"{file} may not be written ({what}); see whose it is (ls -ld), and whether its disk is read-only",
        ),
        sqlite3.SQLITE_CANTOPEN: (
            "the database cannot be opened",
            f"{file} cannot be opened; see whether it is there and whose it is (ls -ld)",
        ),
    }
    why, text = words.get(code, (f"the database cannot be used ({what})", f"{file} cannot be used now ({what})"))
    return StoreUnavailable(text, why)


class Health:
    """Shared by all who use one store. Safe to be told from any thread.

    `damage` stays once something damaged was met: only a person can put that right. `alarm` is called with what a
    person must be told of, once for each finding; set it before anything can fail. `log` is the write-ahead log
    that the writer vouches for, None without a writer: connections to any other one are not used.
    """

    def __init__(self) -> None:
        self.damage: StoreBroken | None = None
        self.alarm: Callable[[StoreError], None] = lambda _error: None
        self.log: os.stat_result | None = None
        self._told: set[str] = set()

    def met(self, error: StoreError) -> None:
        """Take note of an error. Each is told once, however often it comes."""
        if isinstance(error, StoreBroken):
            first, self.damage = self.damage is None, self.damage or error
            if first:
                self.alarm(error)
        elif isinstance(error, StoreMoved) and error.why not in self._told:
            self._told.add(error.why)
            self.alarm(error)
