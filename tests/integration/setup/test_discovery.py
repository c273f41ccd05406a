"""Which servers a domain has, by a real name server and by one that lies."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from dns.asyncresolver import Resolver

from mailwatch.model import Kind, TlsMode
from mailwatch.setup.discovery import DnsAnswers, query_dns
from mailwatch.setup.servers import (
    ServerCandidate,
    Source,
    ascii_domain,
    is_within,
    provider_of_exchanger,
    provider_of_servers,
)
from tests.helpers.faults.names import Records, name_server
from tests.helpers.name_servers import dnsmasq_resolver
from tests.servers import free_port, resolver_at

RECORDS = (
    # all three, TLS first, by priority and then weight
    "srv-host=_imaps._tcp.all.test,second.all.test,993,20,0",
    "srv-host=_imaps._tcp.all.test,light.all.test,993,10,1",
    "srv-host=_imaps._tcp.all.test,imap.all.test,993,10,5",
    "srv-host=_imap._tcp.all.test,plain.all.test,143,0,0",
    "srv-host=_pop3s._tcp.all.test,pop.all.test,995,0,0",
    "srv-host=_submissions._tcp.all.test,smtp.all.test,465,0,0",
    "mx-host=all.test,mx.all.test,10",
    # STARTTLS alone, and what is decidedly not offered
    "srv-host=_imap._tcp.old.test,mail.old.test,1143,0,0",
    "srv-host=_submission._tcp.old.test,mail.old.test,587,0,0",
    "srv-host=_pop3s._tcp.old.test",
    "srv-host=_pop3._tcp.old.test",
    # TLS not offered, but STARTTLS
    "srv-host=_imaps._tcp.half.test",
    "srv-host=_imap._tcp.half.test,imap.half.test,143,0,0",
    "mx-host=google.test,aspmx.l.google.com,10",
    "mx-host=null.test,.,0",
    "host-record=bare.test,127.0.0.1",
)


@pytest.fixture(scope="module")
def names() -> Iterator[Resolver]:
    """A resolver of a real dnsmasq."""
    with dnsmasq_resolver(*RECORDS) as resolver:
        yield resolver


def found(said: DnsAnswers) -> dict[Kind, tuple[str, TlsMode]]:
    return {candidate.kind: (candidate.endpoint, candidate.tls) for candidate in said.candidates}


def test_the_best_record_with_tls_from_the_first_byte_wins(names: Resolver) -> None:
    dns_answers = asyncio.run(query_dns("all.test", names))
    assert found(dns_answers) == {
        Kind.IMAP: ("imap.all.test:993", TlsMode.IMPLICIT),
        Kind.POP3: ("pop.all.test:995", TlsMode.IMPLICIT),
        Kind.SMTP: ("smtp.all.test:465", TlsMode.IMPLICIT),
    }
    assert (dns_answers.not_offered, dns_answers.exchanger, dns_answers.failure) == (
        frozenset(),
        "mx.all.test",
        "",
    )


def test_starttls_is_the_second_choice_and_a_dot_means_not_offered(names: Resolver) -> None:
    dns_answers = asyncio.run(query_dns("old.test", names))
    assert found(dns_answers) == {
        Kind.IMAP: ("mail.old.test:1143", TlsMode.STARTTLS),
        Kind.SMTP: ("mail.old.test:587", TlsMode.STARTTLS),
    }
    assert dns_answers.not_offered == {Kind.POP3}
    half = asyncio.run(query_dns("half.test", names))
    assert found(half) == {Kind.IMAP: ("imap.half.test:143", TlsMode.STARTTLS)}
    assert half.not_offered == frozenset()


@pytest.mark.parametrize(
    ("domain", "exchanger", "silent"),
    [
        ("google.test", "aspmx.l.google.com", ""),
        ("null.test", "", "null MX"),
        ("bare.test", "", ""),
        ("gone.test", "", "NXDOMAIN"),
    ],
)
def test_the_exchanger_is_named_or_why_there_is_none(
    names: Resolver, domain: str, exchanger: str, silent: str
) -> None:
    dns_answers = asyncio.run(query_dns(domain, names))
    assert (dns_answers.candidates, dns_answers.exchanger) == ((), exchanger)
    assert silent in dns_answers.failure
    assert bool(dns_answers.failure) == bool(silent)


def test_a_silent_name_server_costs_no_more_than_one_wait() -> None:
    async def timed() -> tuple[DnsAnswers, float]:
        loop = asyncio.get_running_loop()
        began = loop.time()
        return await query_dns("all.test", resolver_at(free_port()), 0.5), loop.time() - began

    dns_answers, took = asyncio.run(timed())
    assert dns_answers.candidates == ()
    assert dns_answers.failure
    assert took < 3


@pytest.mark.parametrize(
    "record",
    [
        "0 0 993 localhost.",
        "0 0 993 127.0.0.1.",
        "0 0 0 imap.lies.test.",
        "0 0 143 imap.lies.test.",  # the port of STARTTLS: it would hang
        "0 0 993 ima\\027[31mp.lies.test.",
        "0 0 993 -imap.lies.test.",
        "0 0 993 imap\\032.lies.test.",
    ],
)
def test_a_record_without_a_usable_host_is_ignored(record: str) -> None:
    async def asked(*records: str) -> DnsAnswers:
        dns_answers: Records = records
        async with name_server(
            {"_imaps._tcp.lies.test SRV": dns_answers, "lies.test MX": ["10 mx.lies.test."]}
        ) as port:
            return await query_dns("lies.test", resolver_at(port), 2.0)

    dns_answers = asyncio.run(asked(record))
    assert (dns_answers.candidates, dns_answers.not_offered) == ((), frozenset())
    dns_answers = asyncio.run(asked(record, "9 0 993 good.lies.test."))
    assert [candidate.host for candidate in dns_answers.candidates] == ["good.lies.test"]


def test_a_flood_of_records_gives_one_server() -> None:
    async def asked() -> DnsAnswers:
        flood = [f"{n} 0 993 imap{n}.flood.test." for n in range(20)]
        async with name_server({"_imaps._tcp.flood.test SRV": flood}) as port:
            return await query_dns("flood.test", resolver_at(port), 2.0)

    assert [candidate.host for candidate in asyncio.run(asked()).candidates] == ["imap0.flood.test"]


@pytest.mark.parametrize(
    ("exchanger", "key"),
    [
        ("aspmx.l.google.com", "gmail"),
        ("example-org.mail.protection.outlook.com", "microsoft365"),
        ("outlook-com.olc.protection.outlook.com", "outlook"),
        ("mx.example.org", None),
        ("google.com.example.org", None),
        ("notgoogle.com", None),
        ("com", None),
    ],
)
def test_an_exchanger_belongs_to_the_provider_of_the_longest_domain_around_it(
    exchanger: str, key: str | None
) -> None:
    provider = provider_of_exchanger(exchanger)
    assert (provider.key if provider else None) == key


def test_candidates_belong_to_a_provider_only_all_of_them() -> None:
    def door(kind: Kind, host: str, port: int) -> ServerCandidate:
        return ServerCandidate(kind=kind, host=host, port=port, tls=TlsMode.IMPLICIT, source=Source.SRV)

    gmail = door(Kind.IMAP, "imap.gmail.com", 993)
    provider = provider_of_servers([gmail, door(Kind.SMTP, "smtp.gmail.com", 465)])
    assert provider is not None
    assert provider.key == "gmail"
    assert provider_of_servers([gmail, door(Kind.SMTP, "smtp.example.org", 465)]) is None
    assert provider_of_servers([door(Kind.IMAP, "outlook.office365.com", 993)]) is None  # two have it
    assert provider_of_servers([]) is None


@pytest.mark.parametrize(
    ("address", "domain"),
    [
        ("a@Example.ORG", "example.org"),
        ("a@città.it", "xn--citt-3na.it"),
        ("a@localhost", ""),
        ("a@127.0.0.1", ""),
        ("a@[127.0.0.1]", ""),
        ("a@x/../y.it", ""),
        ("a@" + "x" * 64 + ".it", ""),
        ("a@..it", ""),
    ],
)
def test_dns_queries_contain_only_the_domain(address: str, domain: str) -> None:
    assert ascii_domain(address) == domain


def test_a_subdomain_is_recognised_at_a_dot() -> None:
    assert is_within("imap.example.org", "Example.org")
    assert is_within("example.org", "example.org")
    assert not is_within("evilexample.org", "example.org")
    assert not is_within("example.org.evil.test", "example.org")
