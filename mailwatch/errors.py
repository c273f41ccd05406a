"""Errors that end a command: each is printed as its own sentence, without a traceback."""

from __future__ import annotations

import errno

RESOURCE_ERRNOS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Errors by which the system gives us nothing more: they say nothing of what was being opened."""


_LOCAL_ERRNOS = (*RESOURCE_ERRNOS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EFBIG)


def is_local_failure(error: BaseException) -> bool:
    """Whether an error is a failure of our own machine, not of the bytes that were read: it is to be raised on."""
    if isinstance(error, OSError):
        # Not all: a seek, or a time, to where a hostile file points is one too.
        return error.errno in _LOCAL_ERRNOS
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


class UsageError(Exception):
    """The user can fix it, in the config or on the command line: exit 2. It names file and line itself."""


class OperationError(Exception):
    """It was asked for rightly and must not be done: exit 1."""
