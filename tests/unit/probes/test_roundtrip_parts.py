"""What a round trip sends and reads, piece by piece: seal, way, signature, bounce, and what is outstanding."""

from __future__ import annotations

import asyncio
import contextlib
import email
import re
import time
from collections.abc import AsyncIterator
from email import policy
from functools import partial
from typing import Any

import dns.asyncresolver
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Cause, Kind, Observation, Outcome
from mailwatch.probes import ProbeRequest, RoundtripContext, TlsContexts, observe
from mailwatch.probes.roundtrip import headers
from mailwatch.probes.roundtrip.delivery_report import read_delivery_report
from mailwatch.probes.roundtrip.dkim import KeyLookup, check_signatures, lookup_txt
from mailwatch.probes.roundtrip.headers import clock_skew_ms, header_fields, header_section, hops, parse_date
from mailwatch.probes.roundtrip.mailbox import search_since
from mailwatch.probes.roundtrip.message import (
    LOST_AFTER_MS,
    MessageSigner,
    MessageToken,
    Outstanding,
    compose,
    new_token,
)
from tests.helpers.dkim_signing import RECORD, signed
from tests.helpers.faults.fault import Fault, closed_port
from tests.helpers.faults.roundtrip import FULL_BOUNCE, Service, roundtrip_target, serving
from tests.helpers.scripted_server import CLOSE

AT = 1_769_119_200_123
SEALER = MessageSigner(b"s" * 32, "trip")
TRIP = Fault(kind=Kind.ROUNDTRIP, what="", cause=None, phase=None, place=closed_port).target
MARK = MessageToken("0123456789abcdef" * 2, AT)


def message(mark: MessageToken = MARK, sealer: MessageSigner = SEALER) -> bytes:
    return compose(mark, sealer.sign(mark), "anna@example.org", "bruno@example.net")


def known(text: bytes, sealer: MessageSigner = SEALER) -> MessageToken | None:
    return sealer.recognise(dict(header_fields(header_section(text))))


def test_the_probe_message_is_readable_in_a_mail_program() -> None:
    parsed = email.message_from_bytes(message(), policy=policy.default)
    assert parsed["message-id"] == f"<mailwatch.{MARK.token}@example.org>"
    assert parsed["auto-submitted"] == "auto-generated"
    assert parsed["date"].datetime.timestamp() == AT // 1000
    assert parsed["subject"] == "MailWatch 01234567"
    words = parsed.get_content()
    assert "può essere cancellato" in words
    assert "it can be deleted" in words
    assert not parsed.defects
    assert max(len(line) for line in message().split(b"\r\n")) < 200
    assert b"\n" not in message().replace(b"\r\n", b"")


def test_tokens_are_128_random_bits() -> None:
    tokens = {new_token(AT).token for _ in range(100)}
    assert len(tokens) == 100
    assert all(len(bytes.fromhex(token)) == 16 for token in tokens)


def test_our_message_is_known_by_its_seal_alone() -> None:
    assert known(message()) == MARK
    other = MessageToken("f" * 32, AT)
    seal = SEALER.sign(MARK)
    for wrong in (
        message(sealer=MessageSigner(b"t" * 32, "trip")),
        message(sealer=MessageSigner(b"s" * 32, "another-trip")),
        compose(other, seal, "a@example.org", "a@example.org"),
        message().replace(b"X-MailWatch-Seal", b"X-Nothing"),
        message().replace(str(AT).encode(), str(AT + 1).encode()),
        b"Subject: hello\r\n\r\n" + message(),
    ):
        assert known(wrong) is None
    # Some services give a message an id of their own.
    assert known(message().replace(b"Message-ID: <mailwatch.", b"Message-ID: <")) == MARK


@given(st.binary(max_size=400))
def test_foreign_messages_are_never_ours_and_never_raise(junk: bytes) -> None:
    assert known(junk) is None
    assert (
        read_delivery_report(b"Content-Type: multipart/report; boundary=B\r\n\r\n--B\r\n" + junk, SEALER) is None
    )
    hops([("received", junk.decode("latin-1"))], AT)
    parse_date(junk.decode("latin-1"))


HEAD = b"""\
Received: from mx.example.net (mx.example.net [192.0.2.7])\r
\tby store.example.net (Dovecot) with LMTP id XYZ\r
\tfor <b@example.net>; Thu, 22 Jan 2026 23:00:05 +0100\r
Received: from smtp.example.org ([IPv6:2001:db8::1]) by mx.example.net (Postfix (and (more)))\r
 with ESMTPS id ABC; Thu, 22 Jan 2026 22:05:00 +0000 (UTC)\r
Received: from [192.0.2.1] by smtp.example.org with ESMTPSA id Q1; Thu, 22 Jan 2026 21:59:58 -0000\r
Received: nonsense\r
Subject: hello\r
"""


