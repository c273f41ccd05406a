"""Writes files that are whole or not there at all, and on disk when the writer returns."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomic(path: Path, content: bytes | Callable[[IO[bytes]], object], *, suffix: str = ".new") -> None:
    """Write a file for its owner's eyes only: beside its place first, then to it. Raises OSError.

    `content` is what it holds, or writes that itself. What a writer that was killed left behind has the `suffix`.
    """
    torn = path.with_name(path.name + suffix)
    # What a killed one left, or a link that another put there, is not written to.
    torn.unlink(missing_ok=True)
    opened = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Buffered: a disk that is nearly full takes a part of what a bare write is given, and says nothing.
        with os.fdopen(opened, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        torn.replace(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder outlive a power cut, where folders can be synced (fsync(2)). Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(opened)
