"""Reads the facts of a server's certificate, and explains why it was rejected.

If our clock calls a chain out of date, its dates are kept: guard/expiry.py attributes the failure.
"""

from __future__ import annotations

import hashlib
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import cryptography.x509  # noqa: F401 - here: loaded within the first handshake, it would count as a part of it

from mailwatch import certificates
from mailwatch.facts import ExpiryFacts
from mailwatch.model import TlsFacts
from mailwatch.probes import cleartext
from mailwatch.times import Millis

if TYPE_CHECKING:
    from cryptography import x509
from collections.abc import Iterable

MAX_CACHED = 256
MAX_CHAIN = 10
MAX_TEXT_CHARS = 253
"""Characters kept of an issuer and of a name: as many as a name of the DNS has (RFC 1035, section 2.3.4)."""
_EXPIRED, _NOT_YET_VALID = 10, 9
_WRONG_HOST, _WRONG_ADDRESS = 62, 64
_UNTRUSTED = frozenset({2, 18, 19, 20, 21, 27, 33})
"""OpenSSL's X509_V_ERR_*: no issuer found, self-signed, signature not verifiable, not trusted, no CRL issuer."""


UNTRUSTED_ISSUER = "issuer not trusted"
"""How the explanation of such a certificate begins."""


class CapturingTls(ssl.SSLObject):
    """A TLS connection that adds rejected data to the exception: `error.certificate` and its `error.chain`.

    OpenSSL reports neither names nor dates of a rejected certificate, and after the handshake it is too late to
    ask: a second connection may meet another server of the same name. Nor does OpenSSL return data that is not
    TLS: that is `error.cleartext` (cleartext.py).
    """

    _incoming: ssl.MemoryBIO
    _cleartext: bytes = b""

    @classmethod
    def _create(cls, incoming: ssl.MemoryBIO, *arguments: object, **named: object) -> Self:
        # Called by SSLContext.wrap_bio: the only way to see incoming data before OpenSSL does.
        made: Self = super()._create(incoming, *arguments, **named)  # type: ignore[misc]
        made._incoming = incoming
        return made

    def do_handshake(self) -> None:
        """Do the handshake; attach the rejected certificates (DER) or the clear text to the exception."""
        if came := self._incoming.read():
            self._incoming.write(came)
            self._cleartext = cleartext.append_cleartext(self._cleartext, came)
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            error.cleartext = self._cleartext  # type: ignore[attr-defined]
            if isinstance(error, ssl.SSLCertVerificationError):
                chain = self._chain()
                error.certificate = chain[0] if chain else None  # type: ignore[attr-defined]
                error.chain = chain  # type: ignore[attr-defined]
            raise

    def _chain(self) -> list[bytes]:
        """Return the chain as far as OpenSSL had built it before rejecting it, the server's certificate first."""
        # Public since Python 3.13, where it returns bytes.
        inner: Any = getattr(self, "_sslobj", None)
        if not hasattr(inner, "get_verified_chain"):
            return []
        chain = (inner.get_verified_chain() or [])[:MAX_CHAIN]
        encoding = ssl._ssl.ENCODING_DER  # type: ignore[attr-defined]  # noqa: SLF001
        return [one.public_bytes(encoding) if hasattr(one, "public_bytes") else one for one in chain]


@dataclass(frozen=True, slots=True)
class CertificateText:
    """What a certificate says, as far as it can be read; none of it is verified for a server without login."""

    not_after: Millis | None
    unreadable: str
    """Why it cannot be read, "" if it can."""
    issuer: str = ""
    names: tuple[str, ...] = ()


