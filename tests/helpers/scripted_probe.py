"""A probe of a server that follows a script (RFC 3501, RFC 5321)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pydantic import SecretStr

from mailwatch.model import Kind, Observation, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Login, Target
from tests.helpers.scripted_server import Step, scripted_server

PASSWORD = 'canary-0123-p"a\\s'
USER = "mario.rossi@example.org"
LOGIN = Login(username=USER, password=SecretStr(PASSWORD))
IMAP_GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN STARTTLS] ready\r\n"
IMAP: list[Step] = [
    IMAP_GREETING,
    r"LOGIN ",
    b"TAG OK in\r\n",
    r"EXAMINE INBOX\r\n$",
    b"* 2 EXISTS\r\nTAG OK [READ-ONLY] open\r\n",
    r"FETCH 2 BODY\.PEEK\[HEADER\.FIELDS \(DATE\)\]\r\n$",
    b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {13}\r\nDate: now\r\n\r\n)\r\nTAG OK done\r\n",
    r"LOGOUT",
    b"* BYE\r\nTAG OK\r\n",
]
SMTP_HELLO = b"250-mail.example.org\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN\r\n"
SMTP: list[Step] = [
    b"220-mail.example.org\r\n220 ready\r\n",
    r"^EHLO \[127\.0\.0\.1\]\r\n$",
    SMTP_HELLO,
    r"^AUTH PLAIN ",
    b"235 2.7.0 in\r\n",
    rf"^MAIL FROM:<{USER}>\r\n$",
    b"250 2.1.0 ok\r\n",
    rf"^RCPT TO:<{USER}>\r\n$",
    b"250 2.1.5 ok\r\n",
    r"^RSET\r\n$",
    b"250 2.0.0 ok\r\n",
    r"^QUIT\r\n$",
    b"221 bye\r\n",
]


def at(port: int, kind: Kind = Kind.IMAP, tls: TlsMode = TlsMode.NONE, **changes: Any) -> Target:
    """A target on loopback, with a login and little patience."""
    target = Target(
        name="lab", kind=kind, host="127.0.0.1", port=port, tls=tls, login=LOGIN, timeout=2.0, provider="lab"
    )
    return replace(target, **changes)


async def probe(target: Target, **options: Any) -> Observation:
    return await observe(ProbeRequest(target, scheduled_at=1, contexts=TlsContexts(), **options))


async def probe_script(script: Sequence[Step], kind: Kind = Kind.IMAP, **changes: Any) -> Observation:
    """Probe once at a server that plays the script."""
    async with scripted_server(script) as port:
        return await probe(at(port, kind, **changes))
