"""The lock that lets only one process use a data_dir."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
from pathlib import Path

from mailwatch.store.errors import StoreUnavailableError, has_open, programs_holding


class DataDirLockedError(StoreUnavailableError):
    """Another process uses this data_dir."""


class DataDirLock:
    """Advisory locks on `data_dir` and on the file `lock` in it. The kernel releases them when the process ends in
    any way. The folder's lock survives removal of the file; the file's lock works on file systems that cannot lock
    folders.
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._path = data_dir / "lock"
        self._folder = self._open(data_dir, os.O_RDONLY)
        try:
            self._lock_folder()
            self._file = self._take()
        except BaseException:
            os.close(self._folder)
            raise

    def hold(self) -> None:
        """Lock the file again if its path now names another file. Raises DataDirLockedError, OSError."""
        with contextlib.suppress(FileNotFoundError):
            found, held = self._path.stat(), os.fstat(self._file)
            if (found.st_dev, found.st_ino) == (held.st_dev, held.st_ino):
                return
        taken = self._take()
        os.close(self._file)
        self._file = taken

    def _lock_folder(self) -> None:
        try:
            fcntl.flock(self._folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._held_by_other() from None
        except OSError:
            # A file system that cannot lock folders, such as NFS: the file's lock must do.
            return

    def _take(self) -> int:
        file = self._open(self._path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise self._held_by_other() from None
            raise
        # The process id is only information for others, so a full disk does not matter.
        with contextlib.suppress(OSError):
            os.truncate(file, 0)
            os.write(file, str(os.getpid()).encode())
        return file

    def _open(self, path: Path, flags: int) -> int:
        try:
            return os.open(path, flags | os.O_CLOEXEC, 0o600)
        except PermissionError:
            advice = f"chown -R {os.geteuid()}:{os.getegid()} it (in a container: the mounted folder)"
            raise PermissionError(
                f"MailWatch may not write to {self._data_dir}; {advice}, or name another data_dir"
            ) from None

    def _held_by_other(self) -> DataDirLockedError:
        return _locked(self._data_dir)

    def release(self) -> None:
        """Release the locks. The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._file)
        os.close(self._folder)


def lock_holder(data_dir: Path) -> DataDirLockedError | None:
    """Return the error that names the process using a data_dir; None if it is free or unreadable. Creates
    nothing.
    """
    try:
        file = os.open(data_dir / "lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _locked(data_dir)
    finally:
        os.close(file)
    return None


def request_reload(data_dir: Path) -> int | None:
    """Ask the monitor that uses a data_dir to read its config again (SIGHUP). Return its process id.

    0 if it cannot be asked from here, as in another container or as another user; None if none uses the data_dir.
    """
    if lock_holder(data_dir) is None:
        return None
    try:
        holder = int((data_dir / "lock").read_bytes()[:20])
        process = os.pidfd_open(holder)
    except (OSError, ValueError, AttributeError):
        return 0
    try:
        # The number may be of another container's processes, and mean another process here.
        if holder == os.getpid() or not has_open(holder, data_dir / "lock"):
            return 0
        signal.pidfd_send_signal(process, signal.SIGHUP)
    except OSError:
        return 0
    finally:
        os.close(process)
    return holder


def _locked(data_dir: Path) -> DataDirLockedError:
    try:
        holder = f"process {int((data_dir / 'lock').read_bytes()[:20])}"
    except (OSError, ValueError):
        holder = programs_holding(data_dir)
    return DataDirLockedError(
        f"{data_dir} is in use by another mailwatch ({holder}); stop it, or name another data_dir",
        "another mailwatch uses the data_dir",
    )
