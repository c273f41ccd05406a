"""Trees, notes and canonical JSON against what other implementations made: tests/testdata/vectors names each
source.

published.json is from public test data; go.json was made by crosscheck.go beside it with Go's own packages, which
also checked ours.json, a ledger that MailWatch wrote.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger import checkpoint
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.merkle import CompactRange, leaf_hash, root_of
from tests.helpers.paths import TESTDATA

FOLDER = TESTDATA / "vectors"
PUBLISHED = json.loads((FOLDER / "published.json").read_bytes())
GO = json.loads((FOLDER / "go.json").read_bytes())
OURS = json.loads((FOLDER / "ours.json").read_bytes())
EIGHT = PUBLISHED["eight_leaves"]
SIGNED = [*PUBLISHED["signed_notes"], *GO["notes"]]


def grown(leaves: list[bytes]) -> CompactRange:
    tree = CompactRange()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


def key_of(written: str) -> tuple[str, Ed25519PublicKey]:
    """Read name+id+key."""
    name, _, raw = written.split("+", 2)
    decoded = base64.b64decode(raw, validate=True)
    assert decoded[0] == 1  # Ed25519
    return name, Ed25519PublicKey.from_public_bytes(decoded[1:])


def bent(raw: bytes) -> Iterator[bytes]:
    """Each text of which one bit is another."""
    for bit in range(8 * len(raw)):
        changed = bytearray(raw)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


@pytest.mark.parametrize("size", range(9))
def test_the_eight_leaves_of_certificate_transparency(size: int) -> None:
    tree = grown([bytes.fromhex(leaf) for leaf in EIGHT["leaves"][:size]])
    assert tree.root().hex() == EIGHT["roots"][size]
    assert [one.hex() for one in tree.hashes] == EIGHT["subtrees"][size]


def test_a_bit_of_any_leaf_gives_another_root() -> None:
    leaves = [bytes.fromhex(leaf) for leaf in EIGHT["leaves"]]
    for place, leaf in enumerate(leaves):
        for other in bent(leaf):
            assert root_of([*leaves[:place], other, *leaves[place + 1 :]]).hex() != EIGHT["roots"][8]


def test_the_golden_roots_of_compact_ranges() -> None:
    golden = PUBLISHED["golden_roots"]["roots"]
    tree, compared = CompactRange(), 0
    for number in range(65535):
        tree.append(leaf_hash(number.to_bytes(2, "little")))
        if str(tree.size) in golden:
            assert base64.b64encode(tree.root()).decode() == golden[str(tree.size)], tree.size
            compared += 1
    assert compared == len(golden) == 11


def test_trees_made_by_go_have_the_same_roots() -> None:
    tree, made = CompactRange(), {one["size"]: one for one in GO["trees"]}
    for number in range(max(made)):
        tree.append(leaf_hash(f"entry {number}".encode()))
        if tree.size in made:
            assert base64.b64encode(tree.root()).decode() == made[tree.size]["root"]
            assert [base64.b64encode(one).decode() for one in tree.hashes] == made[tree.size]["subtrees"]
    assert len(made) > 40


@pytest.mark.slow
@pytest.mark.parametrize("vector", SIGNED, ids=lambda vector: vector["key"].partition("+")[0])
def test_a_note_of_another_implementation_verifies_and_no_bit_may_change(vector: dict[str, Any]) -> None:
    name, key = key_of(vector["key"])
    assert checkpoint.verifier_key(name, key) == vector["key"]
    assert checkpoint.open_text(vector["note"], name, key) + "\n" == vector["note"].rpartition("— ")[0]
    for raw in bent(vector["note"].encode()):
        with pytest.raises((CheckpointError, UnicodeDecodeError)):
            checkpoint.open_text(raw.decode(), name, key)


@pytest.mark.parametrize(
    "vector", [one for one in SIGNED if one.keys() & {"private", "secret"}], ids=lambda vector: vector["key"][:20]
)
def test_the_same_key_signs_the_same_note(vector: dict[str, Any]) -> None:
    if "secret" in vector:
        secret = bytes.fromhex(vector["secret"])
    else:
        secret = base64.b64decode(vector["private"].split("+", 4)[4], validate=True)[1:]
    name, _ = key_of(vector["key"])
    text = vector["note"].rpartition("\n— ")[0]
    assert checkpoint.sign_text(text, name, Ed25519PrivateKey.from_private_bytes(secret)) == vector["note"]


@pytest.mark.slow
def test_the_go_implementation_agrees_on_our_ledger() -> None:
    """What crosscheck.go said of ours.json: each note opens, its root is that of the entries, all are in it."""
    assert hashlib.sha256((FOLDER / "ours.json").read_bytes()).hexdigest() == GO["ours_sha256"]
    by_go = GO["ours"]
    assert by_go["entries_proven"] == len(OURS["entries"]) == 50
    assert by_go["beginnings_proven"] == len(OURS["notes"]) == len(by_go["notes"]) == 8
    for note, seen in zip(OURS["notes"], by_go["notes"], strict=True):
        assert seen["good"]
        read = checkpoint.verify(note, key_of(OURS["key"])[1])
        assert (read.size, base64.b64encode(read.root).decode()) == (seen["size"], seen["root"])
        assert root_of(entry.encode() for entry in OURS["entries"][: read.size]) == read.root
        # Go takes another writing of the same base64; ours takes one alone.
        assert seen["bits"] - seen["refused"] <= 2
        for raw in bent(note.encode()):
            with pytest.raises((CheckpointError, UnicodeDecodeError)):
                checkpoint.verify(raw.decode(), key_of(OURS["key"])[1])


@pytest.mark.parametrize("vector", PUBLISHED["canonical"], ids=lambda vector: vector["output"][2:7])
def test_canonical_json_of_the_author_of_rfc_8785(vector: dict[str, Any]) -> None:
    assert canonical(json.loads(vector["input"])) == vector["output"]
