"""One connection to the stand-in: lines in, lines out, in the mood of the moment."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from enum import StrEnum

SLOWNESS = 0.3
"""Seconds before each answer of a slow provider."""

USERNAME = "demo@provider.example"
PASSWORD = "no-secret-of-anyone"  # noqa: S105 - the stand-in's only account is known to all
_LONGEST = 8192


class Mood(StrEnum):
    """How the stand-in behaves."""

    FINE = "fine"
    SLOW = "slow"
    SILENT = "silent"
    BYE = "bye"
    UNAVAILABLE = "unavailable"
    REFUSING = "refusing"

    @property
    def serves(self) -> bool:
        """Whether a mail program gets what it came for."""
        return self in (Mood.FINE, Mood.SLOW)


class Hangup(Exception):
    """This conversation is over."""


class Dialogue:
    """Reads and writes lines. Raises Hangup when the other side has gone."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, mood: Callable[[], Mood]
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._mood = mood

    @property
    def mood(self) -> Mood:
        """The mood now; it may change between two lines."""
        return self._mood()

    async def hear(self) -> str:
        """Return the next line without its end."""
        try:
            line = await self._reader.readline()
        except ValueError:  # longer than the reader's bound
            raise Hangup from None
        if not line.endswith(b"\n") or len(line) > _LONGEST:
            raise Hangup
        return line.rstrip(b"\r\n").decode("utf-8", "replace")

    async def hear_bytes(self, size: int) -> str:
        """Return exactly `size` bytes, as text."""
        if size > _LONGEST:
            raise Hangup
        return (await self._reader.readexactly(size)).decode("utf-8", "replace")

    async def say(self, *lines: str) -> None:
        """Send lines; a silent provider sends nothing more, and waits until the other side gives up."""
        if self.mood is Mood.SILENT:
            while await self._reader.read(_LONGEST):
                pass
            raise Hangup
        if self.mood is Mood.SLOW:
            await asyncio.sleep(SLOWNESS)
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await self.writer.drain()


def is_plain_login(response: str) -> bool:
    """Whether a SASL PLAIN response (RFC 4616) carries the right user name and password."""
    return decoded(response).split("\0")[1:] == [USERNAME, PASSWORD]


def decoded(response: str) -> str:
    """Return what a base64 response says, or nothing if it is none."""
    try:
        return b64decode(response, validate=True).decode("utf-8", "replace")
    except NotBase64:
        return ""
