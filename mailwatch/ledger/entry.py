"""One entry: a header, which is a leaf of the Merkle tree, and a payload, sealed by the header.

The header alone proves the payload's digest, its place and time. So a bundle can include the complete range of a
ledger without the payloads of other people's targets. The header names a target by an opaque id, and target
payloads contain a salt, so that an undisclosed payload cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.monotonic import Origin
from mailwatch.times import Millis

VERSION = 2
"""Version of the header. Version 1, written until 2026-11, has no boot, clock and run."""
KINDS = (
    "observation",
    "gap",
    "guard",
    "clock",
    "node",
    "outage",
    "token",
    "watch",
    "witness",
    "register",
    "successor",
    "address",
    "carried",
    "late",
    "witnessed",
    "hub",
    "quorum",
    "consent",
)


@dataclass(frozen=True, slots=True)
class EncodedEntry:
    """The two texts of an entry as stored, both in canonical JSON."""

    header: str
    payload: str


def target_id(secret: bytes, name: str) -> str:
    """Return the id of a target in headers: 16 hex digits that only the holder of the ledger's secret can
    compute.
    """
    return hmac.new(secret, name.encode(), hashlib.sha256).hexdigest()[:16]


def secret_id(secret: bytes, username: str, password: str) -> str:
    """Return the id of a password on record: 16 hex digits, against which only the ledger's owner can test
    guesses.
    """
    text = f"login\0{username}\0{password}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def account_id(secret: bytes, provider: str, username: str) -> str:
    """Return the id of an account on record: 16 hex digits that only the holder of the ledger's secret can
    compute.
    """
    text = f"account\0{provider}\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def login_id(secret: bytes, username: str) -> str:
    """Return the id of a login name on record: 16 hex digits that only the holder of the ledger's secret can
    compute.
    """
    text = f"login name\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def login_name_key(secret: bytes, username: str) -> bytes:
    """Return the key (32 bytes) of a login name's commitment, which a bundle discloses with the name.

    Nothing else follows from it.
    """
    text = f"login name key\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).digest()


def login_name_commitment(key: bytes, username: str) -> str:
    """Return the commitment to a login name: HMAC-SHA256 by its key, the first 32 hex digits.

    Without the key it says nothing of the name. With it, anyone can test the name.
    """
    text = f"login name\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(key, text, hashlib.sha256).hexdigest()[:32]


def encode_entry(
    *,
    index: int,
    kind: str,
    time: Millis,
    target: str | None,
    number: int | None,
    payload: Mapping[str, object],
    clock: Millis,
    origin: Origin,
) -> EncodedEntry:
    """Encode an entry. `target`: the opaque id. `number`: the target's running number from 1.

    `clock`: reading of the steady clock at the time of writing, in milliseconds; within a boot it never decreases
    from one entry to the next.
    """
    text = canonical(payload)
    header = {
        "boot": origin.boot,
        "clock": clock,
        "index": index,
        "kind": kind,
        "number": number,
        "payload": digest(text),
        "run": origin.run,
        "target": target,
        "time": time,
        "v": VERSION,
    }
    return EncodedEntry(canonical(header), text)
