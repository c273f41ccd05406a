"""Parses delivery reports (RFC 3464) about our messages. Pure."""

from __future__ import annotations

import email
import logging
import re
from dataclasses import dataclass
from email import policy
from email.message import Message

from mailwatch.probes.roundtrip.headers import header_fields
from mailwatch.probes.roundtrip.message import TOKEN_PREFIX, MessageSigner, MessageToken
from mailwatch.times import Millis

logger = logging.getLogger(__name__)

MAX_DIAGNOSTIC_CHARS = 300
MAX_BOUNDARIES = 100
"""Nested parts: the library compares each line with the boundaries of all enclosing parts."""
_TOKEN = re.compile(re.escape(TOKEN_PREFIX).encode() + rb"([0-9a-f]{32})\b")


@dataclass(frozen=True, slots=True)
class DeliveryReport:
    """The content of a report. `proven`: it contains our sealed header, so that it may be deleted."""

    token: str
    action: str
    status: str
    diagnostic: str
    proven: bool
    sent_at: Millis | None = None


def read_delivery_report(message: bytes, signer: MessageSigner) -> DeliveryReport | None:
    """Return the report about a message of ours; None if the message is no such report."""
    try:
        return _read(message, signer)
    except Exception as error:
        # Untrusted: the library parses a part on access, and a part that it cannot parse is no report.
        logger.info("a message is not a readable report: %s", type(error).__name__)
        return None


def _read(message: bytes, signer: MessageSigner) -> DeliveryReport | None:
    """Parse a report; the library has many exceptions for untrusted input, such as HeaderParseError."""
    if message.lower().count(b"boundary") > MAX_BOUNDARIES:
        return None
    parsed = email.message_from_bytes(message, policy=policy.compat32)
    if parsed.get_content_type() != "multipart/report":
        return None
    parts = list(parsed.walk())
    named = _TOKEN.search(message)
    token = _returned_token(parts, signer)
    if named is None and token is None:
        return None
    fields = _recipient_fields(parts)
    return DeliveryReport(
        token=token.token if token else named[1].decode() if named else "",
        action=fields.get("action", "").lower()[:20],
        status=fields.get("status", "")[:20],
        diagnostic=fields.get("diagnostic-code", "")[:MAX_DIAGNOSTIC_CHARS],
        proven=token is not None,
        sent_at=token.sent_at if token else None,
    )


def _recipient_fields(parts: list[Message]) -> dict[str, str]:
    """Return the fields of the first recipient (RFC 3464, section 2.3)."""
    for part in parts:
        if part.get_content_type() == "message/delivery-status":
            for block in part.walk():
                if "action" in block:
                    return {name.lower(): _text(value) for name, value in block.items()}
    return {}


def _text(value: object) -> str:
    """Unfold a field, and replace the lone surrogates of undecodable bytes, which no record takes."""
    return " ".join(str(value).split()).encode("utf-8", "replace").decode()


def _returned_token(parts: list[Message], signer: MessageSigner) -> MessageToken | None:
    for part in parts:
        kind = part.get_content_type()
        if kind == "text/rfc822-headers":
            payload = part.get_payload(decode=True)
            fields = dict(header_fields(payload if isinstance(payload, bytes) else b""))
        elif kind == "message/rfc822" and part.is_multipart():
            inner = part.get_payload()
            returned = inner[0] if isinstance(inner, list) else None
            # The raw fields: the library refuses to rewrite a field with, for example, a vertical tab.
            raw = returned.raw_items() if isinstance(returned, Message) else ()
            fields = {name.lower(): _text(value) for name, value in raw}
        else:
            continue
        if (mark := signer.recognise(fields)) is not None:
            return mark
    return None
