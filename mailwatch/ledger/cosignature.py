"""Cosignatures of checkpoints by witnesses (C2SP tlog-cosignature, cosignature/v1 by Ed25519), and verifier keys.

A cosignature states that at its time the witness knew no larger tree of that ledger, and that all trees which it
had seen before are the beginning of this one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger.checkpoint import CheckpointError, raw_public
from mailwatch.times import Millis

LOG = b"\x01"
"""The type of a key that signs notes, such as a ledger's (C2SP signed-note)."""
COSIGNER = b"\x04"
"""The type of a key that cosigns checkpoints by Ed25519 (C2SP tlog-cosignature)."""
WITNESS_PREFIX = "mailwatch-witness/"
MAX_VKEY_CHARS = 400
MAX_LATEST_SECONDS = 2**43
"""No cosignature is later: its milliseconds must fit into the canonical JSON of an entry (2**53)."""
_NAME = re.compile(r"[^\s+]+")


class VerifierKeyError(ValueError):
    """A verifier key is malformed. The message says what is wrong."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """An Ed25519 key with its name and type: `name+id+key` (C2SP signed-note, verifier keys)."""

    name: str
    kind: bytes
    public: Ed25519PublicKey

    @property
    def id(self) -> bytes:
        """The four bytes that identify the key in a signature."""
        return hashlib.sha256(self.name.encode() + b"\n" + self.kind + raw_public(self.public)).digest()[:4]

    def __str__(self) -> str:
        """Return `name+id+key`."""
        return f"{self.name}+{self.id.hex()}+{base64.b64encode(self.kind + raw_public(self.public)).decode()}"


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note: the name, the key's id, and the bytes that follow it. Not verified."""

    name: str
    key_id: bytes
    raw: bytes

    def __str__(self) -> str:
        """Return the line, without its end."""
        return f"— {self.name} {base64.b64encode(self.key_id + self.raw).decode()}"

    def is_by(self, key: VerifierKey) -> bool:
        """Return whether name and id are those of `key`."""
        return (self.name, self.key_id) == (key.name, key.id)


def parse_verifier_key(text: str) -> VerifierKey:
    """Parse `name+id+key` strictly. Raises VerifierKeyError."""
    name, _, rest = text.partition("+")
    _, _, material = rest.partition("+")
    try:
        raw = base64.b64decode(material, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(text) > MAX_VKEY_CHARS or not _NAME.fullmatch(name) or not name.isprintable() or len(raw) < 2:
        raise VerifierKeyError("is not a key of the form name+id+key")
    if raw[:1] not in (LOG, COSIGNER) or len(raw) != 33:
        raise VerifierKeyError(f"is a key of type {raw[0]}; only Ed25519 keys are supported, of type 1 and 4")
    found = VerifierKey(name, raw[:1], Ed25519PublicKey.from_public_bytes(raw[1:]))
    if str(found) != text:
        raise VerifierKeyError("does not match its own id; copy it again")
    return found


def cosigner_key(public: Ed25519PublicKey) -> VerifierKey:
    """Return a witness's key under the name that follows from it, so that one key never signs under two names."""
    name = f"{WITNESS_PREFIX}{hashlib.sha256(raw_public(public)).hexdigest()[:16]}"
    return VerifierKey(name, COSIGNER, public)


def log_key(name: str, public: Ed25519PublicKey) -> VerifierKey:
    """Return the key of a ledger of that name."""
    return VerifierKey(name, LOG, public)


def split_note(note: str) -> tuple[str, tuple[Signature, ...]]:
    """Return the text of a note and its signatures, unverified. Raises CheckpointError."""
    body, blank, signed = note.rpartition("\n\n")
    if not blank or not body or any(ord(sign) < 32 and sign != "\n" for sign in note):
        raise CheckpointError("expected a text, an empty line and signatures, got something else")
    return body + "\n", tuple(signatures(signed))


def signatures(lines: str) -> Iterator[Signature]:
    """Parse signature lines, each with its end. Raises CheckpointError."""
    if not lines.endswith("\n"):
        raise CheckpointError("expected lines of signatures, got something else")
    for line in lines.removesuffix("\n").split("\n"):
        mark, _, rest = line.partition(" ")
        name, _, text = rest.partition(" ")
        try:
            raw = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        # Base64 has unused bits: accept only the canonical form, or a line could be altered unnoticed.
        if mark != "—" or not _NAME.fullmatch(name) or len(raw) < 5 or base64.b64encode(raw).decode() != text:
            raise CheckpointError(f"expected a signature, got {line[:60]!r}")
        yield Signature(name, raw[:4], raw[4:])


def open_note(note: str, key: VerifierKey) -> str:
    """Return the text of a note that `key` signed, perhaps among others. Raises CheckpointError.

    Signatures of unknown keys are ignored; one by the key that does not match makes the note malformed.
    """
    text, found = split_note(note)
    own = [one for one in found if one.is_by(key)]
    if not own:
        raise CheckpointError(f"expected a signature by {key.name}, got none")
    try:
        for one in own:
            key.public.verify(one.raw, text.encode())
    except InvalidSignature:
        raise CheckpointError(f"the signature of {key.name} does not match its text") from None
    return text


def cosign(text: str, private: Ed25519PrivateKey, seconds: int) -> Signature:
    """Return the cosignature of a checkpoint's text with its last newline. `seconds`: since 1970."""
    key = cosigner_key(private.public_key())
    raw = seconds.to_bytes(8, "big") + private.sign(_message(text, seconds))
    return Signature(key.name, key.id, raw)


def verify_cosignature(signature: Signature, text: str, key: VerifierKey) -> Millis:
    """Return the time in milliseconds of a cosignature of a checkpoint's text. Raises CheckpointError."""
    if key.kind != COSIGNER or not signature.is_by(key):
        raise CheckpointError(f"expected a cosignature by {key.name}, got one by {signature.name[:60]}")
    seconds = int.from_bytes(signature.raw[:8], "big")
    if len(signature.raw) != 72 or not 0 < seconds <= MAX_LATEST_SECONDS:
        raise CheckpointError("expected a time and an Ed25519 signature, got something else")
    try:
        key.public.verify(signature.raw[8:], _message(text, seconds))
    except InvalidSignature:
        raise CheckpointError(f"the cosignature of {key.name} does not match the checkpoint") from None
    return seconds * 1000


def _message(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def witness_clock_offset(payload: Mapping[str, Any]) -> Millis:
    """Return by how much the clock of a witness was at least ahead of ours at a cosignature; negative: behind; 0
    where its entry does not say when we asked. `payload`: of the entry.
    """
    time, asked, answered = (payload.get(key) for key in ("time", "asked", "answered"))
    if not (isinstance(time, int) and isinstance(asked, int) and isinstance(answered, int)):
        return 0
    # A cosignature has whole seconds.
    return time - answered if time > answered else min(0, time + 1000 - asked)
