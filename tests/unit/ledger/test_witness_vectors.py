"""Consistency proofs, cosignatures and requests to witnesses against public test data: tests/testdata/vectors."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger import cosignature
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.consistency import ConsistencyError, consistency_proof, verify_consistency
from mailwatch.ledger.cosignature import (
    COSIGNER,
    Signature,
    VerifierKey,
    VerifierKeyError,
    cosign,
    cosigner_key,
    log_key,
    open_note,
    parse_verifier_key,
    split_note,
    verify_cosignature,
)
from mailwatch.ledger.merkle import EMPTY_ROOT, CompactRange, leaf_hash
from mailwatch.ledger.witness_request import (
    RequestError,
    parse_add_checkpoint,
    parse_submitted,
)
from tests.helpers.paths import TESTDATA

VECTORS = json.loads((TESTDATA / "vectors/witness.json").read_bytes())
PUBLISHED = json.loads((TESTDATA / "vectors/published.json").read_bytes())["eight_leaves"]
COSIGNED = VECTORS["cosigned"]
SECONDS = 1_700_000_000


def raw(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def trees(leaves: list[bytes]) -> list[CompactRange]:
    """The trees of 0, 1, ... all leaves."""
    found = [CompactRange()]
    for leaf in leaves:
        tree = found[-1].copy()
        tree.append(leaf)
        found.append(tree)
    return found


def is_consistent(smaller: int, size: int, proof: list[bytes], old: bytes, new: bytes) -> bool:
    try:
        verify_consistency(smaller, size, proof, old, new)
    except ConsistencyError:
        return False
    return True


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda one: f"{one['size1']}-{one['size2']}")
def test_a_published_proof_verifies_and_we_make_the_same(vector: dict[str, Any]) -> None:
    smaller, size = vector["size1"], vector["size2"]
    proof, old, new = [raw(one) for one in vector["proof"]], raw(vector["root1"]), raw(vector["root2"])
    verify_consistency(smaller, size, proof, old, new)
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in PUBLISHED["leaves"][:size]]
    assert consistency_proof(trees(leaves)[smaller], size, leaves[smaller:]) == proof


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda one: f"{one['size1']}-{one['size2']}")
def test_an_altered_published_proof_is_refused(vector: dict[str, Any]) -> None:
    """The alterations of the published set of bad proofs."""
    smaller, size = vector["size1"], vector["size2"]
    proof, old, new = [raw(one) for one in vector["proof"]], raw(vector["root1"]), raw(vector["root2"])
    for other in (smaller - 1, smaller + 1, smaller ^ 2, 0):
        assert not is_consistent(other, size, proof, old, new), other
    for other in (size * 2, size // 2):
        assert not is_consistent(smaller, other, proof, old, new), other
    assert not is_consistent(smaller, size, proof, new, old)
    assert not is_consistent(smaller, size, proof, EMPTY_ROOT, new)
    assert not is_consistent(smaller, size, proof, old, EMPTY_ROOT)
    for bent in ([], [*proof, b""], [*proof, old], [*proof, new], proof[:-1], [b"", *proof], [old, *proof],
                 [new, *proof], [proof[0], *proof]):  # fmt: skip
        assert not is_consistent(smaller, size, bent, old, new)
    for place, one in enumerate(proof):
        bent = [*proof[:place], bytes([one[0] ^ 16, *one[1:]]), *proof[place + 1 :]]
        assert not is_consistent(smaller, size, bent, old, new)


def test_every_pair_of_sizes_has_a_proof_that_verifies_and_no_hash_of_it_may_change() -> None:
    leaves = [leaf_hash(str(number).encode()) for number in range(70)]
    grown = trees(leaves)
    for smaller in range(len(grown)):
        for size in range(smaller, len(grown)):
            proof = consistency_proof(grown[smaller], size, leaves[smaller:size])
            old, new = grown[smaller].root(), grown[size].root()
            verify_consistency(smaller, size, proof, old, new)
            for place in range(len(proof)):
                assert not is_consistent(smaller, size, [*proof[:place], old[::-1], *proof[place + 1 :]], old, new)
            if size > smaller > 0:
                assert not is_consistent(smaller, size, proof, grown[smaller - 1].root(), new)


def test_sizes_at_the_edges() -> None:
    root = leaf_hash(b"")
    verify_consistency(0, 0, [], EMPTY_ROOT, EMPTY_ROOT)
    verify_consistency(0, 1, [], EMPTY_ROOT, root)
    verify_consistency(1, 1, [], root, root)
    for smaller, size, proof, old, new in (
        (0, 1, [], root, root), (0, 0, [], EMPTY_ROOT, root), (1, 1, [], root, EMPTY_ROOT), (1, 0, [], root, root),
        (0, 1, [root], EMPTY_ROOT, root), (1, 1, [root], root, root), (-1, 1, [], root, root),
    ):  # fmt: skip
        assert not is_consistent(smaller, size, proof, old, new)


@pytest.mark.parametrize("leaves", [[], [b"1" * 32], [b"1" * 32] * 4])
def test_a_proof_from_the_wrong_number_of_leaves_is_not_made(leaves: list[bytes]) -> None:
    grown = trees([leaf_hash(b"a")] * 3)
    with pytest.raises(ConsistencyError):
        consistency_proof(grown[3], 5, leaves)


def test_a_checkpoint_that_was_cosigned_in_public() -> None:
    text = open_note(COSIGNED["note"], parse_verifier_key(COSIGNED["log"]))
    witness = parse_verifier_key(COSIGNED["witness"])
    keys = [
        VerifierKey(name, COSIGNER, Ed25519PublicKey.from_public_bytes(bytes.fromhex(public)))
        for name, public in COSIGNED["witnesses"].items()
    ]
    assert witness in keys
    times = [
        verify_cosignature(one, text, key)
        for one in split_note(COSIGNED["note"])[1]
        for key in keys
        if one.is_by(key)
    ]
    assert times == [COSIGNED["time"]] * 4
    (own,) = [one for one in split_note(COSIGNED["note"])[1] if one.is_by(witness)]
    for changed in (text.replace("1432088532", "1432088533"), text + "x\n"):
        with pytest.raises(CheckpointError, match="does not match"):
            verify_cosignature(own, changed, witness)
    for place in range(72):
        bent = own.raw[:place] + bytes([own.raw[place] ^ 1]) + own.raw[place + 1 :]
        with pytest.raises(CheckpointError):
            verify_cosignature(Signature(own.name, own.key_id, bent), text, witness)
    with pytest.raises(CheckpointError, match="expected a cosignature"):
        verify_cosignature(own, text, parse_verifier_key(COSIGNED["log"]))


def own_note(size: int) -> str:
    """A checkpoint of a log of our own, with the log's signature and that of a witness."""
    log = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
    text = f"example.org/log\n{size}\n{base64.b64encode(b'r' * 32).decode()}\n"
    own = Signature("example.org/log", log_key("example.org/log", log.public_key()).id, log.sign(text.encode()))
    cosigned = cosign(text, Ed25519PrivateKey.from_private_bytes(b"w" * 32), SECONDS)
    return f"{text}\n{own}\n{cosigned}\n"


