"""What an owner agrees to send to a hub: a note signed by the ledger's key, which is on the record of both.

ORIGIN of the ledger
send
ORIGIN of the hub
when, in milliseconds since 1970
what, as canonical JSON: "all", "checkpoints", or the names of targets in order
"""

from __future__ import annotations

from dataclasses import dataclass

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.checkpoint import CheckpointError, origin_of, sign_text, verify_text
from mailwatch.times import Millis

KIND = "consent"
"""Kind of the entries about it: the member's about itself, the hub's about each member."""
MAX_NOTE_BYTES = 512 * 1024
"""Most bytes of a note: ten thousand targets with names of fifty bytes."""
Scope = str | tuple[str, ...]
"""What is sent: "all", "checkpoints", or the names of targets."""


@dataclass(frozen=True, slots=True)
class Consent:
    """What the owner of `ledger` agrees to send to `hub` from `at` on; both are origins."""

    ledger: str
    hub: str
    at: Millis
    send: Scope

    def sign(self, private: Ed25519PrivateKey) -> str:
        """Return it as a note."""
        what = canonical(self.send if isinstance(self.send, str) else list(self.send))
        lines = (self.ledger, "send", self.hub, str(self.at), what)
        return sign_text("".join(f"{line}\n" for line in lines), self.ledger, private)

    @property
    def amount(self) -> str | int:
        """What is sent, without names: of targets their number."""
        return self.send if isinstance(self.send, str) else len(self.send)


def read_consent(note: str, key: Ed25519PublicKey) -> Consent:
    """Return a consent that the key has signed. Raises CheckpointError."""
    text = verify_text(note, key)
    lines = text.removesuffix("\n").split("\n")
    if len(lines) != 5 or lines[1] != "send" or lines[0] != origin_of(key) or not lines[3].isascii():
        raise CheckpointError("expected what is sent to a hub, got something else")
    if not lines[3].isdigit() or len(lines[3]) > 15:
        raise CheckpointError("expected a time in milliseconds, got something else")
    return Consent(lines[0], lines[2], int(lines[3]), _scope(lines[4]))


def _scope(text: str) -> Scope:
    try:
        read = orjson.loads(text)
    except ValueError:
        read = None
    if read in ("all", "checkpoints"):
        return str(read)
    names = read if isinstance(read, list) else []
    if not names or not all(isinstance(one, str) and one.isprintable() and one for one in names):
        raise CheckpointError("expected all, checkpoints or a list of targets, got something else")
    if len(set(names)) != len(names):
        raise CheckpointError("a target is listed twice")
    return tuple(names)
