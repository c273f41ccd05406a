"""Hardens aioimaplib 2.0.3 against hostile, broken and dying servers; no other module does.

What the library does, and what this module does instead:
- it hides a BYE greeting and a lost connection until a timeout; here both are raised at once;
- its buffers are unbounded and its parser recurses for each line; imap_lines.py does neither;
- it keeps mail in memory; here only the lines that a command asks for are kept;
- it returns NO and BAD as values; here they are raised, with their response code (RFC 9051, section 7.1);
- it knows no STARTTLS, sends user names unquoted, and logs a password that contains a quote or backslash;
- it always asks for the capabilities; here those of the greeting are enough.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache

from aioimaplib.aioimaplib import (
    AUTH,
    CONNECTED,
    LOGOUT,
    NONAUTH,
    SELECTED,
    Command,
    IMAP4ClientProtocol,
    Response,
)

from mailwatch.probes.imap_lines import ImapLineBuffer, ImapProtocolError, decode_text
from mailwatch.probes.imap_requests import EXISTS, IdleRequest, ImapRequest, LiteralRequest
from mailwatch.probes.redact import wire

_GREETING = re.compile(rb"\* (OK|PREAUTH|BYE)(?: (.*))?$", re.IGNORECASE)
_UNTAGGED = re.compile(rb"[A-Za-z0-9][A-Za-z0-9.+-]*(?= |$)")
_CAPABILITY = re.compile(rb"(?:CAPABILITY |OK \[CAPABILITY )([^\]]*)", re.IGNORECASE)
_CAPABILITY_CODE = re.compile(rb"\[CAPABILITY ([^\]]*)", re.IGNORECASE)
_CODE = re.compile(r"\[([^\] ]+)(?: [^\]]*)?\] ?(.*)", re.DOTALL)
_FETCH = re.compile(rb"(\d{1,10}) FETCH \(", re.IGNORECASE)
_HEADER = re.compile(
    rb"\d{1,10} FETCH \([^\[]*\bBODY\[[^\]]*\](?:<\d+>)? ?(?:~?\{\d+\+?\}|\"|NIL\b)", re.IGNORECASE
)
"""The value is a string or NIL (RFC 9051, section 9, msg-att-static); anything else is no header."""
_EXPUNGE = re.compile(rb"\d{1,10} EXPUNGE\b|VANISHED\b", re.IGNORECASE)
_NOTICE = re.compile(rb"(?:NO|BAD|BYE)\b|OK \[ALERT\]", re.IGNORECASE)
_DATA = re.compile(
    rb"\d|OK\b|PREAUTH\b|CAPABILITY\b|FLAGS\b|X?LIST\b|LSUB\b|E?SEARCH\b|STATUS\b|ENABLED\b|NAMESPACE\b|ID\b"
    rb"|QUOTA|VANISHED\b|SORT\b|THREAD\b|ACL\b|METADATA\b|ANNOTATION|LANGUAGE\b|COMPARATOR\b|MYRIGHTS\b|X-",
    re.IGNORECASE,
)
"""Untagged data; other lines are words, for example "* Too many invalid logon attempts." of some servers."""
MAX_NOTICES = 5
"""Untagged lines with words that are kept for a connection."""
BYE_GRACE_SECONDS = 0.5
"""Seconds to wait after a BYE for the answer to the command."""


MAX_CAPABILITY_BYTES = 8192
"""Bytes of a capability list that are read, since the lists are cached."""


@lru_cache(maxsize=64)
def _capabilities(names: bytes) -> frozenset[str]:
    """Parse a capability list; cached, since a server sends the same one in every session."""
    return frozenset(decode_text(name).upper() for name in names.split())


class ServerByeError(Exception):
    """The server sent BYE in answer to `command`. `server_text` is its reason, `before` the earlier notices."""

    def __init__(self, server_text: str, command: str = "greeting", before: Sequence[str] = ()) -> None:
        super().__init__(f"BYE {server_text}")
        self.server_text = server_text
        self.command = command
        self.before = tuple(before)


class ConnectionLostError(ConnectionError):
    """The connection ended before the answer to `command` was complete; `before` are the notices received."""

    command = "unasked"
    before: tuple[str, ...] = ()


class ImapCommandError(Exception):
    """The server answered NO or BAD. `code` is the response code in capitals, "" without one.

    `full` is the text with its code; `before` are the untagged lines with words received before it.
    """

    def __init__(self, command: str, status: str, server_text: str, before: Sequence[str] = ()) -> None:
        super().__init__(f"{status} {server_text}")
        self.server_text = f"{status} {server_text}"
        self.command = command
        self.status = status
        self.full = server_text
        self.before = tuple(before)
        self.note = ""
        found = _CODE.match(server_text)
        self.code, self.text = (found[1].upper(), found[2]) if found else ("", server_text)


class ImapClient(IMAP4ClientProtocol):
    """One IMAP connection; one command at a time. `state` is the library's."""

    transport: asyncio.Transport | None  # type: ignore[assignment]
    pending_sync_command: ImapRequest | None  # type: ignore[assignment]
    capabilities: set[str]

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._greeting: asyncio.Future[str] = loop.create_future()
        self._failure: Exception | None = None
        self._lines = ImapLineBuffer()
        self.exists = 0
        """The number of messages in the open mailbox, by the server's latest answer of any kind."""
        self.challenge = b""
        """The server's latest continuation request."""
        self.notices: list[str] = []
        """The untagged lines with words received in answer to the last command."""
        self.notice: Callable[[str], None] = lambda words: None
        """Called with each notice, at most MAX_NOTICES times for a connection."""
        self.answer = ""
        """The text of the last OK."""
        self.removed = 0
        """The number of removals from the open mailbox."""
        self._noticed = 0
        self._bye: ServerByeError | None = None
        self._between = False
        """True between the OK to STARTTLS and the handshake: data received now was injected by an attacker."""

    async def read_greeting(self) -> str:
        """Return the text of the greeting."""
        words = await self._greeting
        self._check()
        return words

    async def send_command(self, name: str, *parts: bytes, wanted: re.Pattern[bytes] | None = None) -> list[bytes]:
        """Send a command and return its untagged lines that match `wanted`. Raises ImapCommandError unless OK."""
        return await self._run(ImapRequest(name, self.new_tag(), parts, wanted))

    async def read_literals(
        self, name: str, *parts: bytes, wanted: re.Pattern[bytes]
    ) -> list[tuple[bytes, list[bytes]]]:
        """Send a command and return each line with its literals, within the bounds of an answer."""
        command = LiteralRequest(name, self.new_tag(), parts, wanted, self._lines)
        lines = await self._run(command, keep=True)
        return list(zip(lines, command.literals, strict=False))

    async def idle_for(self, seconds: float, answer_seconds: float) -> None:
        """IDLE until a message arrives, at most for `seconds`; each answer may take `answer_seconds`.

        Raises ImapCommandError, TimeoutError, and the errors that end the connection.
        """
        self._check()
        self._lines.next_response()
        command = IdleRequest(self.new_tag())
        self.pending_sync_command = command
        self._send(command.parts.pop(0))
        async with asyncio.timeout(answer_seconds):
            await command.started.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await command.news.wait()
        if self.pending_sync_command is command and self._failure is None:
            self._send(b"DONE")
        async with asyncio.timeout(answer_seconds):
            await command.wait()
        result, answer = command.response
        if result != "OK":
            raise ImapCommandError("IDLE", result, decode_text(answer[-1]), self.notices)

    async def _run(self, command: ImapRequest, *, keep: bool = False) -> list[bytes]:
        self._check()
        self._lines.next_response(keep=keep)
        self.notices = []
        self.pending_sync_command = command
        self._send(command.parts.pop(0))
        await command.wait()
        result, answer = command.response
        lines: list[bytes] = answer[:-1]
        if result != "OK":
            raise ImapCommandError(command.name, result, decode_text(answer[-1]), self.notices)
        return lines

    async def execute(self, command: Command, scrub: str | None = None) -> Response:
        """Raise NotImplementedError: library commands have no bounds, and their repr shows their arguments."""
        raise NotImplementedError(f"{command.name} is not mended; use ask()")

    async def capability(self) -> None:
        """Request the capabilities again."""
        self.capabilities = set()
        await self.send_command("CAPABILITY")
        if not any(name.startswith("IMAP4") for name in self.capabilities):
            raise ImapProtocolError("the server does not say that it speaks IMAP4")

    async def starttls(self, upgrade: Callable[[IMAP4ClientProtocol], Awaitable[asyncio.Transport]]) -> None:
        """Start TLS, and discard the capabilities received before it (RFC 9051, section 6.2.1)."""
        await self.send_command("STARTTLS")
        self._check()
        self._between = False
        self.transport = await upgrade(self)
        await self.capability()

    async def login(self, user: str, password: str) -> None:
        """Log in with LOGIN, with literals for non-ASCII arguments (RFC 9051, sections 4.3 and 6.2.3)."""
        parts = [b""]
        for argument in (wire(user), wire(password)):
            space = b" " if parts != [b""] else b""
            if argument.isascii():
                parts[-1] += space + b'"' + argument.replace(b"\\", rb"\\").replace(b'"', rb"\"") + b'"'
            else:
                parts[-1] += space + b"{%d}" % len(argument)
                parts.append(argument)
        await self.send_command("LOGIN", *parts)
        self.state = AUTH

    async def authenticate_plain(self, user: str, password: str) -> None:
        """Log in with AUTHENTICATE PLAIN (RFC 4616), in one step if the server supports it (RFC 4959)."""
        await self.authenticate("PLAIN", b64encode(b"\0" + wire(user) + b"\0" + wire(password)))

    async def authenticate(self, mechanism: str, initial: bytes, *answers: bytes) -> None:
        """Log in with AUTHENTICATE (RFC 9051, section 6.2.2). `answers` are for challenges; keep the last one."""
        name = mechanism.encode()
        first = (name + b" " + initial,) if "SASL-IR" in self.capabilities else (name, initial)
        await self.send_command("AUTHENTICATE", *first, *answers)
        self.state = AUTH

    async def examine(self, command: str = "EXAMINE") -> int:
        """Open INBOX and return its number of messages. EXAMINE changes nothing, SELECT does."""
        counts = await self.send_command(command, b"INBOX", wanted=EXISTS)
        if not counts:
            raise ImapProtocolError(f"{command} was answered without EXISTS")
        self.state = SELECTED
        return int(counts[-1].split()[0])

    async def identify(self) -> None:
        """Identify this program with ID (RFC 2971). Raises ImapCommandError."""
        await self.send_command("ID", b'("name" "MailWatch")')

    async def read_date(self, number: int) -> bool:
        """Read the Date field of a message without marking it as seen; return whether it came, even as NIL."""
        lines = await self.send_command("FETCH", b"%d BODY.PEEK[HEADER.FIELDS (DATE)]" % number, wanted=_FETCH)
        return any(int(line.split()[0]) == number and _HEADER.match(line) for line in lines)

    async def logout(self) -> None:
        """Log out; the BYE in the answer is no failure."""
        self.state = LOGOUT
        await self.send_command("LOGOUT")

    def send(self, line: str, scrub: str | None = None) -> None:
        """Send a line without logging it."""
        self._send(wire(line))

    def data_received(self, d: bytes) -> None:
        """Process received data line by line, until the first failure."""
        if self._failure is not None:
            return
        try:
            self._reject_injected(d)
            for line in self._lines.feed(d):
                self._handle_line(line, None)
                if self._between and self._lines.pending:
                    self._reject_injected(b"...")
        except (ImapProtocolError, ServerByeError, ConnectionLostError) as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail every waiting task at once."""
        error = self.unanswered() or ConnectionLostError("connection lost")
        error.__cause__ = exc
        self._fail(self._bye or error)

    def unanswered(self) -> ConnectionLostError | None:
        """Return the notices received in answer to the last command as an error, if nothing else came."""
        if self.pending_sync_command is None or not self.notices:
            return None
        error = ConnectionLostError("connection lost")
        error.command, error.before = self.pending_sync_command.name, tuple(self.notices)
        return error

    def _reject_injected(self, data: bytes) -> None:
        if self._between:
            raise ImapProtocolError("plain text after the answer to STARTTLS", data[:200])

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _send(self, line: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionLostError("connection lost")
        self.transport.write(line + b"\r\n")

    def _fail(self, error: Exception) -> None:
        """Keep the first failure, which explains later ones, and abort the connection."""
        if self._failure is not None:
            return
        self._failure = error
        self._lines = ImapLineBuffer()
        if self.pending_sync_command is not None:
            self.pending_sync_command.fail(error)
        if not self._greeting.done():
            self._greeting.set_exception(error)
            self._greeting.exception()  # retrieved here, since without a waiting task asyncio would log it
        if self.transport is not None:
            self.transport.abort()

    def _handle_line(self, line: bytes, current_cmd: Command | None) -> None:
        if self.state == CONNECTED:
            self._greet(line)
        elif line.startswith(b"* "):
            self._untagged(line[2:])
        elif line.startswith(b"+"):
            self._continuation(line)
        elif line:
            self._response_done(line)

    def _greet(self, line: bytes) -> None:
        greeting = _GREETING.match(line)
        if greeting is None:
            raise ImapProtocolError("greeting is not IMAP", line)
        status, words = greeting[1].upper(), greeting[2] or b""
        if status == b"BYE":
            raise ServerByeError(decode_text(words))
        self.state = AUTH if status == b"PREAUTH" else NONAUTH
        self._learn_capabilities(_CAPABILITY_CODE.match(words))
        self._greeting.set_result(decode_text(line))

    def _learn_capabilities(self, found: re.Match[bytes] | None) -> None:
        if found:
            self.capabilities = set(_capabilities(found[1][:MAX_CAPABILITY_BYTES]))

    def _untagged(self, line: bytes) -> None:
        name = _UNTAGGED.match(line)
        if name is None:
            raise ImapProtocolError("answer is not IMAP", line)
        if name[0].upper() == b"BYE" and self.state != LOGOUT:
            self._take_bye(decode_text(line[4:]))
            return
        if _NOTICE.match(line) or not _DATA.match(line):
            self._note_words(line)
        self._learn_capabilities(_CAPABILITY.match(line))
        if (count := EXISTS.match(line)) is not None:
            self.exists = int(count[1])
        elif _EXPUNGE.match(line):
            self.removed += 1
            self.exists = max(0, self.exists - 1)
        if self.pending_sync_command is not None:
            self.pending_sync_command.append_to_resp(line)

    def _note_words(self, line: bytes) -> None:
        if self._noticed < MAX_NOTICES:
            self._noticed += 1
            words = decode_text(line)
            self.notices.append(words)
            self.notice(words)

    def _take_bye(self, words: str) -> None:
        """Process a BYE; some servers send it before their answer, whose NO has the better reason."""
        command = self.pending_sync_command
        if command is None or self._bye is not None or isinstance(command, IdleRequest):
            raise self._bye or ServerByeError(words, command.name if command else "unasked", self.notices)
        self._bye = ServerByeError(words, command.name, self.notices)
        asyncio.get_running_loop().call_later(BYE_GRACE_SECONDS, self._fail, self._bye)

    def _continuation(self, line: bytes) -> None:
        command = self.pending_sync_command
        if isinstance(command, IdleRequest) and not command.started.is_set():
            command.started.set()
            return
        if command is None or not command.parts:
            raise ImapProtocolError("the server asks for more than there is", line)
        self.challenge = line[1:].strip()
        self._send(command.parts.pop(0))

    def _response_done(self, line: bytes) -> None:
        command = self.pending_sync_command
        tag, _, answer = line.partition(b" ")
        status, _, words = answer.lstrip(b" ").partition(b" ")
        result = decode_text(status).upper()
        if command is None or tag != command.tag.encode() or result not in ("OK", "NO", "BAD"):
            raise ImapProtocolError("answer is not IMAP", line)
        if self._bye is not None:
            if result == "OK" or self._failure is not None:
                raise self._bye
            self._note_words(b"* BYE " + self._bye.server_text.encode("utf-8", "replace"))
        self.pending_sync_command = None
        if result == "OK":
            # Only the response code: "OK Capability completed" lists no capability.
            self._learn_capabilities(_CAPABILITY_CODE.match(words))
            self.answer = decode_text(words)
            self._between = command.name == "STARTTLS"
        command.close(words, result)
