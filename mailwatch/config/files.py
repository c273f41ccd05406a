"""Reads files that the config names: only what is a file, and never without end."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mailwatch.config.mistakes import Fault
from mailwatch.endings import LACKS

CERTIFICATES = 16 << 20
"""Bytes of a file of certificates; the authorities of a whole system are a quarter of a MiB."""


def read_file(path: Path, most: int, cure: str) -> bytes:
    """Return at most `most` bytes of a file. Raises Fault, which says `cure` where there is none, and
    OSError where our machine lacks memory or handles.
    """
    try:
        # Not blocking: to open a pipe that nobody writes to would wait for ever.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise Fault(f"{path} is not a file; name the file itself")
            parts, left = [], most
            while left > 0 and (part := file.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
    except IsADirectoryError:
        raise Fault(f"{path} is not a file; name the file itself") from None
    except OSError as error:
        if error.errno in LACKS:
            raise
        raise Fault(f"{path} cannot be read: {error.strerror}; {cure}") from None


def fault_of_folder(path: Path) -> str:
    """Say why a folder could be neither used nor made, "" where it could; nothing is made."""
    there = path
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is not a folder; name another, or move what is there out of the way"
    if not os.access(there, os.W_OK | os.X_OK):
        cure = f"chown -R {os.geteuid()}:{os.getegid()} it (of a container: what is mounted there)"
        return f"{there} is not ours to write; {cure}, or name another data_dir"
    return ""
