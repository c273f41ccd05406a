"""Verifies a DKIM signature (RFC 6376) with a key that was looked up before. Pure: no clock, no name server.

Stricter than a mail server: the signature must cover the whole body (no `l=`) and the field From, by SHA-256 and
an RSA key of at least 1024 bits (RFC 8301) or Ed25519. Its dates are not compared with any clock.
"""

from __future__ import annotations

from dataclasses import dataclass

import dkim
from dkim.util import parse_tag_value

from mailwatch.times import Millis

MAX_SIGNATURES = 8
"""Most signature fields of a message that are read."""
MIN_RSA_BITS = 1024
ALGORITHMS = (b"rsa-sha256", b"ed25519-sha256")
_MAX_TIME_DIGITS = 12


class DkimError(Exception):
    """No signature of that domain and selector is valid. The message says why."""


@dataclass(frozen=True, slots=True)
class DkimSignature:
    """A valid signature. `time`: when it was made by the signer's clock, None where it states none."""

    domain: str
    selector: str
    bits: int
    time: Millis | None

    @property
    def key_name(self) -> str:
        """The DNS name under which the signer published its key."""
        return f"{self.selector}._domainkey.{self.domain}"


def verify_dkim(message: bytes, domain: str, selector: str, key: str) -> DkimSignature:
    """Return the first valid signature by `domain` and `selector`; `key`: the text of its TXT record. Raises
    DkimError.
    """
    fault = f"the message has no signature of {domain[:100]} with {selector[:100]}"
    try:
        fields = [value for name, value in dkim.rfc822_parse(message)[0] if name.lower() == b"dkim-signature"]
    except Exception:
        # Untrusted: the library raises IndexError for a message that begins within a field.
        raise DkimError("the header of the message cannot be read") from None
    for number, field in enumerate(fields[:MAX_SIGNATURES]):
        try:
            tags = parse_tag_value(field)
            if (tags.get(b"d"), tags.get(b"s")) == (domain.encode(), selector.encode()):
                return _verified(message, number, tags, key)
        except DkimError as error:
            fault = str(error)
        except Exception as error:
            fault = f"the signature cannot be read: {type(error).__name__}"
    raise DkimError(fault)


def _verified(message: bytes, number: int, tags: dict[bytes, bytes], key: str) -> DkimSignature:
    signer = dkim.DKIM(message, minkey=MIN_RSA_BITS)
    headers = [(name, value) for name, value in signer.headers if name.lower() == b"dkim-signature"]
    covered = [name.strip().lower() for name in tags.get(b"h", b"").split(b":")]
    if tags.get(b"a") not in ALGORITHMS:
        raise DkimError("the signature is not by SHA-256")
    if b"l" in tags or b"from" not in covered:
        raise DkimError("the signature does not cover the whole body and the field From")
    try:
        # Without its dates, which the library compares with our clock.
        dkim.validate_signature_fields({name: value for name, value in tags.items() if name not in (b"t", b"x")})
        signer.pk, signer.keysize, signer.ktag, signer.seqtlsrpt = dkim.evaluate_pk("key", key.encode())
        good = signer.ktag.decode() == tags[b"a"].decode().partition("-")[0] and signer.verify_sig_process(
            tags, covered, headers[number], None
        )
    except dkim.ValidationError as error:
        raise DkimError(str(error)[:200]) from None
    except Exception as error:
        raise DkimError(f"the key is not valid: {str(error)[:150]}") from None
    if not good:
        raise DkimError("the signature does not match")
    return DkimSignature(tags[b"d"].decode(), tags[b"s"].decode(), int(signer.keysize), _time(tags.get(b"t")))


def _time(text: bytes | None) -> Millis | None:
    digits = (text or b"").strip()
    return int(digits) * 1000 if digits.isdigit() and len(digits) <= _MAX_TIME_DIGITS else None