def test_the_route_is_shown_hop_by_hop_with_clocks_that_differ() -> None:
    sent_at = parse_date("Thu, 22 Jan 2026 22:00:00 +0000")
    assert sent_at is not None
    none, first, second, third = hops(header_fields(HEAD), sent_at)
    assert none == {}
    assert first == {
        "from": "[192.0.2.1]",
        "address": "192.0.2.1",
        "by": "smtp.example.org",
        "with": "ESMTPSA",
        "id": "Q1",
        "at": sent_at - 2000,
        "delay_ms": -2000,
    }
    assert (second["by"], second["address"], second["with"]) == ("mx.example.net", "2001:db8::1", "ESMTPS")
    assert second["delay_ms"] == 302_000
    assert third["delay_ms"] == -295_000
    assert third["by"] == "store.example.net"
    assert clock_skew_ms([first]) == 1000
    assert clock_skew_ms([none, first, second, third]) == 294_000
    assert clock_skew_ms([]) == clock_skew_ms([second]) == 0


def test_a_header_without_end_is_bounded() -> None:
    huge = b"Received: " + b"(" * 100_000 + b"from x by y; " + b"\r\n" + b"Received: from a\r\n" * 10_000
    route = hops(header_fields(huge), AT)
    assert len(route) == headers.MAX_HOPS
    assert all(len(str(hop)) < 4 * headers.MAX_FIELD_CHARS for hop in route)


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Thu, 32 Jan 2026 22:00:00 +0000", "Thu, 1 Jan 99999 00:00:00 +0000"]
)
def test_an_invalid_date_is_none(date: str) -> None:
    assert parse_date(date) is None


def test_the_day_to_search_from_is_written_as_imap_wants_it() -> None:
    assert search_since(AT) == b"SINCE 21-Jan-2026"


