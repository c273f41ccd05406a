"""Who carried a declaration: the signatures of the message itself, as far as they can be checked offline."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509 import Certificate

from mailwatch.certificates import parse_readable
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.declaration import declared_checkpoint
from mailwatch.times import Millis, rfc3339

MAX_KEYS = 8
MAX_CHAIN = 10


def check_carriers(
    name: str, message: bytes, keys: object, public: Ed25519PublicKey, trusted: Sequence[Certificate]
) -> list[str]:
    """Verify the signatures of an enclosed message; return a sentence for each.

    `keys`: the DKIM keys that the statement gives. `trusted`: the certificates of --trust. Raises
    VerificationError if one does not hold.
    """
    words = []
    if keys:
        words += _dkim(name, message, keys)
    if b"multipart/signed" in message.lower():
        words += _smime(name, message, public, trusted)
    return words


def _dkim(name: str, message: bytes, keys: object) -> list[str]:
    # Imported on first use: the library takes a while to load.
    from mailwatch.ledger.dkim_signature import DkimError, verify_dkim

    words = []
    try:
        if not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise VerificationError(f"{name}: its keys are not a list")
        for one in keys:
            found = verify_dkim(message, one["domain"], one["selector"], one["key"])
            words += [f"the key of {found.domain} signed a message (DKIM, {found.bits} bits)", *_time(found.time)]
            words.append(
                f"the statement gives this key, as looked up at {str(one['at'])[:30]}: compare it with the record "
                f"{found.key_name} or with an archive of DKIM keys"
            )
    except DkimError as error:
        raise VerificationError(f"{name}: DKIM: {error}") from None
    except (KeyError, TypeError, AttributeError):
        raise VerificationError(f"{name}: its keys have no domain, selector, key and time") from None
    return words


def _smime(name: str, message: bytes, public: Ed25519PublicKey, trusted: Sequence[Certificate]) -> list[str]:
    from mailwatch.ledger.smime import SmimeError, verify_smime

    try:
        found = verify_smime(message)
        if found is None:
            return []
        declared_checkpoint(found.content, public)
    except SmimeError as error:
        raise VerificationError(f"{name}: {error}") from None
    except CheckpointError:
        raise VerificationError(f"{name}: what is signed by S/MIME has no checkpoint") from None
    words = [f"{found.signer} signed a message (S/MIME, certificate issued by {found.issuer})", *_time(found.time)]
    if leads_to(found.certificates, trusted):
        return [*words, "its certificate leads to one of --trust, and was not checked for revocation"]
    return [*words, "its certificate is not checked: compare it with the issuer's, or name that by --trust"]


def _time(time: Millis | None) -> list[str]:
    return [] if time is None else [f"by the clock of the signer at {rfc3339(time)}"]


def leads_to(certificates: Sequence[bytes], trusted: Sequence[Certificate]) -> bool:
    """Return whether the first certificate (DER) is a trusted one, or the others lead from it to one."""
    known = parse_readable(certificates)
    if not known or len(known) != len(certificates):
        return False
    here = known[0]
    for _ in range(MAX_CHAIN):
        if here in trusted or any(_issued(here, one) for one in trusted):
            return True
        above = next((one for one in known[1:] if one != here and _issued(here, one)), None)
        if above is None:
            return False
        here = above
    return False


def _issued(certificate: Certificate, by: Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(by)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
