"""Webmail on a real nginx, and on servers that redirect, lie and fall silent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop

from mailwatch.cli import main
from mailwatch.facts import PageHop
from mailwatch.ledger.canonical_json import canonical
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.connect import Address, Lookup, resolve
from mailwatch.settings import Target, WebmailTask
from mailwatch.times import now
from tests.helpers.faults.secured import Issue, authority, good, of_another, self_made, served
from tests.helpers.faults.webmail import LOGIN, answer
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.requirements import need
from tests.helpers.scripted_server import CLOSE, Endless, Step, scripted_server
from tests.servers import HOST, NGINX, Certificates, Nginx, server_folder

LADDER = [Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.FETCH]
TOKEN = "canary-3b7e"


@pytest.fixture(scope="module")
def nginx(certificates: Certificates) -> Iterator[Nginx]:
    """An nginx that the tests of this file share: leave it as it was."""
    need(NGINX)
    with server_folder() as folder, Nginx(folder, certificates).running() as server:
        yield server


@pytest.fixture
def own_nginx(certificates: Certificates) -> Iterator[Nginx]:
    """An nginx of the test's own, to stop and to change."""
    need(NGINX)
    with server_folder() as folder, Nginx(folder, certificates).running() as server:
        yield server


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """The authority of the hostile servers."""
    path = tmp_path / "ca.pem"
    authority().cert_pem.write_to_path(str(path))
    return path


def page(
    port: int, ca_file: Path, path: str = "/", *, host: str = HOST, contains: str = "Password", **more: Any
) -> Target:
    task = WebmailTask(url=f"https://{host}:{port}{path}", contains=contains, absent="manutenzione")
    return Target(
        **{
            "name": "web",
            "kind": Kind.WEBMAIL,
            "host": host,
            "port": port,
            "provider": "lab",
            "timeout": 20.0,
            **more,
        },
        ca_file=ca_file,
        task=task,
    )


async def probe(target: Target, lookup: Lookup = resolve, **more: Any) -> Observation:
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), lookup=lookup, **more))


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


def hops(observation: Observation) -> list[PageHop]:
    facts = observation.attempts[-1].facts
    assert facts is not None
    canonical(facts)
    return list(facts["hops"])


