"""The secret that links to one outage are made with. With another, all earlier links are invalid."""

from __future__ import annotations

import secrets
from pathlib import Path

from mailwatch.files import write_atomic

FILE = "share-key"
KEY_BYTES = 32


def share_key(data_dir: Path) -> bytes:
    """Return the secret, made now if there is none. Raises OSError."""
    path = data_dir / FILE
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        found = b""
    if len(found) == KEY_BYTES:
        return found
    made = secrets.token_bytes(KEY_BYTES)
    write_atomic(path, made)
    return made
