"""What POP3 servers said. Response codes: RFC 2449, section 8, and RFC 3206."""

from __future__ import annotations

from functools import partial

from mailwatch.model import Cause, Kind, Phase
from tests.dialogues.dialogue import UP, Dialogue, Step, Then, not_up

_pop3 = partial(Dialogue, kind=Kind.POP3)
AUTH, FETCH = Phase.AUTH, Phase.FETCH
THROTTLED, CREDENTIALS = Cause.THROTTLED, Cause.CREDENTIALS
UNAVAILABLE, MAILBOX = Cause.UNAVAILABLE, Cause.MAILBOX

DIALOGUES = (
    _pop3(
        name="login-limit-for-15-minutes",
        steps=(
            Step(
                "PASS",
                "-ERR Exceeded the login limit for a 15 minute period. "
                "Reduce the frequency of requests to the POP3 server.",
            ),
        ),
        right=not_up(AUTH, THROTTLED),
        source="frappe #242",
        why="We come too often.",
    ),
    _pop3(
        name="pop3-in-use-by-pid",
        steps=(Step("PASS", "-ERR [IN-USE] mailbox already in use by pid 12345"),),
        right=not_up(AUTH, THROTTLED),
        source="perdition #4",
        why="Another session of the same account holds the lock (RFC 2449, section 8.1.2).",
    ),
    _pop3(
        name="vpop3-mailbox-locked",
        steps=(Step("PASS", "-ERR Mailbox Locked"),),
        right=not_up(AUTH, THROTTLED),
        source="PSCS help desk, -ERR Mailbox Locked error",
        why="The same lock without a code; a locked account would get another reply there.",
    ),
    _pop3(
        name="unable-to-lock-mailbox",
        steps=(Step("PASS", "-ERR unable to lock mailbox"),),
        right=not_up(AUTH, THROTTLED),
        source="Lifewire, All About POP Email Errors",
        why="The page explains it by another program that reads the same mailbox.",
    ),
    _pop3(
        name="mailbox-unknown-at-user",
        steps=(Step("USER", "-ERR mailbox unknown"),),
        right=not_up(AUTH, CREDENTIALS),
        source="Lifewire, All About POP Email Errors",
        why="The name is not known there; the password was not sent.",
    ),
    _pop3(
        name="hmail-plus-err",
        steps=(Step("PASS", "+ERR Server error: Failed to fetch messages in Inbox."),),
        right=not_up(AUTH, Cause.PROTOCOL, MAILBOX, UNAVAILABLE),
        source="hMailServer pull request 594",
        why="Neither +OK nor -ERR; and the words name the server's own error. It must not pass for +OK.",
    ),
    _pop3(
        name="temporary-system-problem",
        steps=(Step("PASS", "-ERR [SYS/TEMP] Temporary system problem. Please try again later."),),
        right=not_up(AUTH, UNAVAILABLE),
        source="frappe pull request 1133",
        why="A fault of the system that will pass (RFC 3206, section 4).",
    ),
    _pop3(
        name="tiscali-temporarily-unavailable",
        steps=(Step("PASS", "-ERR Account is temporarily unavailable.", Then.CLOSE),),
        right=not_up(AUTH, UNAVAILABLE),
        source="ilsoftware.it, Mail Tiscali non funziona (January 2024)",
        why="An outage of all accounts of the provider, said without a code.",
    ),
    _pop3(
        name="tiscali-in-italian-and-latin-1",
        steps=(
            Step(
                "PASS",
                b"-ERR Sistema momentaneamente non disponibile, ti preghiamo di riprovare pi\xf9 tardi\r\n",
            ),
        ),
        right=not_up(AUTH, UNAVAILABLE),
        source="ilsoftware.it, Mail Tiscali non funziona (January 2024; there the text of the webmail)",
        why="A passing failure of the service, in Italian, with a byte that is no UTF-8.",
    ),
    _pop3(
        name="gmail-pop3-application-password",
        steps=(Step("PASS", "-ERR [AUTH] Application-specific password required: http://x.example/185833"),),
        right=not_up(AUTH, CREDENTIALS),
        source="mailman (Ruby) #50",
        why="The owner has to make another password.",
    ),
    _pop3(
        name="gmx-protocol-not-activated",
        steps=(Step("PASS", "-ERR authentication failed"),),
        right=not_up(AUTH, CREDENTIALS),
        source="yam #638",
        why="The owner has to activate POP3; the reply is that of a wrong password.",
    ),
    _pop3(
        name="exchange-logon-failure",
        steps=(Step("PASS", "-ERR Logon failure: unknown user name or bad password."),),
        right=not_up(AUTH, CREDENTIALS),
        source="node-poplib #34",
        why="The words say so. ('unknown user name' is not a server's trouble.)",
    ),
    _pop3(
        name="free-pop3-wrong-password-and-hangs-up",
        steps=(Step("PASS", "-ERR Invalid login or password", Then.CLOSE),),
        right=not_up(AUTH, CREDENTIALS),
        source="MailKit #856 (its POP3 log)",
        why="The reply came before the end of the connection, and it counts.",
    ),
    _pop3(
        name="dovecot-plaintext-disallowed",
        steps=(
            Step("USER", "-ERR [AUTH] Plaintext authentication disallowed on non-secure (SSL/TLS) connections."),
        ),
        right=not_up(AUTH, CREDENTIALS),
        source="easymail #106",
        why="The owner chose the port without TLS.",
    ),
    _pop3(
        name="netease-download-exceed",
        steps=(Step("TOP", "-ERR Download exceed. msg=10"),),
        right=not_up(FETCH, THROTTLED),
        source="zmail #115; MailKit #1320",
        why="A limit of how much the account may load in a time.",
    ),
    _pop3(
        name="message-can-not-load",
        steps=(Step("TOP", "-ERR Message can not load"),),
        right=not_up(FETCH, MAILBOX, UNAVAILABLE),
        source="zmail #106",
        why="It counts the message and cannot give it.",
    ),
    _pop3(
        name="netease-cannot-get-the-letter",
        steps=(Step("TOP", "-ERR Can't get the letter xtbBLQwAABrqlERZ8pmJc6[301], try again later"),),
        right=not_up(FETCH, MAILBOX, UNAVAILABLE),
        source="zmail #22",
        why="It counts the message and cannot give it, for now.",
    ),
    _pop3(
        name="capa-is-not-known",
        steps=(Step("CAPA", "-ERR Unknown command"),),
        right=UP,
        source="Twisted #10740",
        why="CAPA is an extension (RFC 2449); without it TOP may be absent too, and a count is enough.",
    ),
    _pop3(
        name="no-uidl-and-chatty-capabilities",
        steps=(
            Step("CONNECT", "+OK Maildrop ready, (JPOP server ready)."),
            Step("CAPA", "+OK CAPA list follows\nIMPLEMENTATION jpop-0.1\nTOP\nUSER\nSASL LOGIN PLAIN\n."),
        ),
        right=UP,
        source="NeoMutt #1427",
        why="UIDL is optional.",
    ),
    _pop3(
        name="talkative-after-ok",
        steps=(
            Step("USER", "+OK you may try login as mrossi"),
            Step("PASS", "+OK mrossi maildrop logged in, you have 2 messages (2902 octets)"),
            Step("STAT", "+OK 2 2902"),
            Step("LIST", "+OK 2 messages (2902 octets)\n1 1452\n2 1450\n."),
        ),
        right=UP,
        source="Mailpile #1571",
        why="The text after +OK is free.",
    ),
    _pop3(
        name="capabilities-in-pieces",
        steps=(Step("CAPA", "+OK\nTOP\nUIDL\nRESP-CODES\nPIPELINING\nAUTH-RESP-CODE\nUSER\nSASL PLAIN LOGIN\n."),),
        right=UP,
        source="THC Hydra pull request 1020",
        why="The end of a list may come in another packet than its beginning.",
        pieces=3,
    ),
)
