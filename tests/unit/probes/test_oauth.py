"""Access tokens: had once, kept, renewed; what stands in the way is attributed, and no secret shown."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import resource
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Outcome, TlsMode
from mailwatch.net import endpoint_problem
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.oauth.flows import authorization, code_challenge, result_page, with_query
from mailwatch.probes.oauth.grant import GrantBusyError, GrantError, lock_grant, new_grant, read_grant, write_grant
from mailwatch.probes.oauth.http import OAuthUnavailableError, request_endpoint, seconds_field
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Login, OAuth2, Target
from mailwatch.times import now
from tests.helpers.faults.secured import good, served
from tests.helpers.oauth import grant, granted_login
from tests.helpers.patience import PATIENCE
from tests.helpers.scripted_server import CLOSE, HELLO, SILENCE, Step, scripted_server
from tests.servers.oauth import AuthorizationServer

USER = "a@example.org"
GREETING = b"* OK [CAPABILITY IMAP4rev1 SASL-IR AUTH=XOAUTH2] ready\r\n"
GREETS: list[Step] = [GREETING, "LOGOUT", b"* BYE\r\nTAG OK\r\n"]


@pytest.fixture
def authority() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(USER).running() as server:
        yield server


@pytest.fixture
def login(authority: AuthorizationServer, tmp_path: Path) -> Login:
    return granted_login(authority, tmp_path, USER)


def client(login: Login) -> OAuth2:
    assert login.oauth2 is not None
    return login.oauth2


def kept(login: Login) -> str:
    return str(json.loads(client(login).grant_file.read_text())["refresh_token"])


def target(login: Login | None, port: int = 1) -> Target:
    return Target(name="t", kind=Kind.IMAP, host="127.0.0.1", port=port, tls=TlsMode.NONE, login=login, timeout=20)


class Clock:
    """A clock that the test winds."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# Had, kept, renewed


async def test_a_token_is_asked_for_once_and_renewed_a_minute_before_its_end(
    authority: AuthorizationServer, login: Login
) -> None:
    clock = Clock()
    tokens = AccessTokens(clock=clock)
    token_results = await asyncio.gather(*(tokens.get_token(login) for _ in range(10)))
    assert len(authority.asked) == 1
    assert {token_result.token for token_result in token_results} == {SecretStr(next(iter(authority.access)))}
    assert sum(token_result.token_ms is not None for token_result in token_results) == 1
    clock.now += 3539
    assert (await tokens.get_token(login)).token == token_results[0].token
    clock.now += 1
    assert (await tokens.get_token(login)).token != token_results[0].token
    assert authority.asked == ["refresh_token"] * 2


async def test_two_processes_never_use_the_same_refresh_token(
    authority: AuthorizationServer, login: Login
) -> None:
    """The server knows each refresh token once; the second process reads what the first left."""
    processes = [AccessTokens() for _ in range(5)]
    token_results = await asyncio.gather(*(process.get_token(login) for process in processes))
    assert [token_result.detail for token_result in token_results] == [""] * 5
    assert len(authority.asked) == 5
    assert {kept(login)} == authority.refresh


async def test_a_probe_that_is_ended_does_not_lose_the_rotated_grant(
    authority: AuthorizationServer, login: Login
) -> None:
    authority.fault = "slow"
    tokens = AccessTokens()
    fetching = asyncio.create_task(tokens.get_token(login))
    await asyncio.to_thread(authority.waiting.wait, 20)
    fetching.cancel()
    await asyncio.gather(fetching, return_exceptions=True)
    authority.released.set()
    await tokens.finish(20)
    assert {kept(login)} == authority.refresh
    assert (await tokens.get_token(login)).token is not None
    assert len(authority.asked) == 1


async def test_a_rotated_grant_is_not_lost_when_the_disk_is_full(
    authority: AuthorizationServer, login: Login
) -> None:
    clock = Clock()
    tokens, before = AccessTokens(clock=clock), kept(login)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        token_result = await tokens.get_token(login)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (token_result.token, token_result.cause) == (None, Cause.MONITOR)
    assert "cannot be written: File too large" in token_result.detail
    assert kept(login) == before, "the file is whole, if old"
    assert list(client(login).grant_file.parent.glob("*.new")) == []
    clock.now += 3600
    assert (await tokens.get_token(login)).token is not None
    assert {kept(login)} == authority.refresh


