"""Saves the config and the password file: both whole, or neither."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from mailwatch.config import Config, build_authorities, build_targets, load
from mailwatch.files import sync_folder

SECRETS_FOLDER = "secrets"


def name_secret(folder: Path, address: str) -> Path:
    """Return an unused path for the password file. No address can lead out of the folder."""
    name = quote(address, safe="@+")[:100]
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 1000))
    return next(path for one in numbered if not os.path.lexists(path := folder / SECRETS_FOLDER / one))


def save(path: Path, text: str, secret: Path | None, password: SecretStr) -> Config:
    """Write the password to `secret`, if given, and the config to `path`. Return the config as read back.

    1. Create the password file, readable only by its owner, in an equally private folder, and sync it.
    2. Write the config to a temporary file beside `path`, and load and build it with the code that `run` uses.
    3. Link it to `path`, which fails if something exists there by now.

    A failure leaves neither file. Signals are blocked meanwhile. Raises OSError, ConfigError.
    """
    with _signals_blocked(), contextlib.ExitStack() as undo:
        if secret is not None:
            if not secret.parent.exists():
                secret.parent.mkdir(mode=0o700)
                undo.callback(_ignore_errors, secret.parent.rmdir)
            file = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            undo.callback(_ignore_errors, secret.unlink)
            _write_text(file, f"{password.get_secret_value()}\n")
            _ignore_errors(partial(sync_folder, secret.parent))
        file, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        undo.callback(_ignore_errors, Path(beside).unlink)
        _write_text(file, text)
        config = load(Path(beside))
        build_targets(config)
        build_authorities(config)
        _link(Path(beside), path)
        undo.pop_all()
        _ignore_errors(Path(beside).unlink)
        _ignore_errors(partial(sync_folder, path.parent))
        return config


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _link(beside: Path, path: Path) -> None:
    """Link `beside` to `path`. Raises FileExistsError if `path` exists."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:
        # Without hard links, `path` could appear between this check and the rename.
        if os.path.lexists(path):
            raise FileExistsError(f"{path} already exists") from None
        beside.rename(path)


def _write_text(file: int, text: str) -> None:
    with os.fdopen(file, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def _ignore_errors(act: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        act()
