"""Probes a submission server as a mail program does: greeting, login, and a message that is never sent."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from aiosmtplib import SMTPServerDisconnected
from aiosmtplib.auth import auth_crammd5_verify, auth_plain_encode
from aiosmtplib.esmtp import parse_esmtp_extensions
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from mailwatch.model import Cause, Phase, TlsMode
from mailwatch.probes import sasl
from mailwatch.probes.connect import CloseCallback, ProbeContext
from mailwatch.probes.failures import ProbeError, SmtpReplyError
from mailwatch.probes.redact import wire
from mailwatch.settings import Login

MAX_UNSOLICITED_BYTES = 1000
MAX_LINE_BYTES = 8192
MAX_REPLY_BYTES = 32768
"""Bytes of a line and of a reply that aiosmtplib accepts."""
_GOES_ON = re.compile(rb"\d{3}-")
MAX_COMMAND_BYTES = 512
"""Bytes of a command line that every server accepts (RFC 5321, section 4.5.3.1.4)."""
_REPLY = re.compile(rb"([45]\d\d)[ -]([^\r\n]*)")
_DOTS = re.compile(rb"(?m)^\.")
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+")


class SmtpClient(SMTPProtocol):
    """One SMTP connection. Unsolicited data, such as a final 421, is kept and not dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._unsolicited = b""
        self._reply = bytearray()
        self._line = bytearray()

    def data_received(self, data: bytes) -> None:
        """Pass whole replies to the library: the result must not depend on how bytes were split into packets."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add_line(bytes(self._line) + line + b"\n")
            self._line.clear()
        self._line += rest
        if len(self._line) > MAX_LINE_BYTES:
            self._add_line(bytes(self._line) + b"\n")
            self._line.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the last data even without a line end."""
        self._unsolicited = self.unsolicited[:MAX_UNSOLICITED_BYTES]
        super().connection_lost(exc)

    def _add_line(self, line: bytes) -> None:
        self._reply += line
        if _GOES_ON.match(line) and len(self._reply) <= MAX_REPLY_BYTES:
            return
        reply = bytes(self._reply)
        self._reply.clear()
        if not self._response_pending or self._response_waiter is None or self._response_waiter.done():
            self._unsolicited += reply[: MAX_UNSOLICITED_BYTES - len(self._unsolicited)]
        super().data_received(reply)

    @property
    def unsolicited(self) -> bytes:
        """The data that the server sent beyond its replies."""
        return (
            bytes(self._buffer[:MAX_UNSOLICITED_BYTES])
            + self._unsolicited
            + bytes((self._reply + self._line)[:MAX_UNSOLICITED_BYTES])
        )

    async def reply(self, step: str, *expected: int) -> SMTPResponse:
        """Wait for a reply with one of the expected codes."""
        return self._expect(step, await self._answer(self.read_response()), expected)

    async def command(self, step: str, *words: bytes, expect: tuple[int, ...]) -> SMTPResponse:
        """Send a command, or a further line of one, and wait for a reply with one of the expected codes."""
        return self._expect(step, await self._answer(self.execute_command(*words)), expect)

    async def send_message(self, message: bytes) -> SMTPResponse:
        """Send the message after DATA was accepted, with its dots doubled (RFC 5321, section 4.5.2)."""
        body = _DOTS.sub(b"..", message)
        return self._expect("message", await self._answer(self._send(body + b".\r\n")), (250,))

    async def _send(self, data: bytes) -> SMTPResponse:
        self._response_pending = True
        self.write(data)
        return await self.read_response()

    async def starttls(self, upgrade: Callable[[SMTPProtocol], Awaitable[asyncio.Transport]]) -> None:
        """Start TLS; unlike in the library, injected plain text is a failure (RFC 3207, section 6)."""
        await self.command("STARTTLS", b"STARTTLS", expect=(220,))
        if self.unsolicited:
            words = self.unsolicited[:200].decode("utf-8", "backslashreplace")
            raise ProbeError(Cause.PROTOCOL, "plain text after the answer to STARTTLS", words)
        self.transport = await upgrade(self)
        self._over_ssl = True

    async def quit(self) -> None:
        """Send QUIT."""
        await self.execute_command(b"QUIT")

    async def _answer(self, waiting: Awaitable[SMTPResponse]) -> SMTPResponse:
        try:
            return await waiting
        except SMTPServerDisconnected as error:
            last = _REPLY.search(self.unsolicited)
            if last is None:
                raise
            raise SmtpReplyError("unasked", int(last[1]), last[2].decode("utf-8", "backslashreplace")) from error

    @staticmethod
    def _expect(step: str, response: SMTPResponse, expected: tuple[int, ...]) -> SMTPResponse:
        if response.code not in expected:
            raise SmtpReplyError(step, response.code, response.message)
        return response


class EhloCapabilities(NamedTuple):
    """The server's offers in its reply to EHLO."""

    extensions: dict[str, str]
    mechanisms: list[str]


async def probe(call: ProbeContext) -> CloseCallback:
    """Run the phases; the first failure raises. Return the callback that closes the session."""
    client, offer = await connect_and_login(call)
    if call.login is not None:
        address = call.login.username
        if _ADDRESS.fullmatch(address) and (address.isascii() or "smtputf8" in offer.extensions):
            with call.recorder.phase(Phase.SUBMIT):
                await probe_submission(client, address, address)
    return client.quit


