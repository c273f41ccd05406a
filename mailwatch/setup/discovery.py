"""Discovers the mail servers of a domain: from DNS records, then by guessing usual host names.

No login happens here. A server found is only a claim by DNS: show it to the user before a password goes there.
SRV: RFC 6186, section 3; RFC 8314, section 5.1. MX records reveal a domain hosted at a provider of the catalogue.
Usual host names are probed without a login, and count only with a valid certificate for the name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import dns.exception
import dns.resolver
from dns.asyncresolver import Resolver

from mailwatch.config.schema_targets import TLS_BY_PORT
from mailwatch.kinds import KINDS
from mailwatch.model import Cause, Kind, Outcome, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address, MonitorError, literal_address
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.mx_lookup import Exchanger, lookup_addresses, lookup_exchangers
from mailwatch.settings import Target
from mailwatch.setup.servers import ServerCandidate, Source, is_host_name
from mailwatch.times import now

logger = logging.getLogger(__name__)

DNS_SECONDS = 5.0
"""Seconds to wait for DNS answers; all queries run at once."""
_SERVICES = {
    # Implicit TLS first: RFC 8314, section 5.1, prefers it to STARTTLS.
    Kind.IMAP: (("_imaps", TlsMode.IMPLICIT), ("_imap", TlsMode.STARTTLS)),
    Kind.POP3: (("_pop3s", TlsMode.IMPLICIT), ("_pop3", TlsMode.STARTTLS)),
    Kind.SMTP: (("_submissions", TlsMode.IMPLICIT), ("_submission", TlsMode.STARTTLS)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsAnswers:
    """The DNS answers about a domain.

    `candidates`: at most one of each kind. `not_offered`: the kinds that the domain declares it does not offer.
    `exchanger`: its best MX, "" without one. `failure`: why DNS gave no answer, "" if it did. `exists` is False
    if DNS states that the domain does not exist (NXDOMAIN), `answered` is False if no name server answered at all.
    """

    candidates: tuple[ServerCandidate, ...] = ()
    not_offered: frozenset[Kind] = frozenset()
    exchanger: str = ""
    failure: str = ""
    exists: bool = True
    answered: bool = True


async def query_dns(domain: str, resolver: Resolver, seconds: float = DNS_SECONDS) -> DnsAnswers:
    """Query the SRV and MX records of a domain: seven queries, all at once. Raises nothing."""
    kinds = list(_SERVICES)
    exchanger, services = await asyncio.gather(
        _exchanger(domain, resolver, seconds),
        asyncio.gather(*(_service(domain, kind, resolver, seconds) for kind in kinds)),
    )
    return DnsAnswers(
        candidates=tuple(candidate for candidate in services if isinstance(candidate, ServerCandidate)),
        not_offered=frozenset(kind for kind, candidate in zip(kinds, services, strict=True) if candidate is False),
        exchanger=exchanger.host,
        failure=exchanger.failure,
        exists=exchanger.exists,
        answered=exchanger.answered,
    )


class _BestExchanger(NamedTuple):
    """The best exchanger, and why the query failed; each "" if none. `exists`, `answered`: as in DnsAnswers."""

    host: str = ""
    failure: str = ""
    exists: bool = True
    answered: bool = True


async def _exchanger(domain: str, resolver: Resolver, seconds: float) -> _BestExchanger:
    try:
        named = await lookup_exchangers(domain, resolver, seconds)
    except ProbeError as error:
        missing = isinstance(error.__cause__, dns.resolver.NXDOMAIN)
        return _BestExchanger(
            failure=str(error), exists=not missing, answered=missing or error.cause is not Cause.DNS
        )
    except (MonitorError, OSError) as error:
        return _BestExchanger(failure=str(error), answered=False)
    except Exception as error:
        logger.exception("the MX lookup of a domain failed: internal error")
        return _BestExchanger(failure=f"internal error: {type(error).__name__}")
    best = named[0].name.casefold().rstrip(".")
    return _BestExchanger(best if named[0].preference is not None and is_host_name(best) else "")


async def _service(domain: str, kind: Kind, resolver: Resolver, seconds: float) -> ServerCandidate | bool:
    """Return the server of a kind; without one, False if the domain declares that it does not offer the kind, else
    True.
    """
    ways = _SERVICES[kind]
    answers = await asyncio.gather(*(_records(f"{label}._tcp.{domain}", resolver, seconds) for label, _ in ways))
    for (_, tls), records in zip(ways, answers, strict=True):
        if candidate := _best(records, kind, tls):
            return candidate
    non_empty = [records for records in answers if records]
    return not (non_empty and all(_not_offered(records) for records in non_empty))


async def _records(name: str, resolver: Resolver, seconds: float) -> list[Any]:
    """Return the SRV records of a name, best first: by priority, then by weight (RFC 2782)."""
    try:
        answer = await resolver.resolve(name, "SRV", lifetime=seconds, search=False, raise_on_no_answer=False)
    except (dns.exception.DNSException, OSError):
        return []
    except Exception:
        logger.exception("a DNS lookup failed: internal error")
        return []
    return sorted(answer.rrset or (), key=lambda record: (record.priority, -record.weight, record.target))


def _best(records: list[Any], kind: Kind, tls: TlsMode) -> ServerCandidate | None:
    """Return the first record with a valid host, and a port that fits `tls`."""
    for record in records:
        host = record.target.to_text(omit_final_dot=True).casefold()
        if is_host_name(host) and record.port and TLS_BY_PORT.get(record.port, tls) is tls:
            return ServerCandidate(kind=kind, host=host, port=record.port, tls=tls, source=Source.SRV)
    return None


def _not_offered(records: list[Any]) -> bool:
    """Return whether every host is ".": the service is decidedly not available (RFC 6186, section 3.4)."""
    return all(record.target.to_text() == "." for record in records)


GUESS_SECONDS = 6.0
"""Seconds for each guess; all are probed at once."""
_LABELS = {Kind.IMAP: ("imap", "mail"), Kind.POP3: ("pop", "mail"), Kind.SMTP: ("smtp", "mail")}
_ADDRESSES = 2
"""Addresses of a name to try: a search needs fewer than monitoring."""


async def guess_servers(
    domain: str, kinds: Collection[Kind], resolver: Resolver, contexts: TlsContexts, seconds: float = GUESS_SECONDS
) -> tuple[ServerCandidate, ...]:
    """Probe the usual host names of these kinds, at most a dozen; return the best that works for each kind."""
    names = {f"{label}.{domain}" for kind in kinds for label in _LABELS[kind]}
    known = dict(await asyncio.gather(*(_addresses(name, resolver, seconds) for name in sorted(names))))
    candidates = [
        ServerCandidate(kind=kind, host=name, port=port, tls=tls, source=Source.GUESSED)
        for kind in kinds
        for tls, port in KINDS[kind].ports.items()
        if tls is not TlsMode.NONE
        for name in (f"{label}.{domain}" for label in _LABELS[kind])
        if known[name]
    ]
    serving = await asyncio.gather(
        *(_is_serving(candidate, known[candidate.host], contexts, seconds) for candidate in candidates)
    )
    best: dict[Kind, ServerCandidate] = {}
    for candidate, serves in zip(candidates, serving, strict=True):
        if serves:
            best.setdefault(candidate.kind, candidate)
    return tuple(best.values())


async def _addresses(name: str, resolver: Resolver, seconds: float) -> tuple[str, tuple[Address, ...]]:
    try:
        found = await lookup_addresses(Exchanger(name, 0), 0, resolver, seconds)
    except (ProbeError, OSError):
        return name, ()
    except Exception:
        logger.exception("the address lookup of a name failed: internal error")
        return name, ()
    return name, found.addresses[:_ADDRESSES]


async def _is_serving(
    candidate: ServerCandidate, known: tuple[Address, ...], contexts: TlsContexts, seconds: float
) -> bool:
    async def lookup(_host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        return tuple(at for address in known if (at := literal_address(address.host, port)))

    target = Target(
        name=candidate.endpoint,
        kind=candidate.kind,
        host=candidate.host,
        port=candidate.port,
        tls=candidate.tls,
        timeout=seconds,
    )
    observation = await observe(ProbeRequest(target, scheduled_at=now(), contexts=contexts, lookup=lookup))
    return observation.outcome is Outcome.UP