def found(*addresses: str, local: str = "") -> Lookup:
    """Any name has these addresses, but for `local`, which is 127.0.0.1."""

    async def lookup(host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        wanted = (HOST,) if host == local else addresses
        return tuple(
            Address(socket.AF_INET6, (a, port, 0, 0)) if ":" in a else Address(socket.AF_INET, (a, port))
            for a in wanted
        )

    return lookup


# A real nginx


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_either_loop_reads_a_real_page_phase_by_phase(
    nginx: Nginx, certificates: Certificates, run: Callable[[Coroutine[Any, Any, Observation]], Observation]
) -> None:
    observation = run(probe(page(nginx.port, certificates.ca_file, "/login.html")))
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    (attempt,) = observation.attempts
    assert list(attempt.phases) == LADDER
    assert attempt.peer == f"{HOST}:{nginx.port}"
    assert attempt.tls is not None
    assert attempt.tls.version == "TLSv1.3"
    assert attempt.tls.not_after is not None
    assert attempt.replies == ("200 OK",)
    assert hops(observation) == [{"url": f"https://{HOST}:{nginx.port}/login.html", "status": 200}]


REAL: list[tuple[str, str, Outcome, Cause | None, Phase | None, str]] = [
    ("/compressed", "Città", Outcome.UP, None, None, ""),
    ("/latin", "Città", Outcome.UP, None, None, ""),
    ("/moved", "Password", Outcome.UP, None, None, ""),
    ("/cookie", "Password", Outcome.UP, None, None, ""),
    ("/elsewhere", "Password", Outcome.UP, None, None, ""),
    ("/login.html", "password:", Outcome.DOWN, Cause.UNAVAILABLE, Phase.FETCH, 'does not contain "password:"'),
    ("/nothing", "", Outcome.DOWN, Cause.UNAVAILABLE, Phase.GREETING, "404 Not Found"),
    ("/dead", "", Outcome.DOWN, Cause.UNAVAILABLE, Phase.GREETING, "502 Bad Gateway"),
    ("/slow", "", Outcome.DOWN, Cause.UNAVAILABLE, Phase.GREETING, "504 Gateway Time-out"),
    ("/maintenance", "", Outcome.DOWN, Cause.UNAVAILABLE, Phase.FETCH, "Retry-After: 1800"),
    ("/bomb", "Password", Outcome.DOWN, Cause.UNAVAILABLE, Phase.FETCH, "the first 1 MiB of the page does not"),
    ("/private", "", Outcome.UNKNOWN, Cause.THROTTLED, Phase.GREETING, "401 Unauthorized"),
    ("/plain", "", Outcome.DOWN, Cause.TLS, Phase.GREETING, "http://127.0.0.1/login.html, without encryption"),
    ("/circle", "", Outcome.DOWN, Cause.PROTOCOL, Phase.GREETING, "too many redirects"),
    ("/nowhere", "", Outcome.DOWN, Cause.DNS, Phase.RESOLVE, "does-not-exist.invalid does not resolve"),
    ("/refuses", "", Outcome.DOWN, Cause.REFUSED, Phase.CONNECT, "localhost: connection refused"),
]


@pytest.mark.parametrize(
    ("path", "contains", "outcome", "cause", "phase", "says"), REAL, ids=lambda v: str(v)[:12]
)
async def test_each_nginx_answer_has_its_cause(
    nginx: Nginx,
    certificates: Certificates,
    path: str,
    contains: str,
    outcome: Outcome,
    cause: Cause | None,
    phase: Phase | None,
    says: str,
) -> None:
    observation = await probe(page(nginx.port, certificates.ca_file, path, contains=contains))
    assert classification(observation) == (outcome, cause, phase), observation.detail
    assert says in observation.detail
    assert len(observation.attempts) == 1


async def test_a_rate_limit_is_no_outage(nginx: Nginx, certificates: Certificates) -> None:
    target = page(nginx.port, certificates.ca_file, "/limited")
    assert (await probe(target)).outcome is Outcome.UP
    observation = await probe(target)
    assert classification(observation) == (Outcome.UNKNOWN, Cause.THROTTLED, Phase.GREETING)
    assert "429" in observation.detail


async def test_the_title_of_an_unexpected_page_is_recorded(nginx: Nginx, certificates: Certificates) -> None:
    observation = await probe(page(nginx.port, certificates.ca_file, "/maintenance"))
    assert observation.attempts[-1].replies == ("503 Service Temporarily Unavailable", "Sito in manutenzione")


async def test_a_redirect_to_another_host_is_connected_anew_and_recorded(
    nginx: Nginx, certificates: Certificates
) -> None:
    mark = (nginx.directory / "access").read_text().count("\n")
    observation = await probe(page(nginx.port, certificates.ca_file, f"/elsewhere?token={TOKEN}"))
    there = hops(observation)[1]
    assert there.pop("peer").endswith(f":{nginx.port}")
    there.pop("unserved", None)
    assert there == {"url": f"https://localhost:{nginx.port}/login.html", "status": 200}
    assert hops(observation)[0] == {"url": f"https://{HOST}:{nginx.port}/elsewhere", "status": 302}
    assert TOKEN not in repr(observation)
    assert "session" not in repr(observation)
    assert observation.attempts[0].peer == f"{HOST}:{nginx.port}"
    requests = (nginx.directory / "access").read_text().splitlines()[mark:]
    assert ['"MailWatch/' in request for request in requests] == [True, True]


@pytest.mark.parametrize(
    ("which", "says"),
    [
        ("expired", "certificate expired on"),
        ("wrong_host", "certificate is for elsewhere.example, not 127.0.0.1"),
        ("untrusted", "issuer not trusted"),
    ],
)
async def test_a_bad_certificate_is_named(
    own_nginx: Nginx, certificates: Certificates, which: str, says: str
) -> None:
    own_nginx.configure(certificate=getattr(certificates, which))
    observation = await probe(page(own_nginx.port, certificates.ca_file))
    assert classification(observation) == (Outcome.DOWN, Cause.TLS, Phase.TLS)
    assert says in observation.detail


@pytest.mark.parametrize("way", ["gone", "maintenance"])
async def test_a_page_that_goes_away_and_comes_back_is_an_outage_with_an_end(
    own_nginx: Nginx, certificates: Certificates, tmp_path: Path, way: str
) -> None:
    harness = PipelineHarness(tmp_path / "data")
    await harness.writer.start()
    target = page(own_nginx.port, certificates.ca_file, "/login.html")
    runtime = harness.add_target(target)
    await harness.probe(target)
    assert runtime.state.name == "up"
    if way == "gone":
        own_nginx.stop()
    else:
        own_nginx.configure(settings="return 503;")
    for _ in range(3):
        await harness.probe(target)
    assert [outage["state"] for outage in harness.recorded("outage")] == ["open"]
    own_nginx.configure()
    if way == "gone":
        own_nginx.start()
    for _ in range(2):
        await harness.probe(target)
    opened, closed = harness.recorded("outage")
    outcomes = [observation["outcome"] for observation in harness.recorded("observation")]
    await harness.close()
    assert (closed["state"], closed["id"]) == ("closed", opened["id"])
    assert closed["causes"] == ({"refused": 3} if way == "gone" else {"unavailable": 3})
    assert closed["phases"] == ({"connect": 3} if way == "gone" else {"fetch": 3})
    assert outcomes == ["up", *["down"] * 3, *["up"] * 2]


def test_the_command_shows_the_page_as_a_ladder_down_to_fetch(
    nginx: Nginx, certificates: Certificates, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def target(name: str, path: str) -> dict[str, Any]:
        url = f"https://{HOST}:{nginx.port}{path}"
        output = {"name": name, "kind": "webmail", "url": url, "contains": "Password"}
        return output | {"ca_file": str(certificates.ca_file), "timeout": "20s"}

    config = tmp_path / "config.yaml"
    settings = {
        "vantage_point": {"name": "t"},
        "guard": "off",
        "targets": [target("a", "/elsewhere"), target("b", "/dead")],
    }
    config.write_text(json.dumps(settings))
    assert main(["--config", str(config), "probe"]) == 1
    head, first, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["target", "resolve", "connect", "tls", "greeting", "fetch", "outcome"]
    assert first.count(" ms") == 5
    assert any("502" in line for line in rest)
    assert main(["--config", str(config), "probe", "--json", "a"]) == 0
    (output,) = json.loads(capsys.readouterr().out)
    assert list(output["phases"]) == [phase.value for phase in LADDER]


# Two hosts


def front(*script: Step, issue: Issue = good, port: int = 0) -> contextlib.AbstractAsyncContextManager[int]:
    return scripted_server([served(issue(authority())), *script], port=port)


def leads_to(url: str) -> list[Step]:
    return ["^GET / ", answer("302 Found", "", f"Location: {url}"), CLOSE]


@pytest.mark.parametrize(
    ("issue", "says"),
    [
        (self_made, "other.example: issuer not trusted"),
        (good, "certificate is for 127.0.0.1, localhost, not other.example"),
    ],
)
async def test_the_certificate_of_the_host_that_a_redirect_leads_to_is_that_hosts(
    ca_file: Path, issue: Issue, says: str
) -> None:
    async with front(issue=issue) as behind, front(*leads_to(f"https://other.example:{behind}/")) as port:
        observation = await probe(page(port, ca_file), found(HOST))
    assert classification(observation) == (Outcome.DOWN, Cause.TLS, Phase.TLS)
    assert says in observation.detail
    assert [hop["url"] for hop in hops(observation)][1] == f"https://other.example:{behind}/"


async def test_the_facts_of_both_hosts_certificates_are_kept_apart(ca_file: Path) -> None:
    async with (
        front("^GET /login", answer("200 OK", LOGIN), CLOSE, issue=of_another) as behind,
        front(*leads_to(f"https://other.example:{behind}/login?t={TOKEN}")) as port,
    ):
        observation = await probe(page(port, ca_file), found(HOST))
    assert observation.outcome is Outcome.UP, observation.detail
    own, there = observation.attempts[0].tls, hops(observation)[1]["tls"]
    assert own is not None
    assert own.fingerprint != there["fingerprint"]
    assert there["not_after"] > now()


async def test_a_host_behind_a_redirect_is_tried_at_its_next_address(ca_file: Path) -> None:
    """The first address refuses, the second is silent, the third serves."""
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.3", 0))
        deaf.listen(0)
        behind = deaf.getsockname()[1]
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        async with (
            front("^GET /login", answer("200 OK", LOGIN), CLOSE, issue=of_another, port=behind),
            front(*leads_to(f"https://other.example:{behind}/login")) as port,
        ):
            lookup = found("127.0.0.2", "127.0.0.3", HOST, local="localhost")
            observation = await probe(page(port, ca_file, host="localhost", timeout=4.0), lookup)
    assert observation.outcome is Outcome.UP, observation.detail
    there = hops(observation)[1]
    assert there["peer"] == f"{HOST}:{behind}"
    assert there["unserved"] == [f"127.0.0.2:{behind}", f"127.0.0.3:{behind}"]


async def test_a_dead_redirect_host_does_not_retry_the_first_host(
    ca_file: Path,
) -> None:
    received: list[bytes] = []
    steps: list[Step] = [served(good(authority())), *leads_to("https://other.example:1/")]
    async with scripted_server(steps, received=received, host="0.0.0.0") as port:
        observation = await probe(page(port, ca_file, host="localhost"), found(HOST, "127.0.0.2"))
    assert classification(observation) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT)
    assert len(observation.attempts) == len(received) == 1
    assert hops(observation)[1]["unserved"] == [f"{HOST}:1"]


async def test_the_next_address_serves_where_ipv6_does_not(ca_file: Path) -> None:
    async with front("^GET / ", answer("200 OK", LOGIN), CLOSE) as port:
        observation = await probe(page(port, ca_file, host="localhost"), found("::1", HOST))
    assert observation.outcome is Outcome.UP, observation.detail
    assert observation.partial == (f"[::1]:{port}",)
    assert observation.attempts[-1].peer == f"{HOST}:{port}"


# Bounds


OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("words", "rest"),
    [(OK + b"\r\n", b"x" * 4096), (CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), (OK, b"X: x\r\n" * 1000)],
    ids=["page", "chunks", "headers"],
)
async def test_endless_answers_cost_little_memory(ca_file: Path, words: bytes, rest: bytes) -> None:
    async with front("^GET", words, Endless(rest)) as port:
        await probe(page(port, ca_file))  # imports
        tracemalloc.start()
        observation = await probe(page(port, ca_file))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert observation.outcome is Outcome.DOWN
    assert peak < 16 * 1024 * 1024