async def connect_and_login(call: ProbeContext) -> tuple[SmtpClient, EhloCapabilities]:
    """Connect, read the greeting, start TLS and log in, as the target requires; the first failure raises."""
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: SmtpClient(loop))
    with phase(Phase.GREETING):
        greeting = await client.reply("greeting", 220)
        call.recorder.add_reply(str(greeting))
        offer = await say_ehlo(client, call.target.helo_name)
    if call.target.tls is TlsMode.STARTTLS:
        with phase(Phase.TLS):
            if "starttls" not in offer.extensions:
                raise ProbeError(Cause.TLS, "the server does not offer STARTTLS")
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            offer = await say_ehlo(client, call.target.helo_name)
    if call.login is not None:
        with phase(Phase.AUTH):
            if call.login.oauth2 is not None:
                await _login_with_token(client, sasl.choose_mechanism(call, call.login, offer.mechanisms))
            else:
                await _log_in(client, call, call.login, offer.mechanisms)
    return client, offer


async def say_ehlo(client: SmtpClient, name: str = "") -> EhloCapabilities:
    """Send EHLO, or HELO if the server does not know it, and return the server's offers.

    `name` is the owner's for this machine; without one our address has to do (RFC 5321, sections 3.2 and 4.1.3).
    """
    own = name.encode() if name else address_literal(client)
    try:
        response = await client.command("EHLO", b"EHLO", own, expect=(250,))
    except SmtpReplyError as refused:
        if refused.step != "EHLO" or refused.code < 500:
            raise
        earlier = refused
    else:
        return EhloCapabilities(*parse_esmtp_extensions(response.message))
    try:
        await client.command("HELO", b"HELO", own, expect=(250,))
    except SmtpReplyError as refused:
        refused.earlier = earlier
        raise
    except (SMTPServerDisconnected, ConnectionError):
        raise earlier from None
    return EhloCapabilities({}, [])


def address_literal(client: SmtpClient) -> bytes:
    """Return our address as a literal (RFC 5321, section 4.1.3), since the host name may take long to find."""
    host = (client.transport.get_extra_info("sockname") if client.transport else None) or ("127.0.0.1",)
    address = str(host[0]).partition("%")[0]
    return f"[IPv6:{address}]".encode() if ":" in address else f"[{address}]".encode()


async def _log_in(client: SmtpClient, call: ProbeContext, login: Login, mechanisms: list[str]) -> None:
    """Log in by one mechanism, never by a second: each try counts at the provider."""
    user, password = wire(login.username), wire(login.password.get_secret_value())
    if any(c in user or c in password for c in (b"\r", b"\n", b"\0")):
        raise ProbeError(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    if "plain" in mechanisms:
        words = auth_plain_encode(user, password)
        call.recorder.password_sent = True
        reply = await client.command("AUTH", b"AUTH", b"PLAIN", words, expect=(235, 334))
        if reply.code == 334:
            if reply.message.strip():
                raise SmtpReplyError("AUTH", reply.code, reply.message)
            # The server takes the response only on a line of its own (RFC 4954, section 4): still the first try.
            await client.command("AUTH", words, expect=(235,))
    elif "login" in mechanisms:
        await client.command("AUTH", b"AUTH", b"LOGIN", expect=(334,))
        await client.command("AUTH", b64encode(user), expect=(334,))
        call.recorder.password_sent = True
        await client.command("AUTH", b64encode(password), expect=(235,))
    elif "cram-md5" in mechanisms:
        challenge = await client.command("AUTH", b"AUTH", b"CRAM-MD5", expect=(334,))
        call.recorder.password_sent = True
        await client.command("AUTH", auth_crammd5_verify(user, password, challenge.message), expect=(235,))
    else:
        offered = " ".join(mechanisms).upper() or "none"
        # Other programs may support them; the owner decides how to log in.
        cause = Cause.CREDENTIALS if mechanisms else Cause.PROTOCOL
        raise ProbeError(cause, f"the server offers no AUTH mechanism that we speak ({offered})")


async def _login_with_token(client: SmtpClient, mechanism: sasl.Mechanism) -> None:
    """Log in with an access token; if the line would be too long, send it separately (RFC 4954, section 4)."""
    name, initial = mechanism.name.encode(), mechanism.initial
    words = b"AUTH %b %b" % (name, initial)
    if len(words) + 2 > MAX_COMMAND_BYTES:
        await client.command("AUTH", b"AUTH", name, expect=(334,))
        words = initial
    challenge = await client.command("AUTH", words, expect=(235, 334))
    if challenge.code == 235:
        return
    try:
        await client.command("AUTH", mechanism.failure_response, expect=())
    except SmtpReplyError as refused:
        refused.note = sasl.failure_status(challenge.message.encode())
        raise


async def probe_submission(client: SmtpClient, sender: str, recipient: str) -> None:
    """Test whether a message would be accepted. It is never sent: there is no DATA."""
    source, route = wire(f"<{sender}>"), wire(f"<{recipient}>")
    utf8 = () if (source + route).isascii() else (b"SMTPUTF8",)
    await client.command("MAIL", b"MAIL", b"FROM:" + source, *utf8, expect=(250,))
    await client.command("RCPT", b"RCPT", b"TO:" + route, expect=(250, 251, 252))
    await client.command("RSET", b"RSET", expect=(250,))
