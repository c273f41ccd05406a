"""The ledger's arithmetic: canonical JSON, the tree, checkpoints, facts and back."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.ledger import checkpoint
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.entry import encode_entry, target_id
from mailwatch.ledger.merkle import EMPTY_ROOT, CompactRange, leaf_hash, node_hash, root_of
from mailwatch.ledger.payloads import fact_payload, gap_from, observation_from
from mailwatch.model import (
    Attempt,
    Cause,
    ConnectivityResult,
    Gap,
    GapReason,
    Observation,
    Outcome,
    Phase,
    TlsFacts,
)
from mailwatch.monotonic import Origin

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
PAYLOADS = st.recursive(
    TEXT | WHOLE | st.booleans() | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(max_codepoint=0xD7FF)), inner),
)


@given(PAYLOADS)
@pytest.mark.slow
def test_canonical_is_what_rfc_8785_says(payload: Any) -> None:
    assert canonical(payload).encode() == rfc8785.dumps(payload)


def naive_root(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written there."""
    if not leaves:
        return hashlib.sha256(b"").digest()
    if len(leaves) == 1:
        return leaf_hash(leaves[0])
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return node_hash(naive_root(leaves[:half]), naive_root(leaves[half:]))


@given(st.lists(st.binary(max_size=8), max_size=70))
def test_the_compact_range_has_the_root_of_rfc_6962(leaves: list[bytes]) -> None:
    assert root_of(leaves) == naive_root(leaves)


def test_known_roots_of_the_certificate_transparency_test_vectors() -> None:
    leaves = [bytes.fromhex(text) for text in ("", "00", "10", "2021", "3031", "40414243")]
    assert root_of([]) == EMPTY_ROOT
    assert root_of(leaves[:1]).hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert root_of(leaves[:3]).hex() == "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"
    assert root_of(leaves).hex() == "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"


@given(st.lists(st.binary(max_size=4), max_size=40), st.lists(st.binary(max_size=4), max_size=40))
def test_a_range_read_back_grows_to_the_same_root(before: list[bytes], after: list[bytes]) -> None:
    tree = CompactRange()
    for leaf in before:
        tree.append(leaf_hash(leaf))
    again = CompactRange.from_bytes(tree.size, tree.to_bytes())
    for leaf in after:
        again.append(leaf_hash(leaf))
    assert again.root() == root_of(before + after)


def test_a_range_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="a tree of 3 leaves has 2 hashes, not 32 bytes"):
        CompactRange.from_bytes(3, bytes(32))


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def note(key: Ed25519PrivateKey) -> str:
    origin = checkpoint.origin_of(key.public_key())
    return checkpoint.sign(Checkpoint(origin, 7, bytes(32)), key)


def test_a_signed_checkpoint_is_read_back(key: Ed25519PrivateKey, note: str) -> None:
    read = checkpoint.verify(note, key.public_key())
    assert (read.size, read.root) == (7, bytes(32))
    origin, _, root, empty, signature, _ = note.split("\n")
    assert (root, empty) == (base64.b64encode(bytes(32)).decode(), "")
    assert signature.startswith(f"— {origin} ")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("07\n" + "A" * 43 + "=\n", "expected a size, got '07'"),
        ("٧\n" + "A" * 43 + "=\n", "expected a size"),
        ("7\n" + "A" * 42 + "B=\n", "expected 32 bytes in base64"),
        ("7\n" + "A" * 43 + "=\nmore\n", "expected three lines"),
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(key: Ed25519PrivateKey, text: str, complaint: str) -> None:
    origin = checkpoint.origin_of(key.public_key())
    with pytest.raises(checkpoint.CheckpointError, match=complaint):
        checkpoint.verify(checkpoint.sign_text(f"{origin}\n{text}", origin, key), key.public_key())


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("\n7\n", "\n8\n", "does not match its text"),
        ("mailwatch/", "mailwatsch/", "expected the origin"),
        ("AAA=", "AAB=", "does not match its text"),
        ("\n\n", "\n\n\n", "expected a text, an empty line and one signature"),
        ("— ", "- ", "expected a signature by"),
    ],
)
def test_an_altered_checkpoint_is_refused(
    key: Ed25519PrivateKey, note: str, old: str, new: str, complaint: str
) -> None:
    with pytest.raises(CheckpointError, match=complaint):
        checkpoint.verify(note.replace(old, new), key.public_key())


