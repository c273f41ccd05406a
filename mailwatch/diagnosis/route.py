"""The way to a host, as far as it answers: UDP with a growing hop limit, which needs no privilege on Linux.

Each router on the way says "time exceeded" (RFC 792, RFC 4443), which the kernel keeps in the socket's error
queue (ip(7), IP_RECVERR). Elsewhere than on Linux there is no such queue for an unprivileged program.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import sys
from typing import Any

MAX_HOPS = 20
PORT = 33434
"""Where traceroute begins: nobody listens there."""
_ERR_QUEUE = 0x2000  # MSG_ERRQUEUE
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL), socket.AF_INET6: (socket.IPPROTO_IPV6, 16)}
_ARRIVED = {(3, 3), (1, 4)}
"""Type and code of "port unreachable" in ICMP and ICMPv6: the host itself answers."""


async def trace(peer: str, seconds: float) -> Any:
    """Return {"to", "from", "hops": [address or "" for silent ones], "arrived"} for "address:port"."""
    address = ipaddress.ip_address(peer.rpartition(":")[0].strip("[]").partition("%")[0])
    if not sys.platform.startswith("linux"):
        return {"skipped": "only Linux tells the way without privileges"}
    if address.is_loopback:
        return {"skipped": "the host is this machine"}
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    found = await asyncio.gather(*(_hop(family, str(address), hops, seconds) for hops in range(1, MAX_HOPS + 1)))
    own = next((source for source, _, _ in found if source), "")
    hops = [router for _, router, _ in found]
    arrived = next((number for number, (_, _, here) in enumerate(found, 1) if here), 0)
    hops = hops[:arrived] if arrived else hops
    while hops and not hops[-1]:
        hops.pop()
    return {"to": str(address), "from": own, "hops": hops, "arrived": bool(arrived)}


async def _hop(family: socket.AddressFamily, address: str, hops: int, seconds: float) -> tuple[str, str, bool]:
    """Return our own address, the router that many hops away ("" if silent), and whether it is the host."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(*_RECVERR[family], 1)
        sock.setsockopt(*_HOPS[family], hops)
        try:
            sock.connect((address, PORT + hops))
            sock.send(b"MailWatch looks for the way to this host")
        except OSError:
            return "", "", False
        own = str(sock.getsockname()[0])
        readable = loop.create_future()
        loop.add_reader(sock, _wake, readable)
        try:
            async with asyncio.timeout(seconds):
                await readable
            _, ancillary, _, _ = sock.recvmsg(512, 512, _ERR_QUEUE)
        except (TimeoutError, OSError):
            return own, "", False
        finally:
            loop.remove_reader(sock)
    return own, *_told(family, ancillary)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _told(family: socket.AddressFamily, ancillary: list[tuple[int, int, bytes]]) -> tuple[str, bool]:
    """Read struct sock_extended_err and the offender's address behind it (ip(7))."""
    for level, kind, data in ancillary:
        if (level, kind) != _RECVERR[family] or len(data) < 16 + 8:
            continue
        _, _, icmp, code = struct.unpack_from("=IBBB", data)
        offender = data[16:]
        if family == socket.AF_INET:
            return socket.inet_ntop(family, offender[4:8]), (icmp, code) in _ARRIVED
        if len(offender) >= 24:
            return socket.inet_ntop(family, offender[8:24]), (icmp, code) in _ARRIVED
    return "", False
