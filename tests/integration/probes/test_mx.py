"""The exchangers of a domain, with a real name server and a real Postfix; and a line that blocks their port."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from dns.asyncresolver import Resolver

from mailwatch.analysis.detector import Detector
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.cli import main
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.guard.port25 import Port25
from mailwatch.model import Cause, ConnectivityResult, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.failures import SmtpReplyError, classify_error
from mailwatch.probes.mx_lookup import Exchanger, lookup_addresses, lookup_exchangers
from mailwatch.settings import MxTask, Target
from mailwatch.times import now
from tests.helpers.faults.mx import ACCEPTED, BEST, CONTROL, EHLO, GREETING, NEXT, ONE, RCPT
from tests.helpers.faults.names import Zone, name_server
from tests.helpers.name_servers import dnsmasq_resolver
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.requirements import need_root
from tests.helpers.scripted_server import CLOSE, SILENCE, Step, scripted_server
from tests.servers import Postfix, free_port, resolver_at

ALICE = MxTask("alice@example.org")
MX = Target(name="mx", kind=Kind.MX, host="example.org", port=25, tls=TlsMode.STARTTLS, timeout=10.0, task=ALICE)
RECORDS = (
    "host-record=mx1.example.org,127.0.0.1",
    "host-record=dead.example.org,127.0.0.3",
    "host-record=six.example.org,::1",
    "mx-host=example.org,mx1.example.org,10",
    "mx-host=two.example,mx1.example.org,20",
    "mx-host=two.example,dead.example.org,10",
    "mx-host=three.example,mx1.example.org,20",
    "mx-host=three.example,dead.example.org,10",
    "mx-host=three.example,gone.example.org,30",
    "mx-host=lost.example,gone.example.org,10",
    "mx-host=lost.example,mx1.example.org,20",
    "mx-host=equal.example,mx1.example.org,10",
    "mx-host=equal.example,dead.example.org,10",
    "mx-host=alias.example,mx.alias.example,10",
    "cname=mx.alias.example,mx1.example.org",
    "host-record=implicit.example,127.0.0.1",
    "mx-host=null.example,.,0",
    "server=/refused.example/#",
)


@pytest.fixture(scope="module")
def names() -> Iterator[Resolver]:
    """A resolver of a real dnsmasq."""
    with dnsmasq_resolver(*RECORDS) as resolver:
        yield resolver


async def probe(target: Target, resolver: Resolver | None = None, *, every_address: bool = False) -> Observation:
    return await observe(
        ProbeRequest(
            target, scheduled_at=now(), contexts=TlsContexts(), resolver=resolver, every_address=every_address
        )
    )


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


# A real Postfix behind a real name server


async def test_an_mx_probe_goes_up_to_the_recipient_and_sends_nothing(postfix: Postfix, names: Resolver) -> None:
    mark = postfix.mark()
    observation = await probe(replace(MX, port=postfix.exchanger_port), names)
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    (made,) = observation.attempts
    assert list(made.phases) == [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS, Phase.SUBMIT]
    assert made.facts == {"exchanger": "mx1.example.org", "preference": 10}
    assert made.tls is not None
    assert made.tls.version.startswith("TLSv1.")
    assert observation.facts is None
    result = postfix.log_of_sessions(mark)
    assert "ehlo=2 starttls=1 mail=1 rcpt=1 rset=1 quit=1 commands=7" in result
    assert postfix.queue() == []


async def test_in_the_clear_if_configured_so(postfix: Postfix, names: Resolver) -> None:
    observation = await probe(replace(MX, port=postfix.exchanger_port, tls=TlsMode.NONE), names)
    assert observation.outcome is Outcome.UP
    assert observation.attempts[0].tls is None


@pytest.mark.parametrize(
    ("recipient", "code", "status"), [("nobody@example.org", 550, "5.1.1"), ("a@elsewhere.example", 554, "5.7.1")]
)
async def test_a_recipient_that_is_refused_for_good_is_down_with_the_code(
    postfix: Postfix, names: Resolver, recipient: str, code: int, status: str
) -> None:
    mark = postfix.mark()
    observation = await probe(replace(MX, port=postfix.exchanger_port, task=MxTask(recipient)), names)
    assert classification(observation) == (Outcome.DOWN, Cause.REJECTED, Phase.SUBMIT)
    assert f"RCPT: {code} {status} " in observation.detail
    assert observation.detail.endswith("(at mx1.example.org)")
    facts = observation.attempts[-1].facts or {}
    assert (facts["code"], facts["status"]) == (code, status)
    assert "quit=1" in postfix.log_of_sessions(mark)


@contextlib.asynccontextmanager
async def greylisting(port: int) -> AsyncIterator[list[str]]:
    """A policy server (Postfix, SMTPD_POLICY_README) that refuses each unknown client once; give who asked."""
    known: list[str] = []
    open_ones: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                asked = dict(
                    line.split("=", 1) for line in (await reader.readuntil(b"\n\n")).decode().split("\n") if line
                )
                triplet = " ".join((asked["client_address"], asked["sender"], asked["recipient"]))
                action = "DUNNO" if triplet in known else "DEFER 4.7.1 Greylisted, see http://greylist.example"
                known.append(triplet)
                writer.write(f"action={action}\n\n".encode())
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", port):
        yield known
        # Postfix would go on asking on a connection that stays open.
        for writer in open_ones:
            writer.transport.abort()


async def test_a_greylist_makes_us_wait_and_lets_us_in_the_next_time(postfix: Postfix, names: Resolver) -> None:
    async with greylisting(postfix.policy_port) as known:
        target = replace(MX, port=postfix.greylisting_port)
        first, second = await probe(target, names), await probe(target, names)
    assert classification(first) == (Outcome.UNKNOWN, Cause.THROTTLED, Phase.SUBMIT)
    assert "450 4.7.1" in first.detail
    assert classification(second) == (Outcome.UP, None, None)
    assert known == ["127.0.0.1  alice@example.org"] * 2


async def test_an_exchanger_whose_filter_is_out_of_order_is_down(postfix: Postfix, names: Resolver) -> None:
    observation = await probe(replace(MX, port=postfix.greylisting_port), names)
    assert classification(observation) == (Outcome.DOWN, Cause.UNAVAILABLE, Phase.SUBMIT)
    assert "451 4.3.5" in observation.detail


async def test_one_exchanger_that_accepts_is_enough_and_the_dead_one_is_partial(
    postfix: Postfix, names: Resolver
) -> None:
    port = postfix.exchanger_port
    observation = await probe(replace(MX, host="two.example", port=port), names)
    assert classification(observation) == (Outcome.UP, None, None)
    assert observation.partial == (f"dead.example.org 127.0.0.3:{port}",)
    assert [(made.facts or {})["preference"] for made in observation.attempts] == [10, 20]
    assert observation.attempts[0].cause is Cause.REFUSED
    assert observation.addresses == ("127.0.0.3", "127.0.0.1")


async def test_the_other_exchangers_are_probed_too_while_an_outage_is_open(
    postfix: Postfix, names: Resolver
) -> None:
    port = postfix.exchanger_port
    observation = await probe(replace(MX, host="three.example", port=port), names, every_address=True)
    assert observation.outcome is Outcome.UP
    assert observation.partial == (f"dead.example.org 127.0.0.3:{port}", "gone.example.org")
    (other,) = (observation.facts or {})["others"]
    assert (other["exchanger"], other["cause"], other["failed_phase"]) == ("gone.example.org", "dns", "resolve")


async def test_addresses_already_tried_are_not_tried_again(postfix: Postfix, names: Resolver) -> None:
    observation = await probe(
        replace(MX, host="lost.example", port=postfix.exchanger_port), names, every_address=True
    )
    assert (observation.outcome, observation.partial, observation.facts) == (
        Outcome.UP,
        ("gone.example.org",),
        None,
    )


async def test_a_domain_without_mx_is_its_own_exchanger(postfix: Postfix, names: Resolver) -> None:
    observation = await probe(replace(MX, host="implicit.example", port=postfix.exchanger_port), names)
    assert observation.outcome is Outcome.UP
    assert observation.attempts[0].facts == {"exchanger": "implicit.example"}


async def test_an_mx_that_is_an_alias_works_and_is_recorded(postfix: Postfix, names: Resolver) -> None:
    observation = await probe(replace(MX, host="alias.example", port=postfix.exchanger_port), names)
    assert observation.outcome is Outcome.UP
    assert (observation.attempts[0].facts or {})["alias_of"] == "mx1.example.org"


@pytest.mark.parametrize(
    ("domain", "cause", "words"),
    [
        ("gone.example", Cause.DNS, "MX of gone.example: NXDOMAIN, the name does not exist"),
        ("refused.example", Cause.DNS, "MX of refused.example: REFUSED by 127.0.0.1@"),
        ("null.example", Cause.REJECTED, "null.example accepts no mail: it has a null MX (RFC 7505)"),
    ],
)
async def test_each_mx_answer_of_the_name_server_is_recorded(
    names: Resolver, domain: str, cause: Cause, words: str
) -> None:
    observation = await probe(replace(MX, host=domain), names)
    assert classification(observation) == (Outcome.DOWN, cause, Phase.RESOLVE)
    assert observation.detail.startswith(words)


async def test_exchangers_of_equal_preference_take_turns(names: Resolver) -> None:
    # That one of two is first thirty times in a row happens once in 500 million runs.
    first = {(await lookup_exchangers("equal.example", names, 5.0))[0].name for _ in range(30)}
    assert first == {"mx1.example.org", "dead.example.org"}


async def test_ipv6_addresses_are_found(names: Resolver) -> None:
    found = await lookup_addresses(Exchanger("six.example.org", 10), 25, names, 5.0)
    assert [address.peer for address in found.addresses] == ["[::1]:25"]


def test_probe_shows_the_exchanger_and_the_phase_submit(
    postfix: Postfix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = {"name": "lab-mx", "kind": "mx", "host": "127.0.0.1", "port": postfix.exchanger_port}
    config = {"vantage_point": {"name": "here"}, "guard": "off", "targets": [target]}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    assert main(["--config", str(path), "probe"]) == 0
    output = capsys.readouterr().out
    assert "submit" in output.splitlines()[0]
    assert f"127.0.0.1 127.0.0.1:{postfix.exchanger_port}" in output


# Limits and order


def many(exchangers: int, each: int) -> Zone:
    names = [f"mx{number}.example.org" for number in range(1, exchangers + 1)]
    zone = {f"{name} A": [f"127.0.{n}.{last}" for last in range(1, each + 1)] for n, name in enumerate(names, 1)}
    return zone | {"example.org MX": [f"{n} {name}." for n, name in enumerate(names, 1)]}


async def test_no_more_than_five_exchangers_and_two_addresses_each_are_tried() -> None:
    async with name_server(many(7, 3)) as names:
        observation = await probe(replace(MX, port=free_port()), resolver_at(names))
    assert len(observation.attempts) == 10
    assert {(made.facts or {})["exchanger"] for made in observation.attempts} == {
        f"mx{n}.example.org" for n in range(1, 6)
    }
    assert classification(observation) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT)
    assert (observation.attempts[-1].facts or {})["exchanger"] == "mx1.example.org"
    assert len((observation.facts or {})["exchangers"]) == 7


async def test_of_exchangers_that_all_fail_the_best_one_decides_where_it_got_furthest() -> None:
    zone: Zone = {
        "example.org MX": ["10 mx1.example.org.", "20 mx2.example.org."],
        "mx1.example.org A": [BEST, NEXT],
        "mx2.example.org A": ["127.0.0.3"],
    }
    busy: list[Step] = [*RCPT, b"451 4.3.0 queue full\r\n", CLOSE]
    async with name_server(zone) as names, scripted_server([b"421 4.3.2 closing\r\n"], host=NEXT) as port:
        target = replace(MX, port=port)
        async with scripted_server(busy, host="127.0.0.3", port=port):
            observation = await probe(replace(target, task=MxTask("mario.rossi@example.org")), resolver_at(names))
    assert classification(observation) == (Outcome.DOWN, Cause.UNAVAILABLE, Phase.GREETING)
    assert observation.attempts[-1].peer == f"{NEXT}:{port}"
    assert observation.started_at <= min(made.started_at for made in observation.attempts)
    assert observation.ended_at == max(made.ended_at for made in observation.attempts)


async def test_a_handshake_that_fails_is_partial_where_the_clear_one_serves() -> None:
    script: list[Step] = [*EHLO, b"250-mx\r\n250 STARTTLS\r\n", "^STARTTLS", b"220 go on\r\n", CLOSE]
    async with name_server(ONE) as names, scripted_server(script, then=ACCEPTED) as port:
        target = replace(MX, port=port, task=MxTask("mario.rossi@example.org"))
        observation = await probe(target, resolver_at(names))
    assert observation.outcome is Outcome.UP
    assert observation.partial == (f"mx1.example.org {BEST}:{port}",)
    assert [(made.cause, made.failed_phase) for made in observation.attempts] == [
        (Cause.DISCONNECTED, Phase.TLS),
        (None, None),
    ]
    assert (observation.attempts[-1].facts or {})["starttls"] == "failed"


async def test_the_sender_of_the_config_is_used() -> None:
    received: list[bytes] = []
    script: list[Step] = [
        *EHLO,
        b"250 mx\r\n",
        "^MAIL",
        b"250 ok\r\n",
        "^RCPT",
        b"250 ok\r\n",
        "^RSET",
        b"250 ok\r\n",
    ]
    async with scripted_server(script, received=received) as port:
        target = replace(MX, host=BEST, port=port, task=MxTask("a@example.org", "anna@example.net"))
        assert (await probe(target)).outcome is Outcome.UP
    assert received[1:] == [b"MAIL FROM:<anna@example.net>", b"RCPT TO:<a@example.org>", b"RSET"]


async def test_a_recipient_beyond_ascii_needs_smtputf8() -> None:
    async with scripted_server([*EHLO, b"250 mx\r\n", SILENCE]) as port:
        observation = await probe(replace(MX, host=BEST, port=port, task=MxTask("jürgen@example.org")))
    assert classification(observation) == (Outcome.DOWN, Cause.REJECTED, Phase.SUBMIT)
    assert "SMTPUTF8" in observation.detail


async def test_a_query_that_we_had_no_file_handle_for_is_our_own_fault() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with name_server(ONE) as port:
        resolver = resolver_at(port)
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (max(int(p.name) for p in Path("/proc/self/fd").iterdir()), hard)
        )
        held = []
        try:
            with contextlib.suppress(OSError):
                while True:
                    held.append(socket.socket())
            observation = await probe(MX, resolver)
        finally:
            for sock in held:
                sock.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.MONITOR), observation.detail


def test_on_uvloop_too() -> None:
    async def one() -> Observation:
        async with name_server(ONE) as names, scripted_server(ACCEPTED, host=BEST) as port:
            target = replace(MX, port=port, task=MxTask("mario.rossi@example.org"))
            return await probe(target, resolver_at(names))

    assert uvloop.run(one()).outcome is Outcome.UP


# What a refusal is about


@pytest.mark.parametrize(
    ("step", "code", "text", "cause"),
    [
        # As large exchangers say it.
        (
            "MAIL",
            550,
            "5.7.1 [203.0.113.7] Our system has detected that this message is unsolicited",
            Cause.OFFLINE,
        ),
        ("RCPT", 550, "5.7.25 The IP address sending this message does not have a PTR record", Cause.OFFLINE),
        (
            "RCPT",
            550,
            "5.7.1 Service unavailable, Client host [203.0.113.7] blocked using Spamhaus",
            Cause.OFFLINE,
        ),
        ("MAIL", 550, "5.7.1 part of their network is on our block list (S3140)", Cause.OFFLINE),
        ("greeting", 553, "5.7.1 [BL21] Connections will not be accepted from 203.0.113.7", Cause.OFFLINE),
        ("greeting", 421, "4.7.1 Access denied, listed on the PBL", Cause.OFFLINE),
        ("RCPT", 450, "4.7.1 Client host rejected: cannot find your reverse hostname", Cause.OFFLINE),
        (
            "RCPT",
            504,
            "5.5.2 <[192.168.1.5]>: Helo command rejected: need fully-qualified hostname",
            Cause.OFFLINE,
        ),
        ("MAIL", 553, "5.1.8 Sender address rejected: domain not found", Cause.OFFLINE),
        ("EHLO", 550, "5.7.1 go away", Cause.OFFLINE),
        ("RCPT", 550, "5.1.1 user blocked", Cause.REJECTED),
        ("RCPT", 550, "5.2.1 The address is blocked", Cause.REJECTED),
        ("RCPT", 550, "no such user", Cause.REJECTED),
        ("HELO", 550, "no", Cause.REJECTED),
        ("MAIL", 530, "5.7.0 Must issue a STARTTLS command first", Cause.REJECTED),
        ("greeting", 554, "no SMTP service here", Cause.UNAVAILABLE),
        ("greeting", 421, "4.7.0 [TSS04] Messages temporarily deferred due to user complaints", Cause.THROTTLED),
        ("RCPT", 451, "4.7.1 Greylisting in action, please come back later", Cause.THROTTLED),
        ("RCPT", 450, "4.2.0 Recipient address rejected: Greylisted", Cause.THROTTLED),
        ("RCPT", 451, "4.7.1 Service unavailable - try again later", Cause.UNAVAILABLE),
        ("RCPT", 451, "Temporary local problem", Cause.UNAVAILABLE),
        ("STARTTLS", 454, "4.7.0 TLS not available due to local problem", Cause.UNAVAILABLE),
        ("unasked", 421, "4.4.2 timeout exceeded", Cause.UNAVAILABLE),
    ],
)
def test_a_refusal_is_about_us_the_recipient_or_the_service(step: str, code: int, text: str, cause: Cause) -> None:
    found = classify_error(SmtpReplyError(step, code, text), MX)
    assert found.cause is cause
    assert found.server_text == f"{code} {text}"
    assert found.detail.startswith("not possible from here: ") == (cause is Cause.OFFLINE)


# Port 25


async def met_silence(port: int) -> tuple[Target, Observation]:
    target = replace(MX, host=BEST, port=port)
    observation = await probe(target)
    assert classification(observation) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT)
    return target, replace(
        observation, guard=ConnectivityResult(asked_at=1, online=True, controls={"9.9.9.9:443": "ok"})
    )


async def test_a_blocked_port_is_unknown_and_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    target, observation = await met_silence(free_port())
    port25 = Port25([CONTROL], port=target.port)
    attributed = [await port25.attribute(target, observation) for _ in range(3)]
    for each in attributed:
        assert (each.outcome, each.cause) == (Outcome.UNKNOWN, Cause.OFFLINE)
        assert each.detail.startswith(
            f"not possible from here: port {target.port} is blocked on this line (was: refused"
        )
        assert each.guard is not None
        assert each.guard.controls == {"9.9.9.9:443": "ok", f"{CONTROL}:{target.port}": "refused"}
    assert len([record for record in caplog.records if "is blocked on this line" in record.message]) == 1


async def test_a_control_that_greets_leaves_the_failure_with_the_domain_and_is_asked_once() -> None:
    received: list[bytes] = []
    async with scripted_server([GREETING, "^QUIT"], host=CONTROL, received=received) as port:
        target, observation = await met_silence(port)
        port25 = Port25(["127.0.0.8", CONTROL], port=port)
        attributed = [await port25.attribute(target, observation) for _ in range(3)]
    assert [classification(each) for each in attributed] == [classification(observation)] * 3
    assert attributed[0].guard is not None
    assert attributed[0].guard.controls[f"{CONTROL}:{port}"] == "ok"
    assert received == [b"QUIT"]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([SILENCE], "timeout"),
        ([CLOSE], "disconnected"),
        ([b"554 not you\r\n"], "greets otherwise"),
        ([b"x" * 100_000, SILENCE], "greets otherwise"),
    ],
)
async def test_only_a_greeting_shows_that_the_port_is_open(script: list[Step], reason: str) -> None:
    async with scripted_server(script, host=CONTROL) as port:
        target, observation = await met_silence(port)
        attributed = await Port25([CONTROL], port=port, seconds=0.5).attribute(target, observation)
    assert attributed.cause is Cause.OFFLINE
    assert attributed.guard is not None
    assert attributed.guard.controls[f"{CONTROL}:{port}"] == reason


async def test_the_provider_itself_is_no_control() -> None:
    async with scripted_server([GREETING, "^QUIT"], host=CONTROL) as port:
        target, observation = await met_silence(port)
        google = replace(observation.attempts[0], facts={"exchanger": "aspmx.l.google.com"})
        controls = ["gmail-smtp-in.l.google.com", CONTROL]
        attributed = await Port25(controls, port=port).attribute(target, replace(observation, attempts=(google,)))
        alone = await Port25(controls[:1], port=port).attribute(target, replace(observation, attempts=(google,)))
    assert attributed.guard is not None
    assert attributed.guard.controls.keys() == {"9.9.9.9:443", f"{CONTROL}:{port}"}
    assert (alone.outcome, alone.cause) == (Outcome.UNKNOWN, Cause.MONITOR)


async def test_no_control_is_asked_about_a_domain_that_greeted_or_another_port() -> None:
    received: list[bytes] = []
    async with scripted_server([GREETING, "^QUIT"], host=CONTROL, received=received) as port:
        port25 = Port25([CONTROL], port=port)
        target, silent = await met_silence(port)
        async with scripted_server([b"421 4.3.2 closing\r\n"], port=port):
            spoke = await probe(target)
        gone = replace(silent, attempts=(replace(silent.attempts[0], peer="", failed_phase=Phase.RESOLVE),))
        other = replace(target, port=port + 1)
        imap = replace(target, kind=Kind.IMAP)
        asked = [(target, spoke), (target, gone), (other, silent), (imap, silent)]
        for probed, observation in [*asked, (target, replace(silent, outcome=Outcome.UP))]:
            assert await port25.attribute(probed, observation) is observation
        assert await Port25([], port=port).attribute(target, silent) is silent
    assert received == []


async def test_an_outage_is_none_where_the_port_is_blocked_and_one_where_it_is_open(tmp_path: Path) -> None:
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    port = free_port()
    target = replace(MX, host=BEST, port=port, timeout=2.0)
    runtime = TargetRuntime(
        target=target, detector=Detector(), rolling_availability=RollingAvailability(interval=60.0)
    )
    harness.pipeline.add_target(runtime)
    async with await asyncio.start_server(lambda _, writer: writer.close(), BEST, 0) as online:
        harness.pipeline.attribution.guard = Guard([Control(*online.sockets[0].getsockname()[:2])], 2.0)
        harness.pipeline.attribution.port25 = Port25([CONTROL], port=port)
        for _ in range(4):
            await harness.probe(target)
        assert {observation["cause"] for observation in harness.recorded("observation")} == {"offline"}
        assert harness.recorded("outage") == []
        harness.pipeline.attribution.port25 = Port25([CONTROL], port=port)
        async with scripted_server([GREETING, "^QUIT"], host=CONTROL, port=port):
            for _ in range(3):
                await harness.probe(target)
    (outage,) = harness.recorded("outage")
    assert (outage["state"], outage["causes"]) == ("open", {"refused": 3})
    first_bad = harness.recorded("observation")[4]
    assert first_bad["guard"]["controls"][f"{CONTROL}:{port}"] == "ok"
    assert "diagnosis" in first_bad["facts"]
    await harness.close()


IN_A_NETWORK_OF_ITS_OWN = """
import json, socket, subprocess, sys, threading
from mailwatch.cli import main
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
def serve(host, port, words):
    listener = socket.create_server((host, port))
    def accept():
        while True:
            connection, _ = listener.accept()
            connection.sendall(words)
            connection.close()
    threading.Thread(target=accept, daemon=True).start()
