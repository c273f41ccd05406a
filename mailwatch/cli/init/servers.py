"""Finds the servers of an address with the user's help: prints what it finds, and asks about anything unusual."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import dataclass

from dns.asyncresolver import Resolver

from mailwatch.cli.init.discovery import (
    ORDER,
    DnsAnswers,
    ServerCandidate,
    Source,
    ascii_domain,
    guess_servers,
    is_within,
    provider_of_exchanger,
    provider_of_servers,
    query_dns,
)
from mailwatch.cli.init.prompts import HOST, PORT, Prompts, WizardStoppedError
from mailwatch.config import catalogue
from mailwatch.config.errors import FieldError
from mailwatch.config.schema_targets import TLS_BY_PORT
from mailwatch.config.types import split_endpoint
from mailwatch.kinds import KINDS, MAILBOX_KINDS
from mailwatch.model import Kind, TlsMode
from mailwatch.probes import TlsContexts
from mailwatch.probes.connect import MonitorError
from mailwatch.probes.mx_lookup import system_resolver


@dataclass(frozen=True, slots=True)
class MailboxServers:
    """The servers of an address, with the catalogue provider that they belong to, if any.

    `named_in_config`: whether the config must name the provider, since the address has a domain of its own.
    """

    candidates: tuple[ServerCandidate, ...]
    provider: catalogue.Provider | None = None
    named_in_config: bool = False


def parse_server_options(words: Collection[str], asker: Prompts) -> tuple[ServerCandidate, ...]:
    """Parse --server options. Raises ValueError with the message."""
    candidates = []
    for word in words:
        kind, _, where = word.partition("=")
        try:
            candidates.append(_parse_server(Kind(kind if kind in MAILBOX_KINDS else ""), where))
        except ValueError:
            raise ValueError(asker.text("bad_server", word=word)) from None
        if len({candidate.kind for candidate in candidates}) < len(candidates):
            raise ValueError(asker.text("twice", kind=kind))
    return tuple(candidates)


def find_servers(prompts: Prompts, address: str, wanted: Collection[Kind]) -> MailboxServers:
    """Find the servers: by catalogue, SRV, MX, usual names, and at last by asking the user. Raises
    MissingAnswerError, WizardStoppedError, EOFError.

    `wanted`: the kinds to find; at least one is found.
    """
    domain = address.rpartition("@")[2]
    if provider := catalogue.by_domain(address):
        facts = {"provider": provider.name, "source": catalogue.SOURCE, "seen": catalogue.SOURCE_DATE}
        prompts.show("by_catalogue", domain=domain, **facts)
        return _catalogue_servers(prompts, provider, wanted, written=False)
    try:
        resolver = system_resolver() if ascii_domain(address) else None
    except MonitorError as error:
        prompts.show("silent", why=error)
        resolver = None
    found = _discover(prompts, ascii_domain(address), wanted, resolver) if resolver else None
    return found or MailboxServers(_ask_servers(prompts, wanted))


def _discover(asker: Prompts, domain: str, wanted: Collection[Kind], resolver: Resolver) -> MailboxServers | None:
    """Find the servers by DNS and usual names; None if there are none."""
    asker.show("asking", domain=domain)
    answers = asyncio.run(query_dns(domain, resolver))
    if answers.failure:
        asker.show("silent", why=answers.failure)
    for kind in sorted(answers.not_offered & set(wanted)):
        asker.show("refused", domain=domain, kind=asker.texts.section("kinds")[kind])
    candidates = _confirm_outside(
        asker, domain, [candidate for candidate in answers.candidates if candidate.kind in wanted]
    )
    if candidates and (provider := provider_of_servers(candidates)):
        asker.show("by_doors", provider=provider.name)
        return _catalogue_servers(asker, provider, wanted, written=True)
    if not candidates and (provider := _hosted(asker, domain, answers)):
        return _catalogue_servers(asker, provider, wanted, written=True)
    lacking = [
        kind for kind in ORDER if kind in wanted and kind not in answers.not_offered | {d.kind for d in candidates}
    ]
    if lacking:
        asker.show("trying_usual", domain=domain)
        more = asyncio.run(guess_servers(domain, lacking, resolver, TlsContexts()))
        _print_found(asker, "by_usual", domain, more)
        candidates += more
    lost = [kind for kind in lacking if kind not in {candidate.kind for candidate in candidates}]
    if candidates and lost:
        asker.show("not_had", kinds=", ".join(asker.texts.section("kinds")[kind] for kind in lost))
    return MailboxServers(_in_order(candidates)) if candidates else None


def _confirm_outside(
    asker: Prompts, domain: str, candidates: list[ServerCandidate]
) -> tuple[ServerCandidate, ...]:
    """Keep the candidates within the domain, and those outside that the user confirms (RFC 6186, section 6)."""
    _print_found(asker, "by_srv", domain, tuple(candidates))
    answers: dict[str, bool] = {}
    for host in sorted({candidate.host for candidate in candidates if not is_within(candidate.host, domain)}):
        known = next((p for p in catalogue.providers() if host in {s.host for s in p.servers}), None)
        asker.show("outside", domain=domain, where=host)
        if known:
            asker.show("outside_known", host=host, provider=known.name)
        answers[host] = asker.agree("ask_outside", default=known is not None)
        if not answers[host]:
            asker.show("outside_left", host=host)
    return tuple(candidate for candidate in candidates if answers.get(candidate.host, True))


def _hosted(asker: Prompts, domain: str, answers: DnsAnswers) -> catalogue.Provider | None:
    provider = provider_of_exchanger(answers.exchanger) if answers.exchanger else None
    if provider is None:
        return None
    asker.show("by_exchanger", domain=domain, exchanger=answers.exchanger, provider=provider.name)
    return provider if asker.agree("ask_exchanger", default=True) else None


def _catalogue_servers(
    asker: Prompts, provider: catalogue.Provider, wanted: Collection[Kind], *, written: bool
) -> MailboxServers:
    found = [server for kind in ORDER if kind in wanted and (server := catalogue.server(provider.key, kind))]
    candidates = tuple(
        ServerCandidate(
            kind=server.kind, host=server.host, port=server.port, tls=server.tls, source=Source.CATALOGUE
        )
        for server in found
    )
    for candidate in candidates:
        asker.show("server", kind=asker.texts.section("kinds")[candidate.kind], where=candidate.endpoint)
    if not candidates:
        asker.show("not_had", kinds=", ".join(asker.texts.section("kinds")[kind] for kind in wanted))
        asker.show("nothing")
        raise WizardStoppedError
    return MailboxServers(candidates, provider, written)


def _ask_servers(asker: Prompts, wanted: Collection[Kind]) -> tuple[ServerCandidate, ...]:
    if asker.interactive:
        asker.show("by_hand")
    while True:
        given = (_ask_server(asker, kind) for kind in ORDER if kind in wanted)
        if candidates := tuple(candidate for candidate in given if candidate):
            return candidates
        asker.show("no_server")


def _ask_server(asker: Prompts, kind: Kind) -> ServerCandidate | None:
    def wrong(text: str) -> str:
        try:
            _parse_server(kind, text)
        except ValueError as error:
            return str(error)
        return ""

    name = asker.texts.section("kinds")[kind]
    text = asker.ask_or_skip("ask_server", f"--server {kind}=HOST:PORT", check=wrong, kind=name)
    return _parse_server(kind, text) if text else None


def _parse_server(kind: Kind, text: str) -> ServerCandidate:
    """Parse HOST or HOST:PORT. Raises ValueError."""
    bare = ":" not in text
    host, port = (text, KINDS[kind].ports[TlsMode.IMPLICIT]) if bare else split_endpoint(text)
    if wrong := HOST(host) or PORT(port):
        raise FieldError(wrong)
    return ServerCandidate(
        kind=kind, host=host, port=port, tls=TLS_BY_PORT.get(port, TlsMode.IMPLICIT), source=Source.GIVEN
    )


def _print_found(asker: Prompts, key: str, domain: str, candidates: tuple[ServerCandidate, ...]) -> None:
    if candidates:
        asker.show(key, domain=domain)
    for candidate in _in_order(candidates):
        asker.show("server", kind=asker.texts.section("kinds")[candidate.kind], where=candidate.endpoint)


def _in_order(candidates: tuple[ServerCandidate, ...]) -> tuple[ServerCandidate, ...]:
    return tuple(sorted(candidates, key=lambda door: ORDER.index(door.kind)))
