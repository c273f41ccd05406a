"""Which servers serve the mailboxes of a domain: first what its name server says, then guesses by usual names.

No login is tried and no password is known here. A server that is found is a claim of who answered, to be shown to
the person before a password goes there. SRV: RFC 6186, section 3; RFC 8314, section 5.1. The MX records tell of a
domain at a provider of the catalogue. Usual names are probed without a login, and only a certificate good for the
name counts.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import dns.exception
import dns.resolver
from dns.asyncresolver import Resolver

from mailwatch.config import catalogue
from mailwatch.config.schema_targets import TLS_BY_PORT
from mailwatch.kinds import KINDS
from mailwatch.model import Kind, Outcome, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address, MonitorError, literal_address
from mailwatch.probes.failures import ProbeError
from mailwatch.probes.mx_lookup import Exchanger, lookup_addresses, lookup_exchangers
from mailwatch.settings import Target
from mailwatch.times import now

ORDER = (Kind.IMAP, Kind.POP3, Kind.SMTP)
"""Reading first: it is what most people mean by their mail."""
MAX_ADDRESS_CHARS = 1000
"""Characters of what is taken for a mail address at all."""
_HOST = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})+", re.ASCII)


class Source(StrEnum):
    """Who says that there is such a server."""

    CATALOGUE = "catalogue"
    SRV = "srv"
    GUESSED = "usual"
    GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCandidate:
    """One server of a kind."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    source: Source

    @property
    def endpoint(self) -> str:
        """Write host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ascii_domain(address: str) -> str:
    """Give the domain of an address as the name server knows it (RFC 5890), "" if it is no name to ask for."""
    if len(address) > MAX_ADDRESS_CHARS:
        return ""
    try:
        domain = address.rpartition("@")[2].encode("idna").decode().casefold()
    except UnicodeError:
        return ""
    return domain if is_host_name(domain) and not domain.rpartition(".")[2].isdigit() else ""


def is_host_name(text: str) -> bool:
    """Whether it is the name of a host, of two labels or more; never an address or this machine."""
    return len(text) <= 253 and bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()


def is_within(host: str, domain: str) -> bool:
    """Whether a host belongs to a domain (RFC 6186, section 6)."""
    return f".{host}".casefold().endswith(f".{domain}".casefold())


def provider_of_exchanger(exchanger: str) -> catalogue.Provider | None:
    """Give the provider to one of whose domains an exchanger belongs, by the longest such domain.

    The catalogue's source lists domains of exchangers for this, such as mail.protection.outlook.com. The host
    that takes mail need not be the one that keeps it, a filter for instance: ask the person.
    """
    labels = exchanger.split(".")
    parents = (".".join(labels[first:]) for first in range(len(labels) - 1))
    return next(filter(None, map(catalogue.by_domain, parents)), None)


def provider_of_servers(candidates: Sequence[ServerCandidate]) -> catalogue.Provider | None:
    """Give the one provider whose servers these are, all of them; None if there are none or several."""
    wanted = {(candidate.kind, candidate.host, candidate.port) for candidate in candidates}
    fitting = [
        provider
        for provider in catalogue.providers()
        if wanted and wanted <= {(server.kind, server.host, server.port) for server in provider.servers}
    ]
    return fitting[0] if len(fitting) == 1 else None


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
class DnsAnswers:
    """What the name server answered.

    `candidates` has at most one of a kind; `not_offered` are the kinds of which the domain says that it does not
    offer them. `exchanger` is its best MX, "" without one. `failure` is why nothing can be known, "" if it
    answered.
    """

    candidates: tuple[ServerCandidate, ...] = ()
    not_offered: frozenset[Kind] = frozenset()
    exchanger: str = ""
    failure: str = ""


async def query_dns(domain: str, resolver: Resolver, seconds: float = DNS_SECONDS) -> DnsAnswers:
    """Ask for the services and exchangers of a domain: seven questions, all at once. Raises nothing."""
    kinds = list(_SERVICES)
    (exchanger, silent), services = await asyncio.gather(
        _exchanger(domain, resolver, seconds),
        asyncio.gather(*(_service(domain, kind, resolver, seconds) for kind in kinds)),
    )
    return DnsAnswers(
        candidates=tuple(candidate for candidate in services if isinstance(candidate, ServerCandidate)),
        not_offered=frozenset(kind for kind, candidate in zip(kinds, services, strict=True) if candidate is False),
        exchanger=exchanger,
        failure=silent,
    )


async def _exchanger(domain: str, resolver: Resolver, seconds: float) -> tuple[str, str]:
    """Give the best exchanger, and why there is none to be known."""
    try:
        named = await lookup_exchangers(domain, resolver, seconds)
    except (ProbeError, MonitorError, OSError) as error:
        return "", str(error)
    except Exception as error:
        logger.exception("the MX lookup of a domain failed: internal error")
        return "", f"internal error: {type(error).__name__}"
    best = named[0].name.casefold().rstrip(".")
    return (best if named[0].preference is not None and is_host_name(best) else ""), ""


async def _service(domain: str, kind: Kind, resolver: Resolver, seconds: float) -> ServerCandidate | bool:
    """Give the server of a kind, else whether the domain leaves it open (True) or refuses it (False)."""
    ways = _SERVICES[kind]
    answers = await asyncio.gather(*(_records(f"{label}._tcp.{domain}", resolver, seconds) for label, _ in ways))
    for (_, tls), records in zip(ways, answers, strict=True):
        if candidate := _best(records, kind, tls):
            return candidate
    non_empty = [records for records in answers if records]
    return not (non_empty and all(_not_offered(records) for records in non_empty))


async def _records(name: str, resolver: Resolver, seconds: float) -> list[Any]:
    """Give the SRV records of a name, the best first (RFC 2782): by priority, then by weight."""
    try:
        answer = await resolver.resolve(name, "SRV", lifetime=seconds, search=False, raise_on_no_answer=False)
    except (dns.exception.DNSException, OSError):
        return []
    except Exception:
        logger.exception("a DNS lookup failed: internal error")
        return []
    return sorted(answer.rrset or (), key=lambda record: (record.priority, -record.weight, record.target))


def _best(records: list[Any], kind: Kind, tls: TlsMode) -> ServerCandidate | None:
    """Give the first record that names a host and a port that can be meant."""
    for record in records:
        host = record.target.to_text(omit_final_dot=True).casefold()
        if is_host_name(host) and record.port and TLS_BY_PORT.get(record.port, tls) is tls:
            return ServerCandidate(kind=kind, host=host, port=record.port, tls=tls, source=Source.SRV)
    return None


def _not_offered(records: list[Any]) -> bool:
    """Whether "." stands for the host: the service is decidedly not available (RFC 6186, section 3.4)."""
    return all(record.target.to_text() == "." for record in records)


GUESS_SECONDS = 6.0
"""How long an attempt may take; all are made at once."""
_LABELS = {Kind.IMAP: ("imap", "mail"), Kind.POP3: ("pop", "mail"), Kind.SMTP: ("smtp", "mail")}
_ADDRESSES = 2
"""How many addresses of a name are tried: this is a search, not a watch."""


async def guess_servers(
    domain: str, kinds: Collection[Kind], resolver: Resolver, contexts: TlsContexts, seconds: float = GUESS_SECONDS
) -> tuple[ServerCandidate, ...]:
    """Try the usual names of these kinds, a dozen candidates at most; return the best of each kind that serves."""
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
