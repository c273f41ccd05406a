"""The set-up of a mailbox whose provider accepts only OAuth 2, with a real authorization server and Dovecot."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.config import catalogue
from mailwatch.model import Kind, TlsMode
from mailwatch.setup.login_test import Verdict
from mailwatch.setup.search import ServerSearch
from mailwatch.setup.servers import MailboxServers, ServerCandidate, Source
from mailwatch.web.manage.mailbox_setup import MailboxSetup, RejectedLogins, Step
from tests.helpers.oauth import client_of
from tests.helpers.requirements import need
from tests.servers import ALICE, DOVECOT, AuthorizationServer, Certificates, Dovecot, server_folder


@pytest.fixture
def authority() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(ALICE).running() as server:
        yield server


def setup_at(port: int) -> MailboxSetup:
    """A set-up that has found the server of a provider of OAuth 2 only."""
    setup = MailboxSetup(RejectedLogins())
    setup.address = setup.username = ALICE
    setup.search = ServerSearch(ALICE)
    candidate = ServerCandidate(
        kind=Kind.IMAP, host="localhost", port=port, tls=TlsMode.IMPLICIT, source=Source.CATALOGUE
    )
    setup.servers = MailboxServers((candidate,), catalogue.by_key("outlook"))
    return setup


async def until(setup: MailboxSetup, *steps: Step) -> None:
    """Wait for a step."""
    while setup.step not in steps:
        await setup.wait_change(setup.change, 5)


async def test_the_owner_enters_a_code_and_the_login_is_tested(
    authority: AuthorizationServer, certificates: Certificates, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need(DOVECOT)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    assert ssl.get_default_verify_paths().cafile == str(certificates.ca_file)
    with (
        server_folder() as folder,
        Dovecot(folder, certificates, introspection_url=f"{authority.url}/introspect").running() as dovecot,
    ):
        setup, client = setup_at(dovecot.imaps_port), client_of(authority, tmp_path / "oauth" / "a.json")
        assert setup.step is Step.OAUTH
        setup.grant_access(client)
        await until(setup, Step.GRANTING)
        while setup.grant.code is None:
            await setup.wait_change(setup.change, 5)
        assert setup.grant.code.user_code
        await until(setup, Step.TESTED)
        assert setup.report is not None
        assert setup.report.verdict is Verdict.WORKS
        answers = setup.answers()
        assert answers is not None
        assert (answers.authority, answers.client_id) == ("microsoft", client.client_id)
        assert answers.password.get_secret_value() == ""
        assert client.grant_file.exists()
        setup.discard()
        assert not client.grant_file.exists()


async def test_a_refusal_and_silence_leave_nothing(authority: AuthorizationServer, tmp_path: Path) -> None:
    setup, client = setup_at(1), client_of(authority, tmp_path / "oauth" / "a.json")
    authority.deny = True
    setup.grant_access(client)
    await until(setup, Step.OAUTH)
    assert setup.grant.failure
    assert not client.grant_file.exists()
    authority.down()
    setup.grant_access(client)
    await until(setup, Step.OAUTH)
    assert setup.grant.failure
    assert setup.answers() is None
