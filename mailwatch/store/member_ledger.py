"""The ledger of a member of a hub, as the member pushed it: verified before it is kept, and never changed.

It has the tables of a ledger of one's own, so all that reads those reads it too. It has no key: nothing is added
to it but what its owner signed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.push import Push, PushedEntry, PushedSubtree, PushError, read_entries
from mailwatch.progress import StartupProgress
from mailwatch.store.errors import StoreHealth, damaged
from mailwatch.store.first_start import migrate_database
from mailwatch.store.kept_states import KeptState, read_kept, write_kept
from mailwatch.store.pack_tree import grow, ledger_size
from mailwatch.store.packing import PreparedPack, write_pack
from mailwatch.store.packs import PackReader
from mailwatch.store.place import Hold, Place, place_of
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.schema import checkpoints, entries, insert, packs
from mailwatch.store.selection import WITHHELD, Selection
from mailwatch.store.sqlite import SqlitePlace
from mailwatch.store.sweeping import Sweeper
from mailwatch.times import Millis

FOLDER = "hub"
"""In the data_dir of a hub: the ledgers of its members."""
CHECKPOINT_MS = 600_000
"""Milliseconds between two checkpoints that are kept for good: a push may come each half minute."""
CHECKPOINT_ENTRIES = 16_384
"""Entries after which one is kept all the same, as in a first push: from there a tree grows on, and is packed."""
MAX_TARGETS = 100_000


NEWEST = "push"
"""Kind of the kept state with the note of the newest push, which may be none of the checkpoints in the table."""


class OtherHistoryError(PushError):
    """The owner signed another history than before."""


@dataclass(slots=True)
class _Target:
    """The clear name of a target, "" while it is withheld, and the number of its newest entry, None before any."""

    name: str = ""
    number: int | None = None


def member_place(hub: Path | Place, origin: str) -> Place:
    """Return where a hub keeps a member's ledger: in a file of its own, or in a schema of the hub's database."""
    place, name = place_of(hub), hashlib.sha256(origin.encode()).hexdigest()[:32]
    folder = place.data_dir / FOLDER / name
    return place.in_schema(f"hub_{name}", folder) if isinstance(place, PostgresPlace) else SqlitePlace(folder)


class MemberLedger:
    """An open ledger of a member. For one thread at a time."""

    def __init__(self, place: Place, hold: Hold, public: Ed25519PublicKey) -> None:
        self._place, self._hold, self._public = place, hold, public
        self._tree = CompactRange()
        self.note = ""
        """The newest checkpoint that its owner signed, "" before the first push."""
        self._targets: dict[str, _Target] = {}
        """By their opaque ids."""
        self._kept_at: Millis | None = None
        """When the newest checkpoint in the table was pushed."""
        self._kept_size = 0

    @classmethod
    def open(cls, place: Place, public: Ed25519PublicKey, health: StoreHealth | None = None) -> MemberLedger:
        """Open a member's ledger, made if it is missing, and check it. Raises StoreError, OSError."""
        for folder in (place.data_dir.parent, place.data_dir):
            folder.mkdir(mode=0o700, exist_ok=True)
        hold = place.hold(health or StoreHealth())
        try:
            migrate_database(place, hold.open(), StartupProgress())
            hold.begin()
            ledger = cls(place, hold, public)
            ledger._check()
            hold.settle(notes.origin_of(public), ledger._tree)
        except BaseException:
            hold.release()
            raise
        return ledger

    @property
    def size(self) -> int:
        """Number of entries."""
        return self._tree.size

    @property
    def root(self) -> bytes:
        """Root over all entries."""
        return self._tree.root()

    @property
    def hashes(self) -> bytes:
        """The subtrees of all entries, from which a tree grows on."""
        return self._tree.to_bytes()

    def append(
        self, push: Push, at: Millis, cosigned: Checkpoint | None = None
    ) -> tuple[Checkpoint, list[PushedEntry]]:
        """Append the entries of a push in one transaction; return its checkpoint and them.

        `at`: now. `cosigned`: what was cosigned of this ledger before, which its tree must pass through. Raises
        CheckpointError if the owner did not sign the push, PushError, OtherHistoryError, StoreError; then nothing
        is appended.
        """
        before, signed = notes.verify(push.before, self._public), notes.verify(push.note, self._public)
        tree = self._tree.copy()
        if before.size != tree.size:
            raise PushError(f"it begins from a checkpoint of {before.size} entries, and {tree.size} are here")
        if before.root != tree.root():
            raise OtherHistoryError(f"the first {tree.size} entries are others than were pushed before")
        found, pruned, targets, same = list[PushedEntry](), list[PushedSubtree](), dict[str, _Target](), True
        for entry in read_entries(push.lines, tree):
            if isinstance(entry, PushedSubtree):
                pruned.append(entry)
                # Which numbers it holds is unknown.
                targets = _without_numbers(self._targets | targets)
                if cosigned is not None and entry.first < cosigned.size < tree.size:
                    raise PushError(f"what was cosigned ends at {cosigned.size}, within entries that were pruned")
            else:
                if entry.number is not None:
                    self._count(entry, entry.number, targets)
                found.append(entry)
            if cosigned is not None and tree.size == cosigned.size:
                same = tree.root() == cosigned.root
        if (tree.size, tree.root()) != (signed.size, signed.root):
            raise PushError(f"its {tree.size} entries do not give the root that was signed for {signed.size}")
        if not same and cosigned is not None:
            raise OtherHistoryError(f"the first {cosigned.size} entries are others than were cosigned")
        is_due = self._kept_at is None or not 0 <= at - self._kept_at < CHECKPOINT_MS
        is_due |= signed.size - self._kept_size >= CHECKPOINT_ENTRIES
        self._hold.check()
        with self._hold.writing() as connection:
            if found:
                connection.execute(sa.insert(entries), list(map(_row, found)))
            if pruned:
                connection.execute(sa.insert(packs), [_pruned_row(one, at) for one in pruned])
            if tree.size > self._tree.size:
                self._hold.advance(connection, self._tree, tree)
            write_kept(connection, [KeptState(NEWEST, "", signed.size, signed.root.hex(), push.note)])
            if is_due:
                self._keep_checkpoint(connection, signed.size, push.note, tree, at)
        self._tree, self.note = tree, push.note
        self._targets.update(targets)
        if is_due:
            self._kept_at, self._kept_size = at, signed.size
        return signed, found

    def save_pack(self, prepared: PreparedPack) -> None:
        """Write a pack that was prepared (packing.py); its rows stay until they are swept. Raises StoreError."""
        self._hold.check()
        with self._hold.writing() as connection:
            write_pack(connection, prepared)

    def sweep_packs(self, sweeper: Sweeper, limit: int) -> int:
        """Read a part of a pack, or compare up to `limit` rows with it and delete them; return how many entries
        that were, 0 for none left. Raises StoreError.

        `sweeper` is the caller's, since this ledger may be closed between two steps; after an error it needs a new
        one, as it counts rows as deleted that are in place.
        """
        self._hold.check()
        with self._hold.writing() as connection:
            return sweeper.sweep(connection, limit)

    def give_back(self, keep: int, pages: int) -> int:
        """Give up to `pages` free pages back to the disk, but leave `keep` bytes; return how many.

        Raises StoreError.
        """
        self._hold.check()
        return self._hold.give_back(keep, pages)

    def keep(self, state: KeptState) -> None:
        """Keep a state beside the entries. Raises StoreError."""
        with self._hold.writing() as connection:
            write_kept(connection, [state])

    def close(self) -> None:
        """Close the database and release its lock."""
        self._hold.release()

    @staticmethod
    def _keep_checkpoint(connection: sa.Connection, size: int, note: str, tree: CompactRange, at: Millis) -> None:
        row = {"size": size, "time_ms": at, "note": note, "hashes": tree.to_bytes()}
        connection.execute(insert(connection, checkpoints).on_conflict_do_nothing(), [row])

    def _count(self, entry: PushedEntry, number: int, targets: dict[str, _Target]) -> None:
        """Check that a number follows the one before it of its target, whose name stays. Raises PushError."""
        target = targets.get(entry.target_id)
        if target is None:
            known = self._targets.get(entry.target_id) or self._kept_target(entry)
            target = targets[entry.target_id] = _Target(known.name, known.number)
        if target.number is not None and number != target.number + 1:
            raise PushError(f"entry {entry.idx}: expected number {target.number + 1} of its target")
        if target.name and entry.target and target.name != entry.target:
            raise PushError(f"entry {entry.idx} does not name its target as those before it")
        target.name, target.number = entry.target or target.name, number

    def _kept_target(self, entry: PushedEntry) -> _Target:
        """Return a target as the kept entries have it; withheld ones have no name here."""
        if len(self._targets) >= MAX_TARGETS:
            raise PushError(f"a ledger has at most {MAX_TARGETS} targets here")
        if not entry.target:
            return _Target()
        with self._hold.transaction() as connection:
            header = _newest_header(connection, entry.target)
        if header is None:
            return _Target()
        read = json.loads(header)
        if read["target"] != entry.target_id:
            raise PushError(f"entry {entry.idx}: two targets have the same name")
        with self._hold.transaction() as connection:
            is_known = not any(one.first > read["index"] for one in PackReader(connection).pruned(entry.idx))
        return _Target(entry.target, read["number"] if is_known else None)

    def _check(self) -> None:
        """Grow the tree from the newest checkpoint, which the owner must have signed. Raises StoreError."""
        with self._hold.transaction() as connection:
            last = connection.execute(
                sa.select(checkpoints).order_by(checkpoints.c.size.desc()).limit(1)
            ).one_or_none()
            newest = read_kept(connection, NEWEST, "")
            try:
                tree = CompactRange() if last is None else CompactRange.from_bytes(last.size, last.hashes)
                if last is not None:
                    self._compare(last.note, tree)
                    self._kept_at, self._kept_size, self.note = last.time_ms, last.size, last.note
                grow(connection, tree, ledger_size(connection), StartupProgress())
                if newest is None:
                    # The table of states may be emptied at any time.
                    self._tree = tree
                    return
                self._compare(newest.text, tree)
                self.note = newest.text
            except (CheckpointError, ValueError, TypeError, KeyError) as error:
                raise damaged(self._place, f"what it holds is not what was signed: {error}") from error
        self._tree = tree

    def _compare(self, note: str, tree: CompactRange) -> None:
        signed = notes.verify(note, self._public)
        if (signed.size, signed.root) != (tree.size, tree.root()):
            raise ValueError(f"its {tree.size} entries do not give the root that was signed for {signed.size}")


