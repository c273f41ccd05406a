"""Files of the command line: those given are read only if they end, those made are whole or not there."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from mailwatch.cli.errors import os_error_text
from mailwatch.errors import RESOURCE_ERRNOS, UsageError


def is_pdf(path: Path) -> bool:
    """Whether the report alone is wanted, without the evidence around it."""
    return path.suffix.lower() == ".pdf"


def check_writable(path: Path) -> None:
    """Raise UsageError where no file can be made, before the work is done that would be for nothing."""
    if path.name in ("", "..") or "\0" in str(path):
        raise UsageError(f"mailwatch: {str(path)!r} is not a file name; name a new file")
    # To rename a file over a device, as root may, would take the device from all.
    if os.path.lexists(path) and not path.is_file():
        raise UsageError(f"mailwatch: {path} exists and is not a file; name a new file")
    if not path.parent.is_dir():
        raise UsageError(f"mailwatch: {path.parent} is not a folder; create it, or name another place")


def write_atomic(path: Path, fill: Callable[[IO[bytes]], object]) -> int:
    """Write beside the wanted name first, for its owner's eyes only; return the size in bytes.

    Raises OSError and UsageError.
    """
    check_writable(path)
    torn = path.with_name(path.name + ".part")
    # What a killed one left, or a link that another put there, is not written to.
    torn.unlink(missing_ok=True)
    file = os.open(torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as out:
            fill(out)
        torn.rename(path)
    except BaseException:
        torn.unlink(missing_ok=True)
        raise
    return path.stat().st_size


MAX_TRUST_BYTES = 16 << 20
"""Bytes of a file of --trust; the authorities of a whole system are a quarter of a MiB."""


def check_regular_files(paths: Iterable[Path], most: int | None = None) -> None:
    """Raise UsageError for the first that is no file which can be read, or has more than `most` bytes.

    A device, a pipe or a folder is refused before a byte is read: /dev/zero never ends, a pipe may never begin.
    """
    for path in paths:
        try:
            # Not blocking: opening a pipe without a writer would wait for ever.
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
