"""What the store raises, whatever its libraries raised: one family, each with what is wrong and what to do.

A passing failure (the disk is full, another program holds the file) is tried again; a damaged ledger is not what
was written, and needs a person. What is neither is the fault of the one entry that was to be written. Which other
programs have a file open is known as far as the system lets us see: Linux, by /proc.
"""

from __future__ import annotations

import errno
import os
import resource
import sqlite3
from collections.abc import Callable
from pathlib import Path

from mailwatch.errors import OperationError

MAX_NAMED = 3
"""Programs that are named."""


def programs_holding(file: Path) -> str:
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
    return " and ".join(names[:MAX_NAMED]) or "another program"


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


MIN_FREE_BYTES = 128 * 1024
"""Bytes without which SQLite cannot open a database: its -wal and -shm files take as much."""
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Numbers by which the system says so."""


def is_disk_full(folder: Path) -> bool:
    """Whether the disk of a folder is full: SQLite says so only of a few writes, and of others that they fail."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


DAMAGE_ADVICE = (
    "`mailwatch ledger audit` shows how much; restore it from your backup (docs/how-to/backup.md), or, "
    "without one, move the whole data_dir away to start a new ledger"
)


class StoreError(OperationError):
    """The store cannot be used as it must be. `public_reason` is the same without paths and advice: it may be
    published.
    """

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.public_reason = why or message


class StoreUnavailableError(StoreError):
    """The disk, the system or another program does not let us at it now; it may pass."""


class DiskFullError(StoreUnavailableError):
    """The disk has no space for the ledger now. It may be used once it has."""


class StoreMovedError(StoreUnavailableError):
    """What is at the ledger's path is no longer the file that was opened."""


class StoreDamagedError(StoreError):
    """The ledger on disk is not what was written; says what is wrong and what to do."""


class KeysMissingError(StoreDamagedError):
    """The ledger has entries, but the key that signs it is gone or is another one."""


class LedgerMissingError(StoreDamagedError):
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
_ENTRY_ERRORS = {"SQLITE_CONSTRAINT_NOTNULL", "SQLITE_TOOBIG", "SQLITE_RANGE", "SQLITE_MISUSE"}
_DAMAGED_DISK = {"SQLITE_IOERR_CORRUPTFS", "SQLITE_IOERR_DATA"}
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_SHORT_READ = "SQLITE_IOERR_SHORT_READ"


def translate_error(file: Path, error: sqlite3.Error) -> StoreError | None:
    """Say what an error of SQLite means for the database `file`; None when it is the fault of what was asked.

    The codes are those of https://www.sqlite.org/rescode.html.
    """
    code, name = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlite_errorname", "") or ""
    if code is None:
        # Without a code: what Python's own module says of text that is no UTF-8, or of a wrong use.
        return damaged(file, "text in it is not UTF-8") if "decode" in str(error) else None
    if name in _ENTRY_ERRORS:
        return None
    if code & 0xFF in _DAMAGED or name in _DAMAGED_DISK or name == _SHORT_READ:
        return damaged(file, str(error))
    return _unavailable(file, code & 0xFF, str(error))


def first_of(group: BaseExceptionGroup[StoreError]) -> StoreError:
    """Return the first error of a group, however deep it lies."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def damaged(file: Path, what: str) -> StoreDamagedError:
    """Say that a database is damaged."""
    return StoreDamagedError(f"{file} is damaged ({what}); {DAMAGE_ADVICE}", f"the database is damaged: {what}")


def entry_mismatch(index: object) -> StoreDamagedError:
    """Say that an entry is not what its header seals."""
    what = f"entry {index} of the ledger is not what was written"
    return StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what)


def database_locked(file: Path) -> StoreUnavailableError:
    """Say that another program keeps us from a database, and which."""
    return StoreUnavailableError(
        f"{file} is locked by {programs_holding(file)}; stop that program", "another program locks the database"
    )


def disk_full(data_dir: Path) -> DiskFullError:
    """Say that the disk has no space."""
    return DiskFullError(f"the disk of {data_dir} is full; free some space there", "the disk is full")


def _unavailable(file: Path, code: int, what: str) -> StoreUnavailableError:
    if code in _LOCKED:
        return database_locked(file)
    if code == sqlite3.SQLITE_FULL or is_disk_full(file.parent):
        return disk_full(file.parent)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    words = {
        sqlite3.SQLITE_IOERR: (
            f"the disk fails ({what})",
            f"the disk of {file} fails ({what}); see the kernel's messages (dmesg)",
        )
        if limit == resource.RLIM_INFINITY
        else (
            f"a file may have reached the maximum size, or the disk fails ({what})",
            f"{file} or a file beside it may have reached the maximum file size, {limit} bytes: raise the limit "
            f"(ulimit -f, systemd LimitFSIZE=, docker --ulimit fsize=); or the disk fails ({what}): see the "
            "kernel's messages (dmesg)",
        ),
        sqlite3.SQLITE_READONLY: (
            f"the database is not writable ({what})",
            f"{file} is not writable ({what}); check its owner (ls -ld), and whether its disk is read-only",
        ),
        sqlite3.SQLITE_CANTOPEN: (
            "the database cannot be opened",
            f"{file} cannot be opened; check whether it exists, and its owner (ls -ld)",
        ),
    }
    why, text = words.get(code, (f"the database cannot be used ({what})", f"{file} cannot be used now ({what})"))
    return StoreUnavailableError(text, why)


class StoreHealth:
    """Shared by all who use one store. Safe to be called from any thread.

    `damage` stays once something damaged was met: only a person can put that right. `alarm` is called with what a
    person must be notified of, once for each finding; set it before anything can fail. `log` is the write-ahead
    log that the writer vouches for, None without a writer: connections to any other one are not used.
    """

    def __init__(self) -> None:
        self.damage: StoreDamagedError | None = None
        self.alarm: Callable[[StoreError], None] = lambda _error: None
        self.log: os.stat_result | None = None
        self._reported: set[str] = set()

    def note(self, error: StoreError) -> None:
        """Take note of an error. Each is reported once, however often it comes."""
        if isinstance(error, StoreDamagedError):
            first, self.damage = self.damage is None, self.damage or error
            if first:
                self.alarm(error)
        elif isinstance(error, StoreMovedError) and error.public_reason not in self._reported:
            self._reported.add(error.public_reason)
            self.alarm(error)
