"""Whom the verifier believes: what was named with --trust, else the system's authorities."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509

from mailwatch.evidence.verify.archive import Refused
from mailwatch.ledger.timestamp import readable


@dataclass(slots=True)
class Trust:
    """What is trusted beforehand: keys of ledgers in their one-line form, and authorities' certificates."""

    keys: set[str] = field(default_factory=set)
    certificates: list[x509.Certificate] = field(default_factory=list)

    @classmethod
    def read(cls, paths: Sequence[Path]) -> Trust:
        """Read --trust files: PEM certificates, or a line as in keys/ledger.pub. Raises ValueError, OSError."""
        trust = cls()
        for path in paths:
            raw = path.read_bytes()
            if b"-----BEGIN CERTIFICATE-----" in raw:
                trust.certificates += x509.load_pem_x509_certificates(raw)
            elif raw.count(b"+") >= 2:
                trust.keys |= {line.strip() for line in raw.decode().splitlines() if line.strip()}
            else:
                raise ValueError(f"{path} holds neither PEM certificates nor a ledger's key")
        return trust


def certificates(raw: bytes, name: str) -> list[x509.Certificate]:
    """Read PEM certificates of a bundle. Raises Refused."""
    try:
        found = x509.load_pem_x509_certificates(raw)
        # Names are read only now, and may be unreadable on their own.
        return [certificate for certificate in found if certificate.subject and certificate.issuer]
    except ValueError:
        raise Refused(f"{name} holds no certificates") from None


def system() -> list[x509.Certificate]:
    """Return the authorities that this machine trusts."""
    raw = ssl.create_default_context().get_ca_certs(binary_form=True)
    return readable(raw)
