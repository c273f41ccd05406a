"""Reads files that the config names: only regular files, and only up to a bound."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from mailwatch.config.errors import FieldError
from mailwatch.errors import RESOURCE_ERRNOS

MAX_CERTIFICATE_BYTES = 16 << 20
"""Bytes of a certificate file; the authorities of a whole system are a quarter of a MiB."""

MAX_FILE_NAME_BYTES = 128
"""Bytes reserved for the longest path of a file created in a data_dir, with a margin."""
_KERNEL_FOLDERS = ("/proc", "/sys")
"""Folders in which even root can create no file, whatever access(2) reports (proc(5), sysfs(5))."""


def read_file(path: Path, max_bytes: int, advice: str) -> bytes:
    """Return at most `max_bytes` bytes of a file. Raises FieldError, with `advice`, if it cannot be read, and
    OSError if our machine lacks memory or handles.
    """
    try:
        # Non-blocking: opening a pipe without a writer would wait for ever.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(number).st_mode):
                raise FieldError(f"{path} is not a file; name the file itself")
            parts, left = [], max_bytes
            while left > 0 and (part := file.read(left)):
                parts.append(part)
                left -= len(part)
            return b"".join(parts)
    except IsADirectoryError:
        raise FieldError(f"{path} is not a file; name the file itself") from None
    except OSError as error:
        if error.errno in RESOURCE_ERRNOS:
            raise
        raise FieldError(f"{path} cannot be read: {error.strerror}; {advice}") from None


def _exists(path: Path) -> bool:
    """Return whether the path exists, even as a broken link; a name that is too long does not. Raises OSError."""
    try:
        os.lstat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return False
        raise
    return True


def folder_problem(path: Path) -> str:
    """Return why a folder can be neither used nor created, "" if it can; nothing is created."""
    there, made = path, list[str]()
    try:
        while not _exists(there) and there != there.parent:
            made.append(there.name)
            there = there.parent
        if not there.is_dir():
            return f"{there} is not a folder; name another, or move that file away"
        # The limits, minus the longest name of a file created in the folder.
        most, most_in_all = (
            os.pathconf(there, "PC_NAME_MAX"),
            os.pathconf("/", "PC_PATH_MAX") - MAX_FILE_NAME_BYTES,
        )
    except OSError as error:
        return f"{there} cannot be used: {error.strerror}; name another"
    if long := next((name for name in made if len(os.fsencode(name)) > most), ""):
        return f"the name {long[:20]}... is longer than {most} bytes, the limit of the file system; name another"
    if len(os.fsencode(path)) > most_in_all:
        return f"the path, with the files in it, is longer than {most_in_all} bytes; name another"
    if kind := next((kind for kind in _KERNEL_FOLDERS if there.resolve().is_relative_to(kind)), ""):
        return f"{there} is in {kind}, which is not a disk and keeps no files; name another"
    if not os.access(there, os.W_OK | os.X_OK):
        advice = f"chown -R {os.geteuid()}:{os.getegid()} it (in a container: the mounted folder)"
        return f"MailWatch may not write to {there}; {advice}, or name another data_dir"
    return ""
