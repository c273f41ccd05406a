"""Writes password files: new ones only, readable only by their owner, removed again if what follows fails."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from mailwatch.files import sync_folder

SECRETS_FOLDER = "secrets"
"""The folder of password files, beside the config."""


def name_secret(folder: Path, address: str) -> Path:
    """Return an unused path for the password file. No address can lead out of the folder."""
    name = quote(address, safe="@+")[:100]
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 1000))
    return next(path for one in numbered if not os.path.lexists(path := folder / SECRETS_FOLDER / one))


def write_secret(undo: contextlib.ExitStack, path: Path, secret: SecretStr, owner: tuple[int, int]) -> None:
    """Write a secret to a new file, mode 0600, in a folder that is made with 0700; `undo` removes both.

    `owner`: user and group that the folder has where root makes it; in a folder that exists, the file has the
    folder's owner, since who runs the monitor reads it. Raises OSError, FileExistsError if something is there.
    """
    folder = path.parent
    if not folder.exists():
        folder.mkdir(mode=0o700)
        undo.callback(ignore_errors, folder.rmdir)
        give_to_owner(folder, owner)
    found = folder.stat()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    undo.callback(ignore_errors, path.unlink)
    write_text(file, f"{secret.get_secret_value()}\n")
    give_to_owner(path, (found.st_uid, found.st_gid))
    ignore_errors(partial(sync_folder, folder))


def owner_of(*paths: Path) -> tuple[int, int]:
    """Return user and group of the first path that exists, else our own."""
    for path in paths:
        with contextlib.suppress(OSError):
            found = path.stat()
            return found.st_uid, found.st_gid
    return os.geteuid(), os.getegid()


def give_to_owner(path: Path, owner: tuple[int, int]) -> None:
    """Give a file to its owner, where root may; for others it is theirs already."""
    if os.geteuid() == 0:
        os.chown(path, *owner)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Hold back the signals that would end the thread between two files."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def write_text(file: int, text: str) -> None:
    """Write a text to an open file, to the disk, and close it. Raises OSError."""
    with os.fdopen(file, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def ignore_errors(act: Callable[[], None]) -> None:
    """Do what may fail on some file systems, and does not matter there."""
    with contextlib.suppress(OSError):
        act()
