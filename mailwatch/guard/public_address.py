"""Our public address, as a STUN server sees it (RFC 8489), which is not authenticated."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from mailwatch import monotonic
from mailwatch.net import is_outside
from mailwatch.times import Millis, now

Family = Literal[4, 6]
FAMILIES: dict[Family, socket.AddressFamily] = {4: socket.AF_INET, 6: socket.AF_INET6}
RETRANSMIT_SECONDS = 0.5
"""Seconds until the request is sent again, doubled with each further time (RFC 8489, section 6.2.1)."""
MAX_ANSWER_BYTES = 1280
"""No answer is larger than the smallest MTU of IPv6 (RFC 8489, section 6.1)."""
_HEADER = struct.Struct("!HHI12s")
_ATTRIBUTE = struct.Struct("!HH")
_COOKIE = 0x2112A442
_REQUEST, _SUCCESS, _ERROR = 0x0001, 0x0101, 0x0111
"""The three message types of the method Binding."""
_ERROR_CODE, _XOR_MAPPED_ADDRESS, _FINGERPRINT = 0x0009, 0x0020, 0x8028
_OPTIONAL = 0x8000
"""An unknown attribute from here on may be passed over; one below makes the answer unusable."""
_KNOWN = frozenset(
    (
        0x01,
        0x02,
        0x04,
        0x05,
        0x06,
        0x08,
        0x0A,
        0x0B,
        0x14,
        0x15,
        0x1C,
        0x1D,
        0x1E,
        _ERROR_CODE,
        _XOR_MAPPED_ADDRESS,
    )
)
"""The attributes of RFC 8489, and those of RFC 3489 that servers still add."""
_FINGERPRINT_XOR = 0x5354554E


class StunError(Exception):
    """The server's answer cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class PublicAddress:
    """The address that a server (host:port) saw our request come from, and when its answer arrived.

    `at` by the wall clock, `clock` by the steady one.
    """

    at: Millis
    clock: Millis
    address: str
    family: Family
    server: str

    def as_json(self) -> dict[str, object]:
        """Return the payload for the ledger."""
        clock = {"boot": monotonic.origin().boot, "at": self.clock}
        return {
            "at": self.at,
            "address": self.address,
            "family": self.family,
            "server": self.server,
            "clock": clock,
        }


async def ask_public_address(host: str, port: int, family: Family, timeout: float) -> PublicAddress:
    """Ask a STUN server over one address family, for at most `timeout` seconds.

    Raises StunError, or OSError (also TimeoutError). An address of another family than that of the request (there
    is a translator on the way) and one of our own network are refused: no provider sees us there.
    """
    transaction = secrets.token_bytes(12)
    async with asyncio.timeout(timeout):
        # The socket is connected, so the kernel drops what other sources send.
        transport, exchange = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Exchange(transaction), remote_addr=(host, port), family=FAMILIES[family]
        )
        try:
            answer = await _request(transport, exchange)
        finally:
            transport.close()
    at, clock, seen = now(), monotonic.milliseconds(), read_answer(answer, transaction)
    if seen.version != family:
        raise StunError(f"the server saw a request over IPv{family} come from {seen}")
    if not is_outside(str(seen)):
        raise StunError(f"the server sees us as {seen}, which is no public address")
    return PublicAddress(at, clock, str(seen), family, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def _request(transport: asyncio.DatagramTransport, exchange: _Exchange) -> bytes:
    wait = RETRANSMIT_SECONDS
    while True:
        transport.sendto(_HEADER.pack(_REQUEST, 0, _COOKIE, exchange.transaction))
        await asyncio.wait((exchange.answer,), timeout=wait)
        if exchange.answer.done():
            return exchange.answer.result()
        wait *= 2


class _Exchange(asyncio.DatagramProtocol):
    """Receives the first answer to one transaction; passes over all else."""

    def __init__(self, transaction: bytes) -> None:
        self.transaction = transaction
        self.answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self.answer.done() and is_answer(data, self.transaction):
            self.answer.set_result(data)

    def error_received(self, exc: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(exc)


def is_answer(data: bytes, transaction: bytes) -> bool:
    """Return whether a datagram begins as an answer to this transaction (RFC 8489, section 5)."""
    if not _HEADER.size <= len(data) <= MAX_ANSWER_BYTES:
        return False
    kind, _, cookie, repeated = _HEADER.unpack_from(data)
    return kind in (_SUCCESS, _ERROR) and cookie == _COOKIE and repeated == transaction


def read_answer(data: bytes, transaction: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of XOR-MAPPED-ADDRESS (RFC 8489, section 14.2). Raises StunError."""
    if not is_answer(data, transaction):
        raise StunError("this is no answer to our request")
    kind, length, _, _ = _HEADER.unpack_from(data)
    if length != len(data) - _HEADER.size or length % 4:
        raise StunError(f"the answer states {length} bytes of attributes and has {len(data) - _HEADER.size}")
    found: dict[int, bytes] = {}
    for at, attribute, value in _attributes(data):
        if attribute == _FINGERPRINT and value != _fingerprint(data[:at]):
            raise StunError("the answer was damaged on the way: its fingerprint differs")
        if attribute < _OPTIONAL and attribute not in _KNOWN:
            raise StunError(f"the answer has the unknown attribute 0x{attribute:04x}")
        # Of two attributes of a kind the first counts (section 14).
        found.setdefault(attribute, value)
    if kind == _ERROR:
        raise StunError(f"the server refuses requests ({_error_code(found.get(_ERROR_CODE, b''))})")
    if _XOR_MAPPED_ADDRESS not in found:
        raise StunError("the answer names no address")
    return _xor_mapped(found[_XOR_MAPPED_ADDRESS], transaction)


def _attributes(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield place, kind and value of each attribute, each padded to four bytes. Raises StunError."""
    at = _HEADER.size
    while at < len(data):
        kind, length = _ATTRIBUTE.unpack_from(data, at)
        begin = at + _ATTRIBUTE.size
        if begin + length > len(data):
            raise StunError(f"the attribute 0x{kind:04x} is longer than the answer")
        yield at, kind, data[begin : begin + length]
        at = begin + length + -length % 4


def _fingerprint(before: bytes) -> bytes:
    """Return the value of FINGERPRINT after these bytes (section 14.7)."""
    return (zlib.crc32(before) ^ _FINGERPRINT_XOR).to_bytes(4)


def _error_code(value: bytes) -> str:
    return str((value[2] & 7) * 100 + value[3]) if len(value) >= 4 else "without a code"


def _xor_mapped(value: bytes, transaction: bytes) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mask, hidden = _COOKIE.to_bytes(4) + transaction, value[4:]
    plain = bytes(one ^ other for one, other in zip(hidden, mask, strict=False))
    match len(value), value[1:2]:
        case 8, b"\x01":
            return ipaddress.IPv4Address(plain)
        case 20, b"\x02":
            return ipaddress.IPv6Address(plain)
    raise StunError("the address in the answer is neither IPv4 nor IPv6")
