"""Files that a verb is given: only what ends is read."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from mailwatch.cli.edge import os_words
from mailwatch.endings import LACKS, UsedWrongly

MAX_TRUST = 16 << 20
"""Bytes of a file of --trust; the authorities of a whole system are a quarter of a MiB."""


def regular(paths: Iterable[Path], most: int | None = None) -> None:
    """Raise UsedWrongly for the first that is no file which can be read, or has more than `most` bytes.

    A device, a pipe or a folder is refused before a byte is read: /dev/zero never ends, a pipe may never begin.
    """
    for path in paths:
        try:
            # Not blocking: to open a pipe that nobody writes to would wait for ever.
            file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            raise UsedWrongly(f"mailwatch: {path} is not there") from None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in LACKS:
                raise
            words = os_words(error) if isinstance(error, OSError) else f"{str(path)!r} is no name of a file"
            raise UsedWrongly(f"mailwatch: {words}") from None
        try:
            found = os.fstat(file)
        finally:
            os.close(file)
        if not stat.S_ISREG(found.st_mode):
            raise UsedWrongly(f"mailwatch: {path} is not a file but {_kind(found.st_mode)}; name the file itself")
        if most is not None and found.st_size > most:
            raise UsedWrongly(f"mailwatch: {path} has more than {most} bytes; is it the right file?")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
