"""One entry: a header that is a leaf of the tree, and a payload that the header seals.

The header alone proves the payload's digest, its place and time; so a bundle can show the complete range of
a ledger while the payloads of other people's targets stay at home. A target is named in the header by an
opaque id, and target payloads carry a salt, so that a closed payload cannot be guessed.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Any

from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.monotonic import Origin
from mailwatch.times import Millis

VERSION = 2
"""Of the header. Version 1, written until 2026-11, has no boot, clock and run."""
KINDS = ("observation", "gap", "guard", "clock", "node", "outage", "token", "watch")


@dataclass(frozen=True, slots=True)
class EncodedEntry:
    """The two texts of an entry as they are kept: canonical JSON both."""

    header: str
    payload: str


def target_id(secret: bytes, name: str) -> str:
    """Name a target in a header: 16 hex digits that only the holder of the ledger's secret can make."""
    return hmac.new(secret, name.encode(), hashlib.sha256).hexdigest()[:16]


def secret_id(secret: bytes, username: str, password: str) -> str:
    """Name a password in a record: 16 hex digits, by which only the ledger's owner could try guesses."""
    text = f"login\0{username}\0{password}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def account_id(secret: bytes, provider: str, username: str) -> str:
    """Name an account in a record: 16 hex digits that only the holder of the ledger's secret can make."""
    text = f"account\0{provider}\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def login_id(secret: bytes, username: str) -> str:
    """Name a login name in a record: 16 hex digits that only the holder of the ledger's secret can make."""
    text = f"login name\0{username}".encode("utf-8", "surrogateescape")
    return hmac.new(secret, text, hashlib.sha256).hexdigest()[:16]


def encode_entry(
    *,
    index: int,
    kind: str,
    time: Millis,
    target: str | None,
    number: int | None,
    payload: dict[str, Any],
    clock: Millis,
    origin: Origin,
) -> EncodedEntry:
    """Write an entry. `target` is the opaque id, `number` the target's own running number from 1.

    `clock` is the reading of the steady clock at the moment of writing, in milliseconds: within a
    boot it never runs backwards from one entry to the next.
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
