"""What it means that a channel did not take a message: is it the message, the channel, or only now?

Apprise answers True or False. What the service said stands in what it logs: the HTTP status as `error=404`, of a
mail server what smtplib raised, `(550, b'...')`. Words may hold an address or a secret: only codes are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """Why a message was not taken."""

    REFUSED = "refused"
    """For good, and because of the message: the next one may be taken."""
    DENIED = "denied"
    """For good, by the address or its login: whatever is sent is refused until the owner changes something."""
    BUSY = "busy"
    """Not now, said by the service itself (5xx): it may be this message that it stumbles over."""
    SILENT = "silent"
    """Not now, and whatever it is: no connection, no answer, too many messages."""


@dataclass(frozen=True, slots=True)
class NotTaken:
    """`code` is the bare reason, such as "HTTP 404", "" without one; `why` says it in words, without addresses."""

    fault: Fault
    why: str
    code: str = ""


_HTTP = re.compile(r"\berror=(\d{3})(?:\d{2})?\b")
"""ntfy has codes of its own, whose first three digits are the status: 40010."""
_SMTP = re.compile(r"\((\d{3}), b['\"]|was refused: (\d{3})\b")
_LATER = frozenset({408, 425, 429})
"""Request timeout, too early, too many requests (RFC 9110, RFC 8470, RFC 6585)."""
_DENIED = frozenset({401, 402, 403, 404, 407, 410})
_LOGIN = frozenset({530, 534, 535, 538})
"""SMTP authentication (RFC 4954, section 6)."""
_SEVERITY = (Fault.SILENT, Fault.BUSY, Fault.DENIED, Fault.REFUSED)
"""Of several answers, to the pieces of a long text, the one that leaves most hope decides."""


def read(said: Iterable[str]) -> NotTaken:
    """Judge by what Apprise logged."""
    words = " ".join(said)
    found = [(_http(int(code)), f"HTTP {code}") for code in _HTTP.findall(words)]
    found += [(_smtp(int(one or two)), f"SMTP {one or two}") for one, two in _SMTP.findall(words)]
    if found:
        fault, code = min(found, key=lambda each: _SEVERITY.index(each[0]))
        return NotTaken(fault, f"it answered {code.split()[1]}", code)
    if "onnection error" in words or "Exception" in words:
        return NotTaken(Fault.SILENT, "no connection, or the login was refused")
    # Apprise did not even ask, or has a reason of its own: it may be the message.
    return NotTaken(Fault.BUSY, "no reason was given")


def _http(status: int) -> Fault:
    if status in _LATER:
        return Fault.SILENT
    if status >= 500:
        return Fault.BUSY
    # What redirects for ever has moved.
    return Fault.DENIED if status in _DENIED or status < 400 else Fault.REFUSED


def _smtp(code: int) -> Fault:
    if code == 421:
        return Fault.SILENT
    if code < 500:
        return Fault.BUSY
    return Fault.DENIED if code in _LOGIN else Fault.REFUSED
