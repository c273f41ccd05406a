"""Puts the config and the password where they belong: both whole, or neither."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from pydantic import SecretStr

from mailwatch.config import Config, build_authorities, build_targets, load

SECRETS_FOLDER = "secrets"


def name_secret(folder: Path, address: str) -> Path:
    """Choose a name for the password's file that nothing has yet; no address leads out of the folder."""
    name = quote(address, safe="@+")[:100]
    numbered = (name if number == 1 else f"{name}-{number}" for number in range(1, 1000))
    return next(path for one in numbered if not os.path.lexists(path := folder / SECRETS_FOLDER / one))


def save(path: Path, text: str, secret: Path | None, password: SecretStr) -> Config:
    """Write the password to `secret`, if one is named, and the config to `path`; give it as it was read back.

    1. The password's file is created for its owner alone, in a folder of the same kind, and synced.
    2. The config is written beside its place, and read and resolved by the very code that `run` uses.
    3. It is linked to its place, which fails if something is there meanwhile.

    Whatever fails leaves neither file, and signals wait until it is done. Raises OSError, ConfigError.
    """
    with _signals_blocked(), contextlib.ExitStack() as undo:
        if secret is not None:
            if not secret.parent.exists():
                secret.parent.mkdir(mode=0o700)
                undo.callback(_ignore_errors, secret.parent.rmdir)
            file = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            undo.callback(_ignore_errors, secret.unlink)
            _write_text(file, f"{password.get_secret_value()}\n")
            _sync(secret.parent)
        file, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        undo.callback(_ignore_errors, Path(beside).unlink)
        _write_text(file, text)
        config = load(Path(beside))
        build_targets(config)
        build_authorities(config)
        _link(Path(beside), path)
        undo.pop_all()
        _ignore_errors(Path(beside).unlink)
        _sync(path.parent)
        return config


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _link(beside: Path, path: Path) -> None:
    """Give a file its name, unless something has it. Raises FileExistsError."""
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without links: then there is a moment between the check and the rename.
        if os.path.lexists(path):
            raise FileExistsError(f"{path} already exists") from None
        beside.rename(path)


def _write_text(file: int, text: str) -> None:
    with os.fdopen(file, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())


def _sync(folder: Path) -> None:
    """Make the names in a folder outlive a power cut, where folders can be synced."""
    with contextlib.suppress(OSError):
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _ignore_errors(undo: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        undo()
