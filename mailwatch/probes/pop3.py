"""Probes a POP3 server as a mail program does: greeting, login, number of messages, headers of the newest one.

Its client has bounds of bytes and time (RFC 1939, RFC 2449, RFC 2595, RFC 5034).
"""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from typing import cast

from mailwatch.model import Cause, Outcome, Phase, TlsMode
from mailwatch.probes import sasl
from mailwatch.probes.classify import Reply, classify
from mailwatch.probes.connect import CloseCallback, ProbeContext
from mailwatch.probes.failures import Pop3ProtocolError, Pop3ReplyError, ProbeError
from mailwatch.probes.redact import wire

MAX_LINE_BYTES = 64 * 1024
MAX_RESPONSE_BYTES = 1024 * 1024
"""Bytes that the server may send in answer to one command."""


class Pop3Client(asyncio.Protocol):
    """One POP3 connection: a command, then its answer; unsolicited data is a failure."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._lines: deque[bytes] = deque()
        self._taken = 0
        self._ended: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.capabilities: dict[str, str] = {}
        self.long_lines = False
        """Whether lines may be as long as a whole answer, as the lines of a message may."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport; called again after STLS, with the encrypting one."""
        # Not asserted: uvloop's encrypting transport is no asyncio class.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Split received data into lines."""
        if self._ended is not None:
            return
        # Counted as lines: the result must not depend on how the bytes were split into packets.
        lines: list[bytes] = []
        self._buffer += data
        if b"\n" in data:
            *lines, rest = bytes(self._buffer).split(b"\n")
            self._buffer[:] = rest
        for line in lines:
            self._taken += len(line) + 1
            if not self._bounded(len(line)):
                break
            self._lines.append(line.removesuffix(b"\r"))
        else:
            self._bounded(len(self._buffer), more=len(self._buffer))
        self._wake()

    def _bounded(self, length: int, *, more: int = 0) -> bool:
        """Return whether a line of `length` is within the bounds; if not, fail after the lines before it."""
        if self._taken + more > MAX_RESPONSE_BYTES:
            self._fail(Pop3ProtocolError("response longer than 1 MiB"))
        elif length > MAX_LINE_BYTES and not self.long_lines:
            self._fail(Pop3ProtocolError("line longer than 64 KiB"))
        return self._ended is None

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the waiting task."""
        self._fail(exc or ConnectionResetError("connection lost"))

    async def read_greeting(self) -> str:
        """Wait for the greeting, and return it."""
        return self._expect_ok("greeting", await self._line())

    async def command(self, step: str, *words: bytes) -> str:
        """Send a command and return the text after +OK. Raises Pop3ReplyError or Pop3ProtocolError."""
        return self._expect_ok(step, await self._send(step, step.encode(), *words))

    async def command_challenge(self, step: str, *words: bytes, line: bool = False) -> bytes | None:
        """Send a command, or a further line of one; return the challenge (RFC 5034, section 4), None at +OK."""
        answer = await self._send(step, *(words if line else (step.encode(), *words)))
        if answer == b"+" or answer.startswith(b"+ "):
            return answer[2:]
        self._expect_ok(step, answer)
        return None

    async def _send(self, step: str, *words: bytes) -> bytes:
        if self._lines or self._buffer:
            line = self._lines[0] if self._lines else bytes(self._buffer)
            if not line.startswith(b"-ERR"):
                raise Pop3ProtocolError(f"the server sends data unasked before {step}", _text(line))
            self._expect_ok("unasked", line)
        self._taken = 0
        assert self._transport is not None
        self._transport.write(b" ".join(words) + b"\r\n")
        return await self._line()

    async def read_lines(self) -> list[bytes]:
        """Read the rest of a multi-line answer (RFC 1939, section 3)."""
        found = []
        while (line := await self._line()) != b".":
            found.append(line)
        return found

    async def header(self, number: int) -> bool:
        """Read the header of a message by TOP; return whether the answer ended with it.

        Some servers send the whole message: do not wait for what follows the header.
        """
        self.long_lines = True
        await self.command("TOP", str(number).encode(), b"0")
        while (line := await self._line()) not in (b"", b"."):
            pass
        return line == b"."

    async def learn_capabilities(self) -> None:
        """Request the capabilities with CAPA; a server that does not know CAPA has none (RFC 2449, section 5)."""
        try:
            await self.command("CAPA")
        except Pop3ReplyError as refused:
            # The server may not know CAPA; but a reason that excuses it comes before it disconnects.
            if classify(Reply("pop3", "CAPA", "-ERR", refused.server_text[4:])).cause.outcome is Outcome.UNKNOWN:
                raise
            self.capabilities = {}
            return
        capabilities = (_text(line).partition(" ") for line in await self.read_lines())
        self.capabilities = {name.upper(): rest.upper() for name, _, rest in capabilities}

    async def starttls(self, upgrade: Callable[[asyncio.BaseProtocol], Awaitable[asyncio.Transport]]) -> None:
        """Start TLS with STLS (RFC 2595, section 4); plain text injected after the answer is a failure."""
        await self.command("STLS")
        if self._lines or self._buffer:
            raise ProbeError(Cause.PROTOCOL, "plain text after the answer to STLS")
        self._transport = await upgrade(self)

    async def log_in(self, user: str, password: str, sending: Callable[[], None] = lambda: None) -> None:
        """Log in by one method, never by a second: each try counts at the provider.

        `sending` is called before the password is sent.
        """
        name, secret = wire(user), wire(password)
        plain = "PLAIN" in self.capabilities.get("SASL", "").split()
        if plain and (not (user + password).isascii() or "USER" not in self.capabilities):
            sending()
            await self.command("AUTH", b"PLAIN", b64encode(b"\0" + name + b"\0" + secret))
            return
        await self.command("USER", name)
        sending()
        await self.command("PASS", secret)

    async def quit(self) -> None:
        """Send QUIT; nothing was marked for deletion."""
        await self.command("QUIT")

    async def drain_and_quit(self) -> None:
        """Read the rest of an answer, within the bounds, and send QUIT."""
        while await self._line() != b".":
            pass
        await self.quit()

    def _expect_ok(self, step: str, line: bytes) -> str:
        text = _text(line)
        if line.startswith(b"+OK"):
            return text
        if line.startswith(b"-ERR"):
            raise Pop3ReplyError(step, text)
        raise Pop3ProtocolError(f"{step}: answer is not POP3: {text[:200]}", text)

    async def _line(self) -> bytes:
        while not self._lines:
            if self._ended is not None:
                raise self._ended
            self._waiter = self._loop.create_future()
            await self._waiter
        return self._lines.popleft()

    def _fail(self, error: Exception) -> None:
        if self._ended is None:
            self._ended = error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _text(line: bytes) -> str:
    return line.decode("utf-8", "backslashreplace")


_STAT = re.compile(r"\+OK\s{1,9}(\d+)\b")


async def probe(call: ProbeContext) -> CloseCallback:
    """Run the phases; the first failure raises. Return the callback that closes the session.

    Nothing is deleted. TOP with no lines reads headers only; they are not kept.
    """
    loop = asyncio.get_running_loop()
    phase = call.recorder.phase
    client = await call.open(lambda: Pop3Client(loop))
    with phase(Phase.GREETING):
        call.recorder.add_reply(await client.read_greeting())
        await client.learn_capabilities()
    if call.target.tls is TlsMode.STARTTLS:
        with phase(Phase.TLS):
            if "STLS" not in client.capabilities:
                raise ProbeError(Cause.TLS, "the server does not offer STLS")
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            await client.learn_capabilities()
    if call.login is None:
        return client.quit
    user, password = call.login.username, call.login.password.get_secret_value()
    if any(c in user or c in password for c in "\r\n\0"):
        raise ProbeError(Cause.CREDENTIALS, "the user name or password contains CR, LF or NUL; nothing was sent")
    with phase(Phase.AUTH):
        if call.login.oauth2 is not None:
            offered = client.capabilities.get("SASL", "").split()
            await _login_with_token(client, sasl.choose_mechanism(call, call.login, offered))
        else:
            await client.log_in(user, password, call.recorder.note_password_sent)
    with phase(Phase.MAILBOX):
        messages = _count(await client.command("STAT"))
    if messages and "TOP" in client.capabilities:
        with phase(Phase.FETCH):
            if not await client.header(messages):
                return client.drain_and_quit
    return client.quit


async def _login_with_token(client: Pop3Client, mechanism: sasl.Mechanism) -> None:
    """Log in with an access token, which is too long for the command's line (RFC 5034, section 4)."""
    if await client.command_challenge("AUTH", mechanism.name.encode()) is None:
        raise ProbeError(Cause.PROTOCOL, "AUTH: the server accepts the login before it has the token")
    challenge = await client.command_challenge("AUTH", mechanism.initial, line=True)
    if challenge is not None:
        try:
            await client.command_challenge("AUTH", mechanism.failure_response, line=True)
        except Pop3ReplyError as refused:
            refused.note = sasl.failure_status(challenge)
            raise
        raise ProbeError(Cause.PROTOCOL, "AUTH: the server continues after it reported a failure")


def _count(answer: str) -> int:
    """Parse the drop listing (RFC 1939, section 5)."""
    found = _STAT.match(answer)
    if found is None:
        raise Pop3ProtocolError(f"STAT: answer is not POP3: {answer[:200]}", answer)
    return int(found[1][:9])
