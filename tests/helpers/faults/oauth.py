"""Faults of logins by OAuth 2, over all kinds of mailbox, each with an authorization server of its own."""

from __future__ import annotations

import contextlib
import tempfile
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from mailwatch.model import Cause, Kind, Phase
from mailwatch.settings import Target
from tests.helpers.faults.fault import USER, Fault, Place
from tests.helpers.oauth import granted_login
from tests.helpers.scripted_server import CLOSE, Step, scripted_server
from tests.servers.oauth import AuthorizationServer

CHALLENGE = b64encode(b'{"status":"401","schemes":"bearer","scope":"https://mail.example.org/"}')
NO_LOGIN: list[Step] = ["LOGOUT", b"* BYE\r\nTAG OK\r\n"]


def _imap(mechanisms: str) -> bytes:
    return f"* OK [CAPABILITY IMAP4rev1 SASL-IR {mechanisms}] ready\r\n".encode()


def _granted(*script: Step, fault: str = "", revoked: bool = False) -> Place:
    """A mail server that plays the script, for an owner who granted access."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        with tempfile.TemporaryDirectory() as folder, AuthorizationServer(USER).running() as authority:
            login = granted_login(authority, Path(folder), USER)
            authority.fault = fault
            if revoked:
                authority.revoke()
            async with scripted_server(script) as port:
                yield replace(target, port=port, login=login)

    return place


_BEARER = "AUTH=OAUTHBEARER AUTH=XOAUTH2"
_POP3: list[Step] = [b"+OK ready\r\n", "^CAPA", b"+OK\r\nSASL PLAIN XOAUTH2\r\nTOP\r\n.\r\n", "^AUTH XOAUTH2\r\n"]
_SMTP: list[Step] = [b"220 hi\r\n", "^EHLO ", b"250-mail\r\n250 AUTH PLAIN XOAUTH2\r\n", "^AUTH XOAUTH2\r\n"]

_at_imap = partial(Fault, kind=Kind.IMAP)

FAULTS: list[Fault] = [
    _at_imap(
        what="takes a token by OAUTHBEARER: everything works",
        cause=None,
        phase=None,
        place=_granted(
            _imap(_BEARER),
            "AUTHENTICATE OAUTHBEARER [A-Za-z0-9+/=]+\r\n",
            b"TAG OK in\r\n",
            "EXAMINE",
            b"* 0 EXISTS\r\nTAG OK\r\n",
            *NO_LOGIN,
        ),
    ),
    _at_imap(
        what="rejects the token by OAUTHBEARER, with a challenge that says why",
        place=_granted(
            _imap(_BEARER), "AUTHENTICATE OAUTHBEARER ", b"+ " + CHALLENGE + b"\r\n", "^AQ==\r\n", b"TAG NO no\r\n"
        ),
        says="status: 401",
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    _at_imap(
        what="rejects the token by XOAUTH2, with a challenge that says why",
        place=_granted(
            _imap("AUTH=XOAUTH2"), "AUTHENTICATE XOAUTH2 ", b"+ " + CHALLENGE + b"\r\n", "^\r\n", b"TAG NO no\r\n"
        ),
        says="status: 401",
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    _at_imap(
        what="rejects the token at once, as Outlook does",
        place=_granted(
            _imap("AUTH=XOAUTH2").replace(b"SASL-IR ", b""),
            "AUTHENTICATE XOAUTH2\r\n",
            b"+\r\n",
            "^[A-Za-z0-9+/=]+\r\n",
            b"TAG NO AUTHENTICATE failed.\r\n",
        ),
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    _at_imap(
        what="rejects the token: says `a1 NO [UNAVAILABLE] directory down`",
        cause=Cause.UNAVAILABLE,
        phase=Phase.AUTH,
        place=_granted(_imap(_BEARER), "AUTHENTICATE ", b"TAG NO [UNAVAILABLE] directory down\r\n"),
    ),
    _at_imap(
        what="challenges without end",
        cause=Cause.PROTOCOL,
        phase=Phase.AUTH,
        place=_granted(_imap(_BEARER), "AUTHENTICATE ", b"+ e30=\r\n", "^AQ==", b"+ e30=\r\n"),
    ),
    _at_imap(
        what="the connection ends when it has the token",
        cause=Cause.DISCONNECTED,
        phase=Phase.AUTH,
        place=_granted(_imap(_BEARER), "AUTHENTICATE ", CLOSE),
    ),
    _at_imap(
        what="offers neither OAUTHBEARER nor XOAUTH2 for a login by OAuth 2",
        place=_granted(_imap("AUTH=PLAIN"), CLOSE),
        says="neither OAUTHBEARER nor XOAUTH2 (PLAIN)",
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    _at_imap(
        what="works, but the owner's grant was revoked",
        cause=Cause.CREDENTIALS,
        phase=None,
        place=_granted(_imap(_BEARER), *NO_LOGIN, revoked=True),
        says="run mailwatch login",
    ),
    _at_imap(
        what="works, but the token endpoint answers 500: our dependency",
        cause=Cause.MONITOR,
        phase=None,
        place=_granted(_imap(_BEARER), *NO_LOGIN, fault="500"),
        says="no access token: the token endpoint",
    ),
    _at_imap(
        what="works, but the token endpoint answers without end: our dependency",
        cause=Cause.MONITOR,
        phase=None,
        place=_granted(_imap(_BEARER), *NO_LOGIN, fault="endless"),
    ),
    _at_imap(
        what="says `* BYE back at six` while the token endpoint is down too",
        cause=Cause.UNAVAILABLE,
        phase=Phase.GREETING,
        place=_granted(b"* BYE back at six\r\n", CLOSE, fault="500"),
    ),
    Fault(
        kind=Kind.SMTP,
        what="rejects the token by XOAUTH2, with a challenge that says why",
        place=_granted(
            *_SMTP,
            b"334 \r\n",
            "^[A-Za-z0-9+/=]+\r\n",
            b"334 " + CHALLENGE + b"\r\n",
            "^\r\n",
            b"535 5.7.8 no\r\n",
        ),
        says="status: 401",
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    Fault(
        kind=Kind.SMTP,
        what="says `454 4.7.0 Temporary authentication failure` to the token",
        cause=Cause.UNAVAILABLE,
        phase=Phase.AUTH,
        place=_granted(
            *_SMTP, b"334 \r\n", "^[A-Za-z0-9+/=]+\r\n", b"454 4.7.0 Temporary authentication failure\r\n", CLOSE
        ),
    ),
    Fault(
        kind=Kind.SMTP,
        what="says `235 2.7.0 in` after it reported a failure",
        cause=Cause.PROTOCOL,
        phase=Phase.AUTH,
        place=_granted(
            *_SMTP,
            b"334 \r\n",
            "^[A-Za-z0-9+/=]+\r\n",
            b"334 " + CHALLENGE + b"\r\n",
            "^\r\n",
            b"235 2.7.0 in\r\n",
        ),
    ),
    Fault(
        kind=Kind.POP3,
        what="rejects the token by XOAUTH2, with a challenge that says why",
        place=_granted(
            *_POP3, b"+ \r\n", "^[A-Za-z0-9+/=]+\r\n", b"+ " + CHALLENGE + b"\r\n", "^\r\n", b"-ERR [AUTH] no\r\n"
        ),
        says="status: 401",
        cause=Cause.CREDENTIALS,
        phase=Phase.AUTH,
    ),
    Fault(
        kind=Kind.POP3,
        what="says `-ERR [SYS/TEMP] directory down` to the token",
        cause=Cause.UNAVAILABLE,
        phase=Phase.AUTH,
        place=_granted(*_POP3, b"+\r\n", "^[A-Za-z0-9+/=]+\r\n", b"-ERR [SYS/TEMP] directory down\r\n", CLOSE),
    ),
    Fault(
        kind=Kind.POP3,
        what="says `+OK in` before it has the token",
        cause=Cause.PROTOCOL,
        phase=Phase.AUTH,
        place=_granted(*_POP3, b"+OK in\r\n", CLOSE),
    ),
]
