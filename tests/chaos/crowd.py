"""The hostile servers, and a few that keep the rules; each follows a script (tests/helpers/scripted_server.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailwatch.model import Kind, TlsMode
from tests.helpers.scripted_server import CLOSE, HELLO, RESET, Endless, Step

IMAP: list[Step] = [
    b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN] ready\r\n",
    "LOGIN ",
    b"TAG OK in\r\n",
    "EXAMINE ",
    b"* 2 EXISTS\r\nTAG OK [READ-ONLY] open\r\n",
    "FETCH ",
    b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {13}\r\nDate: now\r\n\r\n)\r\nTAG OK done\r\n",
    "LOGOUT",
    b"* BYE\r\nTAG OK\r\n",
]
SMTP: list[Step] = [
    b"220 ready\r\n",
    "EHLO ",
    b"250-mail.example.org\r\n250 AUTH PLAIN LOGIN\r\n",
    "AUTH PLAIN ",
    b"235 2.7.0 in\r\n",
    "MAIL ",
    b"250 2.1.0 ok\r\n",
    "RCPT ",
    b"250 2.1.5 ok\r\n",
    "RSET",
    b"250 2.0.0 ok\r\n",
    "QUIT",
    b"221 bye\r\n",
]
POP3: list[Step] = [
    b"+OK ready\r\n",
    "CAPA",
    b"+OK\r\nUSER\r\nTOP\r\n.\r\n",
    "USER ",
    b"+OK\r\n",
    "PASS ",
    b"+OK in\r\n",
    "STAT",
    b"+OK 0 0\r\n",
    "QUIT",
    b"+OK bye\r\n",
]


@dataclass(frozen=True, slots=True)
class Member:
    """One server. `raw`: the script begins in clear text where the client expects TLS."""

    name: str
    kind: Kind
    script: Sequence[Step]
    tls: TlsMode = TlsMode.NONE
    raw: bool = False


def _imap(name: str, at: int, *steps: Step, tls: TlsMode = TlsMode.NONE) -> Member:
    """Keeps the rules for the first `at` steps."""
    return Member(f"imap {name}", Kind.IMAP, [*IMAP[:at], *steps], tls)


def _smtp(name: str, at: int, *steps: Step) -> Member:
    return Member(f"smtp {name}", Kind.SMTP, [*SMTP[:at], *steps])


def _pop3(name: str, at: int, *steps: Step) -> Member:
    return Member(f"pop3 {name}", Kind.POP3, [*POP3[:at], *steps])


HEALTHY = (
    Member("good imap", Kind.IMAP, IMAP),
    Member("good imap behind TLS", Kind.IMAP, IMAP, TlsMode.IMPLICIT),
    Member("good smtp behind TLS", Kind.SMTP, SMTP, TlsMode.IMPLICIT),
    Member("good pop3", Kind.POP3, POP3),
)
SILENT_SCRIPT = ("",) * 1000
"""Says nothing more, and notices that the client leaves, as SILENCE does not."""
LETTERS = b"A" * 65_000
GARBAGE = b"\x16\x03\x03\xff\xff" * 999
DRIP = Endless(b"x", pause=0.5)

CROWD = (
    _imap("says nothing", 0, *SILENT_SCRIPT),
    _imap("resets", 0, RESET),
    _imap("hangs up", 0, CLOSE),
    _imap("binary", 0, bytes(range(256)) * 16, *SILENT_SCRIPT),
    _imap("in UTF-16", 0, "* OK ready\r\n".encode("utf-16"), *SILENT_SCRIPT),
    _imap("drips", 0, DRIP),
    _imap("a line without end", 0, Endless(b"* OK" + b"x" * 60_000)),
    _imap("lines without end", 0, Endless((b"* OK " + b"more " * 40 + b"\r\n") * 200)),
    _imap("a bracket and 65,000 letters", 2, b"TAG NO [" + LETTERS + b"\r\n", *SILENT_SCRIPT),
    _imap("65,000 brackets", 2, b"TAG NO " + b"[" * 65_000 + b"\r\n", *SILENT_SCRIPT),
    _imap("65,000 spaces", 2, b"TAG NO" + b" " * 65_000 + b"x\r\n", *SILENT_SCRIPT),
    _imap("65,000 quotes", 4, b'* LIST () "' + b'\\"' * 30_000 + b"\r\nTAG NO no\r\n", *SILENT_SCRIPT),
    _imap("another's tag", 2, b"zzz OK in\r\n", *SILENT_SCRIPT),
    _imap("continues for ever", 2, Endless(b"+ go on\r\n", pause=0.1)),
    _imap("a literal of a gigabyte", 6, b"* 2 FETCH (BODY[] {1073741824}\r\n", Endless(b"x" * 60_000)),
    _imap("a negative literal", 6, b"* 2 FETCH (BODY[] {-1}\r\nTAG OK\r\n", *SILENT_SCRIPT),
    _imap("a literal of 10^30", 6, b"* 2 FETCH (BODY[] {" + b"9" * 30 + b"}\r\n", *SILENT_SCRIPT),
    _imap("10^4000 messages", 4, b"* " + b"9" * 4_000 + b" EXISTS\r\nTAG OK\r\n", *SILENT_SCRIPT),
    _imap("leaves in the middle", 6, b"* 2 FETCH (BODY[HEADER.FIELDS (DATE)] {13}\r\nDate", CLOSE),
    _imap("resets behind TLS", 4, RESET, tls=TlsMode.IMPLICIT),
    _imap("floods behind TLS", 2, Endless(b"x" * 60_000), tls=TlsMode.IMPLICIT),
    Member("imap no TLS at all", Kind.IMAP, [b"* OK clear text\r\n", *SILENT_SCRIPT], TlsMode.IMPLICIT, raw=True),
    Member("imap a handshake without end", Kind.IMAP, [HELLO, *SILENT_SCRIPT], TlsMode.IMPLICIT, raw=True),
    Member(
        "imap garbage for a handshake", Kind.IMAP, [HELLO, GARBAGE, *SILENT_SCRIPT], TlsMode.IMPLICIT, raw=True
    ),
    _smtp("says nothing", 0, *SILENT_SCRIPT),
    _smtp("a greeting without end", 0, Endless((b"220-" + b"more " * 40 + b"\r\n") * 200)),
    _smtp("code 999", 2, b"999 what\r\n", *SILENT_SCRIPT),
    _smtp("no code", 2, b"\r\n\r\n\r\n", CLOSE),
    _smtp("two answers at once", 2, b"500 no\r\n250 yes\r\n", *SILENT_SCRIPT),
    _smtp("65,000 dashes", 2, b"250-" + b"-" * 65_000 + b"\r\n", *SILENT_SCRIPT),
    _smtp("challenges for ever", 4, Endless(b"334 bW9yZQ==\r\n", pause=0.1)),
    _smtp("a domain of 65,000 letters", 4, b"454 4.7.0 " + b"a." * 30_000 + b"\r\n", *SILENT_SCRIPT),
    _pop3("says nothing", 0, *SILENT_SCRIPT),
    _pop3("a list without end", 2, b"+OK\r\n", Endless((b"TOP " + b"more " * 40 + b"\r\n") * 200)),
    _pop3("65,000 brackets", 6, b"-ERR " + b"[" * 65_000 + b"\r\n", *SILENT_SCRIPT),
    _pop3("a number of 4,000 digits", 8, b"+OK " + b"9" * 4_000 + b" 1\r\n", *SILENT_SCRIPT),
)
