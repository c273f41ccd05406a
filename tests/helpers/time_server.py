"""A time server (RFC 5905) whose answers the test writes."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

Answer = Callable[[bytes], bytes | None]


def ntp(at: float) -> bytes:
    """Write Unix seconds as an NTP timestamp."""
    return round((at + 2_208_988_800) % 2**32 * 2**32).to_bytes(8)


def packet(
    request: bytes,
    *,
    first: int = 4 << 3 | 4,
    stratum: int = 2,
    root_delay: float = 0.01,
    root_dispersion: float = 0.02,
    reference: bytes = b"GPS\0",
    originate: bytes | None = None,
    ahead: float = 0.0,
    held: float = 0.0,
    transmit: bytes | None = None,
) -> bytes:
    at = time.time() + ahead
    head = struct.pack("!BBbb", first, stratum, 6, -20)
    roots = struct.pack("!iI", round(root_delay * 65536), round(root_dispersion * 65536))
    echo = request[40:48] if originate is None else originate
    sent = ntp(at + held) if transmit is None else transmit
    return head + roots + reference + ntp(at) + echo + ntp(at) + sent


class _Server(asyncio.DatagramProtocol):
    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[bytes] = []

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.requests.append(data)
        answer = self.answer(data)
        if answer is not None:
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def time_server(answer: Answer = packet) -> AsyncIterator[tuple[int, _Server]]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Server(answer), local_addr=("127.0.0.1", 0)
    )
    try:
        yield transport.get_extra_info("sockname")[1], server
    finally:
        transport.close()
