"""The login test as events, and what it shows as a whole, with a real Dovecot."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace

from pydantic import SecretStr

from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Cause, Kind, Phase, TlsMode
from mailwatch.settings import Target
from mailwatch.setup.login_test import (
    LoginEvent,
    PhaseEvent,
    Progress,
    ServerResult,
    Verdict,
    login_targets,
    report,
    try_logins,
)
from mailwatch.setup.servers import MailboxServers, ServerCandidate, Source
from tests.servers import ALICE, HOST, Certificates, Dovecot, free_port


def servers(imap: int, pop3: int) -> MailboxServers:
    """IMAP and POP3 on this machine."""
    ports = {Kind.IMAP: imap, Kind.POP3: pop3}
    return MailboxServers(
        tuple(
            ServerCandidate(kind=kind, host="localhost", port=port, tls=TlsMode.IMPLICIT, source=Source.GIVEN)
            for kind, port in ports.items()
        )
    )


def targets(dovecot: Dovecot, certificates: Certificates, password: str) -> list[Target]:
    found = servers(dovecot.imaps_port, dovecot.pop3s_port)
    return login_targets(ALICE, found, ALICE, SecretStr(password), certificates.ca_file)


async def events(*tested: Target, guard: Guard | None = None) -> list[LoginEvent]:
    return [event async for event in try_logins(tested, guard)]


def results(seen: list[LoginEvent]) -> list[ServerResult]:
    return [event for event in seen if isinstance(event, ServerResult)]


async def test_each_phase_of_each_server_is_an_event(dovecot: Dovecot, certificates: Certificates) -> None:
    seen = await events(*targets(dovecot, certificates, dovecot.passwords[ALICE]))
    found = report(results(seen))
    assert (found.verdict, found.works, found.skipped, found.deciding) == (
        Verdict.WORKS,
        (Kind.IMAP, Kind.POP3),
        {},
        None,
    )
    phases = [event for event in seen if isinstance(event, PhaseEvent) and event.target.kind is Kind.IMAP]
    ended = [event.phase for event in phases if event.progress is Progress.END]
    assert ended[:5] == [Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH]
    assert all(event.milliseconds > 0 for event in phases if event.progress is Progress.END)
    assert [result.reason for result in results(seen)] == ["", ""]


async def test_a_rejected_password_goes_to_one_server(own_dovecot: Dovecot, certificates: Certificates) -> None:
    seen = results(await events(*targets(own_dovecot, certificates, "wrong")))
    found = report(seen)
    assert (found.verdict, len(seen), found.deciding) == (Verdict.REJECTED, 1, seen[0])
    assert seen[0].reason.startswith("credentials: ")
    assert own_dovecot.log_since(0).count("Password mismatch") == 1


async def test_a_certificate_that_is_not_trusted_gets_no_password(
    own_dovecot: Dovecot, certificates: Certificates
) -> None:
    tested = [
        replace(target, ca_file=certificates.unknown_ca_file) for target in targets(own_dovecot, certificates, "x")
    ]
    found = report(results(await events(*tested)))
    assert (found.verdict, found.works) == (Verdict.UNTRUSTED, ())
    assert found.deciding is not None
    assert found.deciding.observation.cause is Cause.TLS
    assert "Password mismatch" not in own_dovecot.log_since(0)


async def test_a_refused_connection_is_open(certificates: Certificates) -> None:
    closed = login_targets(ALICE, servers(free_port(), free_port()), ALICE, SecretStr("x"))
    found = report(results(await events(*closed)))
    assert (found.verdict, len(found.results)) == (Verdict.OPEN, 2)


async def test_our_own_line_is_named_when_it_is_down() -> None:
    guard = Guard([Control(HOST, free_port())], timeout=1.0, names=())
    (target, _) = login_targets(ALICE, servers(1, 1), ALICE, SecretStr("x"))
    found = report(results(await events(replace(target, host="imap.example.invalid"), guard=guard)))
    assert found.verdict is Verdict.OFFLINE


async def test_a_caller_that_stops_ends_the_test() -> None:
    with socket.create_server((HOST, 0)) as silent:
        (target, _) = login_targets(ALICE, servers(silent.getsockname()[1], 1), ALICE, SecretStr("x"))
        stream = try_logins([target])
        first = await anext(stream)
        assert isinstance(first, PhaseEvent)
        before = len(asyncio.all_tasks())
        await stream.aclose()
        assert len(asyncio.all_tasks()) == before - 1
