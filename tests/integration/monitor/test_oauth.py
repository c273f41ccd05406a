"""OAuth 2 in the harness: whose fault it is over several accounts and over time; nothing reveals a token."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch.guard.login_backoff import LoginBackoff
from mailwatch.settings import Login, Target
from mailwatch.store.replay import audit_outages, rule_book
from tests.helpers.oauth import client_of, grant, granted_login
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need
from tests.helpers.scripted_server import CLOSE, SILENCE, Step, scripted_server
from tests.servers import ALICE, DOVECOT, AuthorizationServer, Certificates, Dovecot, free_port, server_folder
from tests.servers.oauth import CLIENT_SECRET

GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\r\n"
END: list[Step] = ["LOGOUT", b"* BYE\r\nTAG OK\r\n"]
ACCEPTS: list[Step] = [GREETING, "AUTHENTICATE", b"TAG OK\r\n", "EXAMINE", b"* 0 EXISTS\r\nTAG OK\r\n", *END]
REJECTS: list[Step] = [GREETING, "AUTHENTICATE", b"TAG NO [AUTHENTICATIONFAILED] no\r\n", CLOSE]
WITHOUT: list[Step] = [GREETING, *END]
OFFERS_NEITHER: list[Step] = [GREETING.replace(b"XOAUTH2", b"PLAIN"), CLOSE]


@pytest.fixture
def authority() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(ALICE).running() as server:
        yield server


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    await made.close()


def add_mailbox(harness: PipelineHarness, login: Login) -> Target:
    target = replace(harness.target, name=login.username, login=login, provider="lab", timeout=20.0)
    harness.add_target(target)
    return target


async def probe_all(harness: PipelineHarness, script: list[Step], *targets: Target) -> list[dict[str, Any]]:
    """One probe of each target while the server plays the script."""
    async with scripted_server(script, port=harness.port):
        for target in targets:
            await harness.probe(target)
    return harness.recorded("observation")[-len(targets) :]


@pytest.mark.parametrize("broken", [REJECTS, OFFERS_NEITHER], ids=["rejects", "offers neither"])
async def test_good_grants_that_the_server_rejects_together_are_its_broken_login(
    harness: PipelineHarness, authority: AuthorizationServer, tmp_path: Path, broken: list[Step]
) -> None:
    a, b = (add_mailbox(harness, granted_login(authority, tmp_path, user)) for user in (ALICE, "b@example.org"))
    assert [observation["outcome"] for observation in await probe_all(harness, ACCEPTS, a, b)] == ["up", "up"]
    first, second = await probe_all(harness, broken, a, b)
    assert (first["outcome"], first["cause"]) == ("unknown", "credentials")
    assert (second["outcome"], second["cause"]) == ("down", "credentials")
    assert "rejected together with" in second["detail"]


async def test_grants_that_end_together_are_no_outage(
    harness: PipelineHarness, authority: AuthorizationServer, tmp_path: Path
) -> None:
    a, b = (add_mailbox(harness, granted_login(authority, tmp_path, user)) for user in (ALICE, "b@example.org"))
    await probe_all(harness, ACCEPTS, a, b)
    authority.revoke()
    for script in (REJECTS, WITHOUT):
        observation = await probe_all(harness, script, a, b)
        assert [(one["outcome"], one["cause"]) for one in observation] == [("unknown", "credentials")] * 2
        assert all("run mailwatch login" in one["detail"] for one in observation)


async def test_a_silent_token_endpoint_is_counted_as_our_own_and_opens_nothing(
    harness: PipelineHarness, authority: AuthorizationServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    target = add_mailbox(harness, granted_login(authority, tmp_path, ALICE))
    authority.fault = "500"
    for _ in range(4):
        (observation,) = await probe_all(harness, WITHOUT, target)
        assert (observation["outcome"], observation["cause"], observation["login"]) == (
            "unknown",
            "monitor",
            False,
        )
    assert harness.recorded("outage") == []
    failures = 'mailwatch_probe_failures_total{target="a@example.org",provider="lab",kind="imap",cause="monitor"'
    assert failures in harness.exposition()
    assert caplog.text.count("no access token") == 1
    assert "Traceback" not in caplog.text


async def test_a_good_grant_that_is_rejected_for_a_while_is_proven_afterwards(
    harness: PipelineHarness, authority: AuthorizationServer, tmp_path: Path
) -> None:
    harness.pipeline.runner.login_backoff = LoginBackoff(backoff=(0,))
    target = add_mailbox(harness, granted_login(authority, tmp_path, ALICE))
    for script in (ACCEPTS, REJECTS, REJECTS, ACCEPTS):
        await probe_all(harness, script, target)
    (outage,) = harness.recorded("outage")
    observations = harness.recorded("observation")
    assert len(authority.asked) == 3, "tokens and the refresh token changed all the while"
    assert len({one["secret"] for one in observations}) == 1
    assert outage["proven_afterwards"] is True
    assert outage["first_bad"] == observations[1]["end"]
    assert audit_outages(harness.reader, rule_book(harness.reader), target.name) == []


async def test_after_a_new_login_the_next_probe_tries_it(
    harness: PipelineHarness, authority: AuthorizationServer, tmp_path: Path
) -> None:
    login = granted_login(authority, tmp_path, ALICE)
    target = add_mailbox(harness, login)
    assert login.oauth2 is not None
    (observation,) = await probe_all(harness, REJECTS, target)
    assert observation["login"] is True
    (held_back,) = await probe_all(harness, WITHOUT, target)
    assert held_back["login"] is False
    grant(authority, login.oauth2)
    (tried,) = await probe_all(harness, ACCEPTS, target)
    assert (tried["outcome"], tried["login"]) == ("up", True)
    assert tried["secret"] != observation["secret"]


async def test_kill_9_after_a_rotation_loses_nothing(
    authority: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies when the mail server first sees the token: the new grant is on disk by then."""
    monkeypatch.setenv("MAILWATCH_TEST_CLIENT", CLIENT_SECRET)
    port = free_port()
    section = {"username": ALICE, "oauth2": authority.section}
    target = {"name": "t", "kind": "imap", "host": "127.0.0.1", "port": port, "tls": "none", "login": section}
    process = MailWatchProcess(tmp_path, [target])
    client = client_of(authority, process.data_dir / "oauth" / f"{ALICE}.json")
    grant(authority, client)
    for round_number in range(3):
        received: list[bytes] = []
        async with scripted_server([GREETING, "AUTHENTICATE XOAUTH2", SILENCE], received=received, port=port):
            process.start(ready=False)
            async with asyncio.timeout(PATIENCE):
                while not received:
                    await asyncio.sleep(0.01)
            process.signal(signal.SIGKILL)
            await asyncio.to_thread(process.kill)
        assert len(authority.asked) == round_number + 1
    assert {json.loads(client.grant_file.read_text())["refresh_token"]} == authority.refresh
    assert list(client.grant_file.parent.glob("*.new")) == []


