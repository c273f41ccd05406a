"""Errors that end a command: each is told in its own words, without a traceback."""

from __future__ import annotations

import errno

LACKS = (errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EAGAIN)
"""Errors by which the system gives us nothing more: they say nothing of what was being opened."""


_OF_OUR_MACHINE = (*LACKS, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EROFS, errno.EFBIG)


def ours(error: BaseException) -> bool:
    """Whether an error is a failure of our own machine, not of the bytes that were read: it is to be raised on."""
    if isinstance(error, OSError):
        # Not all: a seek, or a time, to where a hostile file points is one too.
        return error.errno in _OF_OUR_MACHINE
    return isinstance(error, MemoryError) or "can't start new thread" in str(error)


class UsedWrongly(Exception):
    """The user can mend it, in the config or on the command line: exit 2. It names file and line itself."""


class Refused(Exception):
    """It was asked for rightly and must not be done: exit 1."""
