"""The writing side: the process that holds the lock appends entries and signs checkpoints.

Not asynchronous: writer.py calls it in a dedicated thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from mailwatch import monotonic
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger import succession
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.entry import encode_entry, target_id
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Fact, Observation
from mailwatch.monotonic import Origin
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.closed_ledger import check_not_closed, complete_succession
from mailwatch.store.committed_tail import CommittedTail
from mailwatch.store.entry_rows import Entry, entry_from_row
from mailwatch.store.errors import (
    DAMAGE_ADVICE,
    FULL_ERRNOS,
    CommitInDoubtError,
    KeysDifferError,
    StoreDamagedError,
    StoreHealth,
    StoreUnavailableError,
    damaged,
    disk_full,
)
from mailwatch.store.first_start import (
    check_not_missing,
    check_not_rolled_back,
    migrate_database,
    prepare_database,
    save_signed_checkpoint,
)
from mailwatch.store.kept_states import KeptState, remove_damaged, write_kept
from mailwatch.store.keys import PREDECESSORS, Keys, remove_partial_files
from mailwatch.store.last_numbers import last_numbers
from mailwatch.store.outage_index import index_outages, remove_unfit
from mailwatch.store.pack_tree import grow, ledger_size
from mailwatch.store.packing import PreparedPack, write_pack
from mailwatch.store.place import Hold, Place, place_of
from mailwatch.store.pruning import prune_pack
from mailwatch.store.recovery import ROWS_AT_ONCE, OwnCopy, newest_rows
from mailwatch.store.schema import checkpoints, token_files
from mailwatch.store.sweeping import Sweeper
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An entry to append. `payload`: a fact, or a dict of integers and text. `target`: the clear name."""

    kind: str
    time: Millis
    target: str | None
    payload: Fact | Mapping[str, object]


@dataclass(slots=True)
class _Batch:
    """Entries sealed for one commit, and the tree with them."""

    new: Sequence[NewEntry]
    tree: CompactRange
    numbers: dict[str, int]
    written: list[Entry]
    rows: list[dict[str, Any]]


