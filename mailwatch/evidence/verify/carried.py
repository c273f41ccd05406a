"""The claim `carried`: checkpoints of the ledger that were inside messages which mail providers signed by DKIM.

The signature is verified with the key that the entry states. That this was the provider's key then, only others
can attest: name servers while it is published, and archives of DKIM keys afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError
from mailwatch.times import rfc3339

if TYPE_CHECKING:
    from mailwatch.ledger.carried import CarriedCheckpoint

MAX_NAMED = 5
"""Most domains that the finding names."""


def check_carried(
    entries: Sequence[tuple[int, Mapping[str, object]]],
    public: Ed25519PublicKey,
    signed: Mapping[int, Checkpoint],
) -> str:
    """Verify each message, its signature and its checkpoint; return the finding, a Note where there are any.
    `signed`: the checkpoints of the bundle by size. Raises VerificationError.
    """
    if not entries:
        return "no message that a mail provider signed carries a checkpoint here"
    # Imported on first use: the library takes a while to load, and most bundles have no message.
    from mailwatch.ledger.carried import read_carried
    from mailwatch.ledger.dkim_signature import DkimError

    found: dict[str, list[CarriedCheckpoint]] = {}
    for index, payload in entries:
        try:
            one = read_carried(payload, public)
        except (DkimError, CheckpointError) as error:
            raise VerificationError(f"entry {index}: {error}") from None
        size = one.checkpoint.size
        if size > index:
            raise VerificationError(
                f"entry {index} records a message with a checkpoint that is signed only after it"
            )
        if signed.get(size) != one.checkpoint:
            raise VerificationError(f"entry {index}: the checkpoint in the message is not one of the bundle's")
        found.setdefault(one.signature.key_name, []).append(one)
    words = [_text(name, own) for name, own in sorted(found.items())[:MAX_NAMED]]
    more = len(found) - MAX_NAMED
    return Note("; ".join(words) + (f"; and {more} more keys" if more > 0 else ""))


def _text(name: str, own: Sequence[CarriedCheckpoint]) -> str:
    sizes = sorted(one.checkpoint.size for one in own)
    times = sorted(one.signature.time for one in own if one.signature.time is not None)
    fetched = sorted(one.fetched for one in own)
    signature = own[0].signature
    words = f"{len(own)} checkpoints, of {sizes[0]} to {sizes[-1]} entries, were inside messages that the key of "
    words += f"{signature.domain} signed (DKIM, {signature.bits} bits)"
    if times:
        words += f"; by the clock of the signer from {rfc3339(times[0])} to {rfc3339(times[-1])}"
    words += f"; the ledger states this key, as looked up from {rfc3339(fetched[0])} to {rfc3339(fetched[-1])}: "
    return words + f"compare it with the record {name} or with an archive of DKIM keys"
