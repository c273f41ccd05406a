"""Finds the servers of an address with the user's help: prints what is found, and asks about anything unusual."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from mailwatch.cli.init.prompts import OptionError, Prompts, WizardStoppedError
from mailwatch.cli.language import translated
from mailwatch.config import catalogue
from mailwatch.model import Kind
from mailwatch.setup.checks import ADDRESS
from mailwatch.setup.search import (
    Begun,
    Failed,
    Finding,
    Found,
    LeftOut,
    Missing,
    NoSuchDomain,
    NotOffered,
    Offline,
    Question,
    QuestionKind,
    ServerSearch,
)
from mailwatch.setup.servers import (
    ORDER,
    MailboxServers,
    ServerCandidate,
    Source,
    parse_server,
    parse_server_option,
)

_BEGUN = {
    Source.SRV: "asking",
    Source.AUTOCONFIG: "asking_autoconfig",
    Source.ISPDB: "asking_ispdb",
    Source.GUESSED: "trying_usual",
}
_FOUND = {
    Source.SRV: "by_srv",
    Source.AUTOCONFIG: "by_autoconfig",
    Source.ISPDB: "by_ispdb",
    Source.GUESSED: "by_usual",
}


def parse_server_options(words: Collection[str], prompts: Prompts) -> tuple[ServerCandidate, ...]:
    """Parse --server options. Raises ValueError with the message."""
    candidates: list[ServerCandidate] = []
    for word in words:
        try:
            candidates.append(parse_server_option(word))
        except ValueError:
            raise ValueError(prompts.text("bad_server", word=word)) from None
        if len({candidate.kind for candidate in candidates}) < len(candidates):
            raise ValueError(prompts.text("twice", kind=candidates[-1].kind))
    return tuple(candidates)


def find_servers(prompts: Prompts, address: str, wanted: Collection[Kind]) -> tuple[str, MailboxServers]:
    """Find the servers, at last by asking the user for them; return them and the address, corrected if mistyped.

    Raises MissingAnswerError, OptionError, WizardStoppedError, EOFError.
    `wanted`: the kinds to find; at least one is found.
    """
    while True:
        search = ServerSearch(address, wanted)
        while not search.ended:
            asyncio.run(_advance(search, prompts))
            if search.question is not None:
                search.answer(_ask(prompts, search, search.question))
        address = search.address
        if search.servers is not None:
            return address, search.servers
        if search.provider is not None or search.offline:
            prompts.show("nothing")
            raise WizardStoppedError
        if search.no_such_domain and prompts.interactive:
            again = prompts.ask("ask_address_again", "ADDRESS", default=address, check=ADDRESS)
            if again != address:
                address = again
                continue
        if search.no_such_domain and not prompts.interactive:
            raise OptionError(prompts.text("missing_domain", domain=address.rpartition("@")[2]))
        return address, MailboxServers(_ask_servers(prompts, wanted))


async def _advance(search: ServerSearch, prompts: Prompts) -> None:
    async for finding in search.advance():
        _show(prompts, finding)


def _show(prompts: Prompts, finding: Finding) -> None:
    kinds = prompts.texts.section("kinds")
    match finding:
        case Begun(source, domain):
            prompts.show(_BEGUN[source], domain=domain)
        case Found():
            _show_found(prompts, finding)
        case NotOffered(domain, kind):
            prompts.show("refused", domain=domain, kind=kinds[kind])
        case Failed(source, reason):
            prompts.show("silent" if source is Source.SRV else "nothing_there", why=translated(reason))
        case LeftOut(host):
            prompts.show("outside_left", host=host)
        case Missing(lost):
            prompts.show("not_had", kinds=", ".join(kinds[kind] for kind in lost))
        case NoSuchDomain(domain):
            prompts.show("no_domain", domain=domain)
        case Offline():
            prompts.show("offline_search")


def _show_found(prompts: Prompts, found: Found) -> None:
    provider = found.provider
    if provider is None:
        prompts.show(_FOUND[found.source], domain=found.domain)
    elif catalogue.by_domain(found.domain):
        facts = {"provider": provider.name, "source": catalogue.SOURCE, "seen": catalogue.SOURCE_DATE}
        prompts.show("by_catalogue", domain=found.domain, **facts)
    else:
        prompts.show("by_doors", provider=provider.name)
    for candidate in found.candidates:
        kind = prompts.texts.section("kinds")[candidate.kind]
        prompts.show("server", kind=kind, where=candidate.endpoint)


def _ask(prompts: Prompts, search: ServerSearch, question: Question) -> bool:
    """Ask a question of the search. Raises MissingAnswerError, EOFError."""
    domain, host = question.domain, question.host
    provider = question.provider.name if question.provider else ""
    match question.kind:
        case QuestionKind.TYPO:
            key, meant = "ask_typo", f"{search.address.rpartition('@')[0]}@{host}"
            if prompts.yes:
                # Nothing is asked, and a search of the wrong domain finds nothing.
                prompts.show("typo", domain=domain, meant=meant)
            return prompts.agree(key, default=question.default, domain=domain, meant=meant)
        case QuestionKind.HOSTED:
            key = "ask_exchanger"
            prompts.show("by_exchanger", domain=domain, exchanger=host, provider=provider)
        case QuestionKind.AUTOCONFIG:
            key = "ask_autoconfig"
            prompts.show("autoconfig", domain=domain)
        case QuestionKind.ISPDB:
            key = "ask_ispdb"
            prompts.show("ispdb", domain=domain, host=host)
        case QuestionKind.OUTSIDE:
            key = "ask_outside"
            prompts.show("outside", domain=domain, where=host)
            if provider:
                prompts.show("outside_known", host=host, provider=provider)
    return prompts.agree(key, default=question.default)


def _ask_servers(prompts: Prompts, wanted: Collection[Kind]) -> tuple[ServerCandidate, ...]:
    if prompts.interactive:
        prompts.show("by_hand")
    while True:
        given = (_ask_server(prompts, kind) for kind in ORDER if kind in wanted)
        if candidates := tuple(candidate for candidate in given if candidate):
            return candidates
        prompts.show("no_server")


def _ask_server(prompts: Prompts, kind: Kind) -> ServerCandidate | None:
    def wrong(text: str) -> str:
        try:
            parse_server(kind, text)
        except ValueError as error:
            return str(error)
        return ""

    name = prompts.texts.section("kinds")[kind]
    text = prompts.ask_or_skip("ask_server", f"--server {kind}=HOST:PORT", check=wrong, kind=name)
    return parse_server(kind, text) if text else None
