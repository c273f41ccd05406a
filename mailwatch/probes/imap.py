"""Look at an IMAP server as a mail program does: greeting, login, INBOX, the newest message's date."""

from __future__ import annotations

import asyncio

from aioimaplib.aioimaplib import AUTH

from mailwatch.models import Cause, Login, Phase, TlsMode
from mailwatch.probes import bearer
from mailwatch.probes.connect import Call, Goodbye
from mailwatch.probes.failures import Failed
from mailwatch.probes.imap_client import ImapClient, Refused


async def probe(call: Call) -> Goodbye:
    """Walk the phases; the first failure raises. Returns how to say goodbye.

    INBOX is opened with EXAMINE and read with BODY.PEEK: nothing in the mailbox changes, not even \\Recent.
    """
    client = await enter(call)
    if call.login is None:
        return client.logout
    phase = call.recorder.phase
    with phase(Phase.MAILBOX):
        newest = await client.examine()
    if newest:
        with phase(Phase.FETCH):
            if not await client.read_date(newest):
                raise Failed(Cause.MAILBOX, f"the server did not give message {newest} of {newest}")
    return client.logout


async def enter(call: Call) -> ImapClient:
    """Connect, greet, begin TLS and log in, as far as the target has it; the first failure raises."""
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: ImapClient(loop))
    with phase(Phase.GREETING):
        call.recorder.heard(await client.hello())
        if not client.capabilities:
            await client.capability()
    if call.target.tls is TlsMode.STARTTLS:
        with phase(Phase.TLS):
            await _starttls(client, call)
    if call.login is None:
        return client
    if client.state == AUTH:
        call.recorder.note = "the server let us in without a login (PREAUTH)"
    else:
        with phase(Phase.AUTH):
            await _log_in(client, call, call.login)
    return client


async def _starttls(client: ImapClient, call: Call) -> None:
    if client.state == AUTH:
        # RFC 9051, section 7.1.4: whoever says PREAUTH in plain text keeps us from STARTTLS.
        raise Failed(Cause.TLS, "the server said PREAUTH before STARTTLS")
    if "STARTTLS" not in client.capabilities:
        raise Failed(Cause.TLS, "the server does not offer STARTTLS")
    await client.starttls(call.upgrade)


async def _log_in(client: ImapClient, call: Call, login: Login) -> None:
    """Log in by the one way that fits: each try counts at the provider."""
    if login.oauth2 is not None:
        offered = (name.removeprefix("AUTH=") for name in client.capabilities if name.startswith("AUTH="))
        mechanism = bearer.choose(call, login, offered)
        try:
            await client.authenticate(mechanism.name, mechanism.initial, mechanism.last_word)
        except Refused as refused:
            refused.note = bearer.status(client.challenge)
            raise
        return
    user, password = login.username, login.password.get_secret_value()
    if any(c in user or c in password for c in "\r\n\0"):
        raise Failed(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    disabled = "LOGINDISABLED" in client.capabilities
    # Said before it goes out: with AUTHENTICATE and without SASL-IR the server may fall silent in between.
    call.recorder.password_sent = not disabled or "AUTH=PLAIN" in client.capabilities
    if "AUTH=PLAIN" in client.capabilities and (disabled or not (user + password).isascii()):
        await client.authenticate_plain(user, password)
    elif disabled:
        raise Failed(Cause.PROTOCOL, "the server offers no login that we speak (LOGINDISABLED)")
    else:
        await client.login(user, password)
