"""The declarations of a ledger that its owner sent by mail: messages as they arrived, named by their SHA-256.

Beside a message SHA256.json has the keys of its DKIM signatures: providers replace theirs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from mailwatch.files import write_atomic

FOLDER = "declarations"


class Declarations:
    """The folder `declarations` of a data_dir."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / FOLDER

    def save(self, message: bytes) -> str:
        """Keep a message unchanged, on disk; return its SHA-256 in hex. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.sha256(message).hexdigest()
        write_atomic(self._folder / f"{name}.eml", message)
        return name

    def save_keys(self, name: str, keys: Sequence[dict[str, str]]) -> None:
        """Keep the keys of a message's signatures. `name`: its SHA-256 in hex. Raises OSError."""
        write_atomic(self._folder / f"{name}.json", json.dumps(keys, indent=1).encode())

    def keys(self, name: str) -> list[dict[str, str]]:
        """Return the keys of a message's signatures, [] if they were never looked up or cannot be read."""
        try:
            found = json.loads((self._folder / f"{name}.json").read_bytes())
        except (OSError, ValueError):
            return []
        return found if isinstance(found, list) else []

    def all(self) -> list[tuple[str, bytes]]:
        """Return the messages with their SHA-256, without those that were altered. Raises OSError."""
        found = [(path.stem, path.read_bytes()) for path in sorted(self._folder.glob("*.eml"))]
        return [(name, message) for name, message in found if hashlib.sha256(message).hexdigest() == name]
