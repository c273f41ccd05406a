"""The errors that end a command; each is printed as a sentence, without a traceback."""

from __future__ import annotations

import errno

RESOURCE_ERRNOS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Errors for exhausted system resources: they say nothing about the file being opened."""


_LOCAL_ERRNOS = (*RESOURCE_ERRNOS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EFBIG)


def is_panic(error: BaseException) -> bool:
    """Return whether an error is a panic of a Rust library (PyO3), which is no Exception."""
    return type(error).__name__ == "PanicException"


def is_local_failure(error: BaseException) -> bool:
    """Return whether to re-raise an error: an interrupt, or a failure of our machine, not of the data read."""
    if not isinstance(error, Exception):
        return not is_panic(error)
    if isinstance(error, OSError):
        # Not every OSError: a hostile file can also cause a seek, or a time, out of range.
        return error.errno in _LOCAL_ERRNOS
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


class UsageError(Exception):
    """An error that the user can fix in the config or on the command line: exit 2. It names file and line."""


class OperationError(Exception):
    """A valid request that cannot be carried out: exit 1."""
