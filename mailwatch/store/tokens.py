"""The raw replies of timestamp authorities: files beside the database, named by their SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mailwatch.files import write_atomic


class Tokens:
    """The folder `tokens` of a data_dir. Replies are kept unchanged: later parsers may read what ours cannot."""

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "tokens"

    def save(self, reply: bytes) -> str:
        """Write a reply to disk durably; return its SHA-256 in hex, by which the ledger names it."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        name = hashlib.sha256(reply).hexdigest()
        write_atomic(self._folder / f"{name}.tsr", reply)
        return name

    def get(self, name: str) -> bytes | None:
        """Return the reply with this SHA-256; None if its file is missing or altered."""
        try:
            reply = (self._folder / f"{name}.tsr").read_bytes()
        except OSError:
            return None
        return reply if hashlib.sha256(reply).hexdigest() == name else None
