"""Splits the data of an IMAP server into lines, within bounds. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_LINE_BYTES = 64 * 1024
MAX_LITERAL_BYTES = 256 * 1024
MAX_RESPONSE_BYTES = 1024 * 1024
"""Bytes that the server may send in answer to one command."""

_LITERAL = re.compile(rb"\{(\d+)\+?\}$")
_TEXT = re.compile(rb"\+|\S{1,64} (?:OK|NO|BAD|BYE|PREAUTH)\b", re.IGNORECASE)
"""A line that ends with text for people (RFC 9051, section 9, resp-text): "{5}" in it starts no literal."""


class ImapProtocolError(Exception):
    """The answer is not IMAP. `server_text` is what the server sent instead."""

    def __init__(self, what: str, server_text: bytes = b"") -> None:
        self.server_text = decode_text(server_text)
        super().__init__(f"{what}: {self.server_text}" if server_text else what)


def decode_text(line: bytes) -> str:
    """Decode a server's text; bytes that are not UTF-8 are escaped."""
    return line.decode("utf-8", "backslashreplace")


class ImapLineBuffer:
    """A buffer that splits bytes into whole lines.

    Literals (RFC 9051, section 4.3) are counted and dropped; with `keep`, `literals` has those of the line yielded
    last.
    """

    __slots__ = ("_buffer", "_head", "_kept", "_searched", "_skip", "_taken", "keep", "literals")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = bytearray()
        self._searched = self._skip = 0
        self._taken = 0
        self._kept: list[bytearray] = []
        self.keep = False
        self.literals: list[bytes] = []

    @property
    def pending(self) -> bool:
        """Whether there are bytes that belong to no line yielded so far."""
        return bool(self._buffer or self._head or self._skip)

    def next_response(self, *, keep: bool = False) -> None:
        """Reset the count of bytes: the data from here on answers another command."""
        self._taken = 0
        # A literal that is half read keeps its setting.
        self.keep, self._kept = keep, self._kept if keep else []

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that `data` completes; the generator processes `data` only when iterated.

        Raises ImapProtocolError beyond the bounds. A line interrupted by literals is yielded as one, without them.
        """
        self._buffer += data
        while (line := self._cut()) is not None:
            literal = _LITERAL.search(line)
            if literal and (self._head or not _TEXT.match(line)):
                self._skip = _size(literal[1])
                self._join(line)
                if self.keep:
                    self._kept.append(bytearray())
            else:
                self._join(line)
                line, self._head = bytes(self._head), bytearray()
                if self.keep:
                    self.literals, self._kept = [bytes(literal) for literal in self._kept], []
                yield line
        self._bound(0 if self._skip else len(self._buffer))

    def _count(self, length: int) -> None:
        """Count bytes as they are consumed: the result must not depend on how they were split into packets."""
        self._taken += length
        if self._taken > MAX_RESPONSE_BYTES:
            raise ImapProtocolError("response longer than 1 MiB")

    def _cut(self) -> bytes | None:
        buffer = self._buffer
        if self._skip:
            dropped = min(self._skip, len(buffer))
            if self._kept:
                self._kept[-1] += buffer[:dropped]
            del buffer[:dropped]
            self._skip -= dropped
            self._count(dropped)
        # Do not search the same bytes again: many small packets cost no more than a large one.
        end = -1 if self._skip else buffer.find(b"\n", self._searched)
        self._searched = len(buffer) if end < 0 else 0
        if end < 0:
            return None
        line = bytes(buffer[:end]).removesuffix(b"\r")
        # Cheap: a bytearray drops its beginning without moving the rest.
        del buffer[: end + 1]
        self._count(end + 1)
        return line

    def _join(self, line: bytes) -> None:
        self._bound(len(line))
        self._head += line

    def _bound(self, length: int) -> None:
        if len(self._head) + length > MAX_LINE_BYTES:
            raise ImapProtocolError("line longer than 64 KiB")


def _size(digits: bytes) -> int:
    if len(digits) > 9 or int(digits) > MAX_LITERAL_BYTES:
        raise ImapProtocolError("literal longer than 256 KiB")
    return int(digits)
