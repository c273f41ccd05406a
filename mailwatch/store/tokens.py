"""The raw replies of timestamp authorities, named by their SHA-256: files beside SQLite, rows in PostgreSQL."""

from __future__ import annotations

import hashlib
from pathlib import Path

import sqlalchemy as sa

from mailwatch.files import write_atomic
from mailwatch.store.place import Place, place_of
from mailwatch.store.schema import insert, token_files


class Tokens:
    """The replies of a ledger. They are kept unchanged: later parsers may read what ours cannot.

    The folder `tokens` of a data_dir; where several nodes may use the ledger, a table that all of them read.
    """

    def __init__(self, where: Path | Place) -> None:
        place = place_of(where)
        self._folder = place.data_dir / "tokens"
        self._engine = place.engine() if place.is_shared else None

    def save(self, reply: bytes) -> str:
        """Write a reply durably; return its SHA-256 in hex, by which the ledger names it. Raises OSError,
        StoreError.
        """
        name = hashlib.sha256(reply).hexdigest()
        if self._engine is not None:
            with self._engine.begin() as connection:
                row = {"name": name, "reply": reply}
                connection.execute(insert(connection, token_files).values(row).on_conflict_do_nothing())
            return name
        self._folder.mkdir(mode=0o700, exist_ok=True)
        write_atomic(self._folder / f"{name}.tsr", reply)
        return name

    def get(self, name: str) -> bytes | None:
        """Return the reply with this SHA-256; None if it is missing or altered. Raises StoreError."""
        if self._engine is None:
            try:
                reply = (self._folder / f"{name}.tsr").read_bytes()
            except OSError:
                return None
        else:
            with self._engine.connect() as connection:
                query = sa.select(token_files.c.reply).where(token_files.c.name == name)
                reply = connection.execute(query).scalar() or b""
        return reply if hashlib.sha256(reply).hexdigest() == name else None

    def close(self) -> None:
        """Close all connections."""
        if self._engine is not None:
            self._engine.dispose()
