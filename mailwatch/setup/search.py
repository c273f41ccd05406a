"""The search for the servers of an address, step by step, with the questions that only its user can answer.

    search = ServerSearch("mario@example.org")
    while not search.ended:
        async for finding in search.advance():
            ...  # show it
        if search.question:
            search.answer(...)  # the user's yes or no
    search.servers  # None: ask for the servers by hand

Between two calls of `advance` nothing runs, so that a page of the browser may come and go meanwhile.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from dns.asyncresolver import Resolver

from mailwatch.config import catalogue
from mailwatch.config.schema_guard import GuardSection
from mailwatch.config.typos import meant_domain
from mailwatch.guard.connectivity import Guard
from mailwatch.kinds import MAILBOX_KINDS
from mailwatch.model import Kind, ResolverState
from mailwatch.probes import TlsContexts
from mailwatch.probes.connect import MonitorError
from mailwatch.probes.mx_lookup import system_resolver
from mailwatch.setup.autoconfig import ISPDB, ask_autoconfig, autoconfig_urls
from mailwatch.setup.discovery import DnsAnswers, guess_servers, query_dns
from mailwatch.setup.servers import (
    ORDER,
    MailboxServers,
    ServerCandidate,
    Source,
    ascii_domain,
    in_order,
    is_within,
    provider_of_exchanger,
    provider_of_servers,
    provider_servers,
)


@dataclass(frozen=True, slots=True)
class Begun:
    """A step that may take some seconds begins."""

    source: Source
    domain: str


@dataclass(frozen=True, slots=True)
class Found:
    """A source names these servers. `provider`: the provider of the catalogue that they belong to, if known."""

    source: Source
    domain: str
    candidates: tuple[ServerCandidate, ...]
    provider: catalogue.Provider | None = None


@dataclass(frozen=True, slots=True)
class NotOffered:
    """The domain states that it does not offer a kind (RFC 6186, section 3.4)."""

    domain: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Failed:
    """A source gave no answer."""

    source: Source
    reason: str


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The user does not know this server; it is left out."""

    host: str


@dataclass(frozen=True, slots=True)
class Missing:
    """No server was found for these kinds."""

    kinds: tuple[Kind, ...]


@dataclass(frozen=True, slots=True)
class NoSuchDomain:
    """The domain does not exist: a typing error, most likely."""

    domain: str


@dataclass(frozen=True, slots=True)
class Offline:
    """Our own line is down, or DNS does not work here: nothing can be found out about the domain now."""


Finding = Begun | Found | NotOffered | Failed | LeftOut | Missing | NoSuchDomain | Offline


class QuestionKind(StrEnum):
    """What only the user can know or allow."""

    OUTSIDE = "outside"
    """Whether `host`, outside the domain, is a server to trust with the password (RFC 6186, section 6)."""
    HOSTED = "hosted"
    """Whether the mailbox lies at `provider`, whose `host` receives the domain's mail."""
    TYPO = "typo"
    """Whether the user meant the domain `host`."""
    AUTOCONFIG = "autoconfig"
    """Whether MailWatch may ask the web server of the domain itself, which learns that its mail is set up."""
    ISPDB = "ispdb"
    """Whether MailWatch may ask Mozilla's `host`, which learns the domain."""


