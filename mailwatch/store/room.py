"""Whether there is room on the disk: one that is full is waited for, all else that it refuses is a fault."""

from __future__ import annotations

import errno
import os
from pathlib import Path

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
