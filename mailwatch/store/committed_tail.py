"""What this node committed to a shared database last, in a file of its own beside the spool.

A database that fails over to an asynchronous replica loses what the replica had not received. Then the node that
wrote it has the same texts, and appends them again (recovery.py). Written after the commit and before anyone
learns of it: all that was acknowledged is there.

Lines of JSON, each synced to disk. Two files, `tail.jsonl` and the one before it, of some megabytes each.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mailwatch.files import sync_folder, write_atomic
from mailwatch.ledger.merkle import CompactRange

logger = logging.getLogger(__name__)

TAIL_FILE, EARLIER_FILE = "tail.jsonl", "tail.jsonl.1"
SEGMENT_BYTES = 4 << 20
"""Bytes of a file, after which the next one begins. Two of them hold some 7,000 observations."""


@dataclass(frozen=True, slots=True)
class CommittedRows:
    """Rows of `entries` that one commit added, and the size and root of the tree with them."""

    size: int
    root: bytes
    rows: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class CommittedCheckpoint:
    """A row of `checkpoints`."""

    size: int
    time_ms: int
    note: str
    hashes: bytes


class CommittedTail:
    """The files, for the one thread that appends. `origin`: the ledger; lines of another one are left out."""

    def __init__(self, data_dir: Path) -> None:
        self._path, self._earlier = data_dir / TAIL_FILE, data_dir / EARLIER_FILE
        self.origin = ""
        self._file: int | None = None
        self._bytes = 0
        self._is_failing = False

    def keep(self, after: CompactRange, rows: bytes) -> None:
        """Keep the rows of a commit, as a JSON array, which made the tree `after`."""
        self._write(self._line(after, rows))

    def keep_checkpoint(self, row: Mapping[str, Any]) -> None:
        """Keep a row of `checkpoints` that was committed."""
        kept = {**row, "hashes": bytes(row["hashes"]).hex()}
        self._write(orjson.dumps({"origin": self.origin, "checkpoint": kept}) + b"\n")

    def restart(self, after: CompactRange, rows: bytes) -> None:
        """Begin anew with the newest rows of the ledger, by any node."""
        self.close()
        try:
            write_atomic(self._path, self._line(after, rows))
            self._earlier.unlink(missing_ok=True)
        except OSError as error:
            self._failed(error)

    def read(self) -> Iterator[CommittedRows | CommittedCheckpoint]:
        """Yield what was kept, oldest first, but for lines that are torn or unreadable. Raises OSError."""
        for path in (self._earlier, self._path):
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines():
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        if (read := orjson.loads(line))["origin"] == self.origin:
                            yield _parsed(read)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _line(self, after: CompactRange, rows: bytes) -> bytes:
        found = self.origin.encode(), after.size, after.root().hex().encode(), rows
        return b'{"origin":"%s","size":%d,"root":"%s","rows":%s}\n' % found

    def _write(self, line: bytes) -> None:
        """Write a line durably. A disk that takes none loses nothing that is on record: log it, once."""
        try:
            if self._file is None or self._bytes > SEGMENT_BYTES:
                self._open()
            assert self._file is not None
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._file)
        except OSError as error:
            self._failed(error)
        else:
            self._bytes += len(line)
            self._is_failing = False

    def _failed(self, error: OSError) -> None:
        if not self._is_failing:
            logger.error("%s: %s; what a failover loses cannot be restored", self._path, error.strerror)
        self._is_failing = True
        self.close()
        # The next line begins a file: half a line must not spoil it.
        self._bytes = SEGMENT_BYTES + 1

    def _open(self) -> None:
        if self._bytes > SEGMENT_BYTES:
            self.close()
            with contextlib.suppress(FileNotFoundError):
                self._path.replace(self._earlier)
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._bytes = os.fstat(self._file).st_size
        sync_folder(self._path.parent)


def remove_tail(data_dir: Path) -> None:
    """Remove the files of a ledger that is kept elsewhere from now on. Raises OSError."""
    for name in (TAIL_FILE, EARLIER_FILE):
        (data_dir / name).unlink(missing_ok=True)


def _parsed(line: dict[str, Any]) -> CommittedRows | CommittedCheckpoint:
    """Return what a line says. Raises ValueError, KeyError, TypeError."""
    if (row := line.get("checkpoint")) is not None:
        return CommittedCheckpoint(
            int(row["size"]), int(row["time_ms"]), str(row["note"]), bytes.fromhex(row["hashes"])
        )
    return CommittedRows(int(line["size"]), bytes.fromhex(line["root"]), list(line["rows"]))
