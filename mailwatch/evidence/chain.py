"""The ledgers that a ledger goes on for, as a bundle states and proves them.

Only the first entry of a ledger names predecessors, and few bundles hold that entry. So proof.json of a successor
has it, with the proof (RFC 6962 section 2.1.2, from one entry) that the tree before the range begins with it.
"""

from __future__ import annotations

import json

from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.ledger.consistency import ConsistencyError, verify_consistency
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.succession import KIND, ChainJson, SuccessionError, predecessors
from mailwatch.store import CheckpointRow, Entry, Reader, StoreDamagedError
from mailwatch.store.pruning import checkpoint_outside


def chain_statement(reader: Reader, key: str) -> dict[str, list[ChainJson]]:
    """Return the predecessors of the ledger with the verifier key `key`, as `chain`; {} if there are none.

    Raises EvidenceError if its first entry is not valid.
    """
    first = _first(reader)
    if first is None:
        return {}
    try:
        return {"chain": [link.as_json() for link in predecessors(first.payload, key)]}
    except SuccessionError as error:
        raise EvidenceError(f"the ledgers before this one cannot be stated: {error}") from None


def first_entry(reader: Reader, start: CheckpointRow) -> dict[str, object]:
    """Return the first entry of a successor with its proof, as `first`; {} if the range itself begins with it.

    `start`: the checkpoint at which the range begins. Raises StoreDamagedError.
    """
    first = _first(reader)
    if first is None or start.size == 0:
        return {}
    proof = [_root(reader, begin, min(2 * begin, start.size)) for begin in _powers_of_two(start.size)]
    leaf = leaf_hash(first.header.encode())
    try:
        root = CompactRange.from_bytes(start.size, start.hashes).root()
        verify_consistency(1, start.size, proof, leaf, root)
    except (ConsistencyError, ValueError):
        what = f"the subtrees kept with the checkpoints before {start.size} are damaged"
        advice = "evidence cannot begin there; use an earlier --from, or restore the database from your backup"
        raise StoreDamagedError(f"{what}; {advice}", what) from None
    hashes = [one.hex() for one in proof]
    return {"first": {"header": json.loads(first.header), "payload": first.payload, "proof": hashes}}


def _first(reader: Reader) -> Entry | None:
    return next((entry for entry in reader.entries(to_index=1) if entry.kind == KIND), None)


def _powers_of_two(below: int) -> list[int]:
    return [1 << bit for bit in range((below - 1).bit_length())]


def _root(reader: Reader, begin: int, end: int) -> bytes:
    """Return the root of the leaves [begin, end); `begin` is a power of two, and `end` at most its double.

    The last checkpoint in between has the subtrees of most of them; so few entries are read.
    """
    row = checkpoint_outside(reader, min(end, 2 * begin - 1))
    tree = CompactRange()
    if row is not None and row.size > begin:
        # The first of its subtrees is that of the leaves before `begin`.
        hashes = CompactRange.from_bytes(row.size, row.hashes).hashes[1:]
        tree = CompactRange(row.size - begin, hashes)
    # Of what was pruned there are the roots.
    for part in reader.tree_parts(begin + tree.size, end):
        tree.extend(part)
    return tree.root()
