"""Which answer the name server gives for a host: not only that it does not resolve, but how."""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import suppress
from typing import Any

import dns.asyncresolver
import dns.exception
import dns.rcode
import dns.resolver

MAX_RECORDS = 16


async def ask_names(
    host: str,
    seconds: float,
    resolver: dns.asyncresolver.Resolver | None = None,
    kinds: tuple[str, ...] = ("A", "AAAA"),
) -> Any:
    """Return the answers to A and AAAA, or other kinds of record, by the system's name server.

    Each is {"status", "server", "chain": [canonical names], "addresses": [...], "ttl"}; the status is the
    answer code of RFC 1035, section 4.1.1 (NOERROR, NXDOMAIN, SERVFAIL, ...), "no data" or "no answer".
    """
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return {"skipped": "the host is an address"}
    if host.rstrip(".").lower() == "localhost":
        return {"skipped": "the name is this machine's own"}
    try:
        asking = resolver or dns.asyncresolver.Resolver()
    except dns.resolver.NoResolverConfiguration:
        return {"failed": "this machine names no name server"}
    answers = await asyncio.gather(*(_ask(asking, host, kind, seconds) for kind in kinds))
    return dict(zip(kinds, answers, strict=True))


async def _ask(resolver: dns.asyncresolver.Resolver, host: str, kind: str, seconds: float) -> dict[str, Any]:
    try:
        answer = await resolver.resolve(host, kind, lifetime=seconds, search=False, raise_on_no_answer=False)
    except dns.resolver.NXDOMAIN:
        return {"status": "NXDOMAIN"}
    except dns.resolver.NoNameservers as error:
        # Each server's own answer, such as SERVFAIL or REFUSED.
        said = [f"{server.removeprefix('Do53:')} {what}" for server, _, _, what, _ in _each(error)]
        return {"status": "no server answers usefully", "servers": [words[:200] for words in said[:4]]}
    except dns.exception.Timeout:
        return {"status": "no answer"}
    found = [record.to_text() for record in answer.rrset or ()]
    told: dict[str, Any] = {
        "status": dns.rcode.to_text(answer.response.rcode()) if found else "no data",
        "server": answer.nameserver or "",
        "addresses": sorted(found)[:MAX_RECORDS],
    }
    chain = [rrset[0].target.to_text() for rrset in answer.chaining_result.cnames][:MAX_RECORDS]
    return told | ({"chain": chain} if chain else {}) | ({"ttl": answer.rrset.ttl} if answer.rrset else {})


def _each(error: dns.resolver.NoNameservers) -> Any:
    return error.kwargs.get("errors", ())