class Store:
    """An open ledger. `findings`: what start-up found and repaired. `health`: shared with its readers."""

    def __init__(self, place: Place, hold: Hold, keys: Keys, health: StoreHealth) -> None:
        self.keys = keys
        self.health = health
        self.findings: list[str] = []
        self._place = place
        self._hold = hold
        if hold.tail is not None:
            hold.tail.origin = keys.origin
        self._closed = False
        self._ids: dict[str, str] = {}
        self._numbers: dict[str, int] = {}
        self._tree = CompactRange()
        self._doubtful: _Batch | None = None
        self._unanswered: dict[int, tuple[NewEntry, Entry]] = {}
        self._checkpointed = -1
        self._index_checked = False
        self._sweeper = Sweeper()
        self.read_clock: Callable[[], Millis] = monotonic.milliseconds
        """Reads the steady clock, once for each batch."""

    @classmethod
    def open(
        cls,
        where: Path | Place,
        progress: StartupProgress | None = None,
        *,
        keys: Keys | None = None,
        health: StoreHealth | None = None,
    ) -> Store:
        """Hold, migrate and check a ledger, created if missing. `progress` receives the progress.

        `keys`: the keys of a copy that has none beside it. Raises DataDirLockedError, StoreError (damaged, keys or
        database missing, unavailable), OSError; DiskFullError if a retry is worthwhile.

        1. The last checkpoint must have our signature and match its tree.
        2. The entries after it must have consecutive indices; the tree grows over them.
        3. The checkpoint beside the keys must be in the database.

        A succession that was interrupted is completed first (closed_ledger.py). Raises LedgerClosedError for a
        ledger that has a successor.
        """
        progress = progress or StartupProgress()
        progress.update(StartupStep.OPENING)
        place = place_of(where)
        try:
            return cls._open(place, progress, keys, health or StoreHealth())
        except OSError as error:
            if error.errno in FULL_ERRNOS:
                raise disk_full(place.data_dir) from None
            raise

    @classmethod
    def _open(cls, place: Place, progress: StartupProgress, keys: Keys | None, health: StoreHealth) -> Store:
        data_dir = place.data_dir
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.ExitStack() as undo:
            hold = place.hold(health)
            undo.callback(hold.release)
            check_not_closed(data_dir)
            completed = complete_succession(data_dir)
            remove_partial_files(data_dir)
            check_not_missing(place)
            made = hold.open()
            if keys is None:
                keys = prepare_database(place, made, progress)
            else:
                migrate_database(place, made, progress)
            hold.begin()
            store = cls(place, hold, keys, health)
            if completed:
                store.findings.append("the succession of an earlier ledger was interrupted, and is completed")
            try:
                store._check(progress)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise damaged(place, f"what it holds cannot be read: {type(error).__name__}") from error
            hold.settle(keys.origin, store._tree)
            if place.is_shared and not store.size:
                store._begin_succession()
            undo.pop_all()
        return store

    def _begin_succession(self) -> None:
        """Append the first entry of a successor that begins in an empty database, and sign it."""
        file = self._place.data_dir / "keys" / PREDECESSORS
        if file.exists():
            payload = json.loads(file.read_bytes())
            self.append_batch([NewEntry(kind=succession.KIND, time=now(), target=None, payload=payload)])
            self.checkpoint()

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

        Raises StoreError, and any exception of an entry that cannot be written; then nothing is appended. After
        CommitInDoubtError they are appended before all others, and who asks for them again gets them, once each.
        """
        self.check_files()
        if self._doubtful is not None:
            self._commit(self._doubtful)
            pairs = zip(self._doubtful.new, self._doubtful.written, strict=True)
            self._unanswered |= {id(new): (new, entry) for new, entry in pairs}
            self._doubtful = None
        written: list[Entry] = []
        for new in new_entries if self._unanswered else ():
            if (answer := self._unanswered.get(id(new))) is None:
                break
            written.append(answer[1])
        if len(written) < len(new_entries):
            batch = self._seal(new_entries[len(written) :])
            try:
                self._commit(batch)
            except CommitInDoubtError:
                self._doubtful = batch
                raise
            written += batch.written
        for new in new_entries if self._unanswered else ():
            self._unanswered.pop(id(new), None)
        return written

    def _seal(self, new_entries: Sequence[NewEntry]) -> _Batch:
        """Seal entries as the next ones of the ledger."""
        unknown = {new.target for new in new_entries if new.target is not None} - self._numbers.keys()
        if unknown:
            with self._hold.transaction() as connection:
                self._numbers.update(last_numbers(connection, self.health, unknown))
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
        return _Batch(new_entries, tree, numbers, written, rows)

    def _commit(self, batch: _Batch) -> None:
        """Commit a batch, sealed anew where others appended first. Raises StoreError; then it is not committed,
        or in doubt.
        """
        while not self._hold.append(self._tree, batch.tree, batch.rows):
            self._catch_up()
            again = self._seal(batch.new)
            batch.tree, batch.numbers = again.tree, again.numbers
            batch.written, batch.rows = again.written, again.rows
        # Only after the commit: a failed transaction must leave no trace in memory.
        self._tree = batch.tree
        self._numbers.update(batch.numbers)

    def _catch_up(self) -> None:
        """Grow the tree over the entries that others committed. Raises StoreError."""
        tree = self._tree.copy()
        with self._hold.transaction() as connection:
            grow(connection, tree, ledger_size(connection), StartupProgress())
        if tree.size <= self._tree.size:
            raise self._gone(tree.size)
        self._tree = tree
        self._numbers.clear()

    def _gone(self, size: int) -> StoreDamagedError:
        what = f"the entries after {size} are gone"
        return StoreDamagedError(f"{self._place}: {what}; {DAMAGE_ADVICE}", what)

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
            number = numbers[new.target] = numbers.get(new.target, self._numbers[new.target]) + 1
        sealed = encode_entry(
            index=index, kind=new.kind, time=new.time, target=opaque, number=number, payload=payload,
            clock=clock, origin=origin,
        )  # fmt: skip
        return Entry(index, new.kind, new.time, new.target, number, sealed.header, sealed.payload)

    def save_pack(self, prepared: PreparedPack) -> None:
        """Write a pack that was prepared (packing.py); its rows stay until they are swept. Raises StoreError."""
        self.check_files()
        with self._hold.writing() as connection:
            write_pack(connection, prepared)

    def sweep_packs(self, limit: int = 500) -> int:
        """Read a part of a pack, or compare up to `limit` rows with it and delete them; return how many entries
        that were, 0 for none left.

        Some 25 ms for 500 rows. Raises StoreError.
        """
        self.check_files()
        try:
            with self._hold.writing() as connection:
                return self._sweeper.sweep(connection, limit)
        except BaseException:
            # It went on over rows whose deletion was rolled back.
            self._sweeper = Sweeper()
            raise

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
        with self._hold.writing() as connection:
            if (have := ledger_size(connection)) < made.size:
                # Signed is only what is committed, also after a failover.
                raise self._gone(have)
            connection.execute(sa.insert(checkpoints), [row])
        if self._hold.tail is not None:
            self._hold.tail.keep_checkpoint(row)
        self._checkpointed = made.size
        save_signed_checkpoint(self._place.data_dir, note)
        return made

    def keep_reply(self, reply: bytes) -> None:
        """Keep a reply of a timestamp authority that is in the database where a failover cannot lose it."""
        if self._hold.tail is not None:
            self._hold.tail.keep_reply(reply)

    def keep(self, states: Sequence[KeptState]) -> None:
        """Keep states that follow from committed entries, each in place of the one before. Raises StoreError."""
        self.check_files()
        with self._hold.writing() as connection:
            write_kept(connection, states)

    def index_outages(self) -> int:
        """Bring the index of outages up to date by some entries; return how many. Raises StoreError."""
        self.check_files()
        with self._hold.writing() as connection:
            is_new = not self._index_checked and remove_unfit(connection)
            count = index_outages(connection, entry_from_row)
        self._index_checked = True
        if is_new:
            logger.warning("the index of outages was not as it was written; it is made anew from their entries")
        return count

    def remove_damaged_states(self) -> None:
        """Remove the kept states that cannot be read or are not as they were written. Raises StoreError."""
        self.check_files()
        with self._hold.writing() as connection:
            remove_damaged(connection)

    def _check(self, progress: StartupProgress) -> None:
        progress.update(StartupStep.CHECKING)
        with self._hold.transaction() as connection:
            last = connection.execute(
                sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
            ).one_or_none()
            tree = CompactRange() if last is None else self._verified(connection, last, progress)
            have = ledger_size(connection)
            grow(connection, tree, have, progress)
        if have < tree.size:
            what = f"the last checkpoint covers {tree.size} entries, but there are {have}"
            raise StoreDamagedError(f"{what}; {DAMAGE_ADVICE}", what)
        signed = 0 if last is None else last.size
        if last is not None and tree.size > last.size:
            self.findings.append(f"{tree.size - last.size} entries after the last checkpoint checked")
        if self._hold.tail is not None:
            signed = max(signed, self._recover(self._hold.tail, tree))
        else:
            check_not_rolled_back(self._place, self.keys, tree.size, self._note_at)
        self._checkpointed = signed or -1
        self._tree = tree

    def _recover(self, tail: CommittedTail, tree: CompactRange) -> int:
        """Append again what a failover lost, as far as this node has it; `tree` grows over it.

        Return the size of the newest checkpoint that came back with it, 0 without any. Raises
        LedgerRolledBackError if what was signed stays lost.
        """
        own = OwnCopy.of(tail.read())
        # An empty database is none that failed over: without its first entries it was not the same ledger's.
        rows = own.missing_rows(tree) if tree.size else []
        back = own.missing_checkpoints(tree, rows, self.keys.public)
        for begin in range(0, len(rows), ROWS_AT_ONCE):
            part, grown = rows[begin : begin + ROWS_AT_ONCE], tree.copy()
            for row in part:
                grown.append(leaf_hash(row["header"].encode()))
            if not self._hold.append(tree, grown, part):
                raise StoreUnavailableError(f"{self._place}: others append to the ledger")
            tree.size, tree.hashes = grown.size, grown.hashes
        missing = [dataclasses.asdict(one) for one in back if self._note_at(one.size) is None]
        with self._hold.transaction() as connection:
            replies = own.missing_replies(connection) if own.replies else []
        for table, lost in ((checkpoints, missing), (token_files, replies)):
            if lost:
                with self._hold.writing() as connection:
                    connection.execute(sa.insert(table), lost)
        if rows or missing or replies:
            what = f"{len(rows)} entries and {len(missing)} checkpoints"
            if replies:
                what = f"{what}, and {len(replies)} replies of timestamp authorities"
            self.findings.append(
                f"the database had lost {what}, as by a failover; they are there again from this node's own copy"
            )
        check_not_rolled_back(self._place, self.keys, tree.size, self._note_at)
        with self._hold.transaction() as connection:
            self.findings += own.lost(connection, tree.size)
            if (own.size, own.root) != (tree.size, tree.root()):
                tail.restart(tree, newest_rows(connection, tree.size))
        return max((one.size for one in back), default=0)

    def _note_at(self, size: int) -> str | None:
        with self._hold.transaction() as connection:
            query = sa.select(checkpoints.c.note).where(checkpoints.c.size == size)
            return connection.execute(query).scalar()

    def _verified(self, connection: sa.Connection, row: sa.Row[Any], progress: StartupProgress) -> CompactRange:
        """Return the tree of the last checkpoint, which must have the signed root hash.

        If the stored subtrees do not give that root, they are recomputed from the entries: the root is signed.
        """
        try:
            note = notes.verify(row.note, self.keys.public)
        except CheckpointError as error:
            of_other = re.fullmatch(r"mailwatch/[0-9a-f]{16}", str(row.note).partition("\n")[0])
            differs = of_other is not None and of_other[0] != self.keys.origin
            kind = KeysDifferError if differs else StoreDamagedError
            raise kind(f"the last checkpoint: {error}; restore keys and database together") from None
        with contextlib.suppress(ValueError, TypeError):
            tree = CompactRange.from_bytes(row.size, row.hashes)
            if (note.size, note.root) == (tree.size, tree.root()):
                return tree
        tree = CompactRange()
        grow(connection, tree, row.size, progress)
        if (note.size, note.root) != (tree.size, tree.root()):
            raise StoreDamagedError(
                f"the last checkpoint signs {note.size} entries with root {note.root.hex()}, "
                f"but {tree.size} entries give {tree.root().hex()}; restore the database from your backup"
            )
        self.findings.append(
            f"the subtrees kept with checkpoint {row.size} are damaged; the entries give the signed root"
        )
        return tree

    def prune_packs(self, firsts: Sequence[int], at: Millis) -> None:
        """Drop the runs of packs, by the index of their first entry, for good. Raises StoreError."""
        self.check_files()
        for first in firsts:
            with self._hold.writing() as connection:
                prune_pack(connection, first, at)

    def sweep_findings(self) -> list[str]:
        """Return which rows differ from their copy in a pack; they stay."""
        return list(self._sweeper.findings)

    def give_back(self, keep: int, pages: int) -> int:
        """Give up to `pages` free pages back to the disk, but leave `keep` bytes; return how many.

        Raises StoreError.
        """
        self.check_files()
        return self._hold.give_back(keep, pages)

    @property
    def is_shared(self) -> bool:
        """Whether other machines may have the same database."""
        return self._place.is_shared

    def cut(self) -> None:
        """Break all connections to a database that does not answer: what waits for it fails. For any thread."""
        self._place.cut()

    def check_files(self) -> None:
        """Check that the database is still the one that was opened. Raises StoreError, OSError."""
        self._hold.check()

    def close(self) -> None:
        """Close the database and release the lock. Calling it twice does no harm."""
        if not self._closed:
            self._closed = True
            self._hold.release()
