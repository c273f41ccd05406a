"""Writes files atomically: whole or not at all, and by default on disk when the writer returns."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_atomic(
    path: Path, content: bytes | Callable[[IO[bytes]], object], *, suffix: str = ".new", durable: bool = True
) -> None:
    """Write a file readable only by its owner: to a temporary file first, which then replaces it. Raises OSError.

    `content` is the content, or a function that writes it. A killed writer leaves a file with the `suffix`.
    `durable`: also sync file and folder, which takes a folder that may be read and a file system that can sync.
    """
    torn = path.with_name(path.name + suffix)
    # Never write to a file left by a killed writer, or to a link placed there.
    torn.unlink(missing_ok=True)
    opened = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        # Buffered: on a nearly full disk, a bare write may write only a part, without an error.
        with os.fdopen(opened, "wb") as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        torn.replace(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def sync_file(path: Path) -> None:
    """Sync the content of a file that another writer wrote. Raises OSError."""
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that its entries survive a loss of power, where supported (fsync(2)). Raises OSError."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(opened)
