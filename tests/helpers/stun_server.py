"""A STUN server (RFC 8489) whose answers the test writes."""

from __future__ import annotations

import asyncio
import ipaddress
import zlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

COOKIE = bytes.fromhex("2112a442")
BINDING_REQUEST, BINDING_SUCCESS, BINDING_ERROR = 0x0001, 0x0101, 0x0111

Script = Callable[[bytes], Sequence[bytes]]
"""Returns the datagrams with which a request is answered."""


def attribute(kind: int, value: bytes) -> bytes:
    return kind.to_bytes(2) + len(value).to_bytes(2) + value + bytes(-len(value) % 4)


def xor_mapped(address: str, transaction: bytes, port: int = 32853) -> bytes:
    packed = ipaddress.ip_address(address).packed
    hidden = bytes(a ^ b for a, b in zip(packed, COOKIE + transaction, strict=False))
    family = 1 if len(packed) == 4 else 2
    return attribute(0x0020, bytes((0, family)) + (port ^ 0x2112).to_bytes(2) + hidden)


def message(kind: int, transaction: bytes, *attributes: bytes, fingerprint: bool = False) -> bytes:
    body = b"".join(attributes)
    length = len(body) + 8 * fingerprint
    made = kind.to_bytes(2) + length.to_bytes(2) + COOKIE + transaction + body
    return made + (attribute(0x8028, (zlib.crc32(made) ^ 0x5354554E).to_bytes(4)) if fingerprint else b"")


def sees(address: str) -> Script:
    """Answers each request with the same address."""
    return lambda request: [message(BINDING_SUCCESS, request[8:20], xor_mapped(address, request[8:20]))]


class StunServer(asyncio.DatagramProtocol):
    """Answers by `script`, and keeps the requests."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.requests: list[bytes] = []
        self.peer: Any = None
        self.port = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.requests.append(data)
        self.peer = addr
        for answer in self.script(data):
            self.transport.sendto(answer, addr)


@asynccontextmanager
async def stun_server(script: Script, host: str = "127.0.0.1") -> AsyncIterator[StunServer]:
    transport, server = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: StunServer(script), local_addr=(host, 0)
    )
    try:
        yield server
    finally:
        transport.close()