def _newest_header(connection: sa.Connection, target: str) -> str | None:
    """Return the header of a target's newest entry, None if it has none."""
    column = entries.c
    newest = sa.select(column.idx, column.header).where(column.target == target).order_by(column.idx.desc())
    row = connection.execute(newest.limit(1)).one_or_none()
    packed = PackReader(connection)
    for run_row in packed.runs(Selection(target=target, from_index=row.idx if row else None), descending=True):
        *_, last = packed.rows(run_row, Selection(target=target))
        return row.header if row and row.idx > last.idx else last.header
    return row.header if row else None


def _without_numbers(targets: Mapping[str, _Target]) -> dict[str, _Target]:
    return {identity: _Target(target.name) for identity, target in targets.items()}


def _pruned_row(pruned: PushedSubtree, at: Millis) -> dict[str, Any]:
    """Return a pack of which there was never more than the root."""
    return {
        "first": pruned.first, "level": pruned.level, "root": pruned.root, "count": 1 << pruned.level, "swept": 1,
        "pruned_ms": at, "dictionary_of": None, "dictionary": None,
    }  # fmt: skip


def _row(entry: PushedEntry) -> dict[str, Any]:
    if entry.payload is None:
        shown: dict[str, Any] = {"kind": WITHHELD, "target": None, "number": None, "outcome": None, "payload": ""}
    else:
        shown = {
            "kind": entry.kind,
            "target": entry.target or None,
            "number": entry.number,
            "outcome": entry.outcome,
            "payload": entry.payload,
        }
    return {"idx": entry.idx, "time_ms": entry.time, "header": entry.header, **shown}
