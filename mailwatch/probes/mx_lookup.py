"""Looks up the exchangers of a domain (RFC 5321, section 5.1)."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from collections.abc import Iterable
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import dns.asyncresolver
import dns.exception
import dns.name
import dns.resolver

from mailwatch.model import Cause
from mailwatch.probes.connect import Address, MonitorError, literal_address
from mailwatch.probes.failures import LOCAL_ERRNOS, ProbeError

_HOST = re.compile(r"[\w-]{1,63}(\.[\w-]{1,63})*", re.ASCII)
_LOCALHOST = "localhost"


class Exchanger(NamedTuple):
    """A host that accepts a domain's mail. `preference` is None if the domain has no MX, and is its own."""

    name: str
    preference: int | None = None


class ExchangerAddresses(NamedTuple):
    """The addresses of an exchanger. `alias_of` is the true name of one that is an alias, which is forbidden."""

    addresses: tuple[Address, ...]
    alias_of: str = ""


def system_resolver() -> dns.asyncresolver.Resolver:
    """Return a resolver with the system's name servers. Raises MonitorError if the system has none."""
    try:
        return dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration as error:
        raise MonitorError("this machine names no name server") from error


async def lookup_exchangers(domain: str, resolver: dns.asyncresolver.Resolver, seconds: float) -> list[Exchanger]:
    """Return the exchangers of a domain, the best first, those of equal preference in random order.

    Raises ProbeError: `rejected` for a domain that accepts no mail (RFC 7505), `dns` for all errors of the name
    server.
    """
    if literal_address(domain, 0) or domain.lower() == _LOCALHOST:
        return [Exchanger(domain)]
    answer = await _query(resolver, domain, "MX", seconds)
    named = [(record.preference, _text(record.exchange)) for record in answer.rrset or ()]
    if not named:
        return [Exchanger(domain.rstrip("."))]
    found = [Exchanger(name, preference) for preference, name in named if name]
    if not found:
        raise ProbeError(Cause.REJECTED, f"{domain} accepts no mail: it has a null MX (RFC 7505)")
    random.SystemRandom().shuffle(found)
    return sorted(found, key=lambda exchanger: exchanger.preference or 0)


async def lookup_addresses(
    exchanger: Exchanger, port: int, resolver: dns.asyncresolver.Resolver, seconds: float
) -> ExchangerAddresses:
    """Return an exchanger's addresses, IPv4 and IPv6 in turn, those without a route last. Raises ProbeError."""
    name, own = exchanger.name, exchanger.preference is None
    address = literal_address("127.0.0.1" if own and name.lower() == _LOCALHOST else name, port)
    if address and own:
        return ExchangerAddresses((address,))
    if address or not _HOST.fullmatch(name) or name.lower() == _LOCALHOST:
        # An address literal has no A record, and the sender's own host is not the domain's.
        raise ProbeError(Cause.DNS, f"the MX names {name[:100]!r}, which is not a valid host name for mail")
    asking = [_query(resolver, name, kind, seconds) for kind in ("A", "AAAA")]
    answers = await asyncio.gather(*asking, return_exceptions=True)
    good = [answer for answer in answers if isinstance(answer, dns.resolver.Answer)]
    found = _interleave([[record.address for record in answer.rrset or ()] for answer in good], port)
    if not found:
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        raise ProbeError(Cause.DNS, f"{name} has neither an A nor an AAAA record")
    true = next(_text(answer.canonical_name) for answer in good if answer.rrset)
    return ExchangerAddresses(found, true if true.lower() != name.lower() else "")


async def _query(
    resolver: dns.asyncresolver.Resolver, name: str, kind: str, seconds: float
) -> dns.resolver.Answer:
    """Send one query to the name server. Raises ProbeError(dns) for everything but an answer."""
    asked = f"{kind} of {name}"
    try:
        return await resolver.resolve(name, kind, lifetime=seconds, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN as error:
        raise ProbeError(Cause.DNS, f"{asked}: NXDOMAIN, the name does not exist") from error
    except dns.resolver.NoNameservers as error:
        raise _unanswered(asked, error) from error
    except dns.exception.Timeout as error:
        raise ProbeError(Cause.DNS, f"{asked}: no answer from the name server within {seconds:g} s") from error
    except dns.exception.DNSException as error:
        raise ProbeError(Cause.DNS, f"{asked}: {type(error).__name__}: {error}") from error


def _unanswered(asked: str, error: dns.resolver.NoNameservers) -> Exception:
    """Return an error with each server's answer, such as SERVFAIL, or our own error if we could not ask."""
    errors: list[tuple[str, bool, int, Any, Any]] = list(error.kwargs.get("errors") or ())
    for _, _, _, what, _ in errors:
        if isinstance(what, OSError) and what.errno in LOCAL_ERRNOS:
            return what
    words = "; ".join(f"{what} by {server.removeprefix('Do53:')}" for server, _, _, what, _ in errors[:4])
    return ProbeError(Cause.DNS, f"{asked}: {words}")


def _interleave(families: Iterable[list[str]], port: int) -> tuple[Address, ...]:
    turns = chain.from_iterable(zip_longest(*families))
    found = [address for host in turns if host and (address := literal_address(host, port))]
    return tuple(sorted(dict.fromkeys(found), key=lambda address: not _has_route(address)))


def _has_route(address: Address) -> bool:
    """Return whether the kernel has a route to the address; no packet is sent."""
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.connect(address.sockaddr)
    except OSError:
        return False
    return True


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).removesuffix(".")