serve("127.0.0.1", 4443, b"x")
serve("127.0.0.9", 25, b"220 ready\\r\\n")
if sys.argv[2] == "blocked":
    rules = "table inet t { chain o { type filter hook output priority 0; tcp dport 25 reject with tcp reset; }; }"
    subprocess.run(["nft", "-f", "-"], input=rules, text=True, check=True)
sys.exit(main(["--config", sys.argv[1], "probe", "--json"]))
"""


@pytest.mark.parametrize(("line", "status", "cause"), [("open", 1, "refused"), ("blocked", 3, "offline")])
def test_a_firewall_on_port_25_is_distinguished_from_an_exchanger_that_is_down(
    tmp_path: Path, line: str, status: int, cause: str
) -> None:
    need_root("nft", "ip", "unshare")
    config = {
        "vantage_point": {"name": "here"},
        "guard": {"controls": ["127.0.0.1:4443"], "port25_controls": ["127.0.0.9"]},
        "targets": [{"name": "mx", "kind": "mx", "host": "127.0.0.1"}],
    }
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config))
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", IN_A_NETWORK_OF_ITS_OWN, str(path), line],
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == status, done.stderr
    (reported,) = json.loads(done.stdout)
    assert reported["cause"] == cause
    assert ("not possible from here: port 25 is blocked" in reported["detail"]) == (line == "blocked")
