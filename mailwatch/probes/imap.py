"""Probes an IMAP server as a mail program does: greeting, login, INBOX, date of the newest message."""

from __future__ import annotations

import asyncio
import contextlib
import re

from aioimaplib.aioimaplib import AUTH

from mailwatch.model import Cause, Phase, TlsMode
from mailwatch.probes import sasl
from mailwatch.probes.classify import Reply, classify
from mailwatch.probes.connect import CloseCallback, ProbeContext
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.imap_client import ImapClient, ImapCommandError, ServerByeError
from mailwatch.settings import Login

_NO_SUCH_COMMAND = re.compile(
    r"(?:unknown|unrecogni[sz]ed|unsupported|invalid|illegal) command|(?:command|examine) (?:\S+ )?"
    r"(?:unknown|unrecogni[sz]ed|unsupported|not (?:implemented|supported|known|recogni[sz]ed))",
    re.IGNORECASE,
)


async def probe(call: ProbeContext) -> CloseCallback:
    """Run the phases; the first failure raises. Return the callback that closes the session.

    INBOX is opened with EXAMINE and read with BODY.PEEK: nothing in the mailbox changes, not even \\Recent.
    """
    client = await connect_and_login(call)
    if call.login is None:
        return client.logout
    phase = call.recorder.phase
    with phase(Phase.MAILBOX):
        newest = await open_inbox(client, call)
    if newest:
        with phase(Phase.FETCH):
            await _read_newest(client, call, newest)
    return client.logout


async def open_inbox(client: ImapClient, call: ProbeContext) -> int:
    """Open INBOX, with the fallbacks of mail programs if EXAMINE is refused; return its number of messages.

    A server that requires to know the program gets ID (RFC 2971), and one without EXAMINE gets SELECT, which
    removes \\Recent from the messages and changes nothing else.
    """
    try:
        return await client.examine()
    except ImapCommandError as refused:
        reply = Reply("imap", "EXAMINE", refused.status, refused.full, before=refused.before)
        if classify(reply).remedy == "id" and "ID" in client.capabilities:
            call.recorder.add_reply(refused.server_text)
            with contextlib.suppress(ImapCommandError):
                await client.identify()
            return await client.examine()
        if refused.status == "BAD" and _NO_SUCH_COMMAND.search(refused.full):
            call.recorder.add_reply(refused.server_text)
            call.recorder.note = "opened by SELECT, since the server does not know EXAMINE"
            return await client.examine("SELECT")
        raise


async def _read_newest(client: ImapClient, call: ProbeContext, newest: int) -> None:
    """Read the newest message; if another program deleted it meanwhile, read the next newest, once."""
    removed = client.removed
    try:
        if await client.read_date(newest):
            return
        gone = ProbeError(Cause.MAILBOX, f"the server did not give the header of message {newest} of {newest}")
        fewer = client.removed > removed or client.exists < newest
        if not fewer and "[EXPUNGEISSUED]" not in client.answer.upper():
            raise gone
    except ImapCommandError as refused:
        reply = Reply("imap", "FETCH", refused.status, refused.full, before=refused.before)
        if classify(reply).remedy != "newest":
            raise
        call.recorder.add_reply(refused.server_text)
    try:
        if client.removed == removed and client.exists >= newest:
            await client.send_command("NOOP")
        if client.exists and not await client.read_date(client.exists):
            raise ProbeError(Cause.MAILBOX, f"the server did not give the header of message {client.exists}")
    except ServerByeError as bye:
        # The server has answered that the message is gone; a BYE without a known reason changes nothing.
        if classify(Reply("imap", bye.command, "BYE", bye.server_text, before=bye.before)).known:
            raise
        call.recorder.note = "the newest message was deleted meanwhile"


async def connect_and_login(call: ProbeContext) -> ImapClient:
    """Connect, read the greeting, start TLS and log in, as the target requires; the first failure raises."""
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: ImapClient(loop))
    client.notice = call.recorder.add_reply
    call.recorder.unanswered = client.unanswered
    with phase(Phase.GREETING):
        call.recorder.add_reply(await client.read_greeting())
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


async def _starttls(client: ImapClient, call: ProbeContext) -> None:
    if client.state == AUTH:
        # RFC 9051, section 7.1.4: PREAUTH in plain text prevents STARTTLS.
        raise ProbeError(Cause.TLS, "the server said PREAUTH before STARTTLS")
    if "STARTTLS" not in client.capabilities:
        raise ProbeError(Cause.TLS, "the server does not offer STARTTLS")
    await client.starttls(call.upgrade)


async def _log_in(client: ImapClient, call: ProbeContext, login: Login) -> None:
    """Log in by one method only: each try counts at the provider."""
    if login.oauth2 is not None:
        offered = (name.removeprefix("AUTH=") for name in client.capabilities if name.startswith("AUTH="))
        mechanism = sasl.choose_mechanism(call, login, offered)
        try:
            await client.authenticate(mechanism.name, mechanism.initial, mechanism.failure_response)
        except ImapCommandError as refused:
            refused.note = sasl.failure_status(client.challenge)
            raise
        return
    user, password = login.username, login.password.get_secret_value()
    if any(c in user or c in password for c in "\r\n\0"):
        raise ProbeError(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    disabled = "LOGINDISABLED" in client.capabilities
    # Noted before the password is sent: with AUTHENTICATE but no SASL-IR the server may fall silent in between.
    call.recorder.password_sent = not disabled or "AUTH=PLAIN" in client.capabilities
    if "AUTH=PLAIN" in client.capabilities and (disabled or not (user + password).isascii()):
        await client.authenticate_plain(user, password)
    elif disabled:
        raise _login_unavailable(client, call)
    else:
        await client.login(user, password)


def _login_unavailable(client: ImapClient, call: ProbeContext) -> ProbeError:
    """Return why no login is possible: if other methods or TLS would allow it, the owner must change it."""
    others = sorted(name for name in client.capabilities if name.startswith("AUTH="))
    offered = " ".join(["LOGINDISABLED", *others])
    if others:
        return ProbeError(Cause.CREDENTIALS, f"the server accepts no password in the way we send it ({offered})")
    if call.target.tls is TlsMode.NONE:
        return ProbeError(Cause.CREDENTIALS, f"the server accepts no password without TLS ({offered}); see tls")
    return ProbeError(Cause.PROTOCOL, f"the server offers no login at all ({offered})")
