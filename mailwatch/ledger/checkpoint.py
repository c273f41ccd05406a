"""Checkpoints: origin, size and root of the ledger as a signed note (C2SP tlog-checkpoint, signed-note)."""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

_ED25519 = b"\x01"


class CheckpointError(Exception):
    """A checkpoint is malformed or not signed by the expected key. The message has expected and got."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a ledger: its name, number of entries, and root hash over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Return the text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def raw_public(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def origin_of(key: Ed25519PublicKey) -> str:
    """Return the ledger's name, derived from its key: it is unique and cannot be given to another ledger."""
    return f"mailwatch/{hashlib.sha256(raw_public(key)).hexdigest()[:16]}"


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the four bytes that identify the key in a signature (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw_public(key)).digest()[:4]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """Return the public key as `name+id+key`, the form that other signed-note tools read."""
    raw = base64.b64encode(_ED25519 + raw_public(key)).decode()
    return f"{name}+{key_id(name, key).hex()}+{raw}"


def parse_verifier_key(text: str) -> Ed25519PublicKey:
    """Return the Ed25519 key of `name+id+key`. Raises CheckpointError if the text is not exactly that form."""
    try:
        raw = base64.b64decode(text.split("+", 2)[-1], validate=True)
        key = Ed25519PublicKey.from_public_bytes(raw[1:])
    except (binascii.Error, ValueError):
        raise CheckpointError(f"expected a key, got {text[:80]!r}") from None
    if text != verifier_key(text.split("+", 1)[0], key):
        raise CheckpointError(f"expected name, id and key, got {text[:80]!r}")
    return key


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Return the checkpoint as a signed note."""
    return sign_text(checkpoint.text(), checkpoint.origin, key)


def sign_text(text: str, name: str, key: Ed25519PrivateKey) -> str:
    """Return a text that ends with a newline as a note signed by `name` (C2SP signed-note)."""
    signature = base64.b64encode(key_id(name, key.public_key()) + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def verify(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """Verify and parse a signed note strictly. Raises CheckpointError with expected and got."""
    lines = verify_text(note, key).split("\n")
    if len(lines) != 4:
        raise CheckpointError("expected three lines, got something else")
    origin, size, root, _ = lines
    if not size.isascii() or not size.isdigit() or size != str(int(size)):
        raise CheckpointError(f"expected a size, got {size[:40]!r}")
    return Checkpoint(origin, int(size), _base64(root, 32))


def verify_text(note: str, key: Ed25519PublicKey) -> str:
    """Return the text of a note that begins with the key's origin and is signed by that key alone.

    Raises CheckpointError with expected and got.
    """
    origin = note.partition("\n")[0]
    if origin != origin_of(key):
        raise CheckpointError(f"expected the origin {origin_of(key)}, got {origin[:60]}")
    return open_text(note, origin, key)


def open_text(note: str, name: str, key: Ed25519PublicKey) -> str:
    """Return the text of a note signed by `name` alone. Raises CheckpointError with expected and got."""
    body, blank, signed = note.rpartition("\n\n")
    text = body + "\n"
    if not blank or not signed.endswith("\n") or signed.count("\n") != 1 or "\n\n" in text:
        raise CheckpointError("expected a text, an empty line and one signature, got something else")
    signed = signed.removesuffix("\n")
    prefix = f"— {name} "
    if not signed.startswith(prefix):
        raise CheckpointError(f"expected a signature by {name}, got {signed[:60]!r}")
    raw = _base64(signed.removeprefix(prefix), 68)
    if raw[:4] != key_id(name, key):
        raise CheckpointError(f"expected key {key_id(name, key).hex()}, got {raw[:4].hex()}")
    try:
        key.verify(raw[4:], text.encode())
    except InvalidSignature:
        raise CheckpointError("the signature does not match its text") from None
    return text


def _base64(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Base64 has unused bits: accept only the canonical form, or a note could be altered unnoticed.
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise CheckpointError(f"expected {length} bytes in base64, got {text[:60]!r}")
    return raw
