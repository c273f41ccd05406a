"""Signs report.pdf with the owner's key: PAdES baseline B, or T with an authority's timestamp (EN 319 142-1).

The field is invisible, since pyHanko's visible stamp breaks PDF/A. Ed25519 is rejected, since common PDF readers
do not support it.
"""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

from asn1crypto import tsp
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs12
from pydantic import SecretStr
from pyhanko.pdf_utils.incremental_writer import IncrementalPdfFileWriter
from pyhanko.sign import PdfSignatureMetadata, PdfSigner, SimpleSigner
from pyhanko.sign.fields import SigFieldSpec, SigSeedSubFilter
from pyhanko.sign.timestamps import TimeStamper

from mailwatch.evidence.ledger_range import EvidenceError
from mailwatch.ledger.timestamp import TimestampError
from mailwatch.ledger.tsa import post_query
from mailwatch.settings import TimestampAuthority


class SignatureError(EvidenceError):
    """The report cannot be signed. The message says why and what to do."""


def load_signer(key_file: Path, certificate_file: Path | None, password: SecretStr | None) -> SimpleSigner:
    """Load a key: PEM with its certificates in another file, or PKCS#12 with both. Raises SignatureError."""
    phrase = password.get_secret_value().encode() if password else None
    try:
        raw = key_file.read_bytes()
        if certificate_file is None:
            key, _, _ = pkcs12.load_key_and_certificates(raw, phrase)
        else:
            key = load_pem_private_key(raw, phrase)
    except OSError as error:
        raise SignatureError(f"{key_file} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError):
        kind = "PKCS#12" if certificate_file is None else "a PEM private key"
        raise SignatureError(f"{key_file} is not {kind}, or its password is wrong") from None
    if isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        raise SignatureError(f"{key_file}: PDF readers do not support Ed25519; use EC P-256 or RSA")
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise SignatureError(f"{key_file} contains no key that can sign; use EC P-256 or RSA")
    signer: SimpleSigner | None
    if certificate_file is None:
        signer = SimpleSigner.load_pkcs12(str(key_file), passphrase=phrase)
    else:
        signer = SimpleSigner.load(str(key_file), str(certificate_file), key_passphrase=phrase)
    if signer is None:
        raise SignatureError(f"{certificate_file or key_file} does not contain the certificate of the key")
    return signer


def sign(pdf: bytes, signer: SimpleSigner, authority: TimestampAuthority | None) -> bytes:
    """Return the signed PDF, with the authority's timestamp if one is given. Raises SignatureError."""
    about = PdfSignatureMetadata(field_name="Signature", md_algorithm="sha256", subfilter=SigSeedSubFilter.PADES)
    made = PdfSigner(
        about,
        signer=signer,
        timestamper=_LedgerTimeStamper(authority) if authority else None,
        new_field_spec=SigFieldSpec("Signature"),
    )
    out = io.BytesIO()
    try:
        asyncio.run(made.async_sign_pdf(IncrementalPdfFileWriter(io.BytesIO(pdf)), output=out))
    except TimestampError as error:
        name = authority.name if authority else ""
        raise SignatureError(f"{name} gave no timestamp for the signature: {error}") from None
    return out.getvalue()


class _LedgerTimeStamper(TimeStamper):
    """Requests timestamps from the config's authorities, as the ledger does."""

    def __init__(self, authority: TimestampAuthority) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._authority = authority

    async def async_request_tsa_response(self, req: tsp.TimeStampReq) -> tsp.TimeStampResp:
        """Request a token over the signature."""
        made: tsp.TimeStampResp = tsp.TimeStampResp.load(await post_query(self._authority, req.dump()))
        return made