async def test_a_bomb_costs_little_memory(nginx: Nginx, certificates: Certificates) -> None:
    target = page(nginx.port, certificates.ca_file, "/bomb")
    await probe(target)
    tracemalloc.start()
    await probe(target)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16 * 1024 * 1024


@pytest.mark.parametrize(
    "location",
    [
        "javascript:alert(1)",
        "https:///no-host",
        "https://" + "x" * 300 + ".example/",
        "https://\xe0.example/",
        "https://a:b@[::1",
        "//[zz]/",
        "https://h:99999/",
        "https://h:0/",
        "https://xn--\xff/",
        "https://a..b/",
        "/" + "x" * 9000,
        "\x7f\x7f",
        "?\xff\xfe",
    ],
)
async def test_no_location_is_our_own_fault(ca_file: Path, location: str) -> None:
    async def lookup(host: str, port: int, _timeout: float) -> tuple[Address, ...]:
        if host != HOST:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (Address(socket.AF_INET, (host, port)),)

    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    async with front("^GET", head + location.encode("latin-1") + b"\r\n\r\n", CLOSE) as port:
        observation = await probe(page(port, ca_file), lookup)
    assert observation.cause not in (None, Cause.MONITOR), observation.detail


async def test_every_address_is_asked_for_the_page_while_an_outage_is_open(ca_file: Path) -> None:
    async with front("^GET", answer("200 OK", LOGIN), CLOSE) as port:
        observation = await probe(
            page(port, ca_file, host="localhost"), found(HOST, "127.0.0.2"), every_address=True
        )
    assert (observation.outcome, observation.partial) == (Outcome.UP, (f"127.0.0.2:{port}",))