def test_what_we_cosign_has_the_form_of_the_specification() -> None:
    """C2SP tlog-cosignature: eight bytes of time, then Ed25519 over the kind, the time and the note itself."""
    private = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    text = split_note(own_note(9))[0]
    made = cosign(text, private, SECONDS)
    message = f"cosignature/v1\ntime {SECONDS}\n{text}"
    assert made.raw == SECONDS.to_bytes(8, "big") + private.sign(message.encode())
    assert verify_cosignature(made, text, cosigner_key(private.public_key())) == SECONDS * 1000
    theirs = split_note(own_note(9))[1][1]
    assert (int.from_bytes(theirs.raw[:8], "big"), len(theirs.raw)) == (SECONDS, 72)
    assert str(theirs) == own_note(9).splitlines()[-1]


def test_a_request_is_read_and_written_to_the_byte() -> None:
    """C2SP tlog-witness: `old N`, the proof, an empty line, the note."""
    proof = [base64.b64encode(bytes([number]) * 32).decode() for number in range(4)]
    body = "\n".join(["old 7", *proof, "", own_note(9)])
    request = parse_add_checkpoint(body.encode())
    assert request.text() == body
    assert (request.old, len(request.proof)) == (7, 4)
    submitted = parse_submitted(request.note)
    assert submitted.checkpoint == Checkpoint("example.org/log", 9, b"r" * 32)
    assert len(submitted.signatures) == 2


