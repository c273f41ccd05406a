"""The search for servers with its questions, against real name servers and a real web server."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Kind
from mailwatch.setup.autoconfig import MAX_BYTES, AutoconfigAnswer, ask_autoconfig
from mailwatch.setup.search import (
    Begun,
    Failed,
    Finding,
    Found,
    LeftOut,
    NoSuchDomain,
    Offline,
    QuestionKind,
    SearchNetwork,
    ServerSearch,
)
from mailwatch.setup.servers import Source
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need, need_root
from tests.servers import DNSMASQ, HOST, NGINX, Certificates, Dnsmasq, Nginx, free_port, resolver_at, server_folder

FILE = (
    '<clientConfig><emailProvider><incomingServer type="imap"><hostname>{host}</hostname><port>993</port>'
    "<socketType>SSL</socketType><username>%EMAILLOCALPART%</username></incomingServer></emailProvider></clientConfig>"
)
RECORDS = (
    "txt-record=pages.test,x",
    "txt-record=lured.test,x",
    "mx-host=hosted.test,aspmx.l.google.com,10",
    "srv-host=_imaps._tcp.half.test,imap.half.test,993,0,0",
)
SETTINGS = f"""
    default_type text/xml;
    location = /own {{{{ return 200 '{FILE.format(host="imap.pages.test")}'; }}}}
    location = /foreign {{{{ return 200 '{FILE.format(host="imap.elsewhere.test")}'; }}}}
    location = /nothing {{{{ return 200 '<c/>'; }}}}
    location = /down {{{{ return 302 http://pages.test/own; }}}}
    location = /inside {{{{ return 302 https://127.0.0.1/own; }}}}
"""


@pytest.fixture(scope="module")
def names() -> Iterator[Dnsmasq]:
    """A real dnsmasq."""
    need_root(str(DNSMASQ))
    with server_folder() as folder, Dnsmasq(folder, "local=/#/", *RECORDS).running() as server:
        yield server


@pytest.fixture(scope="module")
def web(certificates: Certificates) -> Iterator[Nginx]:
    """A real nginx with autoconfig files."""
    need(NGINX)
    with server_folder() as folder:
        nginx = Nginx(folder, certificates)
        (folder / "pages" / "long").write_bytes(b"<c>" + b" " * MAX_BYTES + b"</c>")
        nginx.configure(SETTINGS.replace("{{", "{").replace("}}", "}"))
        with nginx.running():
            yield nginx


@pytest.fixture
def context(certificates: Certificates) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.ca_file)


def searched(search: ServerSearch, *answers: bool) -> tuple[list[Finding], list[QuestionKind]]:
    """Search to the end, with these answers; return what was found and what was asked."""
    findings: list[Finding] = []
    asked: list[QuestionKind] = []

    async def advance() -> None:
        findings.extend([finding async for finding in search.advance()])

    left = list(answers)
    while not search.ended:
        asyncio.run(advance())
        if search.question:
            asked.append(search.question.kind)
            search.answer(left.pop(0))
    assert left == []
    return findings, asked


def network(
    names: Dnsmasq, web: Nginx, context: ssl.SSLContext, own: str, ispdb: str = "/nothing"
) -> SearchNetwork:
    """What a search asks, on this machine."""

    def urls(_domain: str, source: Source) -> Sequence[Sequence[str]]:
        return ((f"https://localhost:{web.port}{ispdb if source is Source.ISPDB else own}",),)

    return SearchNetwork(name_server=names.resolver, autoconfig_urls=urls, ssl_context=context, guard=None)


def test_what_the_domain_publishes_is_asked_for_only_with_the_users_word(
    names: Dnsmasq, web: Nginx, context: ssl.SSLContext
) -> None:
    search = ServerSearch("mario@pages.test", network=network(names, web, context, "/own"))
    _, asked = searched(search, False, False)
    assert (asked, search.servers) == ([QuestionKind.AUTOCONFIG, QuestionKind.ISPDB], None)

    search = ServerSearch("mario@pages.test", network=network(names, web, context, "/own"))
    findings, asked = searched(search, True)
    assert asked == [QuestionKind.AUTOCONFIG]
    assert search.servers is not None
    (found,) = search.servers.candidates
    assert (found.kind, found.endpoint, search.servers.username) == (Kind.IMAP, "imap.pages.test:993", "mario")
    assert Begun(Source.AUTOCONFIG, "pages.test") in findings


def test_mozillas_list_is_asked_after_the_domain_has_nothing(
    names: Dnsmasq, web: Nginx, context: ssl.SSLContext
) -> None:
    search = ServerSearch("mario@pages.test", network=network(names, web, context, "/nothing", "/own"))
    findings, asked = searched(search, True, True)
    assert asked == [QuestionKind.AUTOCONFIG, QuestionKind.ISPDB]
    assert [finding.source for finding in findings if isinstance(finding, Found)] == [Source.ISPDB]
    assert any(
        isinstance(finding, Failed) and "no server that takes a password" in finding.reason for finding in findings
    )


@pytest.mark.parametrize("trusted", [False, True])
def test_a_server_outside_the_domain_needs_the_users_word_here_too(
    names: Dnsmasq, web: Nginx, context: ssl.SSLContext, trusted: bool
) -> None:
    search = ServerSearch("mario@lured.test", network=network(names, web, context, "/foreign"))
    findings, asked = searched(search, True, trusted, *([] if trusted else [False]))
    assert asked[:2] == [QuestionKind.AUTOCONFIG, QuestionKind.OUTSIDE]
    assert (search.servers is not None) is trusted
    assert (LeftOut("imap.elsewhere.test") in findings) is not trusted


def test_for_what_srv_lacks_no_question_is_asked(names: Dnsmasq, web: Nginx, context: ssl.SSLContext) -> None:
    search = ServerSearch("mario@half.test", network=network(names, web, context, "/own"))
    _, asked = searched(search)
    assert asked == []
    assert search.servers is not None


def test_a_mailbox_at_the_provider_of_its_exchanger(names: Dnsmasq, web: Nginx, context: ssl.SSLContext) -> None:
    search = ServerSearch("mario@hosted.test", network=network(names, web, context, "/own"))
    _, asked = searched(search, True)
    assert asked == [QuestionKind.HOSTED]
    assert search.provider is not None
    assert search.servers is not None
    assert (search.provider.key, search.servers.named_in_config) == ("gmail", True)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nothing", "no server that takes a password"),
        ("/long", "longer than 128 KiB"),
        ("/missing", "HTTP status 404"),
        ("/down", "from https to http"),
        ("/inside", "not a web page with a name"),
        ("/login.html", "not XML"),
        ("/slow", "no answer within 0.5 s"),
    ],
)
def test_a_web_server_without_a_usable_answer_is_named_with_the_reason(
    web: Nginx, context: ssl.SSLContext, path: str, why: str
) -> None:
    async def ask() -> AutoconfigAnswer:
        urls = ((f"https://localhost:{web.port}{path}",),)
        seconds = 0.5 if path == "/slow" else 60.0
        return await ask_autoconfig("a@pages.test", urls, Source.AUTOCONFIG, seconds=seconds, ssl_context=context)

    answer = asyncio.run(ask())
    assert answer.candidates == ()
    assert why in answer.failure


def test_a_silent_address_takes_no_time_from_one_that_answers(web: Nginx, context: ssl.SSLContext) -> None:
    own = f"https://localhost:{web.port}/own"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        urls = ((own, f"http://localhost:{silent.getsockname()[1]}/"),)
        # The time of the silent one never ends, and nothing waits for it.
        asked = ask_autoconfig("a@pages.test", urls, Source.AUTOCONFIG, seconds=PATIENCE, ssl_context=context)
        assert asyncio.run(asked).url == own


def test_a_certificate_that_is_not_trusted_is_no_answer(web: Nginx) -> None:
    urls = ((f"https://localhost:{web.port}/own",),)
    answer = asyncio.run(ask_autoconfig("a@pages.test", urls, Source.AUTOCONFIG))
    assert answer.candidates == ()
    assert "CERTIFICATE_VERIFY_FAILED" in answer.failure


def test_a_mistyped_domain_is_asked_about_before_anything_is_sent() -> None:
    silent = SearchNetwork(name_server=resolver_at(free_port()), guard=None)
    search = ServerSearch("mario@gmial.com", network=silent)
    findings, asked = searched(search, True)
    assert asked == [QuestionKind.TYPO]
    assert (search.address, search.provider and search.provider.key) == ("mario@gmail.com", "gmail")
    assert [finding for finding in findings if isinstance(finding, Begun)] == []


def test_the_address_stays_if_it_is_right(names: Dnsmasq, web: Nginx, context: ssl.SSLContext) -> None:
    search = ServerSearch("mario@gmial.com", network=network(names, web, context, "/own"))
    findings, asked = searched(search, False)
    assert (asked, search.address) == ([QuestionKind.TYPO], "mario@gmial.com")
    assert (search.no_such_domain, findings[-1]) == (True, NoSuchDomain("gmial.com"))


@pytest.fixture
def cut_off() -> SearchNetwork:
    """A network without a name server, and with a control that does not answer."""
    guard = Guard([Control(HOST, free_port())], timeout=1.0, names=())
    return SearchNetwork(name_server=resolver_at(free_port()), guard=guard)


def test_our_own_line_is_named_when_it_is_down(cut_off: SearchNetwork) -> None:
    search = ServerSearch("mario@pages.test", network=cut_off)
    findings, asked = searched(search)
    assert asked == []
    assert (search.offline, search.servers, findings[-1]) == (True, None, Offline())


def test_without_a_guard_a_silent_name_server_is_no_proof(cut_off: SearchNetwork) -> None:
    search = ServerSearch("mario@pages.test", network=replace(cut_off, guard=None))
    findings, _ = searched(search)
    assert (search.offline, Offline() in findings, search.ended) == (False, False, True)


def test_an_answer_without_a_question_is_an_error() -> None:
    with pytest.raises(ValueError, match="no question"):
        ServerSearch("mario@pages.test").answer(yes=True)
