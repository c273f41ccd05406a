"""One process at a time in a data_dir."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from mailwatch.endings import Refused


class Locked(Refused):
    """Another process works in this data_dir."""


class Lock:
    """An advisory lock on `data_dir/lock`; the kernel frees it when the process ends, however it ends."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / "lock"
        try:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError:
            cure = f"chown -R {os.geteuid()}:{os.getegid()} it (of a container: what is mounted there)"
            raise PermissionError(f"{data_dir} is not ours to write; {cure}, or name another data_dir") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            error = _locked(data_dir, self._file)
            os.close(self._file)
            raise error from None
        # A full disk does not take it; the lock holds all the same.
        with contextlib.suppress(OSError):
            os.truncate(self._file, 0)
            os.write(self._file, str(os.getpid()).encode())

    def release(self) -> None:
        """Let others in. The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._file)


def locked(data_dir: Path) -> Locked | None:
    """Say by whom a data_dir is in use; None when it is free or cannot be read. Makes nothing."""
    try:
        file = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _locked(data_dir, file)
    finally:
        os.close(file)
    return None


def _locked(data_dir: Path, file: int) -> Locked:
    holder = os.read(file, 20).decode("ascii", "replace").strip() or "unknown"
    return Locked(
        f"{data_dir} is in use by another mailwatch (process {holder}); stop it, or name another data_dir"
    )
