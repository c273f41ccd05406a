"""Verifies the S/MIME signature of a message that is signed as a whole (RFC 8551), as a certified one (PEC) is.

Only that the enclosed certificate signed the content. Whose certificate it is, and whether it was revoked, its
issuer shows; what the certificates lead to is for the caller.
"""

from __future__ import annotations

import email
import email.policy
import hashlib
from dataclasses import dataclass
from datetime import datetime
from email.message import Message

from asn1crypto import cms

from mailwatch.ledger.timestamp import display_name
from mailwatch.times import Millis

_DIGESTS = ("sha256", "sha384", "sha512")


class SmimeError(Exception):
    """A message has an S/MIME signature that is not valid. The message says why."""


@dataclass(frozen=True, slots=True)
class SmimeSignature:
    """A valid signature: who signed by the certificate, `content` that is signed, and the certificates (DER), that
    of the signer first. `time`: as the signer states it, None if it does not.
    """

    signer: str
    issuer: str
    time: Millis | None
    content: bytes
    certificates: tuple[bytes, ...]


def verify_smime(message: bytes) -> SmimeSignature | None:
    """Return the signature of a message, None where it is not signed as a whole. Raises SmimeError."""
    parts = _parts(message)
    if parts is None:
        return None
    content, blob = parts
    # Imported on first use: it takes a while to load, and most messages have no such signature.
    from pyhanko.sign.general import extract_certificate_info, extract_signer_info
    from pyhanko.sign.validation.generic_cms import validate_sig_integrity

    try:
        signed = cms.ContentInfo.load(blob, strict=False)["content"]
        info, found = extract_signer_info(signed), extract_certificate_info(signed)
        algorithm = info["digest_algorithm"]["algorithm"].native
        if algorithm not in _DIGESTS:
            raise SmimeError(f"the signature is by {str(algorithm)[:20]}")
        digest = hashlib.new(algorithm, content).digest()
        intact, valid = validate_sig_integrity(info, found.signer_cert, "data", digest)
        certificate = found.signer_cert
        signer, issuer = display_name(certificate.subject), display_name(certificate.issuer)
        others = (one.dump() for one in found.other_certs)
        made = SmimeSignature(signer, issuer, _time(info), content, (certificate.dump(), *others))
    except SmimeError:
        raise
    except Exception as error:
        # Untrusted: the libraries raise whatever a hostile structure leads to.
        raise SmimeError(f"the S/MIME signature cannot be read: {type(error).__name__}") from None
    if not intact or not valid:
        raise SmimeError("the S/MIME signature is not over this content")
    return made


def _parts(message: bytes) -> tuple[bytes, bytes] | None:
    """Return the bytes that are signed, with CRLF, and the signature (DER), of a message of the type
    multipart/signed.
    """
    parsed = email.message_from_bytes(message, policy=email.policy.compat32)
    protocol = str(parsed.get_param("protocol") or "").lower()
    if parsed.get_content_type() != "multipart/signed" or "pkcs7-signature" not in protocol:
        return None
    boundary, payload = parsed.get_boundary(), parsed.get_payload()
    if not boundary or not isinstance(payload, list) or len(payload) != 2:
        raise SmimeError("the message has no content with its signature")
    text = message.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    # The line end before a boundary belongs to the boundary (RFC 2046, section 5.1.1).
    pieces = text.split(b"\r\n--" + boundary.encode("utf-8", "surrogateescape"))
    last = payload[1]
    blob = last.get_payload(decode=True) if isinstance(last, Message) else None
    if len(pieces) < 3 or not isinstance(blob, bytes):
        raise SmimeError("the message has no content with its signature")
    return pieces[1].partition(b"\r\n")[2], blob


def _time(info: cms.SignerInfo) -> Millis | None:
    for attribute in info["signed_attrs"]:
        if attribute["type"].native == "signing_time":
            time = attribute["values"].native[0]
            return round(time.timestamp() * 1000) if isinstance(time, datetime) else None
    return None