def test_a_checkpoint_of_another_key_is_refused(note: str) -> None:
    with pytest.raises(CheckpointError, match="expected the origin"):
        checkpoint.verify(note, Ed25519PrivateKey.generate().public_key())


@given(st.text())
def test_any_text_is_read_or_refused_with_one_error(text: str) -> None:
    public = Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key()
    with pytest.raises(CheckpointError):
        checkpoint.verify(text, public)


def test_a_header_seals_its_payload_and_hides_its_target() -> None:
    opaque = target_id(bytes(32), "libero-imap")
    sealed = encode_entry(
        index=3, kind="gap", time=5, target=opaque, number=2, payload={"b": 1, "a": "è"}, clock=7,
        origin=Origin("b" * 16, "c" * 16),
    )  # fmt: skip
    assert sealed.payload == '{"a":"è","b":1}'
    digest = hashlib.sha256(sealed.payload.encode()).hexdigest()
    assert sealed.header == (
        f'{{"boot":"{"b" * 16}","clock":7,"index":3,"kind":"gap","number":2,"payload":"{digest}",'
        f'"run":"{"c" * 16}","target":"{opaque}","time":5,"v":2}}'
    )
    assert len(opaque) == 16
    assert opaque != target_id(bytes(31) + b"1", "libero-imap")


MILLIS = st.integers(0, 2**42)
ATTEMPTS = st.builds(
    Attempt,
    started_at=MILLIS,
    ended_at=MILLIS,
    peer=TEXT,
    phases=st.dictionaries(st.sampled_from(Phase), st.integers(0, 10**9)).map(
        lambda spent: {phase: spent[phase] for phase in Phase if phase in spent}
    ),
    cause=st.none() | st.sampled_from(Cause),
    failed_phase=st.none() | st.sampled_from(Phase),
    detail=TEXT,
    replies=st.lists(TEXT, max_size=3).map(tuple),
    tls=st.none() | st.builds(TlsFacts, version=TEXT, cipher=TEXT, fingerprint=TEXT, not_after=st.none() | MILLIS),
)
OBSERVATIONS = st.builds(
    Observation,
    target=TEXT,
    scheduled_at=MILLIS,
    started_at=MILLIS,
    ended_at=MILLIS,
    outcome=st.sampled_from(Outcome),
    cause=st.none() | st.sampled_from(Cause),
    failed_phase=st.none() | st.sampled_from(Phase),
    detail=TEXT,
    attempts=st.lists(ATTEMPTS, max_size=3).map(tuple),
    addresses=st.lists(TEXT, max_size=3).map(tuple),
    partial=st.lists(TEXT, max_size=3).map(tuple),
    with_login=st.booleans(),
    guard=st.none()
    | st.builds(
        ConnectivityResult,
        asked_at=MILLIS,
        online=st.none() | st.booleans(),
        controls=st.dictionaries(TEXT, TEXT, max_size=3),
        answered_at=st.none() | MILLIS,
        online4=st.none() | st.booleans(),
        online6=st.none() | st.booleans(),
        resolver=TEXT,
        spoofed=st.lists(TEXT, max_size=2).map(tuple),
    ),
)


@given(OBSERVATIONS)
def test_an_observation_comes_back_from_its_payload(observation: Observation) -> None:
    assert observation_from(fact_payload(observation)) == observation


@given(st.builds(Gap, target=TEXT, start=MILLIS, end=MILLIS, reason=st.sampled_from(GapReason)))
def test_a_gap_comes_back_from_its_payload(gap: Gap) -> None:
    assert gap_from(fact_payload(gap)) == gap