async def test_the_old_token_serves_while_it_lives_when_the_endpoint_does_not(
    authority: AuthorizationServer, login: Login
) -> None:
    clock = Clock()
    tokens = AccessTokens(clock=clock)
    first = (await tokens.get_token(login)).token
    authority.fault = "500"
    clock.now += 3590
    for _ in range(3):
        assert (await tokens.get_token(login)).token == first
    assert len(authority.asked) == 2, "and is not asked at each probe"
    clock.now += 10
    token_result = await tokens.get_token(login)
    assert (token_result.token, token_result.cause) == (None, Cause.MONITOR)


async def test_a_grant_that_is_refused_is_asked_for_less_and_less_until_it_is_new(
    authority: AuthorizationServer, login: Login
) -> None:
    clock = Clock()
    tokens = AccessTokens(clock=clock)
    authority.revoke()
    asked = []
    for minute in range(130):
        before = len(authority.asked)
        assert (await tokens.get_token(login)).cause is Cause.CREDENTIALS
        asked += [minute] * (len(authority.asked) - before)
        clock.now += 60
    assert asked == [0, 5, 25, 85]
    identity = tokens.identity(login)
    grant(authority, client(login))
    assert (await tokens.get_token(login)).token is not None, "at once"
    assert tokens.identity(login) not in ("", identity)


async def test_a_changed_client_is_asked_for_at_once_and_has_a_token_of_its_own(
    authority: AuthorizationServer, login: Login
) -> None:
    tokens = AccessTokens()
    assert (await tokens.get_token(login)).token is not None
    before = len(authority.asked)
    await tokens.get_token(login)
    assert len(authority.asked) == before
    # As after a reload: with another scope the old token may be for something else.
    other = replace(login, oauth2=replace(client(login), scope="another"))
    await tokens.get_token(other)
    assert len(authority.asked) == before + 1
    authority.revoke()
    wrong = replace(login, oauth2=replace(client(login), client_secret=SecretStr("wrong")))
    for _ in range(2):
        assert (await tokens.get_token(wrong)).cause is Cause.CREDENTIALS
    assert len(authority.asked) == before + 2
    await tokens.get_token(login)
    assert len(authority.asked) == before + 3


async def test_the_identity_stays_over_rotations(authority: AuthorizationServer, login: Login) -> None:
    clock = Clock()
    tokens = AccessTokens(clock=clock)
    seen = {tokens.identity(login)}
    for _ in range(3):
        await tokens.get_token(login)
        clock.now += 3600
        seen |= {tokens.identity(login), AccessTokens().identity(login)}
    assert len(seen) == 1
    assert len(seen.pop()) == 32


async def test_a_slow_token_endpoint_delays_a_probe_only_briefly(
    authority: AuthorizationServer, login: Login
) -> None:
    authority.fault = "slow"
    tokens = AccessTokens(wait_seconds=0.05)
    for _ in range(2):
        token_result = await tokens.get_token(login)
        assert (token_result.token, token_result.cause) == (None, Cause.MONITOR)
        assert "did not issue one within 0.05 s" in token_result.detail
    authority.released.set()
    await tokens.finish(20)
    assert (await tokens.get_token(login)).token is not None
    assert len(authority.asked) == 1
    assert {kept(login)} == authority.refresh


# What stands in the way

FAULTS = [
    ("500", Cause.MONITOR, "the token endpoint at 127.0.0.1 answers with HTTP status 500"),
    ("slow", Cause.MONITOR, "the token endpoint at 127.0.0.1 does not answer within 0.5 s"),
    ("garbage", Cause.MONITOR, "with a JSON object"),
    ("endless", Cause.MONITOR, "longer than 64 KiB"),
    ("redirect", Cause.MONITOR, "HTTP status 307"),
    ("down", Cause.MONITOR, "cannot be reached"),
    ("error temporarily_unavailable", Cause.MONITOR, "HTTP status 400"),
    (
        "error invalid_grant",
        Cause.CREDENTIALS,
        "(invalid_grant: invalid_grant because of ***); run mailwatch login",
    ),
    ("error invalid_client", Cause.CREDENTIALS, "check client_id"),
]


