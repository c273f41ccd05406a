"""The exceptions of the store, translated from those of its libraries. Each says what is wrong and what to do.

A temporary failure (full disk, file locked by another program) is retried. A damaged ledger needs the operator.
Any other error is the fault of the entry to be written. Other programs that have a file open are found through
/proc, so on Linux only, as far as permissions allow.
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
"""Most programs to name in a message."""


def programs_holding(file: Path) -> str:
    """Return the names of the other programs that have a file open; "another program" if none is visible."""
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


def has_open(process: int, file: Path) -> bool:
    """Return whether a process is seen to have a file open. Raises OSError if there is no such file."""
    return _has_open(Path("/proc") / str(process), file.stat())


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
"""Bytes that SQLite needs to open a database, for its -wal and -shm files."""
FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk or quota."""


def is_disk_full(folder: Path) -> bool:
    """Return whether the disk of a folder is full. SQLite reports a full disk for some writes, an I/O error for
    others.
    """
    try:
        disk = os.statvfs(folder)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < MIN_FREE_BYTES or (disk.f_files > 0 and disk.f_favail == 0)


DAMAGE_ADVICE = (
    "`mailwatch ledger audit` shows how much; restore it from your backup (docs/how-to/backup.md), or, "
    "without one, begin its successor with `mailwatch run --successor`"
)


class StoreError(OperationError):
    """The store cannot be used. `public_reason`: the message without paths and advice, fit for publication."""

    def __init__(self, message: str, why: str = "") -> None:
        super().__init__(message)
        self.public_reason = why or message


class StoreUnavailableError(StoreError):
    """The disk, the system or another program blocks access; this may pass."""


class DiskFullError(StoreUnavailableError):
    """The disk has no space for the ledger; the store works again once there is space."""


class DatabaseAwayError(StoreUnavailableError):
    """The database server does not answer; the store works again once it does."""


class CommitInDoubtError(DatabaseAwayError):
    """The connection was lost during a commit: the entries may be on record or not.

    The store finds out before it appends anything else.
    """


class EvictedError(StoreError):
    """This node's lease was ended: another node writes the ledger, and what this one holds is dropped."""


class StoreMovedError(StoreUnavailableError):
    """The file at the ledger's path is no longer the file that was opened."""


class StoreDamagedError(StoreError):
    """The ledger on disk is not what was written. The message says what is wrong and what to do."""


class KeysMissingError(StoreDamagedError):
    """The ledger has entries, but its signing key is missing or differs."""


class KeysDifferError(StoreDamagedError):
    """The database is of one ledger and the keys are of another."""


class LedgerMissingError(StoreDamagedError):
    """The keys of a ledger exist, but its database is missing or empty."""


class LedgerRolledBackError(StoreDamagedError):
    """The database is older than what its key has signed, or of another history."""


class NewerLedgerError(StoreDamagedError):
    """The tables were written by a newer version."""


class LedgerClosedError(StoreError):
    """The ledger has a successor; it can only be read."""


_DAMAGED = {
    sqlite3.SQLITE_ERROR,  # Our statements are fixed: every table and column they name must exist.
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
    """Translate an SQLite error of the database `file`; None if the statement's own values are at fault.

    The codes are those of https://www.sqlite.org/rescode.html.
    """
    code, name = getattr(error, "sqlite_errorcode", None), getattr(error, "sqlite_errorname", "") or ""
    if code is None:
        # Errors without a code come from Python's sqlite3 module: text that is not UTF-8, or wrong usage.
        return damaged(file, "text in it is not UTF-8") if "decode" in str(error) else None
    if name in _ENTRY_ERRORS:
        return None
    if code & 0xFF in _DAMAGED or name in _DAMAGED_DISK or name == _SHORT_READ:
        return damaged(file, str(error))
    return _unavailable(file, code & 0xFF, str(error))


def first_of(group: BaseExceptionGroup[StoreError]) -> StoreError:
    """Return the first error of a group, however deeply nested."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def damaged(place: object, what: str) -> StoreDamagedError:
    """Return the error for a damaged database."""
    return StoreDamagedError(f"{place} is damaged ({what}); {DAMAGE_ADVICE}", f"the database is damaged: {what}")


def entry_mismatch(index: object) -> StoreDamagedError:
    """Return the error for an entry that does not match its header."""
    what = f"entry {index} of the ledger is not what was written"
    return StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what)


def database_locked(file: Path) -> StoreUnavailableError:
    """Return the error for a locked database, with the program that locks it."""
    return StoreUnavailableError(
        f"{file} is locked by {programs_holding(file)}; stop that program", "another program locks the database"
    )


def disk_full(data_dir: Path) -> DiskFullError:
    """Return the error for a full disk."""
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
    """The health of one store, shared by its writer and readers. Thread-safe.

    `damage` stays set once damage is found: only the operator can repair it. `alarm` is called once for each
    finding that the operator must know; set it before anything can fail. `log`: the write-ahead log that the
    writer uses, None without a writer; connections to any other log are rejected.
    """

    def __init__(self) -> None:
        self.damage: StoreDamagedError | None = None
        self.alarm: Callable[[StoreError], None] = lambda _error: None
        self.log: os.stat_result | None = None
        self._reported: set[str] = set()

    def note(self, error: StoreError) -> None:
        """Record an error. Each is reported once, however often it occurs."""
        if isinstance(error, StoreDamagedError):
            first, self.damage = self.damage is None, self.damage or error
            if first:
                self.alarm(error)
        elif isinstance(error, StoreMovedError) and error.public_reason not in self._reported:
            self._reported.add(error.public_reason)
            self.alarm(error)
