"""Timestamp tokens (RFC 3161) of outside authorities over checkpoints: queries, parsing, verification. Pure.

A token states that certain bytes existed at a time. Here the bytes are the signed note of a checkpoint.

rfc3161-client verifies signature and chain at the token's own time, but accepts strict DER only. Some authorities
send the certificates, a SET, unsorted, which openssl accepts. Neither the certificates nor the status are signed,
so `_to_strict_der` normalises both first. rfc3161-client also drops the fraction of the second, so asn1crypto
reads the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from mailwatch.certificates import parse_readable
from mailwatch.errors import is_panic
from mailwatch.times import Millis

if TYPE_CHECKING:
    from asn1crypto import cms
    from asn1crypto import x509 as x509_asn1
    from cryptography import x509
    from rfc3161_client import Verifier

# The parsers are imported on first use: they take a twentieth of a second, and every command loads this module.
MAX_REPLY_BYTES = 65_536
_GRANTED = bytes.fromhex("3003020100")


class TimestampError(Exception):
    """A reply is not a valid token over the query. The message says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A parsed token. `accuracy_ms`: None if the authority states none. `certificates`: DER, as sent.

    `authority` is the name in the signer's certificate, "" if the token does not show which that is.
    """

    time: Millis
    accuracy_ms: int | None
    imprint: bytes
    nonce: int | None
    serial: str
    policy: str
    authority: str
    certificates: tuple[bytes, ...]
    issuer: str = ""
    """Name of the issuer of the signer's certificate, whose own name is `authority`; "" as that is."""


def timestamp_query(note: str) -> tuple[bytes, int]:
    """Return a query (DER) for a token over `note`, and its nonce."""
    from rfc3161_client import HashAlgorithm, TimestampRequestBuilder

    query = TimestampRequestBuilder().data(note.encode()).hash_algorithm(HashAlgorithm.SHA256).build()
    assert query.nonce is not None
    return query.as_bytes(), query.nonce


def parse_reply(reply: bytes) -> Token:
    """Parse a TimeStampResp (RFC 3161 section 2.4.2), strict DER or not. Raises TimestampError."""
    from asn1crypto import tsp

    try:
        response = tsp.TimeStampResp.load(reply, strict=True)
        status = response["status"]["status"].native
        if status not in ("granted", "granted_with_mods"):
            words = response["status"]["status_string"].native or [""]
            raise TimestampError(f"the authority refuses: {status} {' '.join(words)}".strip()[:200])
        signed = response["time_stamp_token"]["content"]
        info = signed["encap_content_info"]["content"].parsed
        algorithm = info["message_imprint"]["hash_algorithm"]["algorithm"].native
        if algorithm != "sha256":
            raise TimestampError(f"expected an imprint by sha256, got {algorithm}")
        accuracy = info["accuracy"].native
        at: datetime = info["gen_time"].native
        signer, issuer = _signer_names(signed)
        return Token(
            time=round(at.timestamp() * 1000),
            accuracy_ms=_millis(accuracy) if accuracy else None,
            imprint=info["message_imprint"]["hashed_message"].native,
            nonce=info["nonce"].native,
            serial=f"{info['serial_number'].native:x}",
            policy=str(info["policy"].dotted),
            authority=signer,
            certificates=tuple(certificate.dump() for certificate in signed["certificates"]),
            issuer=issuer,
        )
    except TimestampError:
        raise
    except Exception as error:
        # asn1crypto reports malformed bytes when a field is first read, with any kind of exception.
        raise TimestampError(f"not an RFC 3161 reply: {_first_line(error)}") from None


def signer_of(reply: bytes) -> tuple[str, str]:
    """Return the names of a token's signer and its issuer, from the signer's certificate, "" without one."""
    try:
        token = parse_reply(reply)
    except TimestampError:
        return "", ""
    return token.authority, token.issuer


def check_reply(reply: bytes, note: str, nonce: int | None = None) -> Token:
    """Parse a reply and check that it is over `note` and has the query's nonce. Raises TimestampError."""
    token = parse_reply(reply)
    expected = hashlib.sha256(note.encode()).digest()
    if token.imprint != expected:
        raise TimestampError(f"expected a token over {expected.hex()[:16]}…, got {token.imprint.hex()[:16]}…")
    if nonce is not None and token.nonce != nonce:
        raise TimestampError("the nonce differs: the reply does not answer this query")
    return token