def test_commands_start_without_the_probe_that_is_slow_to_import() -> None:
    """httpx and what it stands on take longer than most commands run."""
    code = "import sys, mailwatch.cli; sys.exit('mailwatch.probes.webmail' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "off", [timedelta(days=-40), timedelta(0), timedelta(days=40)], ids=["ahead", "right", "behind"]
)
@pytest.mark.parametrize("lasts", [timedelta(hours=1), timedelta(hours=-1)], ids=["kept", "deleted"])
async def test_a_cookie_lasts_by_the_servers_clock_not_by_ours(
    ca_file: Path, off: timedelta, lasts: timedelta
) -> None:
    """Else a page that insists on its cookie would redirect for ever: our clock's fault taken for the page's."""
    sent: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        sent.append(b"visited=1" in asked)
        here = datetime.now(UTC).replace(microsecond=0) + off
        date, ends = (format_datetime(moment, usegmt=True) for moment in (here, here + lasts))
        head = f"Location: /\r\nDate: {date}\r\nSet-Cookie: visited=1; Path=/; Expires={ends}; Secure"
        body = b"Password"
        status = "200 OK" if sent[-1] or len(sent) == 2 else "302 Found"
        writer.write(f"HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        writer.close()

    async with await asyncio.start_server(serve, HOST, 0, ssl=served(good(authority()))) as server:
        observation = await probe(page(server.sockets[0].getsockname()[1], ca_file))
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    assert sent == [False, lasts > timedelta(0)]
