"""The request `add-checkpoint` to a witness, as text (C2SP tlog-witness)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.cosignature import Signature, split_note

MAX_PROOF_LINES = 63
MAX_REQUEST_BYTES = 65_536
SIZE_TYPE = "text/x.tlog.size"
"""Content type of the answer 409, which has the size that the witness knows."""
# At most 18 digits, which fit into 64 bits.
_SIZE = re.compile(r"0|[1-9][0-9]{0,17}")


class RequestError(Exception):
    """A request does not have the form of the protocol. The message says why."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A checkpoint to cosign, and the proof that the tree of `old` entries is its beginning."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def text(self) -> str:
        """Return the body of the request."""
        proof = "".join(f"{base64.b64encode(one).decode()}\n" for one in self.proof)
        return f"old {self.old}\n{proof}\n{self.note}"


@dataclass(frozen=True, slots=True)
class SubmittedCheckpoint:
    """The checkpoint of a note, the text that was signed, and its signatures, unverified."""

    checkpoint: Checkpoint
    text: str
    signatures: tuple[Signature, ...]


def parse_add_checkpoint(body: bytes) -> AddCheckpoint:
    """Parse the body of a request strictly. Raises RequestError."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise RequestError("the request is not UTF-8") from None
    head, blank, note = text.partition("\n\n")
    first, *lines = head.split("\n")
    if not blank or not first.startswith("old "):
        raise RequestError("the request does not begin with the old size, the proof and an empty line")
    if len(lines) > MAX_PROOF_LINES:
        raise RequestError(f"the proof has more than {MAX_PROOF_LINES} lines")
    return AddCheckpoint(parse_size(first.removeprefix("old ")), tuple(map(_hash, lines)), note)


def parse_submitted(note: str) -> SubmittedCheckpoint:
    """Parse the note of a checkpoint (C2SP tlog-checkpoint), with extension lines. Raises RequestError."""
    try:
        text, found = split_note(note)
    except CheckpointError as error:
        raise RequestError(str(error)) from None
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 3 or not all(lines):
        raise RequestError("a checkpoint has three lines that are not empty")
    return SubmittedCheckpoint(Checkpoint(lines[0], parse_size(lines[1]), _hash(lines[2])), text, found)


def parse_size(text: str) -> int:
    """Parse a tree size: decimal digits without leading zeroes. Raises RequestError."""
    if not _SIZE.fullmatch(text):
        raise RequestError(f"expected a size, got {text[:40]!r}")
    return int(text)


def _hash(text: str) -> bytes:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or base64.b64encode(raw).decode() != text:
        raise RequestError(f"expected a hash in base64, got {text[:60]!r}")
    return raw
