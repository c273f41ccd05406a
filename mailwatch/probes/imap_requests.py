"""Commands to an IMAP server, and what is kept of the answers."""

from __future__ import annotations

import asyncio
import re

from aioimaplib.aioimaplib import Command

from mailwatch.probes.imap_lines import Lines

EXISTS = re.compile(rb"(\d{1,10}) EXISTS *$", re.IGNORECASE)


class Request(Command):
    """A command that shows its name only, and keeps only the untagged lines that match `wanted`.

    `parts` are sent one by one, each but the first when the server asks for it (literals, AUTHENTICATE).
    """

    def __init__(self, name: str, tag: str, parts: tuple[bytes, ...], wanted: re.Pattern[bytes] | None) -> None:
        super().__init__(name, tag)
        head, *rest = parts or (b"",)
        self.parts = [f"{tag} {name} ".encode() + head if head else f"{tag} {name}".encode(), *rest]
        self._wanted = wanted

    def append_to_resp(self, line: bytes, result: str = "Pending") -> None:
        """Keep a line of the answer; the library's also winds up a timer for each."""
        self._resp_result = result
        if result != "Pending" or (self._wanted and self._wanted.match(line)):
            self._resp_lines.append(line)

    def fail(self, error: Exception) -> None:
        """Let the one who waits for the answer have the error."""
        self._exception = error  # type: ignore[assignment]
        self._event.set()


class Reading(Request):
    """A command whose answer has literals that are wanted: one list of them for each line."""

    def __init__(
        self, name: str, tag: str, parts: tuple[bytes, ...], wanted: re.Pattern[bytes], lines: Lines
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


class Idling(Request):
    """IDLE (RFC 2177): `begun` is set when the server has agreed, `news` when it has some or will not go on."""

    def __init__(self, tag: str) -> None:
        super().__init__("IDLE", tag, (), EXISTS)
        self.begun = asyncio.Event()
        self.news = asyncio.Event()

    def append_to_resp(self, line: bytes, result: str = "Pending") -> None:
        """Keep a line of the answer; a new message is news, and so is the end."""
        super().append_to_resp(line, result)
        if self._resp_lines:
            self.news.set()
        if result != "Pending":
            self.begun.set()

    def fail(self, error: Exception) -> None:
        """Wake whoever waits."""
        super().fail(error)
        self.begun.set()
        self.news.set()