class TlsFactsCache:
    """The facts of TLS connections; each certificate is parsed once."""

    def __init__(self) -> None:
        self._known: dict[str, CertificateText] = {}

    def learn(self, fingerprint: str, text: CertificateText) -> None:
        """Keep what a certificate says that another node met."""
        if fingerprint not in self._known:
            self._make_room()
            self._known[fingerprint] = text

    def _make_room(self) -> None:
        if len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]

    def text(self, fingerprint: str) -> CertificateText | None:
        """Return what a certificate says that was met lately; None for another."""
        return self._known.get(fingerprint)

    def facts(self, connection: ssl.SSLObject) -> tuple[TlsFacts, str]:
        """Return the facts of a finished handshake, and why its certificate cannot be read, "" if it can."""
        der = connection.getpeercert(binary_form=True) or b""
        fingerprint = hashlib.sha256(der).hexdigest()
        if fingerprint not in self._known:
            self._make_room()
            self._known[fingerprint] = _text(der)
        cipher = connection.cipher()
        known = self._known[fingerprint]
        facts = TlsFacts(
            version=connection.version() or "",
            cipher=cipher[0] if cipher else "",
            fingerprint=fingerprint,
            not_after=known.not_after,
        )
        return facts, known.unreadable


def explain_certificate_error(error: ssl.SSLCertVerificationError, host: str) -> str:
    """Return what is wrong with the certificate: expired, for another name, of an untrusted issuer, or other."""
    certificate, unreadable = _parse(getattr(error, "certificate", None))
    code = error.verify_code
    if code in (_WRONG_HOST, _WRONG_ADDRESS):
        names = ", ".join(certificates.names(certificate)) if certificate else "other names"
        text = f"certificate is for {names}, not {host}"
    elif code == _EXPIRED:
        until = certificates.not_after(certificate) if certificate else None
        # If an intermediate expired, the leaf's date would be the wrong one to report.
        if until is None or until.timestamp() > time.time():
            text = "a certificate of the chain expired"
        else:
            text = f"certificate expired on {until:%Y-%m-%dT%H:%M:%SZ}"
    elif code == _NOT_YET_VALID:
        since = certificate.not_valid_before_utc if certificate else None
        text = "certificate is not valid yet"
        if since is not None and since.timestamp() > time.time():
            text += f", but from {since:%Y-%m-%dT%H:%M:%SZ} on"
    elif code in _UNTRUSTED:
        issuer = f": {certificates.issuer(certificate)}" if certificate else ""
        text = f"{UNTRUSTED_ISSUER} ({error.verify_message}){issuer}"
    else:
        text = f"certificate not accepted: {error.verify_message}"
    return f"{text}; certificate cannot be read: {unreadable}" if unreadable else text


def _parse(der: bytes | None) -> tuple[x509.Certificate | None, str]:
    """Parse a certificate, if any; return it, and why it cannot be read."""
    if not der:
        return None, ""
    try:
        return certificates.parse_certificate(der), ""
    except certificates.CertificateError as error:
        return None, str(error)


def _text(der: bytes) -> CertificateText:
    certificate, unreadable = _parse(der)
    if certificate is None:
        return CertificateText(None, unreadable)
    return CertificateText(
        round(certificates.not_after(certificate).timestamp() * 1000),
        "",
        certificates.issuer(certificate)[:MAX_TEXT_CHARS],
        tuple(name[:MAX_TEXT_CHARS] for name in certificates.names(certificate)),
    )


_PROBLEMS = {_EXPIRED: "expired", _NOT_YET_VALID: "not_yet_valid"}


def expiry_facts(error: ssl.SSLCertVerificationError) -> ExpiryFacts | None:
    """Return {"problem", "not_before", "not_after"} for the record (milliseconds), None for another problem.

    Between the dates, every certificate of the chain is valid; absent if a certificate cannot be read.
    """
    problem = _PROBLEMS.get(error.verify_code)
    if problem is None:
        return None
    dates = _common_validity(getattr(error, "chain", ()))
    found: ExpiryFacts = {"problem": problem}
    return {**found, "not_before": dates[0], "not_after": dates[1]} if dates else found


def _common_validity(chain: Iterable[bytes]) -> tuple[int, int] | None:
    try:
        read = [certificates.parse_certificate(der) for der in chain]
        begins = [certificate.not_valid_before_utc.timestamp() for certificate in read]
        ends = [certificate.not_valid_after_utc.timestamp() for certificate in read]
    except certificates.CertificateError:
        return None
    # A certificate is valid to the end of its last second (RFC 5280, section 4.1.2.5).
    return (round(max(begins) * 1000), round(min(ends) * 1000) + 999) if read else None
