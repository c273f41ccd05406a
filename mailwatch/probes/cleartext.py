"""Reads the clear text of a server where TLS should begin, which mostly refuses to serve us now.

Exim, for example, refuses connections beyond its limit before the handshake, also on the ports with implicit TLS
(RFC 8314, section 3). OpenSSL reports a wrong version; a person reads "too many connections".
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl

from mailwatch.model import Kind

MAX_CLEARTEXT_BYTES = 1000
"""Bytes of clear text that are kept."""
REST_SECONDS = 1.0
"""Seconds to wait for the rest of a line: a refusal may come in several packets."""
_RECORD_TYPES = frozenset(range(20, 25))
"""The first bytes of TLS records (RFC 8446, section 5.1)."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_REFUSALS = {
    Kind.SMTP: re.compile(r"[45]\d\d(?:[ -]|$)"),
    Kind.IMAP: re.compile(r"\* (?:BYE|NO|BAD)\b", re.IGNORECASE),
    Kind.POP3: re.compile(r"-ERR\b", re.IGNORECASE),
}


def append_cleartext(received: bytes, more: bytes) -> bytes:
    """Return `received` with `more` appended, as long as it may be clear text."""
    if received and received[0] in _RECORD_TYPES:
        return received
    return (received + more)[:MAX_CLEARTEXT_BYTES]


async def read_rest(error: OSError, duplicate: socket.socket) -> None:
    """Read the rest of the clear text after the handshake failed with `error`, and attach it to `error`.

    `duplicate` is a duplicate of the connection's socket. How the text was split into packets must not matter.
    """
    if not isinstance(error, (ssl.SSLError, ConnectionError)):
        return
    cleartext: bytes = getattr(error, "cleartext", b"")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(REST_SECONDS):
            while not _is_complete(cleartext) and (more := await loop.sock_recv(duplicate, MAX_CLEARTEXT_BYTES)):
                cleartext = append_cleartext(cleartext, more)
    except OSError:
        pass  # Reset or silent: nothing more will come.
    error.cleartext = cleartext  # type: ignore[union-attr]


def cleartext_of(error: BaseException) -> str:
    """Return the clear text attached to a failed handshake's `error`, "" if it was no text."""
    cleartext: bytes = getattr(error, "cleartext", b"")
    text = cleartext.decode("utf-8", "backslashreplace").replace("\r\n", "\n").strip()
    return "" if _CONTROLS.search(text) else text


def is_refusal(kind: Kind, text: str) -> bool:
    """Return whether `text` is how a server of this protocol refuses a connection instead of greeting."""
    pattern = _REFUSALS.get(kind)
    return bool(pattern and pattern.match(text))


def _is_complete(cleartext: bytes) -> bool:
    """Return whether the text is complete: TLS, or long enough, or a last line (RFC 5321, section 4.2.1)."""
    if len(cleartext) >= MAX_CLEARTEXT_BYTES or (cleartext and cleartext[0] in _RECORD_TYPES):
        return True
    lines = cleartext.split(b"\n")
    return len(lines) > 1 and not lines[-1] and not re.match(rb"\d\d\d-", lines[-2])
