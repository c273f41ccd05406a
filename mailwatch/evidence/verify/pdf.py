"""Verifies report.pdf: its attached file is the bundle's statement, and any signature covers the whole PDF."""

from __future__ import annotations

import io

from pyhanko.pdf_utils.reader import PdfFileReader
from pyhanko.sign.validation import validate_pdf_signature
from pyhanko.sign.validation.status import PdfSignatureStatus, SignatureCoverageLevel
from pyhanko_certvalidator import ValidationContext

from mailwatch.errors import is_local_failure
from mailwatch.evidence.verify.archive import VerificationError

MAX_ATTACHMENT_BYTES = 64 << 20


def check_report(pdf: bytes, statement: bytes, name: str) -> str:
    """Return the finding in words. `statement`: content of the file `name` that must be attached. Raises
    VerificationError.
    """
    try:
        return _check(pdf, statement, name)
    except VerificationError:
        raise
    except Exception as error:  # Any exception of the parsing libraries, on hostile bytes.
        if is_local_failure(error):
            raise
        raise VerificationError(f"report.pdf cannot be read: {type(error).__name__} {error}"[:200]) from None


def _check(pdf: bytes, statement: bytes, name: str) -> str:
    if not pdf.startswith(b"%PDF-"):
        raise VerificationError("report.pdf is not a PDF")
    reader = PdfFileReader(io.BytesIO(pdf), strict=False)
    if _attached(reader, name) != statement:
        raise VerificationError(f"the file attached to report.pdf is not {name}")
    words = f"the file attached to report.pdf is {name}, which counts: no program compares the text of its pages"
    signatures = reader.embedded_signatures
    if not signatures:
        return f"{words}; the PDF itself is not signed"
    time = ""
    for signature in signatures:
        status = validate_pdf_signature(signature, ValidationContext(trust_roots=[]))
        if not status.intact or not status.valid:
            raise VerificationError("the signature of report.pdf does not match its bytes")
        if status.coverage is not SignatureCoverageLevel.ENTIRE_FILE:
            raise VerificationError(
                "report.pdf was changed after it was signed: the signature does not cover all of it"
            )
        time = _time(status)
    signer = signatures[-1].signer_cert.subject.human_friendly
    return f"{words}; its signature covers the entire file (certificate: {signer}){time}"


def _time(status: PdfSignatureStatus) -> str:
    """Return the timestamp of the signature in words, "" without one. The timestamp is over the signature and was
    verified with it.
    """
    stamped = status.timestamp_validity
    if stamped is None:
        return ""
    if not stamped.intact or not stamped.valid:
        raise VerificationError("the timestamp in the signature of report.pdf does not match it")
    name = stamped.signing_cert.subject.native.get("common_name", "an authority")
    return f", by the time of {name} at {stamped.timestamp:%Y-%m-%d %H:%M:%S}Z"


def _attached(reader: PdfFileReader, name: str) -> bytes:
    root = reader.root
    names = root["/Names"]["/EmbeddedFiles"]["/Names"]
    if len(names) != 2 or {str(spelling) for spelling in (names[0], names[1]["/F"], names[1]["/UF"])} != {name}:
        raise VerificationError(f"what is attached to report.pdf is not {name} alone")
    data: bytes = names[1]["/EF"]["/F"].data
    if len(data) > MAX_ATTACHMENT_BYTES:
        raise VerificationError("the file attached to report.pdf is too long")
    return data
