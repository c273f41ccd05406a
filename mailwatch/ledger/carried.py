"""A checkpoint that a round trip's message carried, under the DKIM signature of a mail provider. Pure.

The message is kept as it arrived, with the key that the provider published then: keys are replaced, and the
signature could not be verified later without it. The record states the key; no one else attests it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.declaration import declared_checkpoint
from mailwatch.ledger.dkim_signature import DkimError, DkimSignature, verify_dkim
from mailwatch.times import Millis

MAX_MESSAGE_BYTES = 16 * 1024
"""Largest message that is kept. Ours has two kilobytes; servers add their fields."""


class CarriedPayload(TypedDict):
    """The payload of an entry `carried`.

    `checkpoint`: size in the message. `domain`, `selector`: of the signature. `key`: the TXT record, as looked up
    `at`. `message`: as it arrived. `provider`: of the round trip. `arrived`: the server's own date, where known.
    """

    checkpoint: int
    provider: str
    domain: str
    selector: str
    key: str
    at: Millis
    message: str
    arrived: NotRequired[Millis]


@dataclass(frozen=True, slots=True)
class CarriedCheckpoint:
    """A verified one: the checkpoint, the signature over it, and when its key was fetched."""

    checkpoint: Checkpoint
    signature: DkimSignature
    fetched: Millis


def read_carried(payload: Mapping[str, object], public: Ed25519PublicKey) -> CarriedCheckpoint:
    """Verify signature and checkpoint of an entry's message. Raises DkimError, CheckpointError."""
    message, domain, selector, key = (payload.get(name) for name in ("message", "domain", "selector", "key"))
    texts = [message, domain, selector, key]
    at, size = payload.get("at"), payload.get("checkpoint")
    if not all(isinstance(one, str) for one in texts) or type(at) is not int or type(size) is not int:
        raise DkimError("the entry has no message with its key")
    raw = str(message).encode("utf-8", "surrogatepass")
    if len(raw) > MAX_MESSAGE_BYTES:
        raise DkimError("the message is longer than MailWatch keeps")
    signature = verify_dkim(raw, str(domain), str(selector), str(key))
    made = declared_checkpoint(raw, public)
    if made.size != size:
        raise DkimError("the message has another checkpoint than the entry states")
    return CarriedCheckpoint(made, signature, at)
