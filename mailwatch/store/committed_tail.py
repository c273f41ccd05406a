"""What this node committed to a shared database last, in a file of its own beside the spool.

A database that fails over to an asynchronous replica loses what the replica had not received. Then the node that
wrote it has the same texts, and appends them again (recovery.py). Written after the commit and before anyone
learns of it: all that was acknowledged is there, whatever ends this process.

Lines of JSON. Two files, `tail.jsonl` and the one before it, of some megabytes each. No commit waits for the disk:
a thread syncs them within a second, so that only the last second is missing if this machine loses power while the
database is lost. What is signed is synced before anyone has the signature.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
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
SYNC_SECONDS = 1.0
"""Seconds after a commit until its line is on the disk, at the latest, and those that the disk takes."""


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


@dataclass(frozen=True, slots=True)
class CommittedReply:
    """A reply of a timestamp authority, and the name that the ledger has for it: its SHA-256."""

    name: str
    reply: bytes


Committed = CommittedRows | CommittedCheckpoint | CommittedReply


class CommittedTail:
    """The files, for the one thread that appends. `origin`: the ledger; lines of another one are left out."""

    def __init__(self, data_dir: Path) -> None:
        self._path, self._earlier = data_dir / TAIL_FILE, data_dir / EARLIER_FILE
        self.origin = ""
        self._file: int | None = None
        self._bytes = 0
        self._is_failing = False
        self._syncer = _Syncer()

    def keep(self, after: CompactRange, rows: bytes) -> None:
        """Keep the rows of a commit, as a JSON array, which made the tree `after`."""
        self._write(self._line(after, rows))

    def keep_checkpoint(self, row: Mapping[str, Any]) -> None:
        """Keep a row of `checkpoints` that was committed, on the disk with all before it."""
        kept = {**row, "hashes": bytes(row["hashes"]).hex()}
        self._write(orjson.dumps({"origin": self.origin, "checkpoint": kept}) + b"\n")
        self._sync()

    def keep_reply(self, reply: bytes) -> None:
        """Keep a reply of a timestamp authority that was committed."""
        text = base64.b64encode(reply).decode()
        self._write(orjson.dumps({"origin": self.origin, "reply": text}) + b"\n")

    def restart(self, after: CompactRange, rows: bytes) -> None:
        """Begin anew with the newest rows of the ledger, by any node."""
        self.close()
        try:
            write_atomic(self._path, self._line(after, rows))
            self._earlier.unlink(missing_ok=True)
        except OSError as error:
            self._failed(error)

    def read(self) -> Iterator[Committed]:
        """Yield what was kept, oldest first, but for lines that are torn or unreadable. Raises OSError."""
        for path in (self._earlier, self._path):
            with contextlib.suppress(FileNotFoundError):
                for line in path.read_bytes().splitlines():
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        if (read := orjson.loads(line))["origin"] == self.origin:
                            yield _parsed(read)

    def close(self) -> None:
        """Sync and close the file."""
        self._syncer.end()
        self._sync()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _line(self, after: CompactRange, rows: bytes) -> bytes:
        found = self.origin.encode(), after.size, after.root().hex().encode(), rows
        return b'{"origin":"%s","size":%d,"root":"%s","rows":%s}\n' % found

    def _write(self, line: bytes) -> None:
        """Write a line. A disk that takes none loses nothing that is on record: log it, once."""
        if (unsynced := self._syncer.error) is not None:
            self._log(unsynced)
        try:
            if self._file is None or self._bytes > SEGMENT_BYTES:
                self._open()
            assert self._file is not None
            if os.write(self._file, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._failed(error)
        else:
            self._bytes += len(line)
            self._is_failing = unsynced is not None
            self._syncer.wake(self._file)

    def _sync(self) -> None:
        """Have on the disk what was written."""
        if self._file is not None:
            try:
                os.fdatasync(self._file)
            except OSError as error:
                self._log(error)

    def _log(self, error: OSError) -> None:
        if not self._is_failing:
            logger.error("%s: %s; what a failover loses cannot be restored", self._path, error.strerror)
        self._is_failing = True

    def _failed(self, error: OSError) -> None:
        self._log(error)
        self._syncer.end()
        if self._file is not None:
            os.close(self._file)
            self._file = None
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


class _Syncer:
    """Syncs a file soon after it was written, in a thread. `error`: why that failed last, None if it did not."""

    def __init__(self) -> None:
        self.error: OSError | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._is_due = False
        self._ending = threading.Event()

    def wake(self, file: int) -> None:
        """Have what was written to a file on the disk within SYNC_SECONDS."""
        if self._is_due:
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "tail")
            self._ending.clear()
        self._is_due = True
        # A handle of its own: the file may be closed meanwhile, and another one get its number.
        self._thread.submit(self._sync, os.dup(file))

    def end(self) -> None:
        """Let the thread end; who calls it syncs what it did not."""
        if self._thread is not None:
            self._ending.set()
            self._thread.shutdown(wait=False)
            self._thread = None

    def _sync(self, file: int) -> None:
        self._ending.wait(SYNC_SECONDS)
        # Before it syncs: what is written from here on asks again.
        self._is_due = False
        try:
            os.fdatasync(file)
        except OSError as error:
            self.error = error
        else:
            self.error = None
        finally:
            os.close(file)


def remove_tail(data_dir: Path) -> None:
    """Remove the files of a ledger that is kept elsewhere from now on. Raises OSError."""
    for name in (TAIL_FILE, EARLIER_FILE):
        (data_dir / name).unlink(missing_ok=True)


def _parsed(line: dict[str, Any]) -> Committed:
    """Return what a line says. Raises ValueError, KeyError, TypeError."""
    if (text := line.get("reply")) is not None:
        reply = base64.b64decode(text, validate=True)
        return CommittedReply(hashlib.sha256(reply).hexdigest(), reply)
    if (row := line.get("checkpoint")) is not None:
        return CommittedCheckpoint(
            int(row["size"]), int(row["time_ms"]), str(row["note"]), bytes.fromhex(row["hashes"])
        )
    return CommittedRows(int(line["size"]), bytes.fromhex(line["root"]), list(line["rows"]))
