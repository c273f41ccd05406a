"""Whether there is room on the disk: one that is full is waited for, all else that it refuses is a fault."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from mailwatch.endings import Refused

LEAST = 128 * 1024
"""Bytes without which SQLite cannot open a database: its -wal and -shm files take as much."""
_FULL = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(Refused):
    """There is no room for the ledger now. It may be opened once there is."""


def no_room(data_dir: Path, error: Exception) -> bool:
    """Whether a full disk is why `error` was raised.

    SQLite says so only of a few writes; of others it says that it cannot open a file.
    """
    if isinstance(error, OSError):
        return error.errno in _FULL
    if not isinstance(error, sa.exc.OperationalError):
        return False
    if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return True
    try:
        disk = os.statvfs(data_dir)
    except OSError:
        return False
    return disk.f_bavail * disk.f_frsize < LEAST or (disk.f_files > 0 and disk.f_favail == 0)
