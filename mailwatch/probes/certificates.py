"""What a server's certificate shows, and what is wrong with it."""

from __future__ import annotations

import hashlib
import ssl
import time
from typing import Any, Self

from cryptography import x509

from mailwatch.models import Millis, TlsFacts
from mailwatch.probes import cleartext

MAX_KNOWN = 256
MAX_CHAIN = 10
MAX_NAMES = 10
_EXPIRED, _NOT_YET_VALID = 10, 9
_WRONG_HOST, _WRONG_ADDRESS = 62, 64
_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 27, 33})
"""X509_V_ERR_* of OpenSSL: no issuer found, self-signed, signature not verifiable, not trusted, no CRL issuer."""


class WitnessedTls(ssl.SSLObject):
    """A TLS connection that hands what it rejects to the exception: `error.certificate` and its `error.chain`.

    OpenSSL names neither the names nor the dates of a certificate that it rejects, and nothing is left to
    ask after the handshake: a second connection could meet another server behind the same name. Neither does it
    give back what is no TLS at all: that is `error.heard` (cleartext.py).
    """

    _incoming: ssl.MemoryBIO
    _heard: bytes = b""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *arguments: Any, **named: Any) -> Self:
        # Called by SSLContext.wrap_bio: the one way to see what comes in before OpenSSL does.
        made: Self = super()._create(incoming, *arguments, **named)  # type: ignore[misc]
        made._incoming = incoming
        return made

    def do_handshake(self) -> None:
        """Raise as the original does, with the rejected certificate (DER) or the clear text attached."""
        if came := self._incoming.read():
            self._incoming.write(came)
            self._heard = cleartext.keep(self._heard, came)
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            error.heard = self._heard  # type: ignore[attr-defined]
            if isinstance(error, ssl.SSLCertVerificationError):
                chain = self._chain()
                error.certificate = chain[0] if chain else None  # type: ignore[attr-defined]
                error.chain = chain  # type: ignore[attr-defined]
            raise

    def _chain(self) -> list[bytes]:
        """Return what OpenSSL had built of the chain when it rejected it, the server's own certificate first."""
        # Public since Python 3.13, where it returns bytes.
        inner: Any = getattr(self, "_sslobj", None)
        if not hasattr(inner, "get_verified_chain"):
            return []
        chain = (inner.get_verified_chain() or [])[:MAX_CHAIN]
        encoding = ssl._ssl.ENCODING_DER  # type: ignore[attr-defined]
        return [one.public_bytes(encoding) if hasattr(one, "public_bytes") else one for one in chain]


class Certificates:
    """Facts of TLS connections; each certificate is parsed once."""

    def __init__(self) -> None:
        self._not_after: dict[str, Millis | None] = {}

    def facts(self, connection: ssl.SSLObject) -> TlsFacts:
        """Return what the finished handshake showed."""
        der = connection.getpeercert(binary_form=True) or b""
        fingerprint = hashlib.sha256(der).hexdigest()
        if fingerprint not in self._not_after:
            if len(self._not_after) >= MAX_KNOWN:
                del self._not_after[next(iter(self._not_after))]
            self._not_after[fingerprint] = _not_after(der)
        cipher = connection.cipher()
        return TlsFacts(
            version=connection.version() or "",
            cipher=cipher[0] if cipher else "",
            fingerprint=fingerprint,
            not_after=self._not_after[fingerprint],
        )


def complaint(error: ssl.SSLCertVerificationError, host: str) -> str:
    """Say what is wrong with the certificate: expired, for another name, of an untrusted issuer, or else."""
    certificate = _parse(getattr(error, "certificate", None) or b"")
    code = error.verify_code
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        names = ", ".join(_names(certificate)) if certificate else "other names"
        return f"certificate is for {names}, not {host}"
    if code == _EXPIRED:
        until = certificate.not_valid_after_utc if certificate else None
        # It may be an intermediate that expired: then the leaf's date would be the wrong one to tell.
        if until is None or until.timestamp() > time.time():
            return "a certificate of the chain expired"
        return f"certificate expired on {until:%Y-%m-%dT%H:%M:%SZ}"
    if code == _NOT_YET_VALID:
        return "certificate is not valid yet"
    if code in _UNTRUSTED:
        issuer = f": {certificate.issuer.rfc4514_string()}" if certificate else ""
        return f"issuer not trusted ({error.verify_message}){issuer}"
    return f"certificate not accepted: {error.verify_message}"


def _parse(der: bytes) -> x509.Certificate | None:
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        return None


def _not_after(der: bytes) -> Millis | None:
    certificate = _parse(der)
    return round(certificate.not_valid_after_utc.timestamp() * 1000) if certificate else None


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return [certificate.subject.rfc4514_string()]
    return [str(name.value) for name in names][:MAX_NAMES]
