"""A connection to the fake provider: reads and writes lines according to the current behaviour."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from binascii import Error as NotBase64
from collections.abc import Callable
from enum import StrEnum

SLOW_SECONDS = 0.3
"""Seconds before each answer of a slow provider."""

USERNAME = "demo@provider.example"
PASSWORD = "no-secret-of-anyone"  # noqa: S105 - a public password, of the only fake account
_MAX_LINE_BYTES = 8192


class Behaviour(StrEnum):
    """The behaviours of the fake provider."""

    FINE = "fine"
    SLOW = "slow"
    SILENT = "silent"
    BYE = "bye"
    UNAVAILABLE = "unavailable"
    REFUSING = "refusing"

    @property
    def serves(self) -> bool:
        """Whether a mail program can use the provider."""
        return self in (Behaviour.FINE, Behaviour.SLOW)


class HangupError(Exception):
    """The connection is over."""


class LineConnection:
    """Reads and writes lines. Raises HangupError when the client has gone."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, behaviour: Callable[[], Behaviour]
    ) -> None:
        self._reader = reader
        self.writer = writer
        self._behaviour = behaviour

    @property
    def behaviour(self) -> Behaviour:
        """The current behaviour; it may change between two lines."""
        return self._behaviour()

    async def read_line(self) -> str:
        """Return the next line without its line ending."""
        try:
            line = await self._reader.readline()
        except ValueError:  # longer than the reader's bound
            raise HangupError from None
        if not line.endswith(b"\n") or len(line) > _MAX_LINE_BYTES:
            raise HangupError
        return line.rstrip(b"\r\n").decode("utf-8", "replace")

    async def read_bytes(self, size: int) -> str:
        """Return exactly `size` bytes, as text."""
        if size > _MAX_LINE_BYTES:
            raise HangupError
        return (await self._reader.readexactly(size)).decode("utf-8", "replace")

    async def write_lines(self, *lines: str) -> None:
        """Send lines. A silent provider sends nothing, and waits until the client gives up."""
        if self.behaviour is Behaviour.SILENT:
            while await self._reader.read(_MAX_LINE_BYTES):
                pass
            raise HangupError
        if self.behaviour is Behaviour.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        self.writer.write("".join(f"{line}\r\n" for line in lines).encode())
        await self.writer.drain()


def is_plain_login(response: str) -> bool:
    """Return whether a SASL PLAIN response (RFC 4616) has the right user name and password."""
    return decode_base64(response).split("\0")[1:] == [USERNAME, PASSWORD]


def decode_base64(response: str) -> str:
    """Return a base64 response decoded, "" if it is not base64."""
    try:
        return b64decode(response, validate=True).decode("utf-8", "replace")
    except NotBase64:
        return ""
