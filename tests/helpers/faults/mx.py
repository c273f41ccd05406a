"""Faults of exchangers and of the names that lead to them.

The ladder: MX, the exchanger's address, greeting, EHLO, STARTTLS if it is offered, MAIL, RCPT, RSET. Nothing is
sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import dns.rcode

from mailwatch.guard.port25 import Port25
from mailwatch.model import Cause, Kind, Observation, Phase, TlsMode
from mailwatch.probes import ProbeRequest, observe
from mailwatch.settings import Target
from tests.helpers.faults.fault import SHORT_TIMEOUT_SECONDS, USER, Fault, Place, closed_port, full_backlog, plays
from tests.helpers.faults.names import Zone, name_server
from tests.helpers.scripted_server import CLOSE, RESET, SILENCE, Step, scripted_server
from tests.servers import free_port, resolver_at

DOMAIN = "example.org"
GREETING = b"220 mx1.example.org ready\r\n"
EHLO: list[Step] = [GREETING, "^EHLO "]
OFFER = b"250-mx1.example.org\r\n250 SIZE 1000\r\n"
SECURE = b"250-mx1.example.org\r\n250 STARTTLS\r\n"
MAIL: list[Step] = [*EHLO, OFFER, "^MAIL FROM:<>\r\n"]
RCPT: list[Step] = [*MAIL, b"250 2.1.0 ok\r\n", f"^RCPT TO:<{USER}>\r\n"]
END: list[Step] = [b"250 2.1.5 ok\r\n", "^RSET", b"250 2.0.0 ok\r\n", "^QUIT", b"221 2.0.0 bye\r\n"]
ACCEPTED: list[Step] = [*RCPT, *END]
STARTTLS: list[Step] = [*EHLO, SECURE, "^STARTTLS"]
BEST, NEXT, CONTROL = "127.0.0.1", "127.0.0.2", "127.0.0.9"
"""Where the exchangers are, and who is asked whether the port is open: all at the same port."""
TWO: Zone = {
    "example.org MX": ["20 mx2.example.org.", "10 mx1.example.org."],
    "mx1.example.org A": [BEST],
    "mx2.example.org A": [NEXT],
}
ONE: Zone = {"example.org MX": ["10 mx1.example.org."], "mx1.example.org A": [BEST]}

_fault = partial(Fault, kind=Kind.MX)


def _says(answer: bytes, cause: Cause, phase: Phase, *, after: list[Step], to: str = "", **more: Any) -> Fault:
    return _fault(
        what=f"says `{answer.decode().strip()}`" + (f" to {to}" if to else ""),
        cause=cause,
        phase=phase,
        place=plays(*after, answer, CLOSE),
        **more,
    )


_at_mail = partial(_says, phase=Phase.SUBMIT, after=MAIL, to="MAIL FROM")
_at_rcpt = partial(_says, phase=Phase.SUBMIT, after=RCPT, to="RCPT TO")


def _in_turn(first: list[Step], then: list[Step]) -> Place:
    """A server that takes STARTTLS up, and plays something else to who comes again."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        async with scripted_server(first, then=then) as port:
            yield replace(target, port=port, tls=TlsMode.STARTTLS)

    return place


