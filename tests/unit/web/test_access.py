"""Who is let in to the pages of a real MailWatch, and by which way: password, hash, token, cookie, name, proxy."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import secrets
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from argon2 import PasswordHasher
from fastapi import FastAPI
from pydantic import SecretStr
from starlette.datastructures import Headers

from mailwatch.config import ConfigError, WebAccess, effective_yaml, load, web_access
from mailwatch.model import Kind
from mailwatch.monitor.public_targets import _is_public_target
from mailwatch.settings import Login, MxTask, Target
from mailwatch.store import Reader
from mailwatch.web.access import MAX_ANONYMOUS, AccessControl, safe_redirect
from mailwatch.web.credentials import COOKIE, Credentials, Sessions
from mailwatch.web.hosts import client_address, is_known_host
from mailwatch.web.live import MAX_STREAMS_PER_PEER
from mailwatch.web.pages import Pages
from mailwatch.web.rate_limit import MAX_WRONG_PER_PEER, MAX_WRONG_TOTAL, LoginRateLimit, peer_key
from mailwatch.web.templating import texts
from tests.helpers.command import mailwatch
from tests.helpers.netns import Namespace
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import HTML, PASSWORD, TOKEN, UNREACHABLE_TARGET, ask, basic, watching_with
from tests.servers import free_port

# The ways in


def test_a_token_is_for_reading_also_where_it_is_the_only_secret() -> None:
    token, other = SecretStr(TOKEN), SecretStr("another word, long enough")
    for access, only in (
        (WebAccess(token=token), True),
        (WebAccess(token=token, password=other), True),
        (WebAccess(token=token, password=token), False),
        (WebAccess(password=token), False),
    ):
        assert Credentials(access).is_only_token(TOKEN.encode()) is only
    assert not WebAccess(token=token).has_password


def test_the_listener_for_metrics_answers_without_a_password_and_nothing_else(tmp_path: Path) -> None:
    port = free_port()
    process = watching_with(tmp_path, password_file="secret-web", metrics_listen=f"127.0.0.1:{port}")

    def answer(path: str, host: str = "127.0.0.1") -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": host})
            got = connection.getresponse()
            return got.status, got.read().decode()

    with process.running():
        status, text = answer("/metrics")
        assert status == 200
        assert "mailwatch_ledger_size" in text
        for page in ("/", "/api/v1/targets", "/healthz", "/login", "/static/style.css", "/metrics/"):
            assert answer(page) == (404, "this port answers /metrics only\n"), page
        # A page of another site, whose name leads here, reads nothing.
        assert answer("/metrics", "attacker.example")[0] == 421
        assert ask(process, "/metrics")[0] == 401


def test_with_a_password_only_the_health_checks_are_open(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-web")
    with process.running():
        for page in ("/", "/metrics", "/api/v1/targets", "/live", "/healthz/../metrics", "/nowhere", "/login/x"):
            status, headers, _ = ask(process, page)
            assert status == 401, page
            assert headers["www-authenticate"].startswith("Basic ")
            assert "default-src 'none'" in headers["content-security-policy"]
        assert ask(process, "/healthz")[0] == 200
        assert ask(process, "/", basic(PASSWORD))[0] == 200
        for wrong in (
            basic(PASSWORD, "root"),
            basic(""),
            {"Authorization": "Bearer x"},
            {"Authorization": "Basic"},
        ):
            assert ask(process, "/", wrong)[0] == 401
        answers = [ask(process, "/", basic("perche no"))[0] for _ in range(12)]
        assert answers[:5] == [401] * 5
        assert answers[-1] == 429
        assert ask(process, "/", basic(PASSWORD))[0] == 429
        assert "a wrong password or token from 127.0.0.1" in process.log.read_text()
        assert PASSWORD.encode() not in process.all_output()


def test_a_token_opens_everything_and_appears_nowhere(tmp_path: Path) -> None:
    process = watching_with(tmp_path, token_file="secret-token")
    with process.running():
        status, _, text = ask(process, "/metrics", {"Authorization": f"Bearer {TOKEN}"})
        assert status == 200
        assert "mailwatch_ledger_size" in text
        assert ask(process, "/metrics", {"Authorization": f"Bearer {TOKEN[:-1]}"})[0] == 401
        assert ask(process, "/metrics")[0] == 401
        assert TOKEN.encode() not in process.all_output()


@pytest.mark.parametrize("where", ["password_hash", "password_file"])
def test_a_hash_serves_like_the_password(tmp_path: Path, where: str) -> None:
    hashed = mailwatch("config", "hash-password", given=PASSWORD + "\n").stdout.strip()
    assert hashed.startswith("$argon2id$")
    process = watching_with(tmp_path, **{where: hashed if where == "password_hash" else "secret-hash"})
    (tmp_path / "secret-hash").write_text(hashed + "\n")
    assert hashed.rpartition("$")[2] not in effective_yaml(load(process.config))
    with process.running():
        assert ask(process, "/", basic(PASSWORD))[0] == 200
        assert ask(process, "/", basic("perche no"))[0] == 401
        # Who steals the hash does not know the password.
        assert ask(process, "/", basic(hashed))[0] == 401


def test_hash_password_without_one_says_so() -> None:
    result = mailwatch("config", "hash-password", given="\n")
    assert (result.returncode, result.stdout) == (2, "")
    assert "no password on stdin" in result.stderr


def test_the_form_gives_a_cookie_that_no_other_can_use(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-web")
    with process.running():
        status, headers, page = ask(process, "/outages", HTML | {"Accept-Language": "it"})
        assert status == 401
        # A browser would open a window of its own for Basic, over the page.
        assert headers["www-authenticate"].startswith("Bearer ")
        assert texts("it")["login"]["password"] in page
        assert '<input type="hidden" name="to" value="outages">' in page
        page = ask(process, "/observations?target=a%40b&outcome=down", HTML)[2]
        assert 'name="to" value="observations?target=a%40b&amp;outcome=down"' in page
        assert ask(process, "/static/style.css")[0] == 200
        status, headers, page = ask(process, "/login", HTML, form="password=perche+no&to=outages")
        assert status == 401
        assert texts("en")["login"]["wrong"] in page
        assert headers["set-cookie"] is None
        status, headers, _ = ask(process, "/login", HTML, form="password=perch%C3%A9+no&to=outages")
        assert (status, headers["location"]) == (303, "./outages")
        cookie = headers["set-cookie"]
        assert {"HttpOnly", "SameSite=strict"} <= set(cookie.split("; "))
        session = {"Cookie": cookie.partition(";")[0]}
        status, _, page = ask(process, "/", session)
        assert status == 200
        assert 'action="./logout"' in page
        assert ask(process, "/", {"Cookie": f"{COOKIE}=x"})[0] == 401
        assert ask(process, "/login", session)[0] == 303
        assert ask(process, "/logout", session, form="")[0] == 303
        assert ask(process, "/", session)[0] == 401


def test_other_sites_cannot_log_in_and_a_form_has_an_end(tmp_path: Path) -> None:
    process = watching_with(tmp_path, token_file="secret-token")
    with process.running():
        right = f"password={TOKEN}"
        assert ask(process, "/login", {"Sec-Fetch-Site": "cross-site"}, form=right)[0] == 403
        assert ask(process, "/login", form="password=" + "x" * 5000)[0] == 413
        assert ask(process, "/login", form="")[0] == 401
        status, headers, _ = ask(
            process, "/login", {"X-Forwarded-Proto": "https"}, form=right + "&to=//evil.example"
        )
        assert (status, headers["location"]) == (303, "./")
        assert "; Secure" in headers["set-cookie"]


@pytest.mark.parametrize(
    "text",
    ["//evil.example", "https://evil.example", "../x", "a/../b", "a//b", "\\x", "?x", "a?//b", "a?b#c", "a?\r\nx"],
)
def test_after_the_log_in_no_redirect_leads_elsewhere(text: str) -> None:
    assert safe_redirect(text) == ""
    assert safe_redirect("outages/0a1b2c") == "outages/0a1b2c"
    assert (
        safe_redirect("observations?target=a%40b&from=2026-01-01") == "observations?target=a%40b&from=2026-01-01"
    )


def test_no_get_changes_anything(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-web")
    with process.running():
        _, headers, _ = ask(process, "/login", form="password=perch%C3%A9+no")
        session = {"Cookie": headers["set-cookie"].partition(";")[0]}
        assert ask(process, "/logout", session)[0] == 404
        assert ask(process, "/login?password=perch%C3%A9+no")[1]["set-cookie"] is None
        assert ask(process, "/", session)[0] == 200
        assert ask(process, "/api/v1/targets", session, form="")[0] == 405


def test_secrets_that_cannot_be_used_are_reported_with_their_line(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-none", token_file="secret-short")
    (tmp_path / "secret-short").write_text("canary-7f3a\n")
    with pytest.raises(ConfigError) as caught:
        web_access(load(process.config))
    messages = [mistake.message for mistake in caught.value.problems]
    assert any("web.password_file" in what and "cannot be read" in what for what in messages)
    assert any("web.token_file" in what and "openssl rand -hex 32" in what for what in messages)
    assert "canary" not in str(caught.value)
    for verb in (["run"], ["config", "check"]):
        result = process.command(*verb)
        assert result.returncode in (1, 2)
        assert "web.password_file" in result.stderr


def test_half_a_hash_in_the_password_file_is_not_taken_for_a_password(tmp_path: Path) -> None:
    process = watching_with(tmp_path, password_file="secret-hash")
    (tmp_path / "secret-hash").write_text("$argon2id$v=19$m=65536,t=3,p=4$canary-7f3a\n")
    with pytest.raises(ConfigError, match=r"web\.password_file: is not an argon2id hash") as caught:
        web_access(load(process.config))
    assert "canary" not in str(caught.value)


def test_secrets_readable_by_others_are_warned_about(tmp_path: Path) -> None:
    process = watching_with(tmp_path, token_file="secret-token")
    (tmp_path / "secret-token").chmod(0o644)
    assert "chmod 600" in process.command("config", "check").stderr


# Beyond loopback


def test_beyond_loopback_without_a_password_only_the_public_view_is_shown(tmp_path: Path) -> None:
    process = watching_with(tmp_path, listen="0.0.0.0:0")
    process.settings["web"]["listen"] = f"0.0.0.0:{process.port}"
    process.write_config()
    assert "they see only the public view" in process.command("config", "check").stderr
    with process.running():
        status, _, page = ask(process, "/")
        assert status == 200
        assert texts("en")["public_hint"] in page
        assert "nobody" not in page
        for path in (
            "/metrics",
            "/ledger",
            "/observations",
            "/login",
            "/api/v1/outages/000000000000/evidence.zip",
        ):
            status, _, body = ask(process, path)
            assert status == 403, path
            assert "web.password_file" in body


def test_a_trusted_network_sees_everything_only_under_a_known_host_name(tmp_path: Path) -> None:
    process = watching_with(tmp_path, trust_network=True)
    process.settings["web"]["listen"] = f"0.0.0.0:{process.port}"
    process.write_config()
    with process.running():
        assert "nobody" in ask(process, "/")[2]
        assert ask(process, "/metrics", {"X-Forwarded-For": "192.0.2.7"})[0] == 200
        assert ask(process, "/", {"Host": "192.0.2.1:8080"})[0] == 200
        assert ask(process, "/", {"Host": "rebound.example"})[0] == 421


def test_proxied_requests_do_not_count_as_local(tmp_path: Path) -> None:
    process = watching_with(tmp_path)
    with process.running():
        assert "nobody" in ask(process, "/")[2]
        assert "nobody" not in ask(process, "/", {"X-Forwarded-For": "127.0.0.1"})[2]
        assert ask(process, "/metrics", {"Forwarded": "for=127.0.0.1"})[0] == 403


async def test_slow_anonymous_clients_delay_no_one() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: "page")
    access = AccessControl(app, app, cast(Pages, None), WebAccess(public=True), lambda: False)
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    stuck, served = asyncio.Event(), asyncio.Event()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def never(_message: Any) -> None:
        await stuck.wait()

    async def read(_message: Any) -> None:
        served.set()

    slow = [asyncio.create_task(access(dict(scope), receive, never)) for _ in range(2 * MAX_ANONYMOUS)]
    quick = asyncio.create_task(access(dict(scope), receive, read))
    async with asyncio.timeout(PATIENCE):
        await served.wait()
        stuck.set()
        await asyncio.gather(*slow, quick)


# Names


def test_a_rebound_host_name_gets_nothing_but_advice(tmp_path: Path) -> None:
    process = watching_with(tmp_path, hosts=["status.example.org"])
    with process.running():
        for host in ("rebound.example", f"rebound.example:{process.port}", "", "a b", "192.0.2.1", "[::2]:1"):
            status, headers, body = ask(process, "/api/v1/targets", {"Host": host})
            assert status in (400, 421), host
            assert "nobody" not in body
            if status == 421:
                assert "hosts:" in body
                assert "content-security-policy" in headers
        for host in ("localhost", "LOCALHOST:1", "a.localhost", "127.0.0.1:80", "[::1]:80", "Status.Example.org"):
            assert ask(process, "/api/v1/targets", {"Host": host})[0] == 200, host
        assert ask(process, "/healthz", {"Host": "10.0.0.7:8080"})[0] == 200


def test_beyond_loopback_a_name_need_not_be_known_where_a_password_is_asked() -> None:
    beyond = WebAccess(loopback=False, password=SecretStr("x"))
    assert is_known_host(beyond, "any.example")
    named = WebAccess(loopback=False, password=SecretStr("x"), hosts=frozenset({"status.example.org"}))
    assert not is_known_host(named, "any.example")
    assert is_known_host(named, "status.example.org:443")
    assert is_known_host(named, "192.0.2.1:8080")
    assert is_known_host(WebAccess(loopback=False, public=True), "any.example")
    assert not is_known_host(WebAccess(loopback=False, trust_network=True), "any.example")


# Proxies, and how often one may try


@pytest.mark.parametrize(
    ("peer", "header", "proxies", "expected"),
    [
        ("127.0.0.1", ["198.51.100.1"], [], "127.0.0.1"),
        ("127.0.0.1", ["198.51.100.1"], ["127.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1"], ["127.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9", "198.51.100.1"], ["127.0.0.1"], "198.51.100.1"),
        ("127.0.0.1", ["203.0.113.9, 198.51.100.1, 10.0.0.2"], ["127.0.0.1", "10.0.0.0/8"], "198.51.100.1"),
        ("192.0.2.7", ["198.51.100.1"], ["127.0.0.1"], "192.0.2.7"),
        ("127.0.0.1", ["unknown"], ["127.0.0.1"], "127.0.0.1"),
        ("::ffff:10.0.0.2", ["2001:db8::1"], ["10.0.0.0/8"], "2001:db8::1"),
        ("127.0.0.1", [], ["127.0.0.1"], "127.0.0.1"),
    ],
)
def test_only_trusted_proxies_may_state_the_client(
    peer: str, header: list[str], proxies: list[str], expected: str, tmp_path: Path
) -> None:
    process = watching_with(tmp_path, trusted_proxies=proxies)
    headers = Headers(raw=[(b"x-forwarded-for", line.encode()) for line in header])
    assert client_address(peer, headers, web_access(load(process.config)).proxies) == expected


@pytest.mark.parametrize("trusted", [False, True])
def test_a_spoofed_address_does_not_evade_the_limit(tmp_path: Path, trusted: bool) -> None:
    more = {"trusted_proxies": ["127.0.0.1"]} if trusted else {}
    process = watching_with(tmp_path, password_file="secret-web", **more)

    def tried(number: int) -> int:
        # What the client writes first, and what a proxy would add.
        line = f"192.0.2.{number}, 198.51.100.1" if trusted else f"192.0.2.{number}"
        return ask(process, "/", basic("wrong") | {"X-Forwarded-For": line})[0]

    with process.running():
        assert [tried(number) for number in range(MAX_WRONG_PER_PEER + 1)] == [401] * MAX_WRONG_PER_PEER + [429]
        other = ask(process, "/", basic(PASSWORD) | {"X-Forwarded-For": "198.51.100.2"})[0]
        assert other == (200 if trusted else 429)


def test_too_many_wrong_tries_delay_all_but_peers_that_logged_in_before() -> None:
    tries = LoginRateLimit()
    tries.note_success("home")
    for number in range(MAX_WRONG_TOTAL):
        assert not tries.must_wait(f"peer-{number}")
        tries.begin_attempt(f"peer-{number}")
    assert tries.must_wait("yet another")
    assert not tries.must_wait("home")
    for _ in range(MAX_WRONG_PER_PEER):
        tries.begin_attempt("home")
    assert tries.must_wait("home")


def test_a_try_that_was_right_does_not_count() -> None:
    tries = LoginRateLimit()
    for _ in range(2 * MAX_WRONG_TOTAL):
        tries.undo("home", tries.begin_attempt("home"))
    assert not tries.must_wait("home")
    assert not tries.must_wait("other")


def test_one_network_of_ipv6_is_one_peer() -> None:
    assert peer_key("2001:db8:1:2::3") == peer_key("2001:db8:1:2:ffff::") == "2001:db8:1:2::/64"
    assert peer_key("2001:db8:1:3::") != peer_key("2001:db8:1:2::")
    assert peer_key("::ffff:192.0.2.1") == "192.0.2.1"
    assert peer_key("") == ""


def test_sessions_are_bounded_and_end() -> None:
    sessions = Sessions()
    first = sessions.open()
    assert sessions.is_open(first)
    assert not sessions.is_open("")
    for _ in range(1000):
        last = sessions.open()
    assert not sessions.is_open(first)
    assert sessions.is_open(last)
    sessions.end(last)
    assert not sessions.is_open(last)


@pytest.mark.slow
async def test_argon2_runs_once_for_the_right_password_and_leaves_the_loop_free() -> None:
    hasher = PasswordHasher(time_cost=8, memory_cost=65536, parallelism=1)
    hashed = hasher.hash("right")
    began = time.process_time()
    hasher.verify(hashed, "right")
    once = time.process_time() - began
    credentials = Credentials(WebAccess(password_hash=SecretStr(hashed)))
    assert not credentials.is_verified(b"right")
    began = time.process_time()
    asking = [asyncio.create_task(credentials.verify(word)) for word in (b"wrong", *[b"right"] * 6)]
    turns = 0
    while not all(task.done() for task in asking):
        await asyncio.sleep(0.001)
        turns += 1
    assert [task.result() for task in asking] == [False, *[True] * 6]
    assert turns > 10
    # Seven were asked; two of them cost something.
    assert time.process_time() - began < 5 * once
    assert credentials.is_verified(b"right")
    assert not credentials.is_verified(b"wrong")


def test_a_stored_password_hash_does_not_contain_the_password() -> None:
    credentials = Credentials(WebAccess(password=SecretStr("canary-7f3a"), token=SecretStr("canary-7f3a-token")))
    assert credentials.is_verified(b"canary-7f3a")
    assert credentials.is_verified(b"canary-7f3a-token")
    assert not re.search("canary", repr(vars(credentials)))


@pytest.fixture
def apart() -> Iterator[Namespace]:
    """A network in which there is nobody: probes of public servers get no further."""
    namespace = Namespace(f"mw-{secrets.token_hex(4)}")
    yield namespace
    namespace.close()


@pytest.mark.parametrize("asked", [True, False])
def test_anonymous_access_ends_when_a_private_target_is_added(
    tmp_path: Path, apart: Namespace, asked: bool
) -> None:
    """The image as it is, with the example config: pages and metrics work without a password.

    Whether someone asks while it is watched makes no difference.
    """
    apart.run(_shown_until_a_private_target_is_added, tmp_path, asked)


def _shown_until_a_private_target_is_added(folder: Path, asked: bool) -> None:
    libero = {"name": "libero-imap", "kind": "imap", "provider": "libero"}
    process = MailWatchProcess(folder, [libero], defaults={"interval": "1s", "timeout": "1s"})
    process.settings["web"]["listen"] = f"0.0.0.0:{process.port}"
    process.write_config()
    beyond = {"X-Forwarded-For": "192.0.2.7"}
    with process.running():
        assert ask(process, "/metrics", beyond)[0] == 200
        assert "libero-imap" in ask(process, "/api/v1/targets", beyond)[2]
        process.settings["targets"] = [libero, UNREACHABLE_TARGET]
        process.write_config()
        process.signal(signal.SIGHUP)
        if asked:
            process.wait_until(lambda: ask(process, "/metrics", beyond)[0] == 403, "closed to others")
            assert "libero-imap" not in ask(process, "/api/v1/targets", beyond)[2]
        reader = Reader.open(process.data_dir)
        process.wait_until(lambda: "nobody" in reader.targets(), "on record")
        reader.close()
        process.settings["targets"] = [libero]
        process.write_config()
        process.signal(signal.SIGHUP)
        process.wait_until(lambda: "reloaded: monitoring 1 target" in process.log.read_text(), "reloaded")
        # Its observations are still on record.
        assert ask(process, "/metrics", beyond)[0] == 403


@pytest.mark.parametrize(
    ("change", "is_public"),
    [
        ({}, True),
        ({"login": Login(username="anna", password=SecretStr("x"))}, False),
        ({"name": "anna@libero.it"}, False),
        ({"provider": "lab"}, False),
        ({"host": "imap.example.org"}, False),
        ({"task": MxTask("anna@libero.it")}, False),
    ],
)
def test_each_kind_of_target_counts_as_public_or_private(change: dict[str, Any], is_public: bool) -> None:
    target = Target(name="libero-imap", kind=Kind.IMAP, host="imapmail.libero.it", port=993, provider="libero")
    assert _is_public_target(replace(target, **change)) is is_public


# Who listens to changes


def test_one_peer_leaves_streams_to_others(tmp_path: Path) -> None:
    process = watching_with(tmp_path, trusted_proxies=["127.0.0.0/8"])
    with process.running(), contextlib.ExitStack() as streams:

        def listen(peer: str) -> int:
            stream = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
            streams.callback(stream.close)
            stream.request("GET", "/live", headers={"X-Forwarded-For": peer})
            answer = stream.getresponse()
            # Closed with the connection, not by the garbage collector.
            streams.callback(answer.close)
            return answer.status

        assert [listen("192.0.2.1") for _ in range(MAX_STREAMS_PER_PEER)] == [200] * MAX_STREAMS_PER_PEER
        assert listen("192.0.2.1") == 503
        assert listen("192.0.2.2") == 200
        # Open streams hold up neither the end nor fill the log with it.
        assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()
