"""The names that servers usually have, looked at without a login: only a certificate good for the name counts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from dns.asyncresolver import Resolver

from mailwatch.discovery.door import Door, Source
from mailwatch.models import Kind, Outcome, Target, TlsMode, now
from mailwatch.probes import TlsContexts, observe
from mailwatch.probes.connect import Address, literal
from mailwatch.probes.failures import Failed
from mailwatch.probes.mx_names import Exchanger, addresses

logger = logging.getLogger(__name__)

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
