"""Faults of POP3. The ladder: greeting, CAPA, USER and PASS, STAT, TOP of the newest message."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase, TlsMode
from tests.helpers.faults.fault import PASSWORD, USER, Fault, closed_port, plays
from tests.helpers.faults.secured import expired, secured
from tests.helpers.scripted_server import CLOSE, RESET, SILENCE, Endless, Step

CAPA: list[Step] = [b"+OK ready\r\n", "^CAPA"]
OFFER = b"+OK\r\nUSER\r\nTOP\r\n.\r\n"
PASS: list[Step] = [*CAPA, OFFER, f"^USER {USER}", b"+OK\r\n", f"^PASS {PASSWORD}"]
STAT: list[Step] = [*PASS, b"+OK in\r\n", "^STAT"]
TOP: list[Step] = [*STAT, b"+OK 2 99\r\n", "^TOP 2 0"]

_fault = partial(Fault, kind=Kind.POP3)


def _says(answer: bytes, cause: Cause, phase: Phase, *, after: list[Step], what: str = "") -> Fault:
    return _fault(
        what=what or f"says `{answer.decode().strip()}`",
        cause=cause,
        phase=phase,
        place=plays(*after, answer, SILENCE) if cause is Cause.TIMEOUT else plays(*after, answer, CLOSE),
    )


FAULTS: list[Fault] = [
    _fault(
        what="everything works",
        cause=None,
        phase=None,
        place=plays(*TOP, b"+OK\r\nSubject: hi\r\n\r\n.\r\n", "^QUIT", b"+OK\r\n"),
    ),
    _fault(what="no program listens on the port", cause=Cause.REFUSED, phase=Phase.CONNECT, place=closed_port),
    _fault(
        what="silence instead of the greeting", cause=Cause.TIMEOUT, phase=Phase.GREETING, place=plays(SILENCE)
    ),
    _fault(what="silence after PASS", cause=Cause.TIMEOUT, phase=Phase.AUTH, place=plays(*PASS, SILENCE)),
    _fault(
        what="silence in a message", cause=Cause.TIMEOUT, phase=Phase.FETCH, place=plays(*TOP, b"+OK\r\n", SILENCE)
    ),
    _fault(what="the connection is reset", cause=Cause.DISCONNECTED, phase=Phase.AUTH, place=plays(*PASS, RESET)),
    _says(b"-ERR [SYS/TEMP] back soon\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(b"-ERR too many connections\r\n", Cause.THROTTLED, Phase.GREETING, after=[]),
    _says(b"220 hello\r\n", Cause.PROTOCOL, Phase.GREETING, after=[], what="speaks SMTP on the POP3 port"),
    _fault(
        what="capabilities without end",
        cause=Cause.PROTOCOL,
        phase=Phase.GREETING,
        place=plays(*CAPA, b"+OK\r\n", Endless(b"x\r\n" * 1000)),
    ),
    _says(b"-ERR [AUTH] no\r\n", Cause.CREDENTIALS, Phase.AUTH, after=PASS),
    _says(b"-ERR bad password\r\n", Cause.CREDENTIALS, Phase.AUTH, after=PASS),
    _says(b"-ERR [SYS/TEMP] directory down\r\n", Cause.UNAVAILABLE, Phase.AUTH, after=PASS),
    _says(b"-ERR [IN-USE] mailbox locked\r\n", Cause.THROTTLED, Phase.AUTH, after=PASS),
    _says(b"-ERR [LOGIN-DELAY] wait\r\n", Cause.THROTTLED, Phase.AUTH, after=PASS),
    _says(b"-ERR no mailbox\r\n", Cause.MAILBOX, Phase.MAILBOX, after=STAT),
    _says(b"+OK lots\r\n", Cause.PROTOCOL, Phase.MAILBOX, after=STAT),
    _says(b"-ERR gone\r\n", Cause.MAILBOX, Phase.FETCH, after=TOP),
    _fault(
        what="the certificate expired",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=secured(SILENCE, issue=expired),
        says="certificate expired",
    ),
    _fault(
        what="STLS is not offered",
        cause=Cause.TLS,
        phase=Phase.TLS,
        place=plays(*CAPA, OFFER, CLOSE, tls=TlsMode.STARTTLS),
    ),
]
