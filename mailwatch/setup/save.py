"""Saves the config and the password file: both whole, or neither."""

from __future__ import annotations

import contextlib
import os
import tempfile
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from mailwatch.config import Config, build_authorities, build_targets, load
from mailwatch.config.secret_files import (
    give_to_owner,
    ignore_errors,
    owner_of,
    signals_blocked,
    write_secret,
    write_text,
)
from mailwatch.files import sync_folder


def save(path: Path, text: str, secret: Path | None, password: SecretStr) -> Config:
    """Write the password to `secret`, if given, and the config to `path`. Return the config as read back.

    1. Create the password file, readable only by its owner, in an equally private folder, and sync it.
    2. Write the config to a temporary file beside `path`, and load and build it with the code that `run` uses.
    3. Link it to `path`, which fails if something exists there by now.

    A failure leaves neither file. Signals are blocked meanwhile. Raises OSError, ConfigError.
    """
    with signals_blocked(), contextlib.ExitStack() as undo:
        if secret is not None:
            write_secret(undo, secret, password, owner_of(path.parent))
        file, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        undo.callback(ignore_errors, Path(beside).unlink)
        write_text(file, text)
        give_to_owner(Path(beside), owner_of(path.parent))
        config = load(Path(beside))
        build_targets(config)
        build_authorities(config)
        _link(Path(beside), path)
        undo.pop_all()
        ignore_errors(Path(beside).unlink)
        ignore_errors(partial(sync_folder, path.parent))
        return config


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
