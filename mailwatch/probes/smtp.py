"""Look at a submission server as a mail program does: greeting, login, and a message that is never sent."""

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
from mailwatch.probes.connect import Call, Goodbye
from mailwatch.probes.failures import Failed, SmtpRefused
from mailwatch.probes.redact import wire
from mailwatch.settings import Login

MAX_UNASKED = 1000
MAX_LINE = 8192
MAX_REPLY = 32768
"""Bytes of a line and of a reply that the library takes."""
_GOES_ON = re.compile(rb"\d{3}-")
MAX_COMMAND = 512
"""Bytes of a command line that every server takes (RFC 5321, section 4.5.3.1.4)."""
_REPLY = re.compile(rb"([45]\d\d)[ -]([^\r\n]*)")
_DOTS = re.compile(rb"(?m)^\.")
_ADDRESS = re.compile(r"[^@\s<>]+@[^@\s<>]+")


class SmtpClient(SMTPProtocol):
    """One SMTP connection. What the server says unasked, like a last 421, is kept and not dropped."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._unasked = b""
        self._reply = bytearray()
        self._line = bytearray()

    def data_received(self, data: bytes) -> None:
        """Give the library whole replies: how the bytes were cut into packets must not matter."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._take(bytes(self._line) + line + b"\n")
            self._line.clear()
        self._line += rest
        if len(self._line) > MAX_LINE:
            self._take(bytes(self._line) + b"\n")
            self._line.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Take in the last words, though no line's end came."""
        self._unasked = self.unasked[:MAX_UNASKED]
        super().connection_lost(exc)

    def _take(self, line: bytes) -> None:
        self._reply += line
        if _GOES_ON.match(line) and len(self._reply) <= MAX_REPLY:
            return
        reply = bytes(self._reply)
        self._reply.clear()
        if not self._response_pending or self._response_waiter is None or self._response_waiter.done():
            self._unasked += reply[: MAX_UNASKED - len(self._unasked)]
        super().data_received(reply)

    @property
    def unasked(self) -> bytes:
        """Return what the server said beyond its replies."""
        return bytes(self._buffer[:MAX_UNASKED]) + self._unasked + bytes((self._reply + self._line)[:MAX_UNASKED])

    async def reply(self, step: str, *expected: int) -> SMTPResponse:
        """Wait for a reply with one of the expected codes."""
        return self._expect(step, await self._answer(self.read_response()), expected)

    async def ask(self, step: str, *words: bytes, expect: tuple[int, ...]) -> SMTPResponse:
        """Send a command, or a further line of one, and wait for a reply with one of the expected codes."""
        return self._expect(step, await self._answer(self.execute_command(*words)), expect)

    async def send_message(self, message: bytes) -> SMTPResponse:
        """Send the message after DATA was granted, with its dots doubled (RFC 5321, section 4.5.2)."""
        body = _DOTS.sub(b"..", message)
        return self._expect("message", await self._answer(self._send(body + b".\r\n")), (250,))

    async def _send(self, data: bytes) -> SMTPResponse:
        self._response_pending = True
        self.write(data)
        return await self.read_response()

    async def starttls(self, upgrade: Callable[[SMTPProtocol], Awaitable[asyncio.Transport]]) -> None:
        """Begin TLS; unlike the library's, with slipped-in plain text as a failure (RFC 3207, section 6)."""
        await self.ask("STARTTLS", b"STARTTLS", expect=(220,))
        if self.unasked:
            words = self.unasked[:200].decode("utf-8", "backslashreplace")
            raise Failed(Cause.PROTOCOL, "plain text after the answer to STARTTLS", words)
        self.transport = await upgrade(self)
        self._over_ssl = True

    async def quit(self) -> None:
        """Say QUIT."""
        await self.execute_command(b"QUIT")

    async def _answer(self, waiting: Awaitable[SMTPResponse]) -> SMTPResponse:
        try:
            return await waiting
        except SMTPServerDisconnected as error:
            last = _REPLY.search(self.unasked)
            if last is None:
                raise
            raise SmtpRefused("unasked", int(last[1]), last[2].decode("utf-8", "backslashreplace")) from error

    @staticmethod
    def _expect(step: str, response: SMTPResponse, expected: tuple[int, ...]) -> SMTPResponse:
        if response.code not in expected:
            raise SmtpRefused(step, response.code, response.message)
        return response


class Offer(NamedTuple):
    """What the server offers in its reply to EHLO."""

    extensions: dict[str, str]
    mechanisms: list[str]


async def probe(call: Call) -> Goodbye:
    """Walk the phases; the first failure raises. Returns how to say goodbye."""
    client, offer = await enter(call)
    if call.login is not None:
        address = call.login.username
        if _ADDRESS.fullmatch(address) and (address.isascii() or "smtputf8" in offer.extensions):
            with call.recorder.phase(Phase.SUBMIT):
                await submit(client, address, address)
    return client.quit


