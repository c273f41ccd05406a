"""The Merkle tree of RFC 6962 section 2.1 as a compact range: O(log n) hashes represent n leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of one entry: SHA-256(0x00 || entry)."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees: SHA-256(0x01 || left || right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def perfect_root(leaves: Sequence[bytes]) -> bytes:
    """Return the root of a perfect subtree by its leaf hashes, whose number is a power of two."""
    hashed = hashlib.sha256
    level = list(leaves)
    while len(level) > 1:
        level = [
            hashed(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=True)
        ]
    return level[0]


@dataclass(frozen=True, slots=True)
class Subtree:
    """A perfect subtree of 2**level leaves, of which only the root is known."""

    root: bytes
    level: int


@dataclass(slots=True)
class CompactRange:
    """The leaves [0, size) as the roots of their perfect subtrees, largest first.

    Each set bit of `size` is one subtree; appending a leaf merges subtrees as a binary counter carries.
    """

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def append(self, leaf: bytes) -> None:
        """Append the hash of the next leaf."""
        carry = self.size
        while carry & 1:
            leaf = node_hash(self.hashes.pop(), leaf)
            carry >>= 1
        self.hashes.append(leaf)
        self.size += 1

    def append_subtree(self, root: bytes, level: int) -> None:
        """Append the root of a perfect subtree of 2**level leaves. Raises ValueError if it is not aligned."""
        if self.size % (1 << level):
            raise ValueError(f"a subtree of 2**{level} leaves cannot begin at {self.size}")
        carry = self.size >> level
        while carry & 1:
            root = node_hash(self.hashes.pop(), root)
            carry >>= 1
        self.hashes.append(root)
        self.size += 1 << level

    def extend(self, part: bytes | Subtree) -> None:
        """Append the hash of the next leaf, or a subtree. Raises ValueError if that is not aligned."""
        if isinstance(part, Subtree):
            self.append_subtree(part.root, part.level)
        else:
            self.append(part)

    def root(self) -> bytes:
        """Return the root hash of the whole tree."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root

    def copy(self) -> CompactRange:
        """Return an independent copy."""
        return CompactRange(self.size, list(self.hashes))

    def to_bytes(self) -> bytes:
        """Return the concatenated hashes; `size` determines their number."""
        return b"".join(self.hashes)

    @classmethod
    def from_bytes(cls, size: int, raw: bytes) -> CompactRange:
        """Parse the output of `to_bytes`. Raises ValueError if the length does not match the size."""
        if len(raw) != 32 * size.bit_count():
            raise ValueError(f"a tree of {size} leaves has {size.bit_count()} hashes, not {len(raw)} bytes")
        return cls(size, [raw[i : i + 32] for i in range(0, len(raw), 32)])


def root_of(entries: Iterable[bytes]) -> bytes:
    """Return the root hash over complete entries."""
    tree = CompactRange()
    for entry in entries:
        tree.append(leaf_hash(entry))
    return tree.root()
