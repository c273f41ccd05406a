"""An entry before a range, proven to lie in the ledger: the tree before it, and a consistency proof to the range.

The tree before the entry with its leaf appended has the root from which the proof leads to the range's start.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.consistency import ConsistencyError, verify_consistency
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.times import Millis

MAX_HASHES = 64
"""Most hashes in a proof: a ledger has fewer than 2**64 entries."""


class EarlierEntryError(Exception):
    """An entry is not one of the ledger before a range. The message says why."""


@dataclass(frozen=True, slots=True)
class EarlierEntry:
    """An entry. `tree`: the subtrees before it; `proof`: from it to the start of a range."""

    header: Mapping[str, Any]
    payload: Mapping[str, Any]
    tree: tuple[bytes, ...]
    proof: tuple[bytes, ...]

    @property
    def index(self) -> int:
        """Place in the ledger."""
        return int(self.header["index"])

    @property
    def time(self) -> Millis:
        """When it was made, by its header."""
        return int(self.header["time"])

    def as_json(self) -> dict[str, object]:
        """Return the entry as proof.json has it."""
        return {
            "header": {**self.header},
            "payload": {**self.payload},
            "tree": [one.hex() for one in self.tree],
            "proof": [one.hex() for one in self.proof],
        }


def read_earlier(given: object, kind: str) -> EarlierEntry:
    """Return an entry of a kind as proof.json has it, its place not checked. Raises EarlierEntryError."""
    try:
        assert isinstance(given, dict)
        hashes = [tuple(bytes.fromhex(one) for one in given[key]) for key in ("tree", "proof")]
        made = EarlierEntry(given["header"], given["payload"], *hashes)
        if any(len(path) > MAX_HASHES for path in hashes) or made.header["kind"] != kind:
            raise ValueError("it is of another kind")
        if made.index < 0 or not isinstance(made.payload, dict) or made.header["target"] is not None:
            raise ValueError("it is no entry about MailWatch itself")
        if hashlib.sha256(canonical(made.payload).encode()).hexdigest() != made.header["payload"]:
            raise ValueError("its payload is not the one that its header seals")
    except (AssertionError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise EarlierEntryError(f"the entry before the range cannot be read: {error}"[:200]) from None
    return made


def check_place(entry: EarlierEntry, start: CompactRange) -> None:
    """Check that an entry lies in the ledger before a range. `start`: the tree there. Raises EarlierEntryError."""
    try:
        tree = CompactRange.from_bytes(entry.index, b"".join(entry.tree))
        tree.append(leaf_hash(canonical({**entry.header}).encode()))
        verify_consistency(tree.size, start.size, entry.proof, tree.root(), start.root())
    except (ConsistencyError, ValueError, TypeError) as error:
        raise EarlierEntryError(f"the entry before the range is not one of this ledger: {error}"[:200]) from None


def of_texts(header: str, payload: str, tree: CompactRange, proof: tuple[bytes, ...]) -> EarlierEntry:
    """Return an entry from its two texts as stored."""
    return EarlierEntry(json.loads(header), json.loads(payload), tuple(tree.hashes), proof)