class Names(asyncio.DatagramProtocol):
    """A name server with one TXT record, or one that only refuses."""

    def __init__(self, name: str, text: bytes, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> None:
        self.name, self.text, self.rcode = name, text, rcode

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = dns.message.from_wire(data)
        answer = dns.message.make_response(asked)
        answer.set_rcode(self.rcode)
        if self.rcode == dns.rcode.NOERROR:
            if asked.question[0].name.to_text() == self.name:
                pieces = [self.text[at : at + 200].decode() for at in range(0, len(self.text), 200)]
                text = " ".join(f'"{piece}"' for piece in pieces)
                answer.answer.append(dns.rrset.from_text(self.name, 60, "IN", "TXT", text))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
        self.transport.sendto(answer.to_wire(), addr)


@contextlib.asynccontextmanager
async def name_server(text: bytes, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> AsyncIterator[KeyLookup]:
    loop = asyncio.get_running_loop()
    names = Names("mw._domainkey.example.org.", text, rcode)
    transport, _ = await loop.create_datagram_endpoint(lambda: names, local_addr=("127.0.0.1", 0))
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], transport.get_extra_info("sockname")[1]
    try:
        yield partial(lookup_txt, resolver=resolver)
    finally:
        transport.close()


async def test_a_signature_is_checked_with_the_key_of_its_domain() -> None:
    whole = signed(message())
    async with name_server(RECORD) as keys:
        assert await check_signatures(whole, keys) == [
            {"result": "pass", "domain": "example.org", "selector": "mw"}
        ]
        (broken,) = await check_signatures(whole + b"Sent from my phone\r\n", keys)
        assert (broken["result"], "body hash" in broken["why"]) == ("fail", True)
        (changed,) = await check_signatures(whole.replace(b"Subject: MailWatch", b"Subject: MailWotch"), keys)
        assert (changed["result"], changed["why"]) == ("fail", "the signature does not match")
        twice = signed(whole, b"elsewhere.example")
        assert [result["result"] for result in await check_signatures(twice, keys)] == ["permerror", "pass"]
        assert [
            result["result"] for result in await check_signatures(b"DKIM-Signature: v=1\r\n" + message(), keys)
        ] == ["permerror"]
        assert await check_signatures(message(), keys) == [{"result": "none"}]
        flood = b"DKIM-Signature: v=1\r\n" * 1000 + message()
        assert len(await check_signatures(flood, keys)) == 4


@pytest.mark.parametrize(("tag", "ahead"), [("t=", 90_000), ("x=", -90_000)])
async def test_a_signature_out_of_date_by_our_clock_is_no_failure_of_the_message(tag: str, ahead: int) -> None:
    moment = round(time.time()) + ahead
    dates = f"t={moment}" if tag == "t=" else f"t={moment - 9}; x={moment}"
    dated = re.sub(rb"(?<=[; ])t=\d+", dates.encode(), signed(message()), count=1)
    async with name_server(RECORD) as keys:
        (result,) = await check_signatures(dated, keys)
    assert (result["result"], result["why"][:2]) == ("neutral", tag)


@pytest.mark.parametrize("text", [b"v=DKIM1; p=", b"v=DKIM1; k=rsa; p=AAAA", b"hello"])
async def test_an_invalid_dkim_key_is_no_failure_of_the_message(text: bytes) -> None:
    async with name_server(text) as keys:
        (result,) = await check_signatures(signed(message()), keys)
    assert result["result"] == "permerror"


async def test_a_name_server_that_fails_is_no_failure_of_the_message() -> None:
    async with name_server(RECORD, dns.rcode.SERVFAIL) as keys:
        (result,) = await check_signatures(signed(message()), keys)
    assert result["result"] == "temperror"


def bounce(head: str, **changed: str) -> bytes:
    text = FULL_BOUNCE.format(user="b@example.net", head=head, diagnostic="smtp; 552 5.2.2 mailbox full")
    for old, new in changed.items():
        text = text.replace(f"{old.capitalize()}: failed", f"{old.capitalize()}: {new}")
    return text.replace("\n", "\r\n").encode()


def test_a_report_on_our_message_is_read() -> None:
    head = message().partition(b"\r\n\r\n")[0].decode().replace("\r\n", "\n")
    report = read_delivery_report(bounce(head), SEALER)
    assert report is not None
    assert (report.token, report.action, report.status) == (MARK.token, "failed", "5.2.2")
    assert report.diagnostic == "smtp; 552 5.2.2 mailbox full"
    assert (report.proven, report.sent_at) == (True, AT)
    delayed = read_delivery_report(bounce(head, action="delayed"), SEALER)
    assert delayed is not None
    assert delayed.action == "delayed"


def test_a_report_without_our_seal_is_read_and_proves_nothing() -> None:
    report = read_delivery_report(bounce(f"Message-ID: <mailwatch.{MARK.token}@example.org>"), SEALER)
    assert report is not None
    assert (report.token, report.proven) == (MARK.token, False)
    assert read_delivery_report(bounce("Message-ID: <somebody@example.org>"), SEALER) is None
    assert read_delivery_report(message(), SEALER) is None


@pytest.mark.parametrize("becomes", ["itself", "bounce"])
async def test_undecodable_replies_can_be_recorded(becomes: str) -> None:
    service = Service(
        smtp={"message": b"250 \xff ok: queued as A\xff1 \r\n"},
        becomes=becomes,
        diagnostic="smtp; 552 \udcff full",
    )
    async with serving(service) as (via, to):
        observation = await observe(
            ProbeRequest(roundtrip_target(TRIP, via, to), scheduled_at=AT, contexts=TlsContexts())
        )
    assert observation.outcome is (Outcome.UP if becomes == "itself" else Outcome.DOWN)
    assert observation.facts is not None
    assert observation.facts["message"]["reply"] == r"250 \xff ok: queued as A\xff1"
    assert canonical(fact_payload(observation)).encode()


async def test_without_uidplus_no_single_message_is_expunged() -> None:
    service = Service(capabilities=b"IMAP4rev1 AUTH=PLAIN")
    async with serving(service) as (via, to):
        observation = await observe(
            ProbeRequest(roundtrip_target(TRIP, via, to), scheduled_at=AT, contexts=TlsContexts())
        )
    assert observation.outcome is Outcome.UP
    assert service.changed == ['SELECT "INBOX"', r"UID STORE 7 +FLAGS.SILENT (\Deleted)", "EXPUNGE"]


async def test_a_message_that_comes_while_we_search_is_not_waited_for() -> None:
    """The server announces it in the answer to the search, and has no news for one who is idle after it."""
    service = Service(silent=True, after_searches=2)
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to, deadline=25.0)
        observation = await observe(ProbeRequest(trip, scheduled_at=AT, contexts=TlsContexts()))
    assert observation.outcome is Outcome.UP
    assert (observation.facts or {})["latency_ms"] < 20_000


