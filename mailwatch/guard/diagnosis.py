"""Diagnoses the first moment of a failure: the DNS answers and the route to the host.

The diagnosis decides nothing. It is recorded with the first failed observation, to answer later questions.

*Names*: which answer the name server gives for a host, not only that it does not resolve. *Route*: the routers
that answer UDP with an increasing hop limit, which needs no privilege on Linux. Each router on the way reports
"time exceeded" (RFC 792, RFC 4443), which the kernel keeps in the socket's error queue (ip(7), IP_RECVERR). Other
systems have no such queue for an unprivileged program.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import sys
from collections.abc import Awaitable, Iterable
from typing import TYPE_CHECKING, TypeVar

from mailwatch.facts import DiagnosisFacts, DnsAnswer, Route, Unasked
from mailwatch.model import Kind, Observation
from mailwatch.net import is_address
from mailwatch.settings import Target

if TYPE_CHECKING:
    import dns.asyncresolver
    import dns.resolver

T = TypeVar("T")
MAX_RECORDS = 16


async def lookup_names(
    host: str,
    seconds: float,
    resolver: dns.asyncresolver.Resolver | None = None,
    kinds: tuple[str, ...] = ("A", "AAAA"),
) -> dict[str, DnsAnswer] | Unasked:
    """Return the system name server's answers for A and AAAA, or other kinds of record.

    Each is {"status", "server", "chain": [canonical names], "addresses": [...], "ttl"}; the status is the answer
    code of RFC 1035, section 4.1.1 (NOERROR, NXDOMAIN, SERVFAIL, ...), "no data" or "no answer".
    """
    if is_address(host):
        return {"skipped": "the host is an address"}
    if host.rstrip(".").lower() == "localhost":
        return {"skipped": "the name is this machine's own"}
    # Imported on first use: dnspython takes a twentieth of a second of each start.
    import dns.asyncresolver
    import dns.resolver

    try:
        asking = resolver or dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return {"failed": "this machine names no name server"}
    answers = await asyncio.gather(*(_lookup(asking, host, kind, seconds) for kind in kinds))
    return dict(zip(kinds, answers, strict=True))


async def _lookup(resolver: dns.asyncresolver.Resolver, host: str, kind: str, seconds: float) -> DnsAnswer:
    import dns.exception
    import dns.rcode
    import dns.resolver

    try:
        answer = await resolver.resolve(host, kind, lifetime=seconds, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return {"status": "NXDOMAIN"}
    except dns.resolver.NoNameservers as error:
        # Each server's own answer, for example SERVFAIL or REFUSED.
        answers = [f"{server.removeprefix('Do53:')} {what}" for server, _, _, what, _ in _server_errors(error)]
        return {"status": "no server answers usefully", "servers": [words[:200] for words in answers[:4]]}
    except dns.exception.Timeout:
        return {"status": "no answer"}
    found = [record.to_text() for record in answer.rrset or ()]
    facts: DnsAnswer = {
        "status": dns.rcode.to_text(answer.response.rcode()) if found else "no data",
        "server": answer.nameserver or "",
        "addresses": sorted(found)[:MAX_RECORDS],
    }
    chain = [rrset[0].target.to_text() for rrset in answer.chaining_result.cnames][:MAX_RECORDS]
    if chain:
        facts["chain"] = chain
    if answer.rrset:
        facts["ttl"] = answer.rrset.ttl
    return facts


def _server_errors(error: dns.resolver.NoNameservers) -> Iterable[tuple[str, bool, int, str, object]]:
    found: Iterable[tuple[str, bool, int, str, object]] = error.kwargs.get("errors", ())
    return found


MAX_HOPS = 20
TRACEROUTE_PORT = 33434
"""The first port of traceroute, on which nothing listens."""
_ERR_QUEUE = 0x2000  # MSG_ERRQUEUE
_RECVERR = {socket.AF_INET: (socket.IPPROTO_IP, 11), socket.AF_INET6: (socket.IPPROTO_IPV6, 25)}
_HOPS = {socket.AF_INET: (socket.IPPROTO_IP, socket.IP_TTL), socket.AF_INET6: (socket.IPPROTO_IPV6, 16)}
_ARRIVED = {(3, 3), (1, 4)}
"""Type and code of "port unreachable" in ICMP and ICMPv6, which the host itself sends."""


async def trace(peer: str, seconds: float) -> Route:
    """Return {"to", "from", "hops": [address, "" if silent], "arrived"} for "address:port"."""
    address = ipaddress.ip_address(peer.rpartition(":")[0].strip("[]").partition("%")[0])
    if not sys.platform.startswith("linux"):
        return {"skipped": "only Linux shows the route without privileges"}
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
    """Return our own address, the router `hops` away ("" if silent), and whether that router is the host."""
    loop = asyncio.get_running_loop()
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.setsockopt(*_RECVERR[family], 1)
        sock.setsockopt(*_HOPS[family], hops)
        try:
            sock.connect((address, TRACEROUTE_PORT + hops))
            sock.send(b"MailWatch looks for the way to this host")
        except OSError:
            return "", "", False
        own = str(sock.getsockname()[0])
        readable = loop.create_future()
        loop.add_reader(sock, _set_readable, readable)
        try:
            async with asyncio.timeout(seconds):
                await readable
            _, ancillary, _, _ = sock.recvmsg(512, 512, _ERR_QUEUE)
        except (TimeoutError, OSError):
            return own, "", False
        finally:
            loop.remove_reader(sock)
    return own, *_parse_error_queue(family, ancillary)


def _set_readable(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _parse_error_queue(family: socket.AddressFamily, ancillary: list[tuple[int, int, bytes]]) -> tuple[str, bool]:
    """Parse struct sock_extended_err and the offender's address after it (ip(7))."""
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


DIAGNOSIS_SECONDS = 3.0
"""Seconds for a whole diagnosis: the record of the observation waits for it."""
MAX_CONCURRENT = 4


class Diagnosis:
    """Makes a few diagnoses at a time: when everything fails at once, most observations get none."""

    def __init__(self) -> None:
        self._free = MAX_CONCURRENT

    async def diagnose(self, target: Target, observation: Observation) -> DiagnosisFacts:
        """Return the findings of three seconds, fit for canonical JSON; failures are part of them, not raised."""
        if not self._free:
            return {"skipped": "other diagnoses were running"}
        self._free -= 1
        kinds = ("MX", "A", "AAAA") if target.kind is Kind.MX else ("A", "AAAA")
        try:
            names, route = await asyncio.gather(
                _bounded(lookup_names(_host(target, observation), DIAGNOSIS_SECONDS - 0.5, kinds=kinds)),
                _bounded(_route(observation)),
            )
        finally:
            self._free += 1
        return {"dns": names, "route": route}


def _host(target: Target, observation: Observation) -> str:
    """Return the host that failed, which for a round trip is one of two."""
    failed = (observation.deciding_attempt and observation.deciding_attempt.facts) or {}
    return target.endpoints[-1].host if failed.get("end") == "to" else target.host


async def _route(observation: Observation) -> Route:
    peer = observation.attempts[-1].peer if observation.attempts else ""
    return await trace(peer, DIAGNOSIS_SECONDS - 0.5) if peer else {"skipped": "no address was tried"}


async def _bounded(finding: Awaitable[T]) -> T | Unasked:
    try:
        async with asyncio.timeout(DIAGNOSIS_SECONDS):
            return await finding
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
