"""Consistency proofs out of what a ledger keeps: the compact range of a checkpoint, and the leaves since."""

from __future__ import annotations

from mailwatch.ledger.consistency import consistency_proof
from mailwatch.ledger.earlier_entry import EarlierEntry, of_texts
from mailwatch.ledger.merkle import CompactRange
from mailwatch.store import Entry, Reader
from mailwatch.store.pruning import checkpoint_outside


def consistency_between(reader: Reader, smaller: int, size: int) -> tuple[bytes, ...]:
    """Return the proof from the first `smaller` to the first `size` entries, () where none is needed."""
    if smaller in (0, size):
        return ()
    tree = _tree(reader, smaller)
    # The leaves since are read as they are needed: a witness may be a year behind.
    return tuple(consistency_proof(tree, size, reader.tree_parts(smaller, size)))


def earlier_entry(reader: Reader, entry: Entry, size: int) -> EarlierEntry:
    """Return an entry with the proof that it is one of the first `size`."""
    proof = consistency_between(reader, entry.index + 1, size)
    return of_texts(entry.header, entry.text, _tree(reader, entry.index), proof)


def _tree(reader: Reader, size: int) -> CompactRange:
    before = checkpoint_outside(reader, size)
    tree = CompactRange() if before is None else CompactRange.from_bytes(before.size, before.hashes)
    for part in reader.tree_parts(tree.size, size):
        tree.extend(part)
    return tree
