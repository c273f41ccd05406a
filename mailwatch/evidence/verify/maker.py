"""Verifies who made a bundle: its owner, whose ledger's key signs the manifest, or a hub to which it was pushed.

A hub has no member's key. What it adds to the entries is its own word, under its own signature, so a bundle of it
must not say what only the owner can say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.evidence.stated import MAKER_KEY
from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.tokens import Trust
from mailwatch.ledger import checkpoint
from mailwatch.ledger.checkpoint import CheckpointError, origin_of, verifier_key

OWNERS_WORDS = ("claim", "declarations", "own_witness", "user_name", "witnesses")
"""Keys of a statement under which its owner speaks."""


def manifest_key(archive: Archive, ledger: Ed25519PublicKey, stated: Mapping[str, Any]) -> Ed25519PublicKey:
    """Return the key that has to sign the manifest. `ledger`: the ledger's. Raises VerificationError."""
    maker = stated.get("maker")
    if MAKER_KEY not in archive.names:
        if maker is not None:
            raise VerificationError(f"{archive.statement} names another maker, but {MAKER_KEY} is missing")
        return ledger
    try:
        text = archive.read(MAKER_KEY).decode().removesuffix("\n")
        key = checkpoint.parse_verifier_key(text)
    except (UnicodeDecodeError, CheckpointError) as error:
        raise VerificationError(f"{MAKER_KEY} is not a key: {error}") from None
    origin = origin_of(key)
    if text != verifier_key(origin, key) or origin == origin_of(ledger):
        raise VerificationError(f"{MAKER_KEY} is not named after its key, or is the ledger's own")
    if not isinstance(maker, dict) or maker.get("ledger") != origin:
        raise VerificationError(f"{archive.statement} does not say that {origin} made the bundle")
    if archive.statement != "period.json":
        raise VerificationError("a bundle that another one made is about a window of time")
    if said := [word for word in OWNERS_WORDS if word in stated]:
        raise VerificationError(f"{origin} made the bundle, and states for its owner: {said[0]}")
    return key


def made_by_another(key: Ed25519PublicKey, trust: Trust) -> str:
    """Return in words that the owner did not make it. Raises VerificationError if the reader trusts other keys."""
    origin = origin_of(key)
    if trust.keys and verifier_key(origin, key) not in trust.keys:
        raise VerificationError(f"{origin} made the bundle, and is not among the keys of --trust")
    known = "among the keys of --trust" if trust.keys else "compare it with the key of the hub"
    return f"which {origin} signs, a hub that made the bundle ({known}); the ledger's key signs the entries alone"
