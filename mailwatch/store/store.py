"""The writing side: the process that holds the lock appends entries and signs checkpoints.

Not asynchronous: writer.py calls it in a dedicated thread.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mailwatch import monotonic
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.entry import encode_entry, target_id
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Fact, Observation
from mailwatch.monotonic import Origin
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.data_dir import DataDirLock
from mailwatch.store.errors import (
    DAMAGE_ADVICE,
    FULL_ERRNOS,
    StoreDamagedError,
    StoreHealth,
    StoreMovedError,
    damaged,
    disk_full,
)
from mailwatch.store.first_start import (
    check_not_missing,
    check_not_truncated,
    migrate_database,
    prepare_database,
    save_signed_checkpoint,
)
from mailwatch.store.keys import Keys, remove_partial_files
from mailwatch.store.reader import Entry
from mailwatch.store.schema import (
    checkpoints,
    database,
    empty_log,
    engine,
    entries,
    file_moved,
    log_restored,
    make_database,
    same_file,
    write_ahead_log,
)
from mailwatch.times import Millis, now


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry to append. `payload`: a fact, or a dict of integers and text. `target`: the clear name."""

    kind: str
    time: Millis
    target: str | None
    payload: Fact | Mapping[str, object]


class Store:
    """An open ledger. `findings`: what start-up found and repaired. `health`: shared with its readers."""

    def __init__(
        self, data_dir: Path, lock: DataDirLock, keys: Keys, made: sa.Engine, health: StoreHealth
    ) -> None:
        self.keys = keys
        self.health = health
        self.findings: list[str] = []
        self._data_dir = data_dir
        self._lock = lock
        self._engine = made
        self._connection = made.connect()
        self._closed = False
        self._insert = sa.insert(entries)
        self._ids: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._tree = CompactRange()
        self._checkpointed = -1
        self._database = database(data_dir).stat()
        self.read_clock: Callable[[], Millis] = monotonic.milliseconds
        """Reads the steady clock, once for each batch."""

    @classmethod
    def open(
        cls,
        data_dir: Path,
        progress: StartupProgress | None = None,
        *,
        keys: Keys | None = None,
        health: StoreHealth | None = None,
    ) -> Store:
        """Lock, migrate and check a data_dir, created if missing. `progress` receives the progress.

        `keys`: the keys of a copy that has none beside it. Raises DataDirLockedError, StoreError (damaged, keys or
        database missing, unavailable), OSError; DiskFullError if a retry is worthwhile.

        1. The last checkpoint must have our signature and match its tree.
        2. The entries after it must have consecutive indices; the tree grows over them.
        3. There must be at least as many entries as the checkpoint beside the keys covers.
        """
        progress = progress or StartupProgress()
        progress.update(StartupStep.OPENING)
        try:
            return cls._open(data_dir, progress, keys, health or StoreHealth())
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise disk_full(data_dir) from None
            raise

    @classmethod
    def _open(cls, data_dir: Path, progress: StartupProgress, keys: Keys | None, health: StoreHealth) -> Store:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            lock = DataDirLock(data_dir)
            undo.callback(lock.release)
            remove_partial_files(data_dir)
            check_not_missing(data_dir)
            if not database(data_dir).exists():
                make_database(data_dir)
            made = engine(data_dir, health=health)
            undo.callback(made.dispose)
            if keys is None:
                keys = prepare_database(data_dir, made, progress)
            else:
                migrate_database(data_dir, made, progress)
            store = cls(data_dir, lock, keys, made, health)
            undo.callback(store._connection.close)
            try:
                store._check(progress)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise damaged(
                    database(data_dir), f"what it holds cannot be read: {type(error).__name__}"
                ) from error
            store._remember_files()
            undo.pop_all()
        return store

    @property
    def size(self) -> int:
        """Number of committed entries."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """Root hash of the tree over all committed entries."""
        return self._tree.root()

    def append_batch(self, new_entries: Sequence[NewEntry]) -> list[Entry]:
        """Append entries in one transaction; they are on disk on return.

        Raises StoreError, and any exception of an entry that cannot be written; then nothing is appended.
        """
        self.check_files()
        tree = self._tree.copy()
        numbers: dict[str, int] = {}
        clock, origin = self.read_clock(), monotonic.origin()
        written: list[Entry] = []
        rows: list[dict[str, Any]] = []
        for draft in new_entries:
            entry = self._entry(draft, tree.size, numbers, clock, origin)
            tree.append(leaf_hash(entry.header.encode()))
            written.append(entry)
            outcome = draft.payload.outcome.value if isinstance(draft.payload, Observation) else None
            rows.append(
                {
                    "idx": entry.index,
                    "kind": entry.kind,
                    "time_ms": entry.time,
                    "target": entry.target,
                    "number": entry.number,
                    "outcome": outcome,
                    "header": entry.header,
                    "payload": entry.text,
                }
            )
        with self._connection.begin():
            self._connection.execute(self._insert, rows)
        # Only after the commit: a failed transaction must leave no trace in memory.
        self._tree = tree
        self._numbers.update(numbers)
        return written

    def _entry(self, new: NewEntry, index: int, numbers: dict[str, int], clock: Millis, origin: Origin) -> Entry:
        payload: Mapping[str, object] = (
            new.payload if isinstance(new.payload, Mapping) else fact_payload(new.payload)
        )
        opaque = number = None
        if new.target is not None:
            payload = {**payload, "salt": secrets.token_hex(16)}
            opaque = self._ids.get(new.target)
            if opaque is None:
                opaque = self._ids[new.target] = target_id(self.keys.secret, new.target)
            number = numbers[new.target] = self._last_number(new.target, numbers) + 1
        sealed = encode_entry(
            index=index, kind=new.kind, time=new.time, target=opaque, number=number, payload=payload,
            clock=clock, origin=origin,
        )  # fmt: skip
        return Entry(index, new.kind, new.time, new.target, number, sealed.header, sealed.payload)

    def _last_number(self, target: str, numbers: dict[str, int]) -> int:
        for known in (numbers, self._numbers):
            if target in known:
                return known[target]
        newest = sa.select(entries.c.number).where(entries.c.target == target).order_by(entries.c.idx.desc())
        with self._connection.begin():
            return int(self._connection.execute(newest.limit(1)).scalar() or 0)

    def checkpoint(self) -> Checkpoint | None:
        """Sign the current tree. Returns None if nothing was added since the last checkpoint.

        Raises StoreError; OSError if only the file beside the keys could not be written.
        """
        if self._tree.size in (0, self._checkpointed):
            return None
        self.check_files()
        made = Checkpoint(self.keys.origin, self._tree.size, self._tree.root())
        note = notes.sign(made, self.keys.private)
        row = {"size": made.size, "time_ms": now(), "note": note, "hashes": self._tree.to_bytes()}
        with self._connection.begin():
            self._connection.execute(sa.insert(checkpoints), [row])
        self._checkpointed = made.size
        save_signed_checkpoint(self._data_dir, note)
        return made

    def _check(self, progress: StartupProgress) -> None:
        progress.update(StartupStep.CHECKING)
        with self._connection.begin():
            last = self._connection.execute(
                sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
            ).one_or_none()
            tree = CompactRange() if last is None else self._verified(last, progress)
            newest = self._connection.execute(sa.select(sa.func.max(entries.c.idx))).scalar()
            have = 0 if newest is None else newest + 1
            self._grow(tree, have, progress)
        if have < tree.size:
            what = f"the last checkpoint covers {tree.size} entries, but there are {have}"
            raise StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what)
        check_not_truncated(self._data_dir, self.keys, tree.size)
        if last is not None:
            self._checkpointed = last.size
            if tree.size > last.size:
                self.findings.append(f"{tree.size - last.size} entries after the last checkpoint checked")
        self._tree = tree

    def _grow(self, tree: CompactRange, end: int, progress: StartupProgress) -> None:
        """Grow a tree over the entries before `end`, whose indices must be consecutive."""
        begun = tree.size
        query = sa.select(entries.c.idx, entries.c.header).where(entries.c.idx >= begun, entries.c.idx < end)
        found = self._connection.execution_options(yield_per=1000).execute(query.order_by(entries.c.idx))
        for index, header in found:
            if tree.size % 1000 == 0:
                progress.update(StartupStep.CHECKING, tree.size - begun, end - begun)
            if index != tree.size or json.loads(header)["index"] != index:
                raise StoreDamagedError(
                    f"entry {tree.size} is missing; {DAMAGE_ADVICE}", f"entry {tree.size} is missing"
                )
            tree.append(leaf_hash(header.encode()))

    def _verified(self, row: sa.Row[Any], progress: StartupProgress) -> CompactRange:
        """Return the tree of the last checkpoint, which must have the signed root hash.

        If the stored subtrees do not give that root, they are recomputed from the entries: the root is signed.
        """
        try:
            note = notes.verify(row.note, self.keys.public)
        except CheckpointError as error:
            raise StoreDamagedError(f"the last checkpoint: {error}; restore keys and database together") from None
        with contextlib.suppress(ValueError, TypeError):
            tree = CompactRange.from_bytes(row.size, row.hashes)
            if (note.size, note.root) == (tree.size, tree.root()):
                return tree
        tree = CompactRange()
        self._grow(tree, row.size, progress)
        if (note.size, note.root) != (tree.size, tree.root()):
            raise StoreDamagedError(
                f"the last checkpoint signs {note.size} entries with root {note.root.hex()}, "
                f"but {tree.size} entries give {tree.root().hex()}; restore the database from your backup"
            )
        self.findings.append(
            f"the subtrees kept with checkpoint {row.size} are damaged; the entries give the signed root"
        )
        return tree

    def check_files(self) -> None:
        """Check that the open files are still those at the ledger's paths. Raises StoreError, OSError.

        Otherwise commits would succeed into a file that nobody can open any more.
        """
        try:
            if not same_file(database(self._data_dir), self._database):
                raise file_moved(database(self._data_dir))
            self._lock.hold()
            if self.health.log and not same_file(write_ahead_log(self._data_dir), self.health.log):
                self._heal_log(write_ahead_log(self._data_dir))
        except StoreMovedError as error:
            self.health.note(error)
            raise

    def _heal_log(self, log: Path) -> None:
        try:
            self._restore_log()
        except BaseException:
            self.health.note(file_moved(log))
            raise
        self.health.note(log_restored(log))

    def _restore_log(self) -> None:
        """Recover from a removed write-ahead log: its content is still readable, and is moved into the
        database.
        """
        empty_log(self._connection, database(self._data_dir))
        self._connection.close()
        self.health.log = None
        self._engine.dispose()
        self._connection = self._engine.connect()
        self._remember_files()

    def _remember_files(self) -> None:
        """Remember the identity of the open files."""
        with self._connection.begin():
            # A read creates the write-ahead log.
            self._connection.execute(sa.select(sa.func.max(checkpoints.c.size))).scalar()
        self._database = database(self._data_dir).stat()
        self.health.log = write_ahead_log(self._data_dir).stat()
        self._connection.info["log"] = self.health.log

    def close(self) -> None:
        """Close the database and release the lock. Calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._connection.close()
            self._engine.dispose()
            self._lock.release()