@pytest.mark.parametrize(("fault", "cause", "words"), FAULTS, ids=[fault for fault, *_ in FAULTS])
async def test_without_a_token_the_server_is_probed_without_a_login(
    authority: AuthorizationServer,
    login: Login,
    caplog: pytest.LogCaptureFixture,
    fault: str,
    cause: Cause,
    words: str,
) -> None:
    caplog.set_level("DEBUG")
    authority.fault = fault
    if fault == "down":
        authority.down()
    clock = Clock()
    tokens = AccessTokens(timeout=0.5 if fault == "slow" else 20, clock=clock)
    async with scripted_server(GREETS) as port:
        for _ in range(2):
            clock.now += 7200
            observation = await observe(
                ProbeRequest(target(login, port), scheduled_at=now(), contexts=TlsContexts(), tokens=tokens)
            )
            assert (observation.outcome, observation.cause, observation.with_login) == (
                Outcome.UNKNOWN,
                cause,
                False,
            )
            assert words in observation.detail
    assert kept(login) in authority.refresh, "nothing is lost"
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1, "logged once"
    assert words in warnings[0]
    displayed = repr((observation, tokens, login)) + caplog.text
    assert "Traceback" not in caplog.text
    assert [
        secret
        for secret in (*authority.issued, client(login).client_secret.get_secret_value())
        if secret in displayed
    ] == []
    # What is wrong with the server itself is reported as it is.
    down = await observe(ProbeRequest(target(login), scheduled_at=now(), contexts=TlsContexts(), tokens=tokens))
    assert (down.outcome, down.cause) == (Outcome.DOWN, Cause.REFUSED)


async def test_fetching_a_token_is_not_counted_as_probe_time(authority: AuthorizationServer, login: Login) -> None:
    script: list[Step] = [
        GREETING,
        "AUTHENTICATE XOAUTH2 ",
        b"TAG OK\r\n",
        "EXAMINE",
        b"* 0 EXISTS\r\nTAG OK\r\n",
        *GREETS[1:],
    ]
    authority.fault = "slow"
    tokens = AccessTokens()
    async with scripted_server(script) as port:
        probing = asyncio.create_task(
            observe(ProbeRequest(target(login, port), scheduled_at=now(), contexts=TlsContexts(), tokens=tokens))
        )
        await asyncio.to_thread(authority.waiting.wait, 20)
        await asyncio.sleep(0.05)
        released = now()
        authority.released.set()
        observation = await probing
    assert observation.outcome is Outcome.UP
    assert observation.started_at >= released
    assert observation.facts is not None
    assert observation.facts["token_ms"] >= 50


async def test_a_token_that_is_rejected_and_cannot_be_renewed_proves_nothing_of_the_server(
    authority: AuthorizationServer, login: Login
) -> None:
    """Grants of one client may end on the same day: that is no outage of the provider's login."""
    tokens = AccessTokens()
    await tokens.get_token(login)
    authority.revoke()
    async with scripted_server([GREETING, "AUTHENTICATE", b"TAG NO [AUTHENTICATIONFAILED] no\r\n", CLOSE]) as port:
        observation = await observe(
            ProbeRequest(target(login, port), scheduled_at=now(), contexts=TlsContexts(), tokens=tokens)
        )
    assert (observation.outcome, observation.cause, observation.with_login) == (
        Outcome.UNKNOWN,
        Cause.CREDENTIALS,
        False,
    )
    assert "[AUTHENTICATIONFAILED] no; the token endpoint at 127.0.0.1 refuses" in observation.detail


