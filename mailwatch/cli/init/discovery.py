"""Which servers serve the mailboxes of a domain: first what its name server says, then a look at usual names.

Nobody logs in and no password is known here. What is found is a claim of whoever answered, to be shown to the
person before a password goes there.

said = await ask(domain, system_resolver())     # SRV and MX, all at once
found = await usual(domain, kinds, resolver)    # imap.DOMAIN and the like, if they show a good certificate

A server that may serve a mailbox, and who says so.

Domains of their own at a provider of the catalogue.

What a domain's name server says of its mail: SRV (RFC 6186, section 3; RFC 8314, section 5.1) and MX.

The names that servers usually have, looked at without a login: only a certificate good for the name counts.
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
from mailwatch.config.schema_targets import TLS_OF_PORT
from mailwatch.model import Kind, Outcome, TlsMode
from mailwatch.probes import TlsContexts, observe
from mailwatch.probes.connect import Address, OurFault, literal
from mailwatch.probes.failures import Failed
from mailwatch.probes.mx_lookup import Exchanger, addresses, exchangers
from mailwatch.settings import Target
from mailwatch.times import now

ORDER = (Kind.IMAP, Kind.POP3, Kind.SMTP)
"""Reading first: it is what most people mean by their mail."""
MAX_ADDRESS = 1000
"""Characters of what is taken for a mail address at all."""
_HOST = re.compile(r"(?!-)[\w-]{1,63}(\.[\w-]{1,63})+", re.ASCII)


class Source(StrEnum):
    """Who says that there is such a server."""

    CATALOGUE = "catalogue"
    SRV = "srv"
    USUAL = "usual"
    GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Door:
    """One server of a kind."""

    kind: Kind
    host: str
    port: int
    tls: TlsMode
    source: Source

    @property
    def where(self) -> str:
        """Write host and port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def ascii_domain(address: str) -> str:
    """Give the domain of an address as the name server knows it (RFC 5890), "" if it is no name to ask for."""
    if len(address) > MAX_ADDRESS:
        return ""
    try:
        domain = address.rpartition("@")[2].encode("idna").decode().casefold()
    except UnicodeError:
        return ""
    return domain if is_name(domain) and not domain.rpartition(".")[2].isdigit() else ""


def is_name(text: str) -> bool:
    """Whether it is the name of a host, of two labels or more; never an address or this machine."""
    return len(text) <= 253 and bool(_HOST.fullmatch(text)) and not text.rpartition(".")[2].isdigit()


def within(host: str, domain: str) -> bool:
    """Whether a host belongs to a domain (RFC 6186, section 6)."""
    return f".{host}".casefold().endswith(f".{domain}".casefold())


def provider_of_exchanger(exchanger: str) -> catalogue.Provider | None:
    """Give the provider to one of whose domains an exchanger belongs, by the longest such domain.

    The catalogue's source lists domains of exchangers for this, such as mail.protection.outlook.com. Whom mail is
    handed to need not be who keeps it, a filter for instance: the person is to be asked.
    """
    labels = exchanger.split(".")
    parents = (".".join(labels[first:]) for first in range(len(labels) - 1))
    return next(filter(None, map(catalogue.by_domain, parents)), None)


def provider_of_doors(doors: Sequence[Door]) -> catalogue.Provider | None:
    """Give the one provider whose servers these are, all of them; None if there are none or several."""
    wanted = {(door.kind, door.host, door.port) for door in doors}
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


GUESS_SECONDS = 6.0
"""How long a look may take; all are made at once."""
_LABELS = {Kind.IMAP: ("imap", "mail"), Kind.POP3: ("pop", "mail"), Kind.SMTP: ("smtp", "mail")}
_PORTS = {
    Kind.IMAP: ((993, TlsMode.IMPLICIT), (143, TlsMode.STARTTLS)),
    Kind.POP3: ((995, TlsMode.IMPLICIT), (110, TlsMode.STARTTLS)),
    Kind.SMTP: ((465, TlsMode.IMPLICIT), (587, TlsMode.STARTTLS)),
}
_ADDRESSES = 2
"""How many addresses of a name are tried: this is a search, not a watch."""


async def usual(
    domain: str, kinds: Collection[Kind], resolver: Resolver, contexts: TlsContexts, seconds: float = GUESS_SECONDS
) -> tuple[Door, ...]:
    """Look at the usual names of these kinds, a dozen doors at most; give the best of each kind that serves."""
    names = {f"{label}.{domain}" for kind in kinds for label in _LABELS[kind]}
    known = dict(await asyncio.gather(*(_addresses(name, resolver, seconds) for name in sorted(names))))
    doors = [
        Door(kind=kind, host=name, port=port, tls=tls, source=Source.USUAL)
        for kind in kinds
        for port, tls in _PORTS[kind]
        for name in (f"{label}.{domain}" for label in _LABELS[kind])
        if known[name]
    ]
    serving = await asyncio.gather(*(_serves(door, known[door.host], contexts, seconds) for door in doors))
    best: dict[Kind, Door] = {}
    for door, serves in zip(doors, serving, strict=True):
        if serves:
            best.setdefault(door.kind, door)
    return tuple(best.values())


async def _addresses(name: str, resolver: Resolver, seconds: float) -> tuple[str, tuple[Address, ...]]:
    try:
        found = await addresses(Exchanger(name, 0), 0, resolver, seconds)
    except (Failed, OSError):
        return name, ()
    except Exception:
        logger.exception("the addresses of a name were not asked for by our own fault")
        return name, ()
    return name, found.addresses[:_ADDRESSES]


async def _serves(door: Door, known: tuple[Address, ...], contexts: TlsContexts, seconds: float) -> bool:
    async def lookup(_host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        return tuple(at for address in known if (at := literal(address.host, port)))

    target = Target(name=door.where, kind=door.kind, host=door.host, port=door.port, tls=door.tls, timeout=seconds)
    seen = await observe(target, scheduled_at=now(), contexts=contexts, lookup=lookup)
    return seen.outcome is Outcome.UP
