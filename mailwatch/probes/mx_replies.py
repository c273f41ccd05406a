"""What an exchanger's refusal means: is it about the recipient, about us, or about the service?

Enhanced status codes: RFC 3463; those of the sender's name and address: RFC 7372 and the IANA registry.
"""

from __future__ import annotations

import re

from mailwatch.models import Cause
from mailwatch.probes.failures import Failed, SmtpRefused

NOT_FROM_HERE = "not possible from here"
_LINE = re.compile(
    r"spamhaus|spamcop|sorbs|barracuda|uceprotect|\b[spx]bl\b|\bzen\b|dnsbl|\brbl\b"
    r"|(?:black|block|deny) ?list|\bblocked (?:using|by|due|because)|\bbanned"
    r"|\b(?:ip|host|client|address|network|connections?)\b[^;]{0,60}\bblocked"
    r"|\bdynamic\b|dial-?up|residential|\breputation\b"
    r"|reverse (?:dns|hostname|lookup|name)|\brdns\b|\bptr\b|cannot find your (?:reverse )?hostname"
    r"|\bhelo command rejected|\b(?:invalid|bad) (?:helo|ehlo)",
    re.IGNORECASE,
)
_GREYLIST = re.compile(r"gr[ae]y[- ]?list|postgrey|greyd", re.IGNORECASE)
_NO_SERVICE = re.compile(
    r"service (?:is )?(?:currently |temporarily )?(?:unavailable|not available)", re.IGNORECASE
)
_OF_THE_SENDER = frozenset({"1.7", "1.8", "7.23", "7.24", "7.25", "7.26", "7.27"})
"""Of the sender's address, and SPF, reverse name, several proofs and null MX of the sender."""
_OF_THE_RECIPIENT = ("1.", "2.")
_WANTS_MORE = frozenset({530, 538})
"""A login or TLS first (RFC 4954, RFC 3207), which no stranger could give: it is nobody's exchanger then."""
_SYNTAX = frozenset({500, 501, 502, 503, 504})
_OURS_AT = frozenset({"greeting", "EHLO", "HELO", "MAIL", "unasked"})
"""Where the exchanger knows nothing but our address and name."""


def judged(reply: SmtpRefused) -> Exception:
    """Return the reply as a failure with its cause, or as it is where no exchanger judges otherwise than SMTP."""
    if 400 <= reply.code <= 599 and reply.step != "STARTTLS":
        if _about_us(reply):
            return Failed(Cause.OFFLINE, f"{NOT_FROM_HERE}: {reply}", reply.words)
        if reply.code < 500 and _asks_for_patience(reply):
            return Failed(Cause.THROTTLED, str(reply), reply.words)
        if reply.code >= 500 and reply.step in _OURS_AT - {"greeting"} and reply.code not in _SYNTAX:
            return Failed(Cause.REJECTED, str(reply), reply.words)
    return reply


def _about_us(reply: SmtpRefused) -> bool:
    """Whether our own line or sender is refused: others may well be served."""
    detail = reply.status[2:]
    if detail in _OF_THE_SENDER:
        return True
    if detail.startswith(_OF_THE_RECIPIENT) or _GREYLIST.search(reply.text):
        return False
    if _LINE.search(reply.text):
        return True
    # 7 is security and policy; at RCPT it may be about the recipient, such as "relay access denied".
    policy = reply.code >= 500 and detail.startswith("7.") and reply.step in _OURS_AT
    return policy and reply.code not in _WANTS_MORE


def _asks_for_patience(reply: SmtpRefused) -> bool:
    """Whether strangers are made to wait. A filter that is out of order says 4.7.1 too, in other words."""
    policy = reply.status.startswith("4.7.") and not _NO_SERVICE.search(reply.text)
    return bool(_GREYLIST.search(reply.text)) or policy
