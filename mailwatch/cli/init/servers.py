"""Finds the servers of an address together with the person: what was found is told, and what is odd is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from dns.asyncresolver import Resolver

from mailwatch.cli.init.discovery import (
    ORDER,
    Door,
    Said,
    Source,
    ascii_domain,
    ask,
    provider_of_doors,
    provider_of_exchanger,
    usual,
    within,
)
from mailwatch.cli.init.prompts import HOST, PORT, Asker, Stopped
from mailwatch.config import catalogue
from mailwatch.config.errors import Fault
from mailwatch.config.schema_targets import TLS_OF_PORT
from mailwatch.config.types import MAILBOX, split_endpoint
from mailwatch.model import Kind, TlsMode
from mailwatch.probes import TlsContexts
from mailwatch.probes.connect import OurFault
from mailwatch.probes.mx_lookup import system_resolver

_PORTS = {Kind.IMAP: 993, Kind.POP3: 995, Kind.SMTP: 465}


@dataclass(frozen=True, slots=True)
class Servers:
    """The servers of an address: those of a provider of the catalogue, else the `doors` alone.

    `written` says whether the config must name the provider, for an address under a domain of its own.
    """

    doors: tuple[Door, ...]
    provider: catalogue.Provider | None = None
    written: bool = False


def given(words: Collection[str], asker: Asker) -> tuple[Door, ...]:
    """Read --server options. Raises ValueError with what to say."""
    doors = []
    for word in words:
        kind, _, where = word.partition("=")
        try:
            doors.append(_door(Kind(kind if kind in MAILBOX else ""), where))
        except ValueError:
            raise ValueError(asker.text("bad_server", word=word)) from None
        if len({door.kind for door in doors}) < len(doors):
            raise ValueError(asker.text("twice", kind=kind))
    return tuple(doors)


def find(asker: Asker, address: str, wanted: Collection[Kind]) -> Servers:
    """Find them: catalogue, SRV, MX, usual names, and at last the person. Raises Missing, Stopped, EOFError.

    `wanted` are the kinds to find; of those nothing may be found but one.
    """
    domain = address.rpartition("@")[2]
    if provider := catalogue.by_domain(address):
        facts = {"provider": provider.name, "source": catalogue.SOURCE, "seen": catalogue.SEEN}
        asker.say("by_catalogue", domain=domain, **facts)
        return _of(asker, provider, wanted, written=False)
    try:
        resolver = system_resolver() if ascii_domain(address) else None
    except OurFault as error:
        asker.say("silent", why=error)
        resolver = None
    found = _asked(asker, ascii_domain(address), wanted, resolver) if resolver else None
    return found or Servers(_by_hand(asker, wanted))


def _asked(asker: Asker, domain: str, wanted: Collection[Kind], resolver: Resolver) -> Servers | None:
    """Find them with the name server; None if it knows nothing."""
    asker.say("asking", domain=domain)
    said = asyncio.run(ask(domain, resolver))
    if said.silent:
        asker.say("silent", why=said.silent)
    for kind in sorted(said.refused & set(wanted)):
        asker.say("refused", domain=domain, kind=asker.words["kinds"][kind])
    doors = _confirmed(asker, domain, [door for door in said.doors if door.kind in wanted])
    if doors and (provider := provider_of_doors(doors)):
        asker.say("by_doors", provider=provider.name)
        return _of(asker, provider, wanted, written=True)
    if not doors and (provider := _hosted(asker, domain, said)):
        return _of(asker, provider, wanted, written=True)
    lacking = [kind for kind in ORDER if kind in wanted and kind not in said.refused | {d.kind for d in doors}]
    if lacking:
        asker.say("trying_usual", domain=domain)
        more = asyncio.run(usual(domain, lacking, resolver, TlsContexts()))
        _tell(asker, "by_usual", domain, more)
        doors += more
    lost = [kind for kind in lacking if kind not in {door.kind for door in doors}]
    if doors and lost:
        asker.say("not_had", kinds=", ".join(asker.words["kinds"][kind] for kind in lost))
    return Servers(_in_order(doors)) if doors else None


def _confirmed(asker: Asker, domain: str, doors: list[Door]) -> tuple[Door, ...]:
    """Keep the doors within the domain, and those outside that the person knows (RFC 6186, section 6)."""
    _tell(asker, "by_srv", domain, tuple(doors))
    answers: dict[str, bool] = {}
    for host in sorted({door.host for door in doors if not within(door.host, domain)}):
        known = next((p for p in catalogue.providers() if host in {s.host for s in p.servers}), None)
        asker.say("outside", domain=domain, where=host)
        if known:
            asker.say("outside_known", host=host, provider=known.name)
        answers[host] = asker.agree("ask_outside", default=known is not None)
        if not answers[host]:
            asker.say("outside_left", host=host)
    return tuple(door for door in doors if answers.get(door.host, True))


def _hosted(asker: Asker, domain: str, said: Said) -> catalogue.Provider | None:
    provider = provider_of_exchanger(said.exchanger) if said.exchanger else None
    if provider is None:
        return None
    asker.say("by_exchanger", domain=domain, exchanger=said.exchanger, provider=provider.name)
    return provider if asker.agree("ask_exchanger", default=True) else None


def _of(asker: Asker, provider: catalogue.Provider, wanted: Collection[Kind], *, written: bool) -> Servers:
    found = [server for kind in ORDER if kind in wanted and (server := catalogue.server(provider.key, kind))]
    doors = tuple(
        Door(kind=server.kind, host=server.host, port=server.port, tls=server.tls, source=Source.CATALOGUE)
        for server in found
    )
    for door in doors:
        asker.say("server", kind=asker.words["kinds"][door.kind], where=door.where)
    if not doors:
        asker.say("not_had", kinds=", ".join(asker.words["kinds"][kind] for kind in wanted))
        asker.say("nothing")
        raise Stopped
    return Servers(doors, provider, written)


def _by_hand(asker: Asker, wanted: Collection[Kind]) -> tuple[Door, ...]:
    if asker.interactive:
        asker.say("by_hand")
    while True:
        given = (_one_by_hand(asker, kind) for kind in ORDER if kind in wanted)
        if doors := tuple(door for door in given if door):
            return doors
        asker.say("no_server")


def _one_by_hand(asker: Asker, kind: Kind) -> Door | None:
    def wrong(text: str) -> str:
        try:
            _door(kind, text)
        except ValueError as error:
            return str(error)
        return ""

    name = asker.words["kinds"][kind]
    text = asker.ask_or_skip("ask_server", f"--server {kind}=HOST:PORT", check=wrong, kind=name)
    return _door(kind, text) if text else None


def _door(kind: Kind, text: str) -> Door:
    """Read HOST or HOST:PORT. Raises ValueError."""
    bare = ":" not in text
    host, port = (text, _PORTS[kind]) if bare else split_endpoint(text)
    if wrong := HOST(host) or PORT(port):
        raise Fault(wrong)
    return Door(kind=kind, host=host, port=port, tls=TLS_OF_PORT.get(port, TlsMode.IMPLICIT), source=Source.GIVEN)


def _tell(asker: Asker, key: str, domain: str, doors: tuple[Door, ...]) -> None:
    if doors:
        asker.say(key, domain=domain)
    for door in _in_order(doors):
        asker.say("server", kind=asker.words["kinds"][door.kind], where=door.where)


def _in_order(doors: tuple[Door, ...]) -> tuple[Door, ...]:
    return tuple(sorted(doors, key=lambda door: ORDER.index(door.kind)))