def test_the_whole_discloses_no_token_anywhere(
    certificates: Certificates, authority: AuthorizationServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(DOVECOT)
    monkeypatch.setenv("MAILWATCH_TEST_CLIENT", CLIENT_SECRET)
    authority.life = 2
    with (
        server_folder() as folder,
        Dovecot(folder, certificates, introspection_url=f"{authority.url}/introspect").running() as dovecot,
    ):
        common = {"host": "localhost", "ca_file": str(certificates.ca_file), "interval": "500ms"}
        login = {"username": ALICE, "oauth2": authority.section}
        ports = {"imap": dovecot.imaps_port, "pop3": dovecot.pop3s_port}
        targets = [
            {"name": kind, "kind": kind, "port": port, "provider": "lab", "login": login, **common}
            for kind, port in ports.items()
        ]
        process = MailWatchProcess(tmp_path, targets)
        grants = process.data_dir / "oauth"
        grant(authority, client_of(authority, grants / f"{ALICE}.json"))
        with process.running():
            for kind in ports:
                process.wait_for_more(kind, "up", than=3)
            process.wait_until(lambda: len(authority.asked) >= 3, "renewed")
            authority.fault = "error invalid_grant"
            process.wait_until(lambda: process.count("imap", "unknown") >= 2, "refused")
            output = process.all_output()
        for words in (["config", "show"], ["config", "check"], ["outages"], ["probe"], ["ledger", "audit"]):
            done = process.command(*words)
            assert "Traceback" not in done.stderr
            output += (done.stdout + done.stderr).encode()
    for path in grants.iterdir():
        output = output.replace(path.read_bytes(), b"")
    assert b"run mailwatch login a@example.org" in output
    disclosed = [secret for secret in (*authority.issued, CLIENT_SECRET) if secret.encode() in output]
    assert disclosed == []
    assert b"HTTP Request" not in process.log.read_bytes()