async def enter(call: Call) -> tuple[SmtpClient, Offer]:
    """Connect, greet, begin TLS and log in, as far as the target has it; the first failure raises."""
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: SmtpClient(loop))
    with phase(Phase.GREETING):
        greeting = await client.reply("greeting", 220)
        call.recorder.heard(str(greeting))
        offer = await ehlo(client, call.target.helo_name)
    if call.target.tls is TlsMode.STARTTLS:
        with phase(Phase.TLS):
            if "starttls" not in offer.extensions:
                raise Failed(Cause.TLS, "the server does not offer STARTTLS")
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            offer = await ehlo(client, call.target.helo_name)
    if call.login is not None:
        with phase(Phase.AUTH):
            if call.login.oauth2 is not None:
                await _present(client, sasl.choose(call, call.login, offer.mechanisms))
            else:
                await _log_in(client, call, call.login, offer.mechanisms)
    return client, offer


async def ehlo(client: SmtpClient, name: str = "") -> Offer:
    """Say EHLO, or HELO to who does not know it, and return what the server offers.

    `name` is the owner's for this machine; without one our address has to do (RFC 5321, sections 3.2 and 4.1.3).
    """
    own = name.encode() if name else own_address(client)
    try:
        response = await client.ask("EHLO", b"EHLO", own, expect=(250,))
    except SmtpRefused as refused:
        if refused.step != "EHLO" or refused.code < 500:
            raise
        earlier = refused
    else:
        return Offer(*parse_esmtp_extensions(response.message))
    try:
        await client.ask("HELO", b"HELO", own, expect=(250,))
    except SmtpRefused as refused:
        refused.earlier = earlier
        raise
    except (SMTPServerDisconnected, ConnectionError):
        raise earlier from None
    return Offer({}, [])


def own_address(client: SmtpClient) -> bytes:
    """Return our address as an address literal (RFC 5321, section 4.1.3): the host name may take long to find."""
    host = (client.transport.get_extra_info("sockname") if client.transport else None) or ("127.0.0.1",)
    address = str(host[0]).partition("%")[0]
    return f"[IPv6:{address}]".encode() if ":" in address else f"[{address}]".encode()


async def _log_in(client: SmtpClient, call: Call, login: Login, mechanisms: list[str]) -> None:
    """Log in by one mechanism and never by a second: each try counts at the provider."""
    user, password = wire(login.username), wire(login.password.get_secret_value())
    if any(c in user or c in password for c in (b"\r", b"\n", b"\0")):
        raise Failed(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    if "plain" in mechanisms:
        words = auth_plain_encode(user, password)
        call.recorder.password_sent = True
        said = await client.ask("AUTH", b"AUTH", b"PLAIN", words, expect=(235, 334))
        if said.code == 334:
            if said.message.strip():
                raise SmtpRefused("AUTH", said.code, said.message)
            # It takes the words on a line of their own only (RFC 4954, section 4): still the first try.
            await client.ask("AUTH", words, expect=(235,))
    elif "login" in mechanisms:
        await client.ask("AUTH", b"AUTH", b"LOGIN", expect=(334,))
        await client.ask("AUTH", b64encode(user), expect=(334,))
        call.recorder.password_sent = True
        await client.ask("AUTH", b64encode(password), expect=(235,))
    elif "cram-md5" in mechanisms:
        challenge = await client.ask("AUTH", b"AUTH", b"CRAM-MD5", expect=(334,))
        call.recorder.password_sent = True
        await client.ask("AUTH", auth_crammd5_verify(user, password, challenge.message), expect=(235,))
    else:
        offered = " ".join(mechanisms).upper() or "none"
        # Others may speak them; which way an account goes in by is its owner's to say.
        cause = Cause.CREDENTIALS if mechanisms else Cause.PROTOCOL
        raise Failed(cause, f"the server offers no AUTH mechanism that we speak ({offered})")


async def _present(client: SmtpClient, mechanism: sasl.Mechanism) -> None:
    """Log in with an access token; one that makes the line too long goes out by itself (RFC 4954, section 4)."""
    name, initial = mechanism.name.encode(), mechanism.initial
    words = b"AUTH %b %b" % (name, initial)
    if len(words) + 2 > MAX_COMMAND:
        await client.ask("AUTH", b"AUTH", name, expect=(334,))
        words = initial
    challenge = await client.ask("AUTH", words, expect=(235, 334))
    if challenge.code == 235:
        return
    try:
        await client.ask("AUTH", mechanism.last_word, expect=())
    except SmtpRefused as refused:
        refused.note = sasl.status(challenge.message.encode())
        raise


async def submit(client: SmtpClient, sender: str, recipient: str) -> None:
    """Ask whether a message would be taken. It is never sent: DATA is not said."""
    source, route = wire(f"<{sender}>"), wire(f"<{recipient}>")
    utf8 = () if (source + route).isascii() else (b"SMTPUTF8",)
    await client.ask("MAIL", b"MAIL", b"FROM:" + source, *utf8, expect=(250,))
    await client.ask("RCPT", b"RCPT", b"TO:" + route, expect=(250, 251, 252))
    await client.ask("RSET", b"RSET", expect=(250,))