def _domain(zone: Zone, servers: Mapping[str, list[Step]], *, timeout: float | None = None) -> Place:
    """A domain whose name server is at the port of its exchangers: `servers` has an address for each script."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        port = free_port()
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(name_server(zone, port=port))
            for host, script in servers.items():
                await stack.enter_async_context(scripted_server(script, host=host, port=port))
            yield replace(target, host=DOMAIN, port=port, timeout=timeout or target.timeout)

    return place


async def probe_domain(request: ProbeRequest) -> Observation:
    """Probe a domain of `_domain`, and ask the control if nobody greets."""
    target = request.target
    observation = await observe(replace(request, resolver=resolver_at(target.port)))
    return await Port25([CONTROL], port=target.port, seconds=SHORT_TIMEOUT_SECONDS).attribute(target, observation)


_named = partial(_fault, probe=probe_domain)

FAULTS: list[Fault] = [
    _named(what="everything works", cause=None, phase=None, place=_domain(ONE, {BEST: ACCEPTED})),
    _named(
        what="the domain is gone",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({}, {}),
        says="MX of example.org: NXDOMAIN",
    ),
    _named(
        what="the name server says SERVFAIL",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": dns.rcode.SERVFAIL}, {}),
        says="MX of example.org: SERVFAIL by 127.0.0.1",
    ),
    _named(
        what="the name server says REFUSED",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": dns.rcode.REFUSED}, {}),
        says="REFUSED",
    ),
    _named(
        what="the name server is silent",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": None}, {}, timeout=SHORT_TIMEOUT_SECONDS),
        says="no answer",
    ),
    _named(
        what="the domain has a null MX: it takes no mail",
        cause=Cause.REJECTED,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": ["0 ."]}, {}),
        says="null MX",
    ),
    _named(
        what="there is no MX, and the domain itself takes the mail",
        cause=None,
        phase=None,
        place=_domain({"example.org A": [BEST]}, {BEST: ACCEPTED}),
    ),
    _named(
        what="there is neither MX nor address",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org TXT": ["here"]}, {}),
        says="example.org has neither an A nor an AAAA record",
    ),
    _named(
        what="the exchanger's name is gone",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": ["10 mx1.example.org."]}, {}),
        says="A of mx1.example.org: NXDOMAIN",
    ),
    _named(
        what="the MX names an address",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": ["10 127.0.0.1."]}, {}),
        says="the MX names '127.0.0.1'",
    ),
    _named(
        what="the MX names localhost",
        cause=Cause.DNS,
        phase=Phase.RESOLVE,
        place=_domain({"example.org MX": ["10 localhost."]}, {}),
        says="the MX names 'localhost'",
    ),
    _named(
        what="the MX names an alias, as none may, and it works",
        cause=None,
        phase=None,
        place=_domain(
            {"example.org MX": ["10 mx.example.org."], "mx.example.org CNAME": ["mx1.example.org."]}
            | {**ONE, "example.org MX": ["10 mx.example.org."]},
            {BEST: ACCEPTED},
        ),
    ),
    _named(
        what="the best exchanger refuses, the next one accepts",
        cause=None,
        phase=None,
        place=_domain(TWO, {NEXT: ACCEPTED}),
    ),
    _named(
        what="the best exchanger is silent, the next one accepts",
        cause=None,
        phase=None,
        place=_domain(TWO, {BEST: [SILENCE], NEXT: ACCEPTED}, timeout=SHORT_TIMEOUT_SECONDS),
    ),
    _named(
        what="the best exchanger says `451 4.3.0 queue full`, the next one accepts",
        cause=None,
        phase=None,
        place=_domain(TWO, {BEST: [*RCPT, b"451 4.3.0 queue full\r\n", CLOSE], NEXT: ACCEPTED}),
    ),
    _named(
        what="the best exchanger says `550 5.1.1 nobody`, and the next one is not asked",
        cause=Cause.REJECTED,
        phase=Phase.SUBMIT,
        place=_domain(TWO, {BEST: [*RCPT, b"550 5.1.1 nobody\r\n", CLOSE], NEXT: ACCEPTED}),
        says="550 5.1.1 nobody (at mx1.example.org)",
    ),
    _named(
        what="the best exchanger is silent, the next one says `450 4.7.1 Greylisted`",
        cause=Cause.THROTTLED,
        phase=Phase.SUBMIT,
        place=_domain(
            TWO,
            {BEST: [SILENCE], NEXT: [*RCPT, b"450 4.7.1 Greylisted\r\n", CLOSE]},
            timeout=SHORT_TIMEOUT_SECONDS,
        ),
        says="(at mx2.example.org)",
    ),
    _named(
        what="no exchanger accepts a connection, and others greet on port 25",
        cause=Cause.REFUSED,
        phase=Phase.CONNECT,
        place=_domain(TWO, {CONTROL: [GREETING, "^QUIT"]}),
        says="(at mx1.example.org)",
        lesson="a timeout on port 25 was counted as online (OneUptime)",
    ),
    _named(
        what="no exchanger accepts a connection, and no other operator on port 25 either: our line blocks it",
        cause=Cause.OFFLINE,
        phase=Phase.CONNECT,
        place=_domain(TWO, {}),
        says="not possible from here: port",
    ),
    _named(
        what="connections to port 25 are accepted and go nowhere, to others too: our line blocks it",
        cause=Cause.OFFLINE,
        phase=Phase.GREETING,
        place=_domain(ONE, {BEST: [SILENCE], CONTROL: [SILENCE]}, timeout=SHORT_TIMEOUT_SECONDS),
        says="not possible from here: port",
    ),
    _named(
        what="the exchanger connects and is silent, and others greet on port 25",
        cause=Cause.TIMEOUT,
        phase=Phase.GREETING,
        place=_domain(ONE, {BEST: [SILENCE], CONTROL: [GREETING]}, timeout=SHORT_TIMEOUT_SECONDS),
    ),
    _fault(what="no program listens on the port", cause=Cause.REFUSED, phase=Phase.CONNECT, place=closed_port),
    _fault(what="the connection is never accepted", cause=Cause.TIMEOUT, phase=Phase.CONNECT, place=full_backlog),
    _fault(
        what="silence instead of the greeting", cause=Cause.TIMEOUT, phase=Phase.GREETING, place=plays(SILENCE)
    ),
    _fault(what="silence after EHLO", cause=Cause.TIMEOUT, phase=Phase.GREETING, place=plays(*EHLO, SILENCE)),
    _fault(what="silence after MAIL FROM", cause=Cause.TIMEOUT, phase=Phase.SUBMIT, place=plays(*MAIL, SILENCE)),
    _fault(what="silence after RCPT TO", cause=Cause.TIMEOUT, phase=Phase.SUBMIT, place=plays(*RCPT, SILENCE)),
    _fault(what="the connection is reset", cause=Cause.DISCONNECTED, phase=Phase.GREETING, place=plays(RESET)),
    _fault(
        what="the connection ends after RCPT TO",
        cause=Cause.DISCONNECTED,
        phase=Phase.SUBMIT,
        place=plays(*RCPT, CLOSE),
    ),
    _says(b"421 4.3.2 closing\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(b"421 4.7.0 too many connections from you\r\n", Cause.THROTTLED, Phase.GREETING, after=[]),
    _says(b"554 5.3.2 no service\r\n", Cause.UNAVAILABLE, Phase.GREETING, after=[]),
    _says(
        b"554 5.7.1 203.0.113.7 is listed at zen.spamhaus.org\r\n",
        Cause.OFFLINE,
        Phase.GREETING,
        after=[],
        says="not possible from here: greeting: 554",
    ),
    _says(b"554 Your IP address is dynamic\r\n", Cause.OFFLINE, Phase.GREETING, after=[]),
    _fault(
        what="speaks IMAP on port 25",
        cause=Cause.PROTOCOL,
        phase=Phase.GREETING,
        place=plays(b"* OK IMAP4rev1\r\n", CLOSE),
    ),
    _fault(
        what="knows HELO only",
        cause=None,
        phase=None,
        place=plays(*EHLO, b"502 what\r\n", "^HELO ", b"250 mx1\r\n", *MAIL[3:], *RCPT[4:], *END),
    ),
    _fault(
        what="knows neither EHLO nor HELO",
        cause=Cause.PROTOCOL,
        phase=Phase.GREETING,
        place=plays(*EHLO, b"502 what\r\n", "^HELO ", b"502 what\r\n", CLOSE),
    ),
    _fault(
        what="says `454 4.7.0 no TLS now` to STARTTLS, and takes mail in the clear",
        cause=None,
        phase=None,
        place=_in_turn([*STARTTLS, b"454 4.7.0 no TLS now\r\n", CLOSE], ACCEPTED),
        says="asked unencrypted, because STARTTLS failed",
    ),
    _fault(
        what="breaks off the handshake, and takes mail in the clear",
        cause=None,
        phase=None,
        place=_in_turn([*STARTTLS, b"220 go on\r\n", CLOSE], ACCEPTED),
        says="asked unencrypted, because STARTTLS failed",
    ),
    _fault(
        what="breaks off the handshake, and says `530 5.7.0 TLS first` in the clear",
        cause=Cause.REJECTED,
        phase=Phase.SUBMIT,
        place=_in_turn([*STARTTLS, b"220 go on\r\n", CLOSE], [*MAIL, b"530 5.7.0 TLS first\r\n", CLOSE]),
    ),
    _at_mail(b"550 5.7.1 your network is not welcome\r\n", Cause.OFFLINE),
    _at_mail(
        b"530 5.7.0 log in first\r\n", Cause.REJECTED, lesson="530 after MAIL FROM was reported OK (check_smtp)"
    ),
    _at_mail(b"451 4.3.0 queue full\r\n", Cause.UNAVAILABLE),
    _at_rcpt(b"450 4.7.1 Greylisted, come back in 300 seconds\r\n", Cause.THROTTLED),
    _at_rcpt(b"450 4.2.0 Recipient address rejected: Greylisted, see http://postgrey\r\n", Cause.THROTTLED),
    _at_rcpt(b"451 4.7.1 Try again later\r\n", Cause.THROTTLED),
    _at_rcpt(b"451 4.7.1 Service unavailable - try again later\r\n", Cause.UNAVAILABLE),
    _at_rcpt(b"450 4.2.1 mailbox is being moved\r\n", Cause.UNAVAILABLE),
    _at_rcpt(b"452 4.2.2 over quota\r\n", Cause.UNAVAILABLE),
    _at_rcpt(b"450 4.7.25 Client host rejected: cannot find your hostname\r\n", Cause.OFFLINE),
    _at_rcpt(b"550 5.1.1 nobody here\r\n", Cause.REJECTED),
    _at_rcpt(b"552 5.2.2 mailbox full\r\n", Cause.REJECTED),
    _at_rcpt(b"554 5.7.1 Relay access denied\r\n", Cause.REJECTED),
    _at_rcpt(b"554 5.7.1 Client host [203.0.113.7] blocked using zen.spamhaus.org\r\n", Cause.OFFLINE),
    _at_rcpt(b"354 go on\r\n", Cause.PROTOCOL),
]