@pytest.mark.parametrize(
    "body",
    [
        b"", b"old 1", b"old 1\n", b"old 01\n\nx", b"old -1\n\nx", b"old 1 \n\nx", b"Old 1\n\nx", b"old\n\nx",
        b"old " + b"9" * 20 + b"\n\nx", b"old 1\nAA==\n\nx", b"old 1\n" + b"A" * 43 + b"B\n\nx", b"old \xff\n\nx",
        b"old 1\n" + (base64.b64encode(b"h" * 32) + b"\n") * 64 + b"\nx", "old ١\n\nx".encode(),
    ],
)  # fmt: skip
def test_a_request_of_another_form_is_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_add_checkpoint(body)


@pytest.mark.parametrize(
    "note",
    [
        "", "a\n1\n\n", "a\n1\nhash\n\n— a AAAAAAA=\n", "a\n\n1\n2\n\n— a AAAAAAA=\n", "a\n1\n" + "A" * 43 + "=\n",
        "a\n1\n" + "A" * 43 + "=\n\n— a AAAAAAA=", "a\n1\n" + "A" * 43 + "=\n\n- a AAAAAAA=\n",
        "a\n1\n" + "A" * 43 + "=\n\n— a b AAAAAAA=\n", "a\r\n1\n" + "A" * 43 + "=\n\n— a AAAAAAA=\n",
        "a\n1\n" + "A" * 43 + "=\n\n— a AAAAAAB=\n",
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_form_is_refused(note: str) -> None:
    with pytest.raises(RequestError):
        parse_submitted(note)


def test_a_signature_by_the_key_that_does_not_match_makes_the_note_malformed() -> None:
    """Also beside a good one of the same key."""
    key = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
    known, text = log_key("a", key.public_key()), "a\n1\nhash\n"
    good, bad = (f"{Signature('a', known.id, key.sign(of))}\n" for of in (text.encode(), b"another"))
    other = f"{Signature('b', known.id, b'12345')}\n"
    assert open_note(f"{text}\n{other}{good}", known) == text
    for signed in (bad, good + bad, bad + good):
        with pytest.raises(CheckpointError, match="does not match"):
            open_note(f"{text}\n{signed}", known)
    with pytest.raises(CheckpointError, match="got none"):
        open_note(f"{text}\n{other}", known)


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "a+b", "a+da77ade7+", "+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.de+DA77ADE7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621.de+da77ade8+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "remora.n621 de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
        "rekor.sigstore.dev+12345678+AwEB", "x" * 500 + "+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2",
    ],
)  # fmt: skip
def test_a_verifier_key_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(VerifierKeyError):
        parse_verifier_key(text)


def test_the_id_of_a_key_is_that_of_the_specification() -> None:
    """C2SP signed-note: the first four bytes of SHA-256(name, line feed, type, key)."""
    public = Ed25519PrivateKey.from_private_bytes(b"k" * 32).public_key()
    raw_key = public.public_bytes_raw()
    expected = hashlib.sha256(b"example.org/foo\n\x01" + raw_key).digest()[:4]
    encoded = base64.b64encode(b"\x01" + raw_key).decode()
    key = parse_verifier_key(f"example.org/foo+{expected.hex()}+{encoded}")
    assert (key.name, key.kind, key.id) == ("example.org/foo", cosignature.LOG, expected)