async def test_a_challenge_without_end_is_bounded_and_no_token_is_in_a_line_of_its_own(
    authority: AuthorizationServer, login: Login
) -> None:
    tokens = AccessTokens()
    script: list[Step] = [
        GREETING,
        "AUTHENTICATE",
        b"+ " + b"A" * 60_000 + b"\r\n",
        "^\r\n$",
        b"TAG NO no\r\n",
        SILENCE,
    ]
    async with scripted_server(script) as port:
        observation = await observe(
            ProbeRequest(target(login, port), scheduled_at=now(), contexts=TlsContexts(), tokens=tokens)
        )
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.CREDENTIALS)
    assert len(observation.detail) < 600


async def test_the_endpoint_must_have_a_certificate_that_is_trusted(login: Login, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    script: list[Step] = [
        served(good(ca)),
        "^POST /token",
        b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"a": "b"}',
    ]
    async with scripted_server(script) as port:
        known = replace(
            client(login), token_endpoint=f"https://localhost:{port}/token", ca_file=tmp_path / "ca.pem"
        )
        assert await request_endpoint(known, known.token_endpoint, {"grant_type": "x"}) == {"a": "b"}
        untrusted = replace(known, ca_file=None)
        with pytest.raises(OAuthUnavailableError, match=r"(?i)certificate verify failed"):
            await request_endpoint(untrusted, untrusted.token_endpoint, {"grant_type": "x"})


# The file


def test_a_grant_is_written_atomically_and_readable_only_by_its_owner(login: Login) -> None:
    path = client(login).grant_file
    grant = new_grant(client(login), SecretStr("canary-new"))
    write_grant(path, grant)
    assert read_grant(client(login), USER) == grant
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert "canary-new" not in repr(grant)


def _as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def _as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "access is not granted yet; run mailwatch login a@example.org"),
        (lambda path: path.chmod(0o640), "can be read by others; run chmod 600"),
        (lambda path: path.chmod(0o604), "can be read by others; run chmod 600"),
        (lambda path: path.write_text('{"refresh_token": "canary-x'), "is damaged; run mailwatch login"),
        (lambda path: path.write_text("[]"), "is damaged"),
        (lambda path: path.write_text("[" * 60_000), "is damaged"),
        (_as_fifo, "is not a file"),
        (_as_folder, "is not a file"),
    ],
    ids=["none", "group", "others", "torn", "list", "deep", "fifo", "folder"],
)
async def test_a_grant_that_cannot_be_used_is_reported_with_what_to_do(
    login: Login, spoil: Callable[[Path], object], words: str
) -> None:
    spoil(client(login).grant_file)
    with pytest.raises(GrantError) as caught:
        read_grant(client(login), USER)
    assert words in str(caught.value)
    token_result = await AccessTokens().get_token(login)
    assert (token_result.token, token_result.cause, token_result.detail) == (
        None,
        Cause.CREDENTIALS,
        str(caught.value),
    )
    assert "canary" not in token_result.detail


async def test_a_grant_for_another_client_is_never_shown_to_this_one(
    authority: AuthorizationServer, login: Login
) -> None:
    known = client(login)
    for other in (replace(known, client_id="other"), replace(known, token_endpoint=f"{authority.url}/other")):
        other_login = replace(login, oauth2=other)
        token_result = await AccessTokens().get_token(other_login)
        assert "another client" in token_result.detail
    assert authority.asked == []


async def test_a_process_that_locks_the_grant_delays_us_only_for_a_bounded_time(login: Login) -> None:
    async with lock_grant(client(login).grant_file, 20):
        with pytest.raises(GrantBusyError):
            async with lock_grant(client(login).grant_file, 0.1):
                pass
        token_result = await AccessTokens(timeout=0.1).get_token(login)
        assert (token_result.token, token_result.cause) == (None, Cause.MONITOR)


# The browser


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_malformed_requests_to_the_redirect_port_do_not_disturb_the_login(login: Login, host: str) -> None:
    """Microsoft's clients are registered with localhost, which a browser may take to be ::1."""
    async with authorization(replace(client(login), redirect_host="localhost"), USER) as flow:
        port = int(flow.redirect_uri.rpartition(":")[2])
        assert flow.redirect_uri == f"http://localhost:{port}"
        waiting = asyncio.create_task(flow.grant())
        rude = []
        for words in (b"", b"\0\r\n\r\n", b"GET\r\n\r\n", b"GET /" + b"x" * 30_000, b"POST / HTTP/1.1\r\n\r\n"):
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(words)
            rude.append((reader, writer))
        there = f"{flow.url}&x=1"
        back = await asyncio.to_thread(lambda: urllib.request.urlopen(there, timeout=PATIENCE).read())
        assert b"You can close this window" in back
        assert (await waiting).client_id == client(login).client_id
        for _, writer in rude:
            writer.close()


