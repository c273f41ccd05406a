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
    """A checkpoint is not well-formed or not signed by the expected key; says expected and got."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a ledger: who keeps it, how many entries, and the root hash over them."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """Write the body that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def raw_public(key: Ed25519PublicKey) -> bytes:
    """Return the 32 bytes of a public key."""
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def origin_of(key: Ed25519PublicKey) -> str:
    """Name a ledger after its key: the name is unique and cannot be given to another ledger."""
    return f"mailwatch/{hashlib.sha256(raw_public(key)).hexdigest()[:16]}"


def key_id(name: str, key: Ed25519PublicKey) -> bytes:
    """Return the four bytes by which a signature names its key (C2SP signed-note)."""
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw_public(key)).digest()[:4]


def verifier_key(name: str, key: Ed25519PublicKey) -> str:
    """Write the public key as `name+id+key`, the form that other tools for signed notes read."""
    raw = base64.b64encode(_ED25519 + raw_public(key)).decode()
    return f"{name}+{key_id(name, key).hex()}+{raw}"


def sign(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> str:
    """Write the checkpoint as a signed note."""
    text = checkpoint.text()
    name, public = checkpoint.origin, key.public_key()
    signature = base64.b64encode(key_id(name, public) + key.sign(text.encode())).decode()
    return f"{text}\n— {name} {signature}\n"


def verify(note: str, key: Ed25519PublicKey) -> Checkpoint:
    """Read a signed note strictly. Raises CheckpointError with expected and got."""
    lines = note.split("\n")
    if len(lines) != 6 or lines[3] or lines[5]:
        raise CheckpointError("expected three lines, an empty one and one signature, got something else")
    origin, size, root, _, signed, _ = lines
    expected = origin_of(key)
    if origin != expected:
        raise CheckpointError(f"expected the origin {expected}, got {origin}")
    if not size.isascii() or not size.isdigit() or size != str(int(size)):
        raise CheckpointError(f"expected a size, got {size[:40]!r}")
    checkpoint = Checkpoint(origin, int(size), _base64(root, 32))
    prefix = f"— {origin} "
    if not signed.startswith(prefix):
        raise CheckpointError(f"expected a signature by {origin}, got {signed[:60]!r}")
    raw = _base64(signed.removeprefix(prefix), 68)
    if raw[:4] != key_id(origin, key):
        raise CheckpointError(f"expected key {key_id(origin, key).hex()}, got {raw[:4].hex()}")
    try:
        key.verify(raw[4:], checkpoint.text().encode())
    except InvalidSignature:
        raise CheckpointError(f"the signature over size {size} does not fit its text") from None
    return checkpoint


def _base64(text: str, length: int) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    # Base64 has spare bits: only the one canonical form is taken, or a note could be altered unseen.
    if len(raw) != length or base64.b64encode(raw).decode() != text:
        raise CheckpointError(f"expected {length} bytes in base64, got {text[:60]!r}")
    return raw
