"""Commands of an IMAP session: what they send, and which lines of the answer they keep."""

from __future__ import annotations

import asyncio
import re

from aioimaplib.aioimaplib import (
    Command,
)

from mailwatch.probes.imap_lines import ImapLineBuffer

EXISTS = re.compile(rb"(\d{1,10}) EXISTS *$", re.IGNORECASE)


class ImapRequest(Command):
    """A command whose repr has only its name, and which keeps only the untagged lines that match `wanted`.

    `parts` are sent one by one, each after the first when the server asks for it (literals, AUTHENTICATE).
    """

    def __init__(self, name: str, tag: str, parts: tuple[bytes, ...], wanted: re.Pattern[bytes] | None) -> None:
        super().__init__(name, tag)
        head, *rest = parts or (b"",)
        self.parts = [f"{tag} {name} ".encode() + head if head else f"{tag} {name}".encode(), *rest]
        self._wanted = wanted

    def append_to_resp(self, line: bytes, result: str = "Pending") -> None:
        """Keep a line of the answer; the library's method also restarts a timer for each line."""
        self._resp_result = result
        if result != "Pending" or (self._wanted and self._wanted.match(line)):
            self._resp_lines.append(line)

    def fail(self, error: Exception) -> None:
        """Raise the error in the task that waits for the answer."""
        self._exception = error  # type: ignore[assignment]
        self._event.set()


class LiteralRequest(ImapRequest):
    """A command that keeps the literals of its answer: one list of them for each line."""

    def __init__(
        self, name: str, tag: str, parts: tuple[bytes, ...], wanted: re.Pattern[bytes], lines: ImapLineBuffer
    ) -> None:
        super().__init__(name, tag, parts, wanted)
        self._lines = lines
        self.literals: list[list[bytes]] = []

    def append_to_resp(self, line: bytes, result: str = "Pending") -> None:
        """Keep a line of the answer, with its literals."""
        before = len(self._resp_lines)
        super().append_to_resp(line, result)
        if len(self._resp_lines) > before:
            self.literals.append(self._lines.literals)


class IdleRequest(ImapRequest):
    """IDLE (RFC 2177). `started`: the server has agreed; `news`: a message arrived, or IDLE ended."""

    def __init__(self, tag: str) -> None:
        super().__init__("IDLE", tag, (), EXISTS)
        self.started = asyncio.Event()
        self.news = asyncio.Event()

    def append_to_resp(self, line: bytes, result: str = "Pending") -> None:
        """Keep a line of the answer, and set the events."""
        super().append_to_resp(line, result)
        if self._resp_lines:
            self.news.set()
        if result != "Pending":
            self.started.set()

    def fail(self, error: Exception) -> None:
        """Record the error, and wake the waiting task."""
        super().fail(error)
        self.started.set()
        self.news.set()
