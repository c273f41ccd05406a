"""Logins by OAuth 2 on a real Dovecot, which asks the authorization server whose a token is, and Postfix."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.model import Cause, Observation, Outcome, Phase
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.oauth.grant import new_grant, write_grant
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Login, OAuth2, Target
from mailwatch.times import now
from tests.helpers.requirements import need
from tests.helpers.targets import Targets
from tests.servers import (
    ALICE,
    DOVECOT,
    POSTFIX,
    AuthorizationServer,
    Certificates,
    Dovecot,
    Postfix,
    server_folder,
)
from tests.servers.oauth import CLIENT_ID, CLIENT_SECRET


@pytest.fixture(scope="module")
def authority() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(ALICE).running() as server:
        yield server


@pytest.fixture(scope="module", params=["oauthbearer xoauth2", "xoauth2"])
def server(
    request: pytest.FixtureRequest, certificates: Certificates, authority: AuthorizationServer
) -> Iterator[Dovecot]:
    need(DOVECOT)
    with server_folder() as folder:
        url = f"{authority.url}/introspect"
        with Dovecot(folder, certificates, introspection_url=url, mechanisms=request.param).running() as dovecot:
            dovecot.sasl = request.param.split()[0].upper()  # type: ignore[attr-defined]
            yield dovecot


@pytest.fixture(scope="module")
def submission(certificates: Certificates, server: Dovecot) -> Iterator[Postfix]:
    need(POSTFIX, root=True)
    with server_folder() as folder, Postfix(folder, certificates, server.auth_socket).running() as postfix:
        yield postfix


@pytest.fixture
def client(authority: AuthorizationServer, tmp_path: Path) -> OAuth2:
    authority.fault, authority.life = "", 3600
    authority.reject.clear()
    made = OAuth2(
        authorization_endpoint=f"{authority.url}/authorize",
        token_endpoint=f"{authority.url}/token",
        scope="mail",
        client_id=CLIENT_ID,
        client_secret=SecretStr(CLIENT_SECRET),
        grant_file=tmp_path / "oauth" / "a.json",
    )
    write_grant(made.grant_file, new_grant(made, SecretStr(authority.granted())))
    return made


def all_kinds(targets: Targets, server: Dovecot, submission: Postfix, client: OAuth2) -> list[Target]:
    login = Login(username=ALICE, password=SecretStr(""), oauth2=client)
    made = [targets.imap(server), targets.pop3(server), targets.smtp(submission, password="-")]
    return [replace(target, login=login) for target in made]


async def probe(target: Target, tokens: AccessTokens) -> Observation:
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), tokens=tokens))


async def test_a_token_opens_the_mailbox_and_submission(
    targets: Targets, server: Dovecot, submission: Postfix, client: OAuth2, authority: AuthorizationServer
) -> None:
    tokens, before = AccessTokens(), len(authority.asked)
    for target in all_kinds(targets, server, submission, client):
        observation = await probe(target, tokens)
        assert (observation.outcome, observation.cause) == (Outcome.UP, None), (target.kind, observation.detail)
        assert observation.with_login
        assert Phase.AUTH in observation.attempts[-1].phases
        assert observation.attempts[-1].facts == {"sasl": server.sasl}  # type: ignore[attr-defined]
    assert authority.asked[before:] == ["refresh_token"], "one token serves all channels"


async def test_a_token_that_the_server_rejects_is_renewed_once(
    targets: Targets, server: Dovecot, submission: Postfix, client: OAuth2, authority: AuthorizationServer
) -> None:
    for target in all_kinds(targets, server, submission, client):
        tokens, before = AccessTokens(), len(authority.asked)
        assert (await probe(target, tokens)).outcome is Outcome.UP
        authority.access.clear()
        observation = await probe(target, tokens)
        assert observation.outcome is Outcome.UP, (target.kind, observation.detail)
        assert [attempt.cause for attempt in observation.attempts] == [Cause.CREDENTIALS, None]
        assert observation.facts is not None
        assert observation.facts["token_renewed"] == 1
        assert observation.partial == ()
        assert authority.asked[before:] == ["refresh_token"] * 2


async def test_a_server_that_rejects_tokens_is_credentials_with_its_reply(
    targets: Targets,
    server: Dovecot,
    submission: Postfix,
    client: OAuth2,
    authority: AuthorizationServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The failure's challenge is answered, the NO is read, and two tokens are all that is tried."""
    caplog.set_level("DEBUG")
    monkeypatch.setattr(authority, "user", "somebody@else.example")
    for target in all_kinds(targets, server, submission, client):
        tokens, before = AccessTokens(), len(authority.asked)
        observation = await probe(target, tokens)
        assert (observation.outcome, observation.cause, observation.failed_phase) == (
            Outcome.UNKNOWN,
            Cause.CREDENTIALS,
            Phase.AUTH,
        ), (target.kind, observation.detail)
        assert "status: " in observation.detail
        assert len(observation.attempts) == 2
        assert authority.asked[before:] == ["refresh_token"] * 2
        displayed = repr(observation) + caplog.text
        assert [secret for secret in authority.issued if secret in displayed] == []


async def test_a_server_without_either_mechanism_is_distinguished(
    dovecot: Dovecot, targets: Targets, client: OAuth2, authority: AuthorizationServer
) -> None:
    login = Login(username=ALICE, password=SecretStr(""), oauth2=client)
    before = len(authority.asked)
    for target in (targets.imap(dovecot), targets.pop3(dovecot)):
        observation = await probe(replace(target, login=login), AccessTokens())
        assert (observation.outcome, observation.cause, observation.failed_phase) == (
            Outcome.UNKNOWN,
            Cause.CREDENTIALS,
            Phase.AUTH,
        )
        assert "neither OAUTHBEARER nor XOAUTH2" in observation.detail
        assert len(observation.attempts) == 1
    assert len(authority.asked) == before + 2


async def test_each_rotation_is_on_disk_before_its_token_is_used(
    targets: Targets, server: Dovecot, client: OAuth2, authority: AuthorizationServer
) -> None:
    target = replace(targets.imap(server), login=Login(username=ALICE, password=SecretStr(""), oauth2=client))
    identity = json.loads(client.grant_file.read_text())["identity"]
    for _ in range(3):
        # A new process each time, as after kill -9.
        assert (await probe(target, AccessTokens())).outcome is Outcome.UP
        kept = json.loads(client.grant_file.read_text())
        assert {kept["refresh_token"]} <= authority.refresh
        assert kept["identity"] == identity
    assert client.grant_file.stat().st_mode & 0o777 == 0o600
    assert client.grant_file.parent.stat().st_mode & 0o777 == 0o700
