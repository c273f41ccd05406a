"""What waits on this machine's disk for a database that is away: bounded, in order, and safe from kill -9.

Nothing in it is on record yet: it is not counted, shown or notified. SQLite, in a file of its own beside the keys.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mailwatch.files import sync_folder
from mailwatch.ledger.canonical_json import canonical
from mailwatch.store.errors import StoreError, StoreUnavailableError, translate_error
from mailwatch.times import Millis

SPOOL_FILE = "spool.sqlite"
ROW_BYTES = 200
"""Bytes of a row besides its payload, for the bound."""


PAGE_BYTES = 4096
LOG_PAGES = 1000
"""SQLite's own bound of its log, in pages."""


class SpoolFullError(StoreUnavailableError):
    """The spool has reached its bound; nothing more is taken until the database answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpooledDraft:
    """An entry to be. `payload`: as the ledger will have it, without salt. `target`: the clear name.

    `ended`: when its probe ended, on time.monotonic() of the process `process`. `continued`: whether that process
    had observed the target before.
    """

    kind: str
    time: Millis
    target: str | None
    payload: Mapping[str, Any]
    ended: float = 0.0
    continued: bool = False
    process: str = ""
    number: int = 0


class Spool:
    """The file, for one thread at a time. `most`: the bytes that it may take. It is made when it is needed.

    All methods raise StoreError if the disk fails.
    """

    def __init__(self, data_dir: Path, most: int) -> None:
        self.process = secrets.token_hex(8)
        """The name of this process among those whose drafts are there."""
        self._path = data_dir / SPOOL_FILE
        self.most = most
        """The bytes that it may take."""
        self._connection: sqlite3.Connection | None = None
        self._bytes = 0
        """The bytes that the drafts take."""
        self.count = 0
        """Number of drafts that wait."""
        self.since: Millis | None = None
        """The time of the oldest draft, None without any."""

    @property
    def used(self) -> float:
        """The share of `most` that is in use."""
        return min(1.0, self._bytes / self.most)

    def open(self) -> None:
        """Read what an earlier process left."""
        if self._path.exists():
            self._open()

    def put(self, drafts: Sequence[SpooledDraft]) -> list[int]:
        """Add drafts; they are on disk on return. Return their numbers. Raises SpoolFullError."""
        rows = [
            (d.kind, d.time, d.target, canonical(dict(d.payload)), d.ended, d.continued, self.process)
            for d in drafts
        ]
        size = sum(len(row[3]) + ROW_BYTES for row in rows)
        if self._bytes + size > self.most:
            raise SpoolFullError(f"{self._path} has reached limits.spool", "limits.spool is reached")
        self._open()
        with self._transaction() as connection:
            insert = (
                "INSERT INTO drafts (kind, time_ms, target, payload, ended, continued, process) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)"
            )
            numbers = [int(connection.execute(insert, row).lastrowid or 0) for row in rows]
        self._bytes += size
        self.count += len(rows)
        if self.since is None:
            self.since = drafts[0].time
        return numbers

    def oldest(self, most: int) -> list[SpooledDraft]:
        """Return the oldest drafts, in their order."""
        if self._connection is None:
            return []
        query = (
            "SELECT number, kind, time_ms, target, payload, ended, continued, process FROM drafts "
            "ORDER BY number LIMIT ?"
        )
        with self._errors():
            rows = self._connection.execute(query, (most,)).fetchall()
        return [
            SpooledDraft(
                number=row[0], kind=row[1], time=row[2], target=row[3], payload=json.loads(row[4]), ended=row[5],
                continued=bool(row[6]), process=row[7],
            )
            for row in rows
        ]  # fmt: skip

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove drafts that are on record now, and the file once none is left."""
        if self._connection is None or not numbers:
            return
        which = (json.dumps(list(numbers)),)
        condition = "number IN (SELECT value FROM json_each(?))"
        with self._transaction() as connection:
            sizes = f"SELECT count(*), coalesce(sum(length(payload)), 0) FROM drafts WHERE {condition}"  # noqa: S608
            count, size = connection.execute(sizes, which).fetchone()
            connection.execute(f"DELETE FROM drafts WHERE {condition}", which)  # noqa: S608
            oldest = connection.execute("SELECT time_ms FROM drafts ORDER BY number LIMIT 1").fetchone()
        self.count -= count
        self._bytes -= size + count * ROW_BYTES
        self.since = None if oldest is None else oldest[0]
        if not self.count:
            self.close()

    def close(self) -> None:
        """Close the file; remove it if nothing waits."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            if not self.count:
                self._path.unlink(missing_ok=True)

    def _open(self) -> None:
        if self._connection is not None:
            return
        with self._errors():
            if not self._path.exists():
                os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                sync_folder(self._path.parent)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            # By default the log beside the file grows to 4 MB, which a small bound does not allow.
            connection.execute(f"PRAGMA wal_autocheckpoint={_log_pages(self.most)}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS drafts (number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, "
                "time_ms INTEGER NOT NULL, target TEXT, payload TEXT NOT NULL, ended REAL NOT NULL, "
                "continued INTEGER NOT NULL, process TEXT NOT NULL)"
            )
            self._connection = connection
            self._measure()

    def _measure(self) -> None:
        assert self._connection is not None
        query = f"SELECT count(*), coalesce(sum(length(payload)), 0) + count(*) * {ROW_BYTES} FROM drafts"  # noqa: S608
        with self._errors():
            self.count, self._bytes = self._connection.execute(query).fetchone()
            oldest = self._connection.execute("SELECT time_ms FROM drafts ORDER BY number LIMIT 1").fetchone()
        self.since = None if oldest is None else oldest[0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        assert self._connection is not None
        connection = self._connection
        with self._errors():
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise translate_error(self._path, error) or StoreError(f"{self._path}: {error}") from error


def _log_pages(most: int) -> int:
    """Return after how many pages the log is taken over into the file: a sixteenth of the bound at most."""
    return max(4, min(LOG_PAGES, most // PAGE_BYTES // 16))
