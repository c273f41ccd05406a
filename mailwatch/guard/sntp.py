"""SNTP: the offset of our clock by one time server (RFC 4330, RFC 5905), which is not authenticated."""

from __future__ import annotations

import asyncio
import secrets
import struct
import time
from dataclasses import dataclass

_PACKET = struct.Struct("!BBbbiII8s8s8s8s")
_EPOCH = 2_208_988_800
"""Seconds from 1900, the NTP epoch, to 1970."""
_CLIENT = 4 << 3 | 3
"""Leap indicator 0 (no warning), version 4, mode 3 (client)."""
_SERVER = 4
_MAX_DISTANCE_US = 1_000_000
"""MAXDIST of RFC 5905: a server with a larger distance is of no use."""


class SntpError(Exception):
    """The server's answer cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Offset:
    """The server's time minus our clock, and the bound of its error, in microseconds."""

    server: str
    offset_us: int
    bound_us: int
    delay_us: int
    stratum: int


async def sntp(host: str, port: int = 123, timeout: float = 2.0) -> Offset:
    """Ask one server once. Raises SntpError, or OSError (also TimeoutError).

    The request carries a random number in place of our time: servers only repeat it, and only one who saw the
    request can.
    """
    nonce = secrets.token_bytes(8)
    async with asyncio.timeout(timeout):
        loop = asyncio.get_running_loop()
        transport, exchange = await loop.create_datagram_endpoint(
            lambda: _Exchange(_PACKET.pack(_CLIENT, 0, 0, 0, 0, 0, 0, bytes(8), bytes(8), bytes(8), nonce)),
            remote_addr=(host, port),
        )
        try:
            answer = await exchange.answer
        finally:
            transport.close()
    elapsed = exchange.received - exchange.began
    return read_answer(answer, nonce=nonce, sent_ns=exchange.sent_ns, elapsed_ns=elapsed, server=host)


class _Exchange(asyncio.DatagramProtocol):
    """Sends one datagram and receives one; measures the elapsed time by the monotonic clock."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.sent_ns = self.began = self.received = 0

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.sent_ns, self.began = time.time_ns(), time.monotonic_ns()
        transport.sendto(self._request)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done():
            self.received = time.monotonic_ns()
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def read_answer(data: bytes, *, nonce: bytes, sent_ns: int, elapsed_ns: int, server: str) -> Offset:
    """Check an answer (RFC 4330, section 5), and compute offset and bound. Raises SntpError.

    The bound is half the round-trip time plus the distance that the server states to its source.
    """
    if len(data) < _PACKET.size:
        raise SntpError(f"{len(data)} bytes are not an NTP answer, which has {_PACKET.size}")
    first, stratum, _, _, root_delay, root_dispersion, reference, _, originate, receive, transmit = (
        _PACKET.unpack_from(data)
    )
    leap, version, mode = first >> 6, first >> 3 & 7, first & 7
    if mode != _SERVER or version not in (3, 4):
        raise SntpError(f"version {version} mode {mode} is not a server's answer")
    if originate != nonce:
        raise SntpError("the answer does not repeat our request; it is late, or not the server's")
    if stratum == 0:
        code = reference.to_bytes(4).decode("ascii", "replace").rstrip("\0")
        raise SntpError(f"the server refuses requests ({code!r})")
    if leap == 3 or stratum > 15:
        raise SntpError("the server is itself not synchronised")
    if not any(transmit):
        raise SntpError("the answer contains no time")
    distance = _short_us(root_delay) // 2 + _short_us(root_dispersion)
    if root_delay < 0 or distance >= _MAX_DISTANCE_US:
        raise SntpError(f"the server is itself {distance / 1e6:.1f} s or more from its source")
    received, sent = _since_us(receive, sent_ns), _since_us(transmit, sent_ns)
    if sent < received:
        raise SntpError("the answer was sent before the request was received")
    elapsed = elapsed_ns // 1000
    delay = max(elapsed - (sent - received), 0)
    return Offset(server, (received + sent - elapsed) // 2, -(-delay // 2) + distance, delay, stratum)


def _short_us(fixed: int) -> int:
    """Convert seconds in 16.16 fixed point to microseconds."""
    return fixed * 1_000_000 >> 16


def _since_us(timestamp: bytes, sent_ns: int) -> int:
    """Return a server's time minus `sent_ns`, in microseconds.

    NTP seconds wrap in 2036; the interpretation nearest to `sent_ns` is used (RFC 5905, section 6).
    """
    theirs = int.from_bytes(timestamp)
    our_time = ((sent_ns + _EPOCH * 1_000_000_000 << 32) // 1_000_000_000) & (1 << 64) - 1
    difference = (theirs - our_time + (1 << 63)) % (1 << 64) - (1 << 63)
    return difference * 1_000_000 >> 32
