"""Signs messages by DKIM as a mail provider does, with a key made for the tests."""

from __future__ import annotations

from base64 import b64encode

import dkim
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPrivateKey,
    RSAPrivateNumbers,
    RSAPublicNumbers,
    generate_private_key,
    rsa_crt_dmp1,
    rsa_crt_dmq1,
    rsa_crt_iqmp,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

KEY = generate_private_key(public_exponent=65537, key_size=2048)
P = (
    0xDD09E25CF8D31DE509D84B9CE005E8BAB010DEFBB4F2D445B45BDD010AA6E08E << 256
) + 0xA9E462CE34597383A1F0EC72B82B5129FEA1734099F8B63E85100E5825CC0D6D
Q = (
    0xC18A580D5AEE87159285785D76A741DE7F7D27A074C5B305FA2BC38E72A06C8A << 256
) + 0xE5840C47309E19E661B74FD47E402855FC56DD6AC2D495DF0811C1D5FCC1355B
"""Primes of the key that signs the messages of test vectors, so that they are the same each time."""
FIELDS = (b"From", b"Subject", b"Message-ID")


def record_of(key: RSAPrivateKey) -> bytes:
    """The TXT record of a key."""
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + b64encode(public)


RECORD = record_of(KEY)


def fixed_key() -> RSAPrivateKey:
    """The key of P and Q."""
    d = pow(65537, -1, (P - 1) * (Q - 1))
    parts = rsa_crt_dmp1(d, P), rsa_crt_dmq1(d, Q), rsa_crt_iqmp(P, Q)
    return RSAPrivateNumbers(P, Q, d, *parts, RSAPublicNumbers(65537, P * Q)).private_key()


def signed(
    text: bytes,
    domain: bytes = b"example.org",
    selector: bytes = b"mw",
    key: RSAPrivateKey = KEY,
    *,
    length: bool = False,
    canonical: tuple[bytes, bytes] = (b"relaxed", b"relaxed"),
) -> bytes:
    """A message with the signature before it."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    field = dkim.sign(
        text, selector, domain, pem, canonicalize=canonical, include_headers=[*FIELDS], length=length
    )
    return bytes(field) + text
