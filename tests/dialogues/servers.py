"""Small servers that are healthy but for the steps of a dialogue.

They answer commands, in whatever order a client sends them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from mailwatch.model import Kind
from tests.dialogues.dialogue import Dialogue, Step, Then

HEADER = "Date: Mon, 2 Jan 2023 10:00:00 +0100\n\n"
_LITERAL = len(HEADER) + HEADER.count("\n")
_BOX = "* FLAGS (\\Seen)\n* 3 EXISTS\n* 0 RECENT\n* OK [UIDVALIDITY 1] ok\n{tag} OK [READ-ONLY] done"
HEALTHY: Mapping[Kind, Mapping[str, str]] = {
    Kind.IMAP: {
        "CONNECT": "* OK [CAPABILITY IMAP4rev1 LITERAL+ ID] ready",
        "CAPABILITY": "* CAPABILITY IMAP4rev1 LITERAL+ ID\n{tag} OK done",
        "ID": "* ID NIL\n{tag} OK done",
        "EXAMINE": _BOX,
        "SELECT": _BOX,
        "FETCH": f"* 3 FETCH (BODY[HEADER.FIELDS (DATE)] {{{_LITERAL}}}\n{HEADER})\n{{tag}} OK done",
        "LOGOUT": "* BYE bye\n{tag} OK done",
        "": "{tag} OK done",
    },
    Kind.POP3: {
        "CONNECT": "+OK ready",
        "CAPA": "+OK these\nTOP\nUSER\nUIDL\n.",
        "STAT": "+OK 1 500",
        "LIST": "+OK 1 message\n1 500\n.",
        "UIDL": "+OK 1 message\n1 a1\n.",
        "TOP": f"+OK headers\n{HEADER}.",
        "": "+OK",
    },
    Kind.SMTP: {
        "CONNECT": "220 mail.example.org ESMTP",
        "EHLO": "250-mail.example.org\n250-SIZE 1000000\n250 AUTH PLAIN LOGIN",
        "AUTH": "235 2.7.0 in",
        "QUIT": "221 2.0.0 bye",
        "": "250 2.0.0 ok",
    },
    Kind.MX: {
        "CONNECT": "220 mx1.example.org ESMTP",
        "EHLO": "250-mx1.example.org\n250 SIZE 1000000",
        "QUIT": "221 2.0.0 bye",
        "": "250 2.0.0 ok",
    },
}
"""What a server of each kind says when it is healthy, to a command and, by "", to any other."""

_LAST = frozenset({"LOGOUT", "QUIT"})
_BETWEEN_PACKETS = 0.002
"""Seconds between two pieces, so that they leave as packets of their own; the verdict may not depend on it."""


@dataclass(slots=True)
class _Session:
    """One connection to the server of a dialogue."""

    dialogue: Dialogue
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    asked: Counter[str] = field(default_factory=Counter)

    async def play(self) -> None:
        """Answer until the client or the dialogue ends it."""
        if await self._answer("CONNECT", ""):
            while line := (await self.reader.readline()).decode(errors="backslashreplace").rstrip("\r\n"):
                tag, _, rest = line.partition(" ") if self.dialogue.kind is Kind.IMAP else ("", "", line)
                command = rest.partition(" ")[0].upper()
                if not await self._answer(command, tag) or command in _LAST:
                    break

    async def _answer(self, command: str, tag: str) -> bool:
        """Say what is said to the command; False if the server is to hang up then."""
        steps = [step for step in self.dialogue.steps if step.to == command]
        if steps:
            step = steps[min(self.asked[command], len(steps) - 1)]
        else:
            healthy = HEALTHY[self.dialogue.kind]
            step = Step(command, healthy.get(command, healthy[""]))
        self.asked[command] += 1
        await self._say(step.says, tag)
        if step.then is Then.SILENCE:
            await self.reader.read()  # until the client has had enough
        return step.then is Then.GO_ON

    async def _say(self, words: str | bytes, tag: str) -> None:
        if isinstance(words, str):
            words = (words.replace("{tag}", tag) + "\n").replace("\n", "\r\n").encode() if words else b""
        size = self.dialogue.pieces or len(words) or 1
        for start in range(0, len(words), size):
            self.writer.write(words[start : start + size])
            await self.writer.drain()
            if self.dialogue.pieces:
                await asyncio.sleep(_BETWEEN_PACKETS)


@contextlib.asynccontextmanager
async def served(dialogue: Dialogue) -> AsyncIterator[int]:
    """Serve the dialogue on loopback; yields the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await _Session(dialogue, reader, writer).play()
        with contextlib.suppress(OSError):
            writer.close()
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
