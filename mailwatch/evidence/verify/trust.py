"""Whom the verifier believes: what was named with --trust, else the system's authorities."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mailwatch.certificates import UnreadableCertificate, read_pem, readable
from mailwatch.evidence.verify.archive import Refused

if TYPE_CHECKING:
    from cryptography import x509


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
                try:
                    trust.certificates += read_pem(raw)
                except UnreadableCertificate as error:
                    raise ValueError(f"{path}: certificate cannot be read: {error}") from None
            elif raw.count(b"+") >= 2:
                trust.keys |= {line.strip() for line in raw.decode().splitlines() if line.strip()}
            else:
                raise ValueError(f"{path} holds neither PEM certificates nor a ledger's key")
        return trust


def certificates(raw: bytes, name: str) -> list[x509.Certificate]:
    """Read PEM certificates of a bundle. Raises Refused."""
    try:
        return read_pem(raw)
    except UnreadableCertificate as error:
        raise Refused(f"{name} holds no certificates: {error}") from None


def system() -> list[x509.Certificate]:
    """Return the authorities that this machine trusts."""
    raw = ssl.create_default_context().get_ca_certs(binary_form=True)
    return readable(raw)
