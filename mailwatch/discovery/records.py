"""What a domain's name server says of its mail: SRV (RFC 6186, section 3; RFC 8314, section 5.1) and MX."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import dns.exception
import dns.resolver
from dns.asyncresolver import Resolver

from mailwatch.config.watched import TLS_OF_PORT
from mailwatch.discovery.door import Door, Source, is_name
from mailwatch.models import Kind, TlsMode
from mailwatch.probes.connect import OurFault
from mailwatch.probes.failures import Failed
from mailwatch.probes.mx_names import exchangers

logger = logging.getLogger(__name__)

DNS_SECONDS = 5.0
"""How long an answer is waited for; all are asked at once."""
_SERVICES = {
    # TLS from the first byte first: RFC 8314, section 5.1, wants it tried before STARTTLS.
    Kind.IMAP: (("_imaps", TlsMode.IMPLICIT), ("_imap", TlsMode.STARTTLS)),
    Kind.POP3: (("_pop3s", TlsMode.IMPLICIT), ("_pop3", TlsMode.STARTTLS)),
    Kind.SMTP: (("_submissions", TlsMode.IMPLICIT), ("_submission", TlsMode.STARTTLS)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What the name server answered.

    `doors` has at most one of a kind; `refused` are the kinds of which the domain says that it does not offer
    them. `exchanger` is its best MX, "" without one. `silent` is why nothing can be known, "" if it answered.
    """

    doors: tuple[Door, ...] = ()
    refused: frozenset[Kind] = frozenset()
    exchanger: str = ""
    silent: str = ""


async def ask(domain: str, resolver: Resolver, seconds: float = DNS_SECONDS) -> Said:
    """Ask for the services and exchangers of a domain: seven questions, all at once. Raises nothing."""
    kinds = list(_SERVICES)
    (exchanger, silent), services = await asyncio.gather(
        _exchanger(domain, resolver, seconds),
        asyncio.gather(*(_service(domain, kind, resolver, seconds) for kind in kinds)),
    )
    return Said(
        doors=tuple(door for door in services if isinstance(door, Door)),
        refused=frozenset(kind for kind, door in zip(kinds, services, strict=True) if door is False),
        exchanger=exchanger,
        silent=silent,
    )


async def _exchanger(domain: str, resolver: Resolver, seconds: float) -> tuple[str, str]:
    """Give the best exchanger, and why there is none to be known."""
    try:
        named = await exchangers(domain, resolver, seconds)
    except (Failed, OurFault, OSError) as error:
        return "", str(error)
    except Exception as error:
        logger.exception("the exchangers of a domain were not asked for by our own fault")
        return "", f"our own fault: {type(error).__name__}"
    best = named[0].name.casefold().rstrip(".")
    return (best if named[0].preference is not None and is_name(best) else ""), ""


async def _service(domain: str, kind: Kind, resolver: Resolver, seconds: float) -> Door | bool:
    """Give the server of a kind, else whether the domain leaves it open (True) or refuses it (False)."""
    ways = _SERVICES[kind]
    answers = await asyncio.gather(*(_records(f"{label}._tcp.{domain}", resolver, seconds) for label, _ in ways))
    for (_, tls), records in zip(ways, answers, strict=True):
        if door := _best(records, kind, tls):
            return door
    said = [records for records in answers if records]
    return not (said and all(_not_offered(records) for records in said))


async def _records(name: str, resolver: Resolver, seconds: float) -> list[Any]:
    """Give the SRV records of a name, the best first (RFC 2782): by priority, then by weight."""
    try:
        answer = await resolver.resolve(name, "SRV", lifetime=seconds, search=False, raise_on_no_answer=False)
    except (dns.exception.DNSException, OSError):
        return []
    except Exception:
        logger.exception("a name was not asked for by our own fault")
        return []
    return sorted(answer.rrset or (), key=lambda record: (record.priority, -record.weight, record.target))


def _best(records: list[Any], kind: Kind, tls: TlsMode) -> Door | None:
    """Give the first record that names a host and a port that can be meant."""
    for record in records:
        host = record.target.to_text(omit_final_dot=True).casefold()
        if is_name(host) and record.port and TLS_OF_PORT.get(record.port, tls) is tls:
            return Door(kind=kind, host=host, port=record.port, tls=tls, source=Source.SRV)
    return None


def _not_offered(records: list[Any]) -> bool:
    """Whether "." stands for the host: the service is decidedly not available (RFC 6186, section 3.4)."""
    return all(record.target.to_text() == "." for record in records)