@dataclass(slots=True, kw_only=True)
class SearchNetwork:
    """What a search asks. The defaults are this machine's name servers and authorities, and the usual addresses.

    `guard` checks whether our own line works.
    """

    name_server: Resolver | None = None
    contexts: TlsContexts = field(default_factory=TlsContexts)
    autoconfig_urls: Callable[[str, Source], Sequence[Collection[str]]] = autoconfig_urls
    ssl_context: ssl.SSLContext | None = None
    guard: Guard | None = field(default_factory=lambda: Guard.from_config(GuardSection()))

    def resolver(self) -> Resolver:
        """Return the resolver. Raises MonitorError if this machine names no name server."""
        self.name_server = self.name_server or system_resolver()
        return self.name_server

    async def is_offline(self) -> bool:
        """Return whether our own line is surely down, or DNS does not work here."""
        if self.guard is None:
            return False
        answer = await self.guard.check(dns=True)
        return answer.online is False or answer.resolver == ResolverState.SILENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question of yes or no. `default` is the answer of a user in doubt."""

    kind: QuestionKind
    domain: str
    host: str
    provider: catalogue.Provider | None = None
    default: bool = True


_Step = Callable[[], AsyncIterator[Finding]]


class ServerSearch:
    """The search for the servers of `address`, of the kinds `wanted`. Nothing raises but cancellation.

    `question` must be answered before the search goes on. `servers` is the result, None until one is found;
    `ended` says that nothing more will be. `provider` is known if the catalogue has the address's domain.
    `address` changes if the user confirms a typing error. `no_such_domain`: DNS states that the domain does not
    exist, and nothing was found. `offline`: our own line is down.
    """

    def __init__(
        self, address: str, wanted: Collection[Kind] = MAILBOX_KINDS, *, network: SearchNetwork | None = None
    ) -> None:
        self.wanted = tuple(wanted)
        self.question: Question | None = None
        self.servers: MailboxServers | None = None
        self.ended = self.no_such_domain = self.offline = False
        self._network = network or SearchNetwork()
        self._typo_asked = False
        self._begin(address)

    def _begin(self, address: str) -> None:
        self.address = address
        self.domain = ascii_domain(address)
        self.provider = catalogue.by_domain(address)
        self._dns = DnsAnswers()
        self._candidates: tuple[ServerCandidate, ...] = ()
        self._answers: dict[str, bool] = {}
        """The hosts outside the domain that the user was asked about, and whether each is a server to trust."""
        self._step: _Step = self._by_catalogue
        self._after_confirmation: _Step = self._by_exchanger

    async def advance(self) -> AsyncIterator[Finding]:
        """Search on, up to the next question or the end; yield each finding as it comes."""
        while self.question is None and not self.ended:
            async for finding in self._step():
                yield finding

    def answer(self, yes: bool) -> None:
        """Answer the open question. Raises ValueError if there is none."""
        question, self.question = self.question, None
        if question is None:
            raise ValueError("no question is open")
        match question.kind:
            case QuestionKind.TYPO:
                self._typo_asked = True
                if yes:
                    self._begin(f"{self.address.rpartition('@')[0]}@{question.host}")
            case QuestionKind.OUTSIDE:
                self._answers[question.host] = yes
                self._step = self._by_confirmed
            case QuestionKind.HOSTED:
                self.provider = question.provider if yes else None
                self._step = self._at_provider if yes else self._by_autoconfig
            case QuestionKind.AUTOCONFIG:
                self._step = self._ask_domain if yes else self._by_ispdb
            case QuestionKind.ISPDB:
                self._step = self._ask_ispdb if yes else self._by_usual_names

    def _end(self, servers: MailboxServers) -> None:
        self.servers = servers if servers.candidates else None
        self.ended = True

    async def _by_catalogue(self) -> AsyncIterator[Finding]:
        if self.provider is not None:
            self._end(provider_servers(self.provider, self.wanted, named=False))
            yield self._provider_finding()
        elif (meant := meant_domain(self.domain or self.address.rpartition("@")[2])) and not self._typo_asked:
            self.question = Question(
                kind=QuestionKind.TYPO, domain=self.address.rpartition("@")[2], host=meant, default=False
            )
        else:
            self._step = self._by_dns
            self.ended = not self.domain

    async def _at_provider(self) -> AsyncIterator[Finding]:
        """End with the catalogue's servers, for a domain that the catalogue does not have."""
        if self.provider is not None:
            self._end(provider_servers(self.provider, self.wanted, named=True))
            yield self._provider_finding()

    def _provider_finding(self) -> Finding:
        if self.servers is None:
            return Missing(self.wanted)
        return Found(Source.CATALOGUE, self.domain, self.servers.candidates, self.provider)

    async def _by_dns(self) -> AsyncIterator[Finding]:
        yield Begun(Source.SRV, self.domain)
        try:
            self._dns = dns = await query_dns(self.domain, self._network.resolver())
        except MonitorError as error:
            self._dns = dns = DnsAnswers(failure=str(error), answered=False)
            self.ended = True
        # Of a domain that does not exist, the end says so, if nothing is found under it.
        if dns.failure and dns.exists:
            yield Failed(Source.SRV, dns.failure)
        if not dns.answered and await self._network.is_offline():
            self.offline = self.ended = True
            yield Offline()
            return
        for kind in sorted(dns.not_offered & set(self.wanted)):
            yield NotOffered(self.domain, kind)
        self._after_confirmation = self._by_exchanger
        for finding in self._take(Source.SRV, dns.candidates):
            yield finding

    def _take(self, source: Source, candidates: Collection[ServerCandidate]) -> Iterator[Finding]:
        """Take the candidates of kinds that no better source has; questions about hosts outside come next."""
        lacking = self._lacking()
        new = in_order([one for one in candidates if one.kind in lacking])
        if new:
            yield Found(source, self.domain, new)
        self._candidates = in_order((*self._candidates, *new))
        self._step = self._by_confirmed

    async def _by_confirmed(self) -> AsyncIterator[Finding]:
        """Ask about the next host outside the domain; without one, go on with the hosts that are trusted."""
        for host in sorted({one.host for one in self._candidates if self._answers.get(one.host) is False}):
            yield LeftOut(host)
        self._candidates = tuple(one for one in self._candidates if self._answers.get(one.host, True))
        outside = {one.host for one in self._candidates if not is_within(one.host, self.domain)}
        if unasked := sorted(outside - self._answers.keys()):
            host = unasked[0]
            known = next((p for p in catalogue.providers() if host in {s.host for s in p.servers}), None)
            self.question = Question(
                kind=QuestionKind.OUTSIDE, domain=self.domain, host=host, provider=known, default=known is not None
            )
        elif provider := provider_of_servers(self._candidates):
            self.provider = provider
            self._step = self._at_provider
        else:
            self._step = self._after_confirmation

    async def _by_exchanger(self) -> AsyncIterator[Finding]:
        self._step = self._by_autoconfig
        provider = provider_of_exchanger(self._dns.exchanger) if self._dns.exchanger else None
        if not self._candidates and provider is not None:
            self.question = Question(
                kind=QuestionKind.HOSTED, domain=self.domain, host=self._dns.exchanger, provider=provider
            )
        return
        yield  # A step is an async generator.

    async def _by_autoconfig(self) -> AsyncIterator[Finding]:
        self._step = self._by_usual_names
        if self._needs_more():
            self.question = Question(kind=QuestionKind.AUTOCONFIG, domain=self.domain, host=self.domain)
        return
        yield

    async def _by_ispdb(self) -> AsyncIterator[Finding]:
        self._step = self._by_usual_names
        if self._needs_more():
            host = urlsplit(ISPDB).hostname or ""
            self.question = Question(kind=QuestionKind.ISPDB, domain=self.domain, host=host, default=False)
        return
        yield

    async def _ask_domain(self) -> AsyncIterator[Finding]:
        self._after_confirmation = self._by_ispdb
        async for finding in self._ask_source(Source.AUTOCONFIG):
            yield finding

    async def _ask_ispdb(self) -> AsyncIterator[Finding]:
        self._after_confirmation = self._by_usual_names
        async for finding in self._ask_source(Source.ISPDB):
            yield finding

    async def _ask_source(self, source: Source) -> AsyncIterator[Finding]:
        yield Begun(source, self.domain)
        urls = self._network.autoconfig_urls(self.domain, source)
        answer = await ask_autoconfig(self.address, urls, source, ssl_context=self._network.ssl_context)
        if answer.failure:
            yield Failed(source, answer.failure)
        for finding in self._take(source, answer.candidates):
            yield finding

    async def _by_usual_names(self) -> AsyncIterator[Finding]:
        lacking = self._lacking()
        if lacking:
            yield Begun(Source.GUESSED, self.domain)
            network = self._network
            more = await guess_servers(self.domain, lacking, network.resolver(), network.contexts)
            if more:
                yield Found(Source.GUESSED, self.domain, in_order(more))
            self._candidates = in_order((*self._candidates, *more))
        self._end(MailboxServers(self._candidates))
        if self.servers and (lost := self._lacking()):
            yield Missing(lost)
        elif not self.servers and not self._dns.exists:
            self.no_such_domain = True
            yield NoSuchDomain(self.domain)

    def _lacking(self) -> tuple[Kind, ...]:
        """Return the kinds that are wanted, not found, and not declared as not offered."""
        known = self._dns.not_offered | {one.kind for one in self._candidates}
        return tuple(kind for kind in ORDER if kind in self.wanted and kind not in known)

    def _needs_more(self) -> bool:
        """Return whether a further source is worth a question: while no source had a server."""
        return self._dns.exists and self._dns.answered and not self._candidates
