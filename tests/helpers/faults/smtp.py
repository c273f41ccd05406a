"""Faults of SMTP submission. The ladder: greeting, EHLO, AUTH, MAIL, RCPT, RSET; nothing is sent."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase, TlsMode
from tests.helpers.faults.fault import USER, Fault, closed_port, full_backlog, no_such_name, plays
from tests.helpers.faults.secured import TLS, of_another, secured, self_made
from tests.helpers.scripted_server import CLOSE, HELLO, RESET, SILENCE, Endless, Step

GREETING = b"220 mail.example.org ready\r\n"
EHLO: list[Step] = [GREETING, "^EHLO "]
OFFER = b"250-mail.example.org\r\n250 AUTH PLAIN LOGIN\r\n"
AUTH: list[Step] = [*EHLO, OFFER, "^AUTH PLAIN "]
MAIL: list[Step] = [*AUTH, b"235 2.7.0 in\r\n", f"^MAIL FROM:<{USER}>"]
RCPT: list[Step] = [*MAIL, b"250 2.1.0 ok\r\n", f"^RCPT TO:<{USER}>"]
RSET: list[Step] = [*RCPT, b"250 2.1.5 ok\r\n", "^RSET"]
END: list[Step] = [b"250 2.0.0 ok\r\n", "^QUIT", b"221 2.0.0 bye\r\n"]
PLAIN: list[Step] = [*EHLO, b"250-mail.example.org\r\n250 STARTTLS\r\n", "^STARTTLS", b"220 go on\r\n"]

_fault = partial(Fault, kind=Kind.SMTP)


def _says(
    answer: bytes, cause: Cause, phase: Phase, *, after: list[Step], to: str = "", what: str = "", lesson: str = ""
) -> Fault:
    return _fault(
        what=what or f"says `{answer.decode().strip()}`" + (f" to {to}" if to else ""),
        cause=cause,
        phase=phase,
        place=plays(*after, answer, CLOSE),
        lesson=lesson,
    )


FAULTS: list[Fault] = [
    _fault(what="everything works", cause=None, phase=None, place=plays(*RSET, *END)),
    _fault(what="the name does not resolve", cause=Cause.DNS, phase=Phase.RESOLVE, place=no_such_name),
    _fault(what="no program listens on the port", cause=Cause.REFUSED, phase=Phase.CONNECT, place=closed_port),
    _fault(
        what="the connection is never accepted",
        cause=Cause.TIMEOUT,
        phase=Phase.CONNECT,
        place=full_backlog,
        lesson="a timeout on port 25 was counted as online (OneUptime)",
    ),
    _fault(
        what="silence instead of the greeting", cause=Cause.TIMEOUT, phase=Phase.GREETING, place=plays(SILENCE)
    ),
    _fault(what="silence after EHLO", cause=Cause.TIMEOUT, phase=Phase.GREETING, place=plays(*EHLO, SILENCE)),
    _fault(what="silence after AUTH", cause=Cause.TIMEOUT, phase=Phase.AUTH, place=plays(*AUTH, SILENCE)),
    _fault(what="silence after RCPT", cause=Cause.TIMEOUT, phase=Phase.SUBMIT, place=plays(*RCPT, SILENCE)),
    _fault(what="the connection is reset", cause=Cause.DISCONNECTED, phase=Phase.GREETING, place=plays(RESET)),
    _fault(
        what="the connection ends in the login",
        cause=Cause.DISCONNECTED,
        phase=Phase.AUTH,
        place=plays(*AUTH, CLOSE),
    ),
    _says(b"421 4.3.2 closing\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(b"421 4.7.0 too many connections from you\r\n", Cause.THROTTLED, Phase.GREETING, after=[]),
    _says(b"554 5.3.2 no service\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(b"* OK IMAP4rev1\r\n", Cause.PROTOCOL, Phase.GREETING, after=[], what="speaks IMAP on the SMTP port"),
    _says(b"250 strange\r\n", Cause.PROTOCOL, Phase.GREETING, after=[]),
    _fault(
        what="a reply without end",
        cause=Cause.PROTOCOL,
        phase=Phase.GREETING,
        place=plays(*EHLO, Endless(b"250-more\r\n" * 1000)),
    ),
    _says(b"535 5.7.8 no\r\n", Cause.CREDENTIALS, Phase.AUTH, after=AUTH, to="AUTH"),
    _says(b"534 5.7.9 mechanism too weak\r\n", Cause.CREDENTIALS, Phase.AUTH, after=AUTH, to="AUTH"),
    _says(b"454 4.7.0 directory down\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=AUTH, to="AUTH"),
    _says(b"454 4.7.0 Too many login attempts\r\n", Cause.THROTTLED, Phase.AUTH, after=AUTH, to="AUTH"),
    _says(b"421 4.4.2 timeout\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=AUTH, to="AUTH"),
    _says(
        b"530 5.7.0 log in first\r\n",
        Cause.REJECTED,
        Phase.SUBMIT,
        after=MAIL,
        to="MAIL FROM",
        lesson="530 after MAIL FROM was reported OK (check_smtp)",
    ),
    _says(b"451 4.3.0 queue full\r\n", Cause.UNAVAILABLE, Phase.SUBMIT, after=MAIL, to="MAIL FROM"),
    _says(b"450 4.7.1 rate exceeded\r\n", Cause.THROTTLED, Phase.SUBMIT, after=MAIL, to="MAIL FROM"),
    _says(b"550 5.1.1 nobody here\r\n", Cause.REJECTED, Phase.SUBMIT, after=RCPT, to="RCPT TO"),
    _says(b"552 5.2.2 mailbox full\r\n", Cause.REJECTED, Phase.SUBMIT, after=RCPT, to="RCPT TO"),
    _says(b"354 go on\r\n", Cause.PROTOCOL, Phase.SUBMIT, after=RCPT, to="RCPT TO"),
    _fault(
        what="plain text where TLS should begin",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(HELLO, GREETING, SILENCE, tls=TlsMode.IMPLICIT),
        says="answer is not TLS",
    ),
    _fault(
        what="the certificate is for another name",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(SILENCE, issue=of_another),
        says="not 127.0.0.1",
    ),
    _fault(
        what="the certificate is by an unknown authority, behind STARTTLS",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(*PLAIN, TLS, SILENCE, issue=self_made, tls=TlsMode.STARTTLS),
        says="issuer not trusted",
    ),
    _fault(
        what="STARTTLS is not offered",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(*EHLO, OFFER, SILENCE, tls=TlsMode.STARTTLS),
    ),
    _fault(
        what="says `454 4.7.0 TLS not available` to STARTTLS",
        cause=Cause.UNAVAILABLE,
        phase=Phase.TLS,
        place=plays(*PLAIN[:4], b"454 4.7.0 TLS not available\r\n", CLOSE, tls=TlsMode.STARTTLS),
    ),
]
