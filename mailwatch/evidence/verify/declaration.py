"""The claim `declaration`: the ledger continues what its owner declared in messages that the bundle encloses.

Of the signatures of a message itself, those are checked that need no network: DKIM with a key that was looked up
when the message was kept, and S/MIME, as of a certified message (PEC).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509 import Certificate

from mailwatch.evidence.verify.archive import Archive, VerificationError
from mailwatch.evidence.verify.carriers import check_carriers
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.ledger.consistency import ConsistencyError, verify_consistency
from mailwatch.ledger.declaration import declared_checkpoint

MAX_DECLARATIONS = 100
FOLDER = "declarations/"


def check_declarations(
    archive: Archive,
    stated: Mapping[str, Any],
    public: Ed25519PublicKey,
    signed: Mapping[int, Checkpoint],
    trusted: Sequence[Certificate] = (),
) -> str:
    """Verify that each enclosed declaration is of this ledger, which continues it; return the result in words, a
    Note where signatures of messages were found. `signed`: the checkpoints of the bundle by size. `trusted`:
    certificates that signers of messages may lead to. Raises VerificationError.
    """
    enclosed = {name for name in archive.names if name.startswith(FOLDER)}
    listed = stated.get("declarations", [])
    if not isinstance(listed, list) or len(listed) > MAX_DECLARATIONS:
        raise VerificationError("the key `declarations` is not a list")
    sizes, carriers = [], list[str]()
    for one in listed:
        try:
            name, proof = one["file"], [bytes.fromhex(each) for each in one["proof"]]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise VerificationError("the key `declarations` has no file and proof") from None
        if name not in enclosed:
            raise VerificationError(f"{str(name)[:100]} is listed once, and not enclosed")
        enclosed.remove(name)
        message = archive.read(name)
        sizes.append(_size(name, message, proof, public, signed))
        carriers += check_carriers(name, message, one.get("keys", []), public, trusted)
    if enclosed:
        raise VerificationError(f"{min(enclosed)} is enclosed, but not listed")
    if not sizes:
        return "none enclosed"
    size, count = min(sizes), len(sizes)
    words = f"{count} enclosed, the first over {size} entries, which this ledger continues"
    if not carriers:
        return f"{words}; no signature of a message was checked: who carried it, and when, is not shown here"
    return Note("; ".join([words, *carriers]))


def _size_of(checkpoint: Checkpoint) -> int:
    return checkpoint.size


def _size(
    name: str, message: bytes, proof: list[bytes], public: Ed25519PublicKey, signed: Mapping[int, Checkpoint]
) -> int:
    """Return how many entries a declaration covers. Raises VerificationError."""
    if name != f"{FOLDER}{hashlib.sha256(message).hexdigest()}.eml":
        raise VerificationError(f"{name} is not the message that it is named after")
    try:
        declared = declared_checkpoint(message, public)
        later = min((one for one in signed.values() if one.size >= declared.size), key=_size_of, default=None)
        if later is None:
            raise VerificationError(f"{name} declares {declared.size} entries, more than the bundle reaches to")
        verify_consistency(declared.size, later.size, proof, declared.root, later.root)
    except (CheckpointError, ConsistencyError) as error:
        raise VerificationError(f"{name}: {error}") from None
    return declared.size
