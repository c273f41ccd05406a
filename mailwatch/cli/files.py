"""Files of the command line: reads only regular files, and writes output whole or not at all."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from mailwatch.cli.errors import os_error_text
from mailwatch.errors import RESOURCE_ERRNOS, UsageError
from mailwatch.files import write_atomic


def is_pdf(path: Path) -> bool:
    """Return whether to write only the report, without the evidence around it."""
    return path.suffix.lower() == ".pdf"


def check_writable(path: Path) -> None:
    """Raise UsageError if no file can be created at `path`, before any work is wasted."""
    if path.name in ("", "..") or "\0" in str(path):
        raise UsageError(f"mailwatch: {str(path)!r} is not a file name; name a new file")
    # Renaming a file over a device, as root may, would remove the device for everyone.
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(f"mailwatch: {path} exists and is not a file; name a new file")
    if not path.parent.is_dir():
        raise UsageError(f"mailwatch: {path.parent} is not a folder; create it, or name another place")


def write_output(path: Path, content: bytes | Callable[[IO[bytes]], object]) -> int:
    """Write the output file of a command, whole or not at all. Return its size in bytes. Raises OSError and
    UsageError.
    """
    check_writable(path)
    # The folder may be one that can only be written to, and the file system one that cannot sync.
    write_atomic(path, content, suffix=".part", durable=False)
    return path.stat().st_size


MAX_TRUST_BYTES = 16 << 20
"""Most bytes of a --trust file; all authorities of a system take a quarter of a MiB."""


def check_regular_files(paths: Iterable[Path], most: int | None = None) -> None:
    """Raise UsageError for the first path that is not a readable file, or has more than `most` bytes.

    A device, pipe or folder is rejected before a byte is read: /dev/zero never ends, a pipe may never begin.
    """
    for path in paths:
        try:
            # Non-blocking: opening a pipe without a writer would wait for ever.
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UsageError(f"mailwatch: {path} does not exist") from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in RESOURCE_ERRNOS:
                raise
            words = os_error_text(error) if isinstance(error, OSError) else f"{str(path)!r} is not a file name"
            raise UsageError(f"mailwatch: {words}") from None
        try:
            found = os.fstat(file)
        finally:
            os.close(file)
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"mailwatch: {path} is not a file but {_kind(found.st_mode)}; name the file itself")
        if most is not None and found.st_size > most:
            raise UsageError(f"mailwatch: {path} has more than {most} bytes; is it the right file?")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
