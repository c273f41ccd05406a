"""Verifies report.pdf: its attached file is the bundle's statement, and any signature covers the whole PDF.

Anyone can make a certificate with any name in it, and an authority with any clock. So who signed, and when, is
untrusted unless a certificate of --trust vouches for it.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from datetime import datetime

from asn1crypto import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import Certificate
from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.validation import EmbeddedPdfSignature, validate_pdf_signature
from pyhanko.sign.validation.settings import KeyUsageConstraints
from pyhanko.sign.validation.status import (
    PdfSignatureStatus,
    SignatureCoverageLevel,
    TimestampSignatureStatus,
)
from pyhanko_certvalidator import ValidationContext

from mailwatch.errors import is_local_failure
from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.evidence.verify.enclosed import Note
from mailwatch.ledger.timestamp import display_name

MAX_ATTACHMENT_BYTES = 64 << 20
_KEY_USAGE = KeyUsageConstraints(key_usage={"digital_signature", "non_repudiation"})
"""Either is enough: certificates for e-mail have only the first."""


def check_report(pdf: bytes, statement: bytes, name: str, trusted: Sequence[Certificate] = ()) -> str:
    """Return the finding in words, as a Note if the PDF is signed by someone untrusted. Raises VerificationError.

    `statement`: content of the file `name` that must be attached. `trusted`: certificates that a signer or the
    authority of its time may lead to.
    """
    try:
        return _check(pdf, statement, name, trusted)
    except VerificationError:
        raise
    except BaseException as error:  # Any exception of the parsing libraries, on hostile bytes.
        if is_local_failure(error):
            raise
        raise VerificationError(f"report.pdf cannot be read: {type(error).__name__} {error}"[:200]) from None


def _check(pdf: bytes, statement: bytes, name: str, trusted: Sequence[Certificate]) -> str:
    if not pdf.startswith(b"%PDF-"):
        raise VerificationError("report.pdf is not a PDF")
    reader = PdfFileReader(io.BytesIO(pdf), strict=False)
    if _attached(reader, name) != statement:
        raise VerificationError(f"the file attached to report.pdf is not {name}")
    words = f"the file attached to report.pdf is {name}, which counts"
    signatures = reader.embedded_signatures
    if not signatures:
        return f"{words}; the PDF itself is not signed"
    roots = [x509.Certificate.load(one.public_bytes(Encoding.DER)) for one in trusted]
    found = [_check_signature(signature, roots) for signature in signatures]
    words = "; ".join([words, "the signature covers the entire file", *(text for text, _ in found)])
    return words if all(known for _, known in found) else Note(words)


def _check_signature(signature: EmbeddedPdfSignature, roots: list[x509.Certificate]) -> tuple[str, bool]:
    """Return who signed and when, in words, and whether `roots` vouch for that. Raises VerificationError."""
    status = _validated(signature, roots)
    time, moment = _time(status)
    if moment is not None:
        # At a trusted time the certificate was valid, even if it has expired since.
        status = _validated(signature, roots, moment)
    signer = f"signed by {_names(signature.signer_cert)}" + ("" if status.trusted else _UNTRUSTED)
    return "; ".join(filter(None, (signer, time))), status.trusted and (moment is not None or not time)


_UNTRUSTED = ", untrusted: no certificate of --trust vouches for it, and anyone can make one with such a name"


def _validated(
    signature: EmbeddedPdfSignature, roots: list[x509.Certificate], moment: datetime | None = None
) -> PdfSignatureStatus:
    context, now = ValidationContext(trust_roots=roots, moment=moment), ValidationContext(trust_roots=roots)
    status = validate_pdf_signature(signature, context, now, key_usage_settings=_KEY_USAGE)
    if not status.intact or not status.valid:
        raise VerificationError("the signature of report.pdf does not match its bytes")
    if status.coverage is not SignatureCoverageLevel.ENTIRE_FILE:
        raise VerificationError(
            "report.pdf was changed after it was signed: the signature does not cover all of it"
        )
    return status


def _time(status: PdfSignatureStatus) -> tuple[str, datetime | None]:
    """Return the timestamp of the signature in words, "" without one, and the time if it is trusted. The timestamp
    is over the signature and was verified with it.
    """
    stamped: TimestampSignatureStatus | None = status.timestamp_validity
    if stamped is None:
        return "", None
    if not stamped.intact or not stamped.valid:
        raise VerificationError("the timestamp in the signature of report.pdf does not match it")
    words = f"by the time of {_names(stamped.signing_cert)} at {stamped.timestamp:%Y-%m-%d %H:%M:%S}Z"
    return (words, stamped.timestamp) if stamped.trusted else (words + _UNTRUSTED, None)


def _names(certificate: x509.Certificate) -> str:
    return f"{display_name(certificate.subject)} (issued by {display_name(certificate.issuer)})"


def _attached(reader: PdfFileReader, name: str) -> bytes:
    root = reader.root
    names = root["/Names"]["/EmbeddedFiles"]["/Names"]
    if len(names) != 2 or {str(spelling) for spelling in (names[0], names[1]["/F"], names[1]["/UF"])} != {name}:
        raise VerificationError(f"what is attached to report.pdf is not {name} alone")
    data: bytes = names[1]["/EF"]["/F"].data
    if len(data) > MAX_ATTACHMENT_BYTES:
        raise VerificationError("the file attached to report.pdf is too long")
    return data
