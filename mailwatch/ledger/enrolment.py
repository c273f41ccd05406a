"""How a ledger joins a hub: a request signed by the ledger, answered by the hub's keys, signed by the hub.

request: ORIGIN, `join`, the token of an invitation, the keys of the ledger and of its witness, the vantage point
answer:  ORIGIN of the hub, `hub`, and the key of its witness

Both are signed notes (C2SP signed-note), so neither side can be given a key that nobody holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mailwatch.ledger.checkpoint import CheckpointError, origin_of, sign_text, verify_text
from mailwatch.ledger.cosignature import (
    COSIGNER,
    LOG,
    VerifierKey,
    VerifierKeyError,
    log_key,
    parse_verifier_key,
)

MAX_NOTE_BYTES = 4096
MAX_NAME_CHARS = 200
TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A ledger that wants to join. `token`: of the invitation. `witness`: with which it cosigns the hub."""

    token: str
    key: VerifierKey
    witness: VerifierKey
    vantage_point: str

    def sign(self, private: Ed25519PrivateKey) -> str:
        """Return the request, signed by the ledger's key."""
        lines = (self.key.name, "join", self.token, str(self.key), str(self.witness), self.vantage_point)
        return sign_text("".join(f"{line}\n" for line in lines), self.key.name, private)


def read_join(note: str) -> JoinRequest:
    """Return a request that the key in it has signed. Raises CheckpointError."""
    lines = note.partition("\n\n")[0].split("\n")
    if len(lines) != 6 or lines[1] != "join" or not TOKEN.fullmatch(lines[2]):
        raise CheckpointError("expected a request to join, got something else")
    key, witness = _key(lines[3], LOG), _key(lines[4], COSIGNER)
    if key.name != origin_of(key.public):
        raise CheckpointError(f"expected the key of {origin_of(key.public)}, got {key.name[:60]}")
    verify_text(note, key.public)
    name = lines[5]
    if not name.strip() or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise CheckpointError("expected a vantage point's name, got something else")
    return JoinRequest(lines[2], key, witness, name)


def hub_keys(private: Ed25519PrivateKey, witness: VerifierKey) -> str:
    """Return what a hub answers: the key of its ledger signs that of its witness."""
    own = log_key(origin_of(private.public_key()), private.public_key())
    return sign_text(f"{own.name}\nhub\n{own}\n{witness}\n", own.name, private)


def read_hub_keys(note: str, expected: VerifierKey | None = None) -> tuple[VerifierKey, VerifierKey]:
    """Return the keys of a hub's ledger and of its witness. `expected`: its ledger's key, where that is known.

    Raises CheckpointError.
    """
    lines = note.partition("\n\n")[0].split("\n")
    if len(lines) != 4 or lines[1] != "hub":
        raise CheckpointError("expected the keys of a hub, got something else")
    key, witness = _key(lines[2], LOG), _key(lines[3], COSIGNER)
    if expected is not None and str(key) != str(expected):
        raise CheckpointError(f"expected the hub {expected.name}, got {key.name[:60]}")
    verify_text(note, key.public)
    return key, witness


def _key(text: str, kind: bytes) -> VerifierKey:
    try:
        found = parse_verifier_key(text)
    except VerifierKeyError as error:
        raise CheckpointError(f"a key {error}") from None
    if found.kind != kind:
        raise CheckpointError("expected another kind of key")
    return found
