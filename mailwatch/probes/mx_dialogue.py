"""One connection to one exchanger, as another mail server makes it; but DATA is never said."""

from __future__ import annotations

import asyncio
import contextlib

from mailwatch.models import Cause, Exchange, Phase, TlsMode
from mailwatch.probes.attempts import GOODBYE
from mailwatch.probes.connect import Call, Goodbye, OurFault
from mailwatch.probes.failures import Failed, SmtpRefused
from mailwatch.probes.smtp import SmtpClient, ehlo, submit


async def probe(call: Call, *, within: float) -> Goodbye:
    """Walk the phases; the first failure raises. `within` are the seconds for connecting."""
    try:
        return await _walk_phases(call, within)
    except SmtpRefused as refused:
        call.recorder.facts["code"] = refused.code
        if refused.status:
            call.recorder.facts["status"] = refused.status
        raise


async def _walk_phases(call: Call, within: float) -> Goodbye:
    loop, phase = asyncio.get_running_loop(), call.recorder.phase
    asked = call.target.task
    if not isinstance(asked, Exchange):
        raise OurFault("an mx target without a recipient")
    try:
        async with asyncio.timeout(within):
            client = await call.open(lambda: SmtpClient(loop))
    except TimeoutError as error:
        raise Failed(Cause.TIMEOUT, f"no connection within {within:g} s") from error
    with phase(Phase.GREETING):
        call.recorder.heard(str(await client.reply("greeting", 220)))
        offer = (await ehlo(client, call.target.helo_name)).extensions
    if call.target.tls is TlsMode.STARTTLS and "starttls" in offer:
        with phase(Phase.TLS):
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            offer = (await ehlo(client, call.target.helo_name)).extensions
    elif call.target.tls is TlsMode.STARTTLS:
        call.recorder.facts["starttls"] = "not offered"
    try:
        with phase(Phase.SUBMIT):
            await _ask_for(client, asked, offer)
    except SmtpRefused:
        # Who comes again and again and never takes leave is soon taken for a robot.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GOODBYE):
                await client.quit()
        raise
    return client.quit


async def _ask_for(client: SmtpClient, asked: Exchange, offer: dict[str, str]) -> None:
    if not (asked.sender + asked.recipient).isascii() and "smtputf8" not in offer:
        raise Failed(Cause.REJECTED, "no SMTPUTF8 is offered, which the recipient or sender needs (RFC 6531)")
    await submit(client, asked.sender, asked.recipient)
