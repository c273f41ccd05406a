"""Look at a POP3 server as a mail program does: greeting, login, how many messages, the newest one's headers."""

from __future__ import annotations

import asyncio
import re

from mailwatch.models import Cause, Phase, TlsMode
from mailwatch.probes import bearer
from mailwatch.probes.connect import Call, Goodbye
from mailwatch.probes.failures import Failed, NotPop3, Pop3Refused
from mailwatch.probes.pop3_client import Pop3Client

_STAT = re.compile(r"\+OK\s{1,9}(\d+)\b")


async def probe(call: Call) -> Goodbye:
    """Walk the phases; the first failure raises. Returns how to say goodbye.

    Nothing is deleted, and TOP with no lines reads headers only; they are not kept.
    """
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: Pop3Client(loop))
    with phase(Phase.GREETING):
        call.recorder.heard(await client.hello())
        await client.learn_capabilities()
    if call.target.tls is TlsMode.STARTTLS:
        with phase(Phase.TLS):
            if "STLS" not in client.capabilities:
                raise Failed(Cause.TLS, "the server does not offer STLS")
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            await client.learn_capabilities()
    if call.login is None:
        return client.quit
    user, password = call.login.username, call.login.password.get_secret_value()
    if any(c in user or c in password for c in "\r\n\0"):
        raise Failed(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    with phase(Phase.AUTH):
        if call.login.oauth2 is not None:
            offered = client.capabilities.get("SASL", "").split()
            await _present(client, bearer.choose(call, call.login, offered))
        else:
            await client.log_in(user, password, call.recorder.sends_password)
    with phase(Phase.MAILBOX):
        messages = _count(await client.ask("STAT"))
    if messages and "TOP" in client.capabilities:
        with phase(Phase.FETCH):
            if not await client.header(messages):
                return client.leave
    return client.quit


async def _present(client: Pop3Client, mechanism: bearer.Mechanism) -> None:
    """Log in with an access token, which is too long for the line of the command (RFC 5034, section 4)."""
    if await client.challenged("AUTH", mechanism.name.encode()) is None:
        raise Failed(Cause.PROTOCOL, "AUTH: the server lets us in before it has the token")
    challenge = await client.challenged("AUTH", mechanism.initial, line=True)
    if challenge is not None:
        try:
            await client.challenged("AUTH", mechanism.last_word, line=True)
        except Pop3Refused as refused:
            refused.note = bearer.status(challenge)
            raise
        raise Failed(Cause.PROTOCOL, "AUTH: the server goes on after it told of a failure")


def _count(answer: str) -> int:
    """Read the drop listing (RFC 1939, section 5)."""
    found = _STAT.match(answer)
    if found is None:
        raise NotPop3(f"STAT: answer is not POP3: {answer[:200]}", answer)
    return int(found[1][:9])
