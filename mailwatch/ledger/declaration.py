"""The checkpoint in a declaration that was sent by mail, found again in the message as it arrived. Pure.

Mail programs wrap long lines and quote text, and a certified message (PEC) encloses the original one. So the note
is written between two lines of its own, and read by its words.
"""

from __future__ import annotations

import email
import email.policy
from collections.abc import Iterator
from email.message import EmailMessage

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, verify

BEGIN, END = "-----BEGIN MAILWATCH CHECKPOINT-----", "-----END MAILWATCH CHECKPOINT-----"
MAX_MESSAGE_BYTES = 1 << 20
"""Largest message: a certified one encloses the original and a certificate of delivery."""
MAX_PARTS = 50
_NOTE_WORDS = 6
_MAX_BLOCK = 4000
"""Most letters between the two lines."""


def framed(note: str) -> str:
    """Return the note of a checkpoint between its two lines."""
    return f"{BEGIN}\n{note}{END}\n"


def declared_checkpoint(message: bytes, public: Ed25519PublicKey) -> Checkpoint:
    """Return the checkpoint in a message (RFC 5322) that `public` signed. Raises CheckpointError."""
    fault = "the message has no checkpoint of MailWatch"
    for text in _texts(message):
        for block in _blocks(text):
            try:
                return verify(_note(block), public)
            except CheckpointError as error:
                fault = str(error)
    raise CheckpointError(fault)


def _note(block: str) -> str:
    """Return the note whose words a block has, however its lines were wrapped or quoted."""
    words = [word for word in block.split() if word.strip(">")]
    if len(words) < _NOTE_WORDS:
        raise CheckpointError("the checkpoint in the message is not complete")
    origin, size, root, _, name, *signature = words
    return f"{origin}\n{size}\n{root}\n\n— {name} {''.join(signature)}\n"


def _texts(message: bytes) -> Iterator[str]:
    """Yield the text of each part, those of enclosed messages too."""
    parsed = email.message_from_bytes(message[:MAX_MESSAGE_BYTES], policy=email.policy.default)
    for number, part in enumerate(parsed.walk()):
        if number == MAX_PARTS:
            return
        if isinstance(part, EmailMessage) and not part.is_multipart():
            content = part.get_payload(decode=True)
            if isinstance(content, bytes):
                yield content.decode("utf-8", "replace")


def _blocks(text: str) -> Iterator[str]:
    """Yield what stands between each first line and the next last line."""
    begin, end = text.find(BEGIN), 0
    while begin >= 0:
        begin += len(BEGIN)
        if end < begin and (end := text.find(END, begin)) < 0:
            return
        if begin < end <= begin + _MAX_BLOCK:
            yield text[begin:end]
        begin = text.find(BEGIN, begin)
