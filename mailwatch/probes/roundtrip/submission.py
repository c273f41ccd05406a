"""Submits a message as a mail program does: the phases of an smtp target, then a real MAIL, RCPT and DATA."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from mailwatch import monotonic
from mailwatch.facts import MessageFacts
from mailwatch.model import Phase
from mailwatch.probes.connect import CloseCallback, MonitorError, ProbeContext
from mailwatch.probes.failures import SmtpReplyError
from mailwatch.probes.redact import wire
from mailwatch.probes.roundtrip.message import MessageSigner, MessageToken, compose, new_token
from mailwatch.probes.smtp import SmtpClient, connect_and_login
from mailwatch.times import Millis, now

MAX_REPLY_CHARS = 300
_QUEUED = re.compile(r"queued as ([A-Za-z0-9.-]{1,100})|\bid=?\s*([A-Za-z0-9.-]{4,100})")


@dataclass(slots=True)
class Submission:
    """One message and the result of its submission. `facts` are facts of the message.

    The message is created only when the server asks for it, so that its date is right.
    """

    signer: MessageSigner
    sender: str
    recipient: str
    checkpoint: str = ""
    """The note that the message carries."""
    token: MessageToken | None = None
    accepted_at: Millis | None = None
    accepted_clock: Millis = 0
    """`accepted_at` on the steady clock."""
    handed_over: bool = False
    """Whether the last byte was sent: from then on the server may have the message, whatever it answers."""
    facts: MessageFacts = field(default_factory=lambda: MessageFacts())

    @property
    def unsure(self) -> bool:
        """Whether it is unknown if the message was accepted."""
        return self.handed_over and self.accepted_at is None

    async def probe(self, call: ProbeContext) -> CloseCallback:
        """Run the phases; the first failure raises. Return the callback that closes the session."""
        client, offer = await connect_and_login(call)
        with call.recorder.phase(Phase.SUBMIT):
            try:
                await self._submit(client, call, "smtputf8" in offer.extensions)
            except SmtpReplyError as error:
                # A definite refusal, unless it came with the end of the connection.
                self.handed_over = self.handed_over and (error.step == "unasked" or error.code < 400)
                self.facts["reply_code"] = error.code
                if error.status:
                    self.facts["status"] = error.status
                raise
        return client.quit

    async def _submit(self, client: SmtpClient, call: ProbeContext, utf8: bool) -> None:
        sender, recipient = wire(f"<{self.sender}>"), wire(f"<{self.recipient}>")
        international = not (sender + recipient).isascii()
        if international and not utf8:
            raise MonitorError("the server takes no address that is not ASCII (SMTPUTF8)")
        more = (b"SMTPUTF8",) if international else ()
        await client.command("MAIL", b"MAIL", b"FROM:" + sender, *more, expect=(250,))
        await client.command("RCPT", b"RCPT", b"TO:" + recipient, expect=(250, 251))
        await client.command("DATA", b"DATA", expect=(354,))
        token = self.token = new_token(now())
        self.facts |= {"token": token.token, "sent_at": token.sent_at, "clock": token.clock, "boot": token.boot}
        message = compose(token, self.signer.sign(token), self.sender, self.recipient, self.checkpoint)
        self.handed_over = True
        reply = await client.send_message(message)
        self.accepted_at, self.accepted_clock = now(), monotonic.milliseconds()
        # The library decodes invalid bytes to lone surrogates, which no record takes.
        words = f"{reply.code} {reply.message}".encode("utf-8", "surrogateescape").decode(
            "utf-8", "backslashreplace"
        )
        self.facts |= {"accepted_at": self.accepted_at, "reply": call.recorder.hide(words)[:MAX_REPLY_CHARS]}
        if queued := _QUEUED.search(reply.message):
            self.facts["queue_id"] = queued[1] or queued[2]