class TrustAnchors:
    """Certificates that signatures must chain to; those that are not self-signed serve as intermediates.

    Indexed by subject once: a machine trusts more than a hundred roots, and a token chains to one.
    """

    def __init__(
        self, trusted: Iterable[x509.Certificate], intermediates: Iterable[x509.Certificate] = ()
    ) -> None:
        self._roots: dict[bytes, list[x509.Certificate]] = {}
        self._intermediates: list[x509.Certificate] = []
        for certificate in trusted:
            if certificate.issuer == certificate.subject:
                self._roots.setdefault(certificate.subject.public_bytes(), []).append(certificate)
            else:
                self._intermediates.append(certificate)
        self._intermediates += [
            certificate for certificate in intermediates if certificate.issuer != certificate.subject
        ]

    def verifier_for(self, token: Token) -> Verifier:
        """Return a verifier with the roots that the token may chain to. Raises TimestampError if there are
        none.
        """
        from rfc3161_client import VerifierBuilder

        sent = parse_readable(token.certificates)
        issuers = {certificate.issuer.public_bytes() for certificate in (*sent, *self._intermediates)}
        roots = [root for issuer in issuers for root in self._roots.get(issuer, ())]
        if not roots:
            raise TimestampError("its signature does not lead to a trusted authority: none of them issued it")
        return VerifierBuilder(roots=roots, intermediates=list(self._intermediates)).build()


def verify_reply(reply: bytes, note: str, anchors: TrustAnchors, token: Token | None = None) -> Token:
    """Verify a reply and its signature chain up to a trusted certificate, each valid at the token's time.

    `token`: the result of `check_reply`, if already available. Raises TimestampError.
    """
    from rfc3161_client import decode_timestamp_response

    token = token or check_reply(reply, note)
    try:
        verifier = anchors.verifier_for(token)
        verifier.verify_message(decode_timestamp_response(_to_strict_der(reply)), note.encode())
    except TimestampError:
        raise
    except BaseException as error:  # VerificationError, or on hostile bytes any exception or panic of the parser.
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise TimestampError(f"its signature does not lead to a trusted authority: {_reason(error)}") from None
    return token


def _to_strict_der(reply: bytes) -> bytes:
    """Return the reply in strict DER: certificates sorted, status granted, all else unchanged."""
    from asn1crypto import parser, tsp

    token = tsp.TimeStampResp.load(reply)["time_stamp_token"]
    found = token["content"]["certificates"]
    ordered: bytes = b"".join(sorted(certificate.dump() for certificate in found))
    body = token.dump().replace(found.contents, ordered, 1)
    written: bytes = parser.emit(0, 1, 16, _GRANTED + body)
    return written


def _millis(accuracy: dict[str, int | None]) -> int:
    return (accuracy["seconds"] or 0) * 1000 + (accuracy["millis"] or 0) + (1 if accuracy["micros"] else 0)


def _signer_names(signed: cms.SignedData) -> tuple[str, str]:
    """Return the names of the signer and of its issuer, from the signing certificate, which `sid` identifies by
    issuer and serial number.

    Certificates are not signed: if two match, neither is trusted.
    """
    from asn1crypto import cms

    sid = signed["signer_infos"][0]["sid"].chosen
    found = [certificate.chosen for certificate in signed["certificates"]]
    if isinstance(sid, cms.IssuerAndSerialNumber):
        meant = sid["issuer"].dump(), sid["serial_number"].native
        found = [one for one in found if (one.issuer.dump(), one.serial_number) == meant]
    return (display_name(found[0].subject), display_name(found[0].issuer)) if len(found) == 1 else ("", "")


def display_name(name: x509_asn1.Name) -> str:
    """Return the common name in a name, else all of it, at most 200 characters."""
    return str(name.native.get("common_name") or name.human_friendly)[:200]


def _reason(error: BaseException) -> str:
    """Return the part of OpenSSL's error stack with the reason."""
    text = str(error)
    _, found, rest = text.partition('data: "Verify error: ')
    return rest.split('"')[0] if found else _first_line(error)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:160]


TOKEN_TOLERANCE_MS: Millis = 2_000


"""Tokens have whole seconds, and a typical stated accuracy is about one second."""
