"""Parses certificates (RFC 5280). They are untrusted: all parsing failures are one kind of error.

cryptography parses a field on first access, and reports hostile bytes by more exceptions than its documentation
lists: InvalidVersion and DuplicateExtension are no ValueErrors, and a panic of its Rust code is no Exception at
all. So all fields that our code uses are read here, at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from mailwatch.errors import is_panic

if TYPE_CHECKING:
    from cryptography import x509

# x509 is imported on first use: most commands load this module, and few read a certificate.
MAX_ERROR_CHARS = 160
MAX_NAMES = 10
T = TypeVar("T")


class CertificateError(ValueError):
    """A certificate cannot be read; the message says why, in a few words."""


def parse_certificate(der: bytes) -> x509.Certificate:
    """Parse a DER certificate. Raises CertificateError."""
    from cryptography import x509

    return _translate_errors(lambda: _force_fields(x509.load_der_x509_certificate(der)))


def parse_pem(pem: bytes) -> list[x509.Certificate]:
    """Parse all certificates of a PEM file. Raises CertificateError, also if there is none."""
    from cryptography import x509

    return _translate_errors(lambda: [_force_fields(one) for one in x509.load_pem_x509_certificates(pem)])


def parse_readable(certificates: Iterable[bytes]) -> list[x509.Certificate]:
    """Parse DER certificates, and skip any that cannot be read, of a token or of this machine."""
    found = []
    for der in certificates:
        try:
            found.append(parse_certificate(der))
        except CertificateError:
            continue
    return found


def names(certificate: x509.Certificate) -> list[str]:
    """Return the certificate's alternative names, else its subject, else "names that cannot be read"."""
    try:
        return _translate_errors(lambda: _names(certificate))
    except CertificateError:
        return ["names that cannot be read"]


def issuer(certificate: x509.Certificate) -> str:
    """Return the issuer (RFC 4514)."""
    return certificate.issuer.rfc4514_string()


def not_after(certificate: x509.Certificate) -> datetime:
    """Return the end of the certificate's validity, in UTC."""
    return certificate.not_valid_after_utc


def _force_fields(certificate: x509.Certificate) -> x509.Certificate:
    """Read the fields that are used later, so that errors in them are raised here."""
    for name in (certificate.issuer, certificate.subject):
        name.rfc4514_string()
        name.public_bytes()
    certificate.not_valid_before_utc.timestamp()
    certificate.not_valid_after_utc.timestamp()
    return certificate


def _names(certificate: x509.Certificate) -> list[str]:
    from cryptography import x509

    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [certificate.subject.rfc4514_string()]
    return [str(name.value) for name in found][:MAX_NAMES]


def _translate_errors(read: Callable[[], T]) -> T:
    """Translate every exception that hostile bytes cause to CertificateError."""
    from cryptography.utils import CryptographyDeprecationWarning

    with warnings.catch_warnings():
        # An old root, or a hostile certificate, may break today's rules, for example by a serial number of 0.
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)
        try:
            return read()
        except Exception as error:
            raise CertificateError(_error_text(error)) from None
        except BaseException as error:
            if not is_panic(error):
                raise
            raise CertificateError(_error_text(error)) from None


def _error_text(error: BaseException) -> str:
    # The library's text may repeat data of the certificate.
    text = "".join(one if one.isprintable() else " " for one in str(error)[:MAX_ERROR_CHARS])
    return f"{type(error).__name__}: {text}".rstrip(": ")
