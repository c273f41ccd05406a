"""What a witness states about a mailbox: signed, read strictly, and never mistaken for a cosignature."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.ledger.checkpoint import CheckpointError, origin_of
from mailwatch.ledger.cosignature import Signature, cosign, cosigner_key, log_key, open_note, split_note
from mailwatch.ledger.witness_register import (
    RegisterStatement,
    mailbox_commitment,
    parse_register_request,
    read_statement,
    register_request,
    statement_time,
    verify_register_request,
)

WITNESS = Ed25519PrivateKey.from_private_bytes(b"w" * 32)
LEDGER = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
KEY = cosigner_key(WITNESS.public_key())
ORIGIN = origin_of(LEDGER.public_key())
STATED = RegisterStatement(
    witness=KEY.name, time=1_796_039_491, ledger=ORIGIN, first_size=3, first_at=1_788_263_400, size=120,
    at=1_796_039_000, refused=0, commitment=mailbox_commitment("a@example.org"), since=1_788_263_460,
    others_count=2, others=("mailwatch/1", "mailwatch/2"),
)  # fmt: skip


def test_a_commitment_is_of_the_address_in_lower_case() -> None:
    text = b"mailwatch-box/1\nmario.rossi@example.org"
    assert mailbox_commitment(" Mario.Rossi@Example.ORG") == hashlib.sha256(text).hexdigest()


@pytest.mark.parametrize("stated", [STATED, replace(STATED, others_count=0, others=(), refused=3)])
def test_a_statement_is_read_as_it_was_signed_and_no_bit_may_change(stated: RegisterStatement) -> None:
    note = stated.sign(WITNESS)
    assert read_statement(note, KEY) == stated
    assert statement_time(note) == stated.time * 1000
    for place in range(len(note) - 1):
        with pytest.raises(CheckpointError):
            read_statement(note[:place] + chr(ord(note[place]) ^ 1) + note[place + 1 :], KEY)


def test_a_statement_is_by_its_witness_alone() -> None:
    note = STATED.sign(WITNESS)
    with pytest.raises(CheckpointError):
        read_statement(note, cosigner_key(LEDGER.public_key()))
    with pytest.raises(CheckpointError):
        read_statement(replace(STATED, witness="another").sign(WITNESS), KEY)
    with pytest.raises(CheckpointError):
        read_statement(replace(STATED, others_count=3).sign(WITNESS), KEY)
    # Neither a cosignature nor a plain signature of the same key is a statement.
    text, _ = split_note(note)
    for made in (cosign(text, WITNESS, 1), Signature(KEY.name, KEY.id, WITNESS.sign(text.encode()))):
        with pytest.raises(CheckpointError):
            read_statement(f"{text}\n{made}\n", KEY)
    # And a statement opens as no note of a ledger of that name.
    with pytest.raises(CheckpointError):
        open_note(note, log_key(KEY.name, WITNESS.public_key()))


def test_a_request_is_of_its_ledger_and_for_one_witness() -> None:
    commitment = mailbox_commitment("a@example.org")
    note = register_request(ORIGIN, LEDGER, KEY.name, commitment)
    assert parse_register_request(note, KEY.name) == (ORIGIN, commitment)
    verify_register_request(note, ORIGIN, LEDGER.public_key())
    with pytest.raises(CheckpointError):
        parse_register_request(note, "another")
    with pytest.raises(CheckpointError):
        verify_register_request(note, ORIGIN, WITNESS.public_key())
    with pytest.raises(CheckpointError):
        verify_register_request(note.replace(commitment[:4], "0000", 1), ORIGIN, LEDGER.public_key())