async def test_a_message_without_an_acknowledgement_may_have_been_accepted() -> None:
    service = Service(smtp={"message": CLOSE}, times=1)
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to)
        observation = await observe(
            ProbeRequest(trip, scheduled_at=AT, contexts=TlsContexts(), roundtrip=RoundtripContext(b"s"))
        )
        assert (observation.cause, (observation.facts or {})["stage"]) == (Cause.DISCONNECTED, "unsure")
        outstanding = Outstanding.restore([observation])
        again = await observe(
            ProbeRequest(
                trip, scheduled_at=AT, contexts=TlsContexts(), roundtrip=RoundtripContext(b"s", outstanding)
            )
        )
    assert again.facts is not None
    assert [late["token"] for late in again.facts["late"]] == [*outstanding.sent]


def observed(stage: str = "served", at: int = AT, **facts: Any) -> Observation:
    sent = {"token": MARK.token, "sent_at": MARK.sent_at}
    return Observation(
        target="trip",
        scheduled_at=at,
        started_at=at,
        ended_at=at,
        outcome=Outcome.DOWN,
        cause=Cause.UNDELIVERED,
        facts={"stage": stage, "message": sent, **facts},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("stage", "on_its_way"),
    [
        ("queued", True),
        ("missing", True),
        ("login", True),
        ("unsure", True),
        ("served", False),
        ("rejected", False),
        ("unsubmitted", False),
    ],
)
def test_a_message_that_may_still_arrive_is_outstanding(stage: str, on_its_way: bool) -> None:
    assert (MARK.token in Outstanding.restore([observed(stage)]).sent) is on_its_way


@pytest.mark.parametrize("end", ["late", "lost", "bounced"])
def test_a_message_that_ended_is_no_longer_outstanding(end: str) -> None:
    ended: dict[str, Any] = {end: [{"token": MARK.token}]}
    after = Outstanding.restore([observed("queued"), observed("unsubmitted", message=None, **ended)])
    assert not after.sent
    assert after.recorded == ({MARK.token} if end == "late" else set())
    assert not after.after(observed("unsubmitted", message=None, cleaned=[MARK.token])).recorded


def test_a_message_is_given_up_after_a_week_and_recorded_once() -> None:
    waiting = Outstanding.restore([observed("queued")])
    assert waiting.overdue(AT + LOST_AFTER_MS) == []
    assert waiting.overdue(AT + LOST_AFTER_MS + 1) == [MARK]
    assert not waiting.after(observed("unsubmitted", message=None, lost=[{"token": MARK.token}])).overdue(
        AT + 10**12
    )


def test_an_undeleted_message_is_known_and_not_a_leftover() -> None:
    assert Outstanding.restore([observed("served", left="read-only")]).recorded == {MARK.token}
    assert Outstanding.restore([observed("served")]).recorded == set()


@pytest.mark.parametrize(
    "odd", [b"Subject: a\x0bFrom: b", b"Subject: a\x0cTo: b", b"X: \xff\xfe", b": x", b"\xff: y"]
)
def test_a_report_is_read_whatever_else_the_returned_header_holds(odd: bytes) -> None:
    report = (
        b'Content-Type: multipart/report; report-type=delivery-status; boundary="x"\r\n\r\n--x\r\nContent-Type: '
        b"message/delivery-status\r\n\r\nReporting-MTA: dns; x\r\n\r\nAction: failed\r\nStatus: 5.1.1\r\n\r\n"
        b"--x\r\nContent-Type: message/rfc822\r\n\r\n"
        + message().replace(b"\r\n\r\n", b"\r\n" + odd + b"\r\n\r\n", 1)
    )
    bounce = read_delivery_report(report + b"\r\n--x--\r\n", SEALER)
    assert bounce is not None
    assert (bounce.token, bounce.action, bounce.proven) == (MARK.token, "failed", True)


def test_parts_in_parts_without_end_are_no_report() -> None:
    nested = b"".join(
        b"Content-Type: multipart/report; boundary=b%d\r\n\r\n--b%d\r\n" % (number, number)
        for number in range(1500)
    )
    assert read_delivery_report(nested, SEALER) is None


async def test_a_message_that_begins_within_a_field_has_no_signature_that_can_be_read() -> None:
    (result,) = await check_signatures(b" folded\r\nFrom: x\r\n\r\nx")
    assert result == {"result": "permerror", "why": "the header of the message cannot be read"}
