"""Consistency proofs (RFC 6962 section 2.1.2): the smaller tree is the beginning of the larger one.

A ledger keeps no inner nodes. A proof needs the subtrees of the smaller tree, which its checkpoint keeps as a
compact range, and the roots over parts of the leaves since, which one pass over those leaves gives.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mailwatch.ledger.merkle import EMPTY_ROOT, CompactRange, Subtree, node_hash


class ConsistencyError(Exception):
    """A proof does not show that one tree is the beginning of the other. The message says why."""


def consistency_proof(smaller: CompactRange, size: int, leaves: Iterable[bytes | Subtree]) -> list[bytes]:
    """Return the proof from `smaller` to the tree of `size` leaves, [] if `smaller` is empty or of that size.

    `leaves` are the hashes of the leaves [smaller.size, size), in order, or subtrees of them. Raises
    ConsistencyError if their number differs, or if the proof needs what is in a subtree.
    """
    if smaller.size in (0, size):
        return []
    kept = {start: root for (start, _), root in zip(_peaks(smaller.size), smaller.hashes, strict=True)}
    parts = _parts(smaller.size, size)
    since = _roots([part for part in parts if part[0] >= smaller.size], leaves)
    return [kept[start] if start < smaller.size else since[start] for start, _ in parts]


def verify_consistency(
    smaller_size: int, size: int, proof: Sequence[bytes], smaller_root: bytes, root: bytes
) -> None:
    """Verify a proof (RFC 9162 section 2.1.4.2). Raises ConsistencyError.

    The empty tree is the beginning of any tree, without a proof.
    """
    if not 0 <= smaller_size <= size:
        raise ConsistencyError(f"{smaller_size} entries are more than {size}")
    if smaller_size == 0 and smaller_root != EMPTY_ROOT:
        raise ConsistencyError("the root of the empty tree differs")
    if smaller_size in (0, size):
        if proof:
            raise ConsistencyError("the proof has hashes, but needs none")
        if smaller_size == size and smaller_root != root:
            raise ConsistencyError(f"two trees of {size} entries have different roots")
        return
    if not proof:
        raise ConsistencyError("the proof has no hashes")
    # A smaller tree that is one perfect subtree is left out of the proof: the verifier has its root.
    path = [smaller_root, *proof] if smaller_size.bit_count() == 1 else list(proof)
    node, last = smaller_size - 1, size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for one in path[1:]:
        if last == 0:
            raise ConsistencyError("the proof has too many hashes")
        if node & 1 or node == last:
            old, new = node_hash(one, old), node_hash(one, new)
            while node and not node & 1:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, one)
        node, last = node >> 1, last >> 1
    if last:
        raise ConsistencyError("the proof has too few hashes")
    if old != smaller_root:
        raise ConsistencyError(f"the proof does not give the root of {smaller_size} entries")
    if new != root:
        raise ConsistencyError(f"the proof does not give the root of {size} entries")


def _peaks(size: int) -> list[tuple[int, int]]:
    """Return the perfect subtrees of a tree as (start, end), in order."""
    found, start = list[tuple[int, int]](), 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            found.append((start, start + (1 << bit)))
            start += 1 << bit
    return found


def _parts(smaller: int, size: int) -> list[tuple[int, int]]:
    """Return the subtrees of a proof in its order, as (start, end): SUBPROOF of RFC 6962 section 2.1.2."""
    found, start, end, whole = list[tuple[int, int]](), 0, size, True
    while smaller != end:
        middle = start + (1 << (end - start - 1).bit_length() - 1)
        if smaller <= middle:
            found.append((middle, end))
            end = middle
        else:
            found.append((start, middle))
            start, whole = middle, False
    if not whole:
        found.append((start, end))
    return found[::-1]


def _roots(parts: Iterable[tuple[int, int]], leaves: Iterable[bytes | Subtree]) -> dict[int, bytes]:
    """Return the root of each part by its start. The parts and the leaves are the same range."""
    following, found = iter(leaves), dict[int, bytes]()
    for start, end in sorted(parts):
        tree = CompactRange()
        while tree.size < end - start:
            if (leaf := next(following, None)) is None:
                raise ConsistencyError(f"leaf {start + tree.size} is missing")
            try:
                tree.extend(leaf)
            except ValueError as error:
                raise ConsistencyError(str(error)) from None
        if tree.size != end - start:
            raise ConsistencyError(f"the leaves from {end} on are in a subtree")
        found[start] = tree.root()
    if next(following, None) is not None:
        raise ConsistencyError("there are more leaves than entries")
    return found
