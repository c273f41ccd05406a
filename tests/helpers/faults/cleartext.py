"""What servers say in the clear where TLS should begin."""

from __future__ import annotations

from mailwatch.model import Cause, Kind, Phase, TlsMode
from tests.helpers.faults.fault import Fault, plays
from tests.helpers.scripted_server import HELLO


def _refused(kind: Kind, what: str, cause: Cause, *script: bytes) -> Fault:
    place = plays(script[0], HELLO, *script[1:], tls=TlsMode.IMPLICIT)
    return Fault(
        kind=kind,
        what=f"{what}, in the clear before the handshake (implicit TLS)",
        cause=cause,
        phase=Phase.TLS,
        place=place,
        says="refused unencrypted, before TLS",
    )


FAULTS: list[Fault] = [
    _refused(Kind.IMAP, "BYE, too many connections", Cause.THROTTLED, b"* BYE Too many ", b"connections\r\n"),
    _refused(Kind.IMAP, "BYE, no service now", Cause.UNAVAILABLE, b"* BYE Server shutting down\r\n"),
    _refused(
        Kind.SMTP,
        "421, too many concurrent connections",
        Cause.THROTTLED,
        b"421 Too many concurrent ",
        b"SMTP connections; please try again later.\r\n",
    ),
    _refused(Kind.SMTP, "421, no service now", Cause.UNAVAILABLE, b"421-mail.example.org\r\n", b"421 closing\r\n"),
    _refused(Kind.POP3, "-ERR, too many connections", Cause.THROTTLED, b"-ERR Too many connections\r\n"),
    _refused(Kind.POP3, "-ERR, no service now", Cause.UNAVAILABLE, b"-ERR [SYS/TEMP] ", b"shutting down\r\n"),
]
