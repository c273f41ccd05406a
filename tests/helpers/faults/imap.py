"""Faults of IMAP. The ladder: greeting, LOGIN, EXAMINE, FETCH of the newest message's date."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Outcome, Phase, TlsMode
from tests.helpers.faults.fault import (
    PASSWORD,
    USER,
    Fault,
    closed_port,
    full_backlog,
    no_route,
    no_such_name,
    plays,
)
from tests.helpers.faults.secured import TLS, expired, of_another, secured, self_made
from tests.helpers.scripted_server import CLOSE, HELLO, RESET, SILENCE, Endless, Step

GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n"
LOGIN: list[Step] = [GREETING, f'LOGIN "{USER}" "{PASSWORD}"']
EXAMINE: list[Step] = [*LOGIN, b"TAG OK in\r\n", "EXAMINE INBOX"]
FETCH: list[Step] = [*EXAMINE, b"* 2 EXISTS\r\nTAG OK [READ-ONLY] open\r\n", "FETCH 2 BODY"]
END: list[Step] = [b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {2}\r\n\r\n)\r\nTAG OK\r\n", "LOGOUT", b"TAG OK\r\n"]
PLAIN: list[Step] = [b"* OK [CAPABILITY IMAP4rev1 STARTTLS] ready\r\n", "STARTTLS", b"TAG OK go on\r\n"]

_fault = partial(Fault, kind=Kind.IMAP)


def _says(
    answer: bytes, cause: Cause, phase: Phase, *, after: list[Step], what: str = "", lesson: str = ""
) -> Fault:
    return _fault(
        what=what or f"says `{answer.decode().strip().replace('TAG', 'a1')}`",
        cause=cause,
        phase=phase,
        place=plays(*after, answer, SILENCE),
        lesson=lesson,
    )


FAULTS: list[Fault] = [
    _fault(what="everything works", cause=None, phase=None, place=plays(*FETCH, *END)),
    _fault(what="the name does not resolve", cause=Cause.DNS, phase=Phase.RESOLVE, place=no_such_name),
    _fault(what="no program listens on the port", cause=Cause.REFUSED, phase=Phase.CONNECT, place=closed_port),
    _fault(what="there is no route to the address", cause=Cause.UNREACHABLE, phase=Phase.CONNECT, place=no_route),
    _fault(
        what="the connection is never accepted",
        cause=Cause.TIMEOUT,
        phase=Phase.CONNECT,
        place=full_backlog,
        lesson="a timeout was counted as online (OneUptime)",
    ),
    _fault(
        what="silence instead of the greeting",
        cause=Cause.TIMEOUT,
        phase=Phase.GREETING,
        place=plays(SILENCE),
        lesson="a command without a deadline hangs for ever (tonobo, statping-ng, kmille)",
    ),
    _fault(what="silence after the login", cause=Cause.TIMEOUT, phase=Phase.AUTH, place=plays(*LOGIN, SILENCE)),
    _fault(what="silence after EXAMINE", cause=Cause.TIMEOUT, phase=Phase.MAILBOX, place=plays(*EXAMINE, SILENCE)),
    _fault(
        what="a message that stops in the middle",
        cause=Cause.TIMEOUT,
        phase=Phase.FETCH,
        place=plays(*FETCH, b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {99}\r\nDate:", SILENCE),
    ),
    _fault(what="the connection is reset", cause=Cause.DISCONNECTED, phase=Phase.GREETING, place=plays(RESET)),
    _fault(
        what="the connection ends in the login",
        cause=Cause.DISCONNECTED,
        phase=Phase.AUTH,
        place=plays(*LOGIN, CLOSE),
    ),
    _says(b"* BYE back at six\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(b"* BYE Too many connections\r\n", Cause.THROTTLED, Phase.GREETING, after=[]),
    _says(b"220 hello\r\n", Cause.PROTOCOL, Phase.GREETING, after=[], what="speaks SMTP on the IMAP port"),
    _fault(
        what="a line without end",
        cause=Cause.PROTOCOL,
        phase=Phase.GREETING,
        place=plays(Endless(b"x" * 65536)),
    ),
    _fault(
        what="a message of a gigabyte",
        cause=Cause.PROTOCOL,
        phase=Phase.FETCH,
        place=plays(*FETCH, b"* 2 FETCH (BODY[] {1073741824}\r\n", Endless(b"x" * 65536)),
    ),
    _says(
        b"TAG NO [AUTHENTICATIONFAILED] no\r\n",
        Cause.CREDENTIALS,
        Phase.AUTH,
        after=LOGIN,
        lesson="a wrong password was reported up (imap_exporter)",
    ),
    _says(b"TAG NO [EXPIRED] password too old\r\n", Cause.CREDENTIALS, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO Invalid user or password\r\n", Cause.CREDENTIALS, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO [UNAVAILABLE] directory down\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO Temporary authentication failure\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO [LIMIT] slow down\r\n", Cause.THROTTLED, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO [INUSE] other session\r\n", Cause.THROTTLED, Phase.AUTH, after=LOGIN),
    _says(b"TAG BAD what\r\n", Cause.PROTOCOL, Phase.AUTH, after=LOGIN),
    _says(b"* BYE shutting down\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=LOGIN),
    _says(b"TAG NO [SERVERBUG] Internal error\r\n", Cause.MAILBOX, Phase.MAILBOX, after=EXAMINE),
    _says(b"TAG NO [NONEXISTENT] no such mailbox\r\n", Cause.MAILBOX, Phase.MAILBOX, after=EXAMINE),
    _says(b"TAG NO cannot read\r\n", Cause.MAILBOX, Phase.FETCH, after=FETCH),
    _says(b"TAG OK nothing\r\n", Cause.MAILBOX, Phase.FETCH, after=FETCH, what="answers without the message"),
    _fault(
        what="the certificate expired",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(SILENCE, issue=expired),
        says="certificate expired on 2020-01-01T00:00:00Z",
    ),
    _fault(
        what="the certificate is for another name",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(SILENCE, issue=of_another),
        says="certificate is for other.example, not 127.0.0.1",
    ),
    _fault(
        what="the certificate is by an unknown authority",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(SILENCE, issue=self_made),
        says="issuer not trusted",
    ),
    _fault(
        what="plain text where TLS should begin",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(HELLO, GREETING, SILENCE, tls=TlsMode.IMPLICIT),
        says="answer is not TLS",
        lesson="587 was spoken to as implicit TLS (statping-ng)",
    ),
    _fault(
        what="silence in the handshake",
        cause=Cause.TIMEOUT,
        phase=Phase.TLS,
        place=plays(SILENCE, tls=TlsMode.IMPLICIT),
    ),
    _fault(
        what="STARTTLS is not offered",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(GREETING, SILENCE, tls=TlsMode.STARTTLS),
        says="does not offer STARTTLS",
    ),
    _fault(
        what="plain text slipped in behind STARTTLS",
        cause=Cause.PROTOCOL,
        phase=Phase.TLS,
        place=plays(*PLAIN[:2], b"TAG OK go on\r\n* OK injected\r\n", SILENCE, tls=TlsMode.STARTTLS),
    ),
    _fault(
        what="the certificate expired, behind STARTTLS",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(*PLAIN, TLS, SILENCE, issue=expired, tls=TlsMode.STARTTLS),
        says="certificate expired",
    ),
    _fault(
        what="PREAUTH before STARTTLS, which would send everything in the clear",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(b"* PREAUTH [CAPABILITY IMAP4rev1 STARTTLS] hi\r\n", SILENCE, tls=TlsMode.STARTTLS),
    ),
    _fault(
        what="the goodbye is not answered",
        cause=None,
        phase=None,
        outcome=Outcome.UP,
        place=plays(*FETCH, END[0], "LOGOUT", CLOSE),
    ),
]
