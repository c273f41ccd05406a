"""What a failover of the database lost, appended again from this node's own copy (committed_tail.py).

The texts are the same, byte for byte. The root over them and over what the database still has must be the one that
this node committed, and each checkpoint among them must sign the tree that they make: so the ledger is the one
that was, or nothing is appended.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store.committed_tail import Committed, CommittedCheckpoint, CommittedReply
from mailwatch.store.entry_rows import entry_from_row
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.schema import entries, token_files

ROWS_AT_ONCE = 500
"""Entries that are appended in one transaction."""
SEED_ROWS = 2_000
"""Entries of others that a node keeps when it takes over."""
_COLUMNS = [str(column.name) for column in entries.columns]


@dataclass(slots=True)
class OwnCopy:
    """What a node kept of its commits. `size` and `root`: of the tree after the last of them; 0 without any.

    `roots`: of the tree after each commit, by its size. `rows`: by index.
    """

    rows: dict[int, dict[str, Any]]
    checkpoints: dict[int, CommittedCheckpoint]
    roots: dict[int, bytes]
    replies: dict[str, bytes] = field(default_factory=dict)
    """The replies of timestamp authorities, by their name on record."""
    size: int = 0

    @classmethod
    def of(cls, kept: Iterable[Committed]) -> OwnCopy:
        """Return what was kept, the newest of each."""
        copy = cls({}, {}, {})
        for one in kept:
            if isinstance(one, CommittedCheckpoint):
                copy.checkpoints[one.size] = one
            elif isinstance(one, CommittedReply):
                copy.replies[one.name] = one.reply
            else:
                copy.rows |= {row["idx"]: row for row in one.rows}
                copy.roots[one.size] = one.root
                copy.size = one.size
        return copy

    @property
    def root(self) -> bytes:
        """The root of the tree after the last commit."""
        return self.roots.get(self.size, b"")

    def missing_rows(self, tree: CompactRange) -> list[dict[str, Any]]:
        """Return the rows that a ledger with this tree lacks; [] if they do not continue it."""
        wanted = range(tree.size, self.size)
        if any(index not in self.rows for index in wanted):
            return []
        rows, grown = [self.rows[index] for index in wanted], tree.copy()
        for row in rows:
            if not _is_sealed(row):
                return []
            grown.append(leaf_hash(row["header"].encode()))
            if self.roots.get(grown.size, grown.root()) != grown.root():
                return []
        return rows if grown.root() == self.root else []

    def missing_checkpoints(
        self, tree: CompactRange, rows: Iterable[Mapping[str, Any]], public: Ed25519PublicKey
    ) -> list[CommittedCheckpoint]:
        """Return the checkpoints over the tree as it grows by `rows`; only those that sign it."""
        grown, found = tree.copy(), []
        for row in (None, *rows):
            if row is not None:
                grown.append(leaf_hash(row["header"].encode()))
            one = self.checkpoints.get(grown.size)
            if one is not None and _signs(one, grown, public):
                found.append(one)
        return found

    def missing_replies(self, connection: sa.Connection) -> list[dict[str, Any]]:
        """Return the replies that a database lacks, as its rows. Raises StoreError."""
        query = sa.select(token_files.c.name).where(token_files.c.name.in_(self.replies))
        there = set(connection.execute(query).scalars())
        return [{"name": name, "reply": reply} for name, reply in self.replies.items() if name not in there]

    def lost(self, connection: sa.Connection, size: int) -> list[str]:
        """Return what this node recorded and a ledger of `size` entries does not have. Raises StoreError."""
        if self.size > size:
            return [f"{self.size - size} entries that this node had recorded are lost; none of them was signed"]
        if not self.size:
            return []
        last = self.rows.get(self.size - 1)
        header = connection.execute(sa.select(entries.c.header).where(entries.c.idx == self.size - 1)).scalar()
        if last is None or header in (None, last["header"]):
            # One without a row is in a pack, which was checked when it was made.
            return []
        return ["entries that this node had recorded are lost, and others have their places; none was signed"]


def newest_rows(connection: sa.Connection, size: int) -> bytes:
    """Return the newest rows of a ledger of `size` entries as a JSON array. Raises StoreError."""
    query = sa.select(entries).where(entries.c.idx >= max(0, size - SEED_ROWS), entries.c.idx < size)
    found = connection.execute(query.order_by(entries.c.idx))
    return orjson.dumps([dict(zip(_COLUMNS, row, strict=True)) for row in found])


def _is_sealed(row: Mapping[str, Any]) -> bool:
    """Return whether a row is a whole entry."""
    if row.keys() != set(_COLUMNS):
        return False
    try:
        entry_from_row([row[name] for name in _COLUMNS if name != "outcome"])
    except StoreDamagedError:
        return False
    return True


def _signs(one: CommittedCheckpoint, tree: CompactRange, public: Ed25519PublicKey) -> bool:
    try:
        signed = notes.verify(one.note, public)
    except CheckpointError:
        return False
    return (signed.size, signed.root, one.hashes) == (tree.size, tree.root(), tree.to_bytes())