# Addresses and the page


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("https://login.example.org/token", ""),
        ("http://127.0.0.1:8080/token", ""),
        ("http://[::1]/token", ""),
        ("http://localhost/token", ""),
        ("http://login.example.org/token", "unencrypted"),
        ("http://127.0.0.1.example.org/", "unencrypted"),
        ("http://localhost.example.org/", "unencrypted"),
        ("http://127.0.0.1@evil.example/", "user name"),
        ("ftp://login.example.org/", "is not a web address"),
        ("https:///token", "is not a web address"),
        ("https://a:b:c/", "is not an address"),
        ("https://a/ b", "is not an address"),
        ("https://a:99999/", "is not an address"),
        ("https://a/#b", "fragment"),
    ],
)
def test_tokens_go_over_tls_or_stay_on_this_machine(url: str, words: str) -> None:
    assert words in endpoint_problem(url)
    assert bool(words) == bool(endpoint_problem(url))


@pytest.mark.parametrize(
    ("asked", "granted", "words"),
    [
        ("it-IT,it;q=0.9,en;q=0.8", True, "Puoi chiudere questa finestra"),
        ("en-GB,en;q=0.9,it;q=0.8", True, "You can close this window"),
        ("de", False, "Access not granted"),
        ("it", False, "Accesso non concesso"),
    ],
)
def test_the_last_page_speaks_the_browsers_language(asked: str, granted: bool, words: str) -> None:
    head = f"GET / HTTP/1.1\r\nAccept-Language: {asked}\r\n\r\n"
    answer = result_page(granted=granted, head=head)
    assert words in answer.decode()
    first, _, body = answer.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in first


async def test_an_answer_that_is_packed_is_refused_before_it_is_unpacked(login: Login) -> None:
    bomb = gzip.compress(bytes(64 << 20))
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb)
    async with scripted_server([HELLO, head + bomb, CLOSE]) as port:
        here = replace(client(login), token_endpoint=f"http://127.0.0.1:{port}/token", ca_file=None)
        with pytest.raises(OAuthUnavailableError, match="comes as gzip, which MailWatch did not request"):
            await request_endpoint(
                here, here.token_endpoint, {"grant_type": "refresh_token", "refresh_token": "x"}
            )


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [(5, 5.0), ("7", 7.0), (10**400, 99.0), ("1e999", 50.0), ("NaN", 99.0), (-1, 99.0), (None, 99.0), ([], 99.0)],
)
def test_an_invalid_token_lifetime_uses_the_default(reply: object, seconds: float) -> None:
    assert seconds_field(reply, 99.0, 50.0 if seconds == 50.0 else 1000.0) == seconds


def test_the_challenge_is_that_of_the_rfc() -> None:
    # RFC 7636, appendix B.
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_an_endpoint_keeps_its_query_and_gets_no_empty_field() -> None:
    assert with_query(
        "https://id.example/auth?tenant=&p=1", scope="a b", state="", redirect_uri="http://[::1]:5"
    ) == ("https://id.example/auth?tenant=&p=1&scope=a+b&redirect_uri=http%3A%2F%2F%5B%3A%3A1%5D%3A5")


async def test_each_login_has_a_state_and_a_verifier_of_its_own(login: Login) -> None:
    seen = set()
    for _ in range(3):
        async with authorization(client(login), USER) as flow:
            verifier = flow.verifier.get_secret_value()
            assert re.fullmatch(r"[A-Za-z0-9._~-]{43,128}", verifier)
            assert f"code_challenge={code_challenge(verifier)}&code_challenge_method=S256" in flow.url
            seen |= {flow.state, verifier}
    assert len(seen) == 6
