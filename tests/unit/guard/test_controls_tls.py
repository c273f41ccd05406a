"""A control must be who it says: captive portals and other boxes in the middle, on real sockets with real TLS."""

from __future__ import annotations

import asyncio
import gc
import os
import resource
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
import uvloop

from mailwatch.guard.attribution import attribute
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Cause, Observation, Outcome, Phase
from mailwatch.times import now
from tests.helpers.scripted_server import CLOSE, SILENCE, Step, scripted_server

NAME = "control.example"
Run = Callable[[Coroutine[object, object, None]], None]


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority of our own, and the file by which it is trusted."""

    issuer: trustme.CA
    ca_file: Path

    def context(self, *names: str, not_after: datetime | None = None) -> ssl.SSLContext:
        """What a server with a certificate for `names` needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.issuer.issue_cert(*names, not_after=not_after).configure_cert(context)
        return context

    def control(self, port: int, host: str = "127.0.0.1") -> Control:
        """The control that should show the certificate of this authority."""
        return Control(host, port, NAME, self.ca_file)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    issuer, ca_file = trustme.CA(), tmp_path_factory.mktemp("authority") / "ca.pem"
    issuer.cert_pem.write_to_path(ca_file)
    return Authority(issuer, ca_file)


@asynccontextmanager
async def serving(context: ssl.SSLContext, host: str = "127.0.0.1") -> AsyncIterator[int]:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(serve, host, 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def control_result(authority: Authority, *script: Step) -> str:
    """What a control comes to that behaves like the script."""
    async with scripted_server(script) as port:
        control = authority.control(port)
        answer = await Guard([control], timeout=0.5).check()
    assert answer.online is False
    return answer.controls[control.label]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs in either event loop: the second is the one that `mailwatch run` has."""

    def run(work: Coroutine[object, object, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(work)

    return run


def test_a_server_with_the_expected_certificate_is_the_control(authority: Authority, run: Run) -> None:
    async def work() -> None:
        async with serving(authority.context(NAME)) as port:
            answer = await Guard([authority.control(port)], timeout=10).check()
        assert answer.online is True
        assert answer.controls == {f"127.0.0.1:{port}": "ok"}

    run(work())


def test_a_portal_with_a_certificate_of_its_own_is_not_the_control(authority: Authority, run: Run) -> None:
    portal = Authority(trustme.CA(), authority.ca_file)

    async def work() -> None:
        async with (
            serving(portal.context(NAME)) as forged,
            serving(authority.context("portal.example")) as other,
        ):
            answer = await Guard([authority.control(forged), authority.control(other)], timeout=10).check()
        assert answer.online is False
        assert set(answer.controls.values()) == {"intercepted"}
        at = now()
        failed = Observation(
            target="t", scheduled_at=at, started_at=at, ended_at=at, outcome=Outcome.DOWN, cause=Cause.TLS,
            failed_phase=Phase.TLS,
        )  # fmt: skip
        attributed = attribute(failed, answer)
        assert (attributed.outcome, attributed.cause) == (Outcome.UNKNOWN, Cause.OFFLINE)
        assert attributed.detail == "something else answered for the control servers (captive portal?) (was: tls)"

    run(work())


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ([b"HTTP/1.1 302 Found\r\nLocation: http://portal.example/\r\n\r\n", SILENCE], "intercepted"),
        ([SILENCE], "timeout"),
        ([CLOSE], "disconnected"),
    ],
    ids=["http", "silence", "close"],
)
async def test_a_connection_alone_is_no_proof(authority: Authority, script: list[Step], reason: str) -> None:
    assert await control_result(authority, *script) == reason


async def test_one_control_that_proves_its_name_outweighs_a_portal_before_another(authority: Authority) -> None:
    async with (
        serving(authority.context(NAME)) as good,
        serving(Authority(trustme.CA(), authority.ca_file).context(NAME)) as forged,
    ):
        guard = Guard([authority.control(forged), authority.control(good)], timeout=10)
        answer = await guard.check()
    assert answer.online is True


async def test_a_certificate_out_of_date_may_be_our_own_clock(authority: Authority) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    async with serving(authority.context(NAME, not_after=yesterday)) as port:
        answer = await Guard([authority.control(port)], timeout=10).check()
    assert answer.online is None
    assert set(answer.controls.values()) == {"monitor"}


async def test_authorities_that_cannot_be_read_are_our_own_fault_until_they_can(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    ca_file = tmp_path / "ca.pem"
    async with serving(authority.context(NAME)) as port:
        guard = Guard([Control("127.0.0.1", port, NAME, ca_file)], timeout=10)
        assert (await guard.check()).online is None
        ca_file.write_text("")
        assert (await guard.check(since=now() + 1)).online is None
        assert len(caplog.records) == 1
        ca_file.write_bytes(authority.ca_file.read_bytes())
        assert (await guard.check(since=now() + 2)).online is True


async def test_a_lack_of_file_handles_is_our_own_failure_and_temporary(authority: Authority) -> None:
    async with serving(authority.context(NAME)) as port:
        guard = Guard([authority.control(port)], timeout=10)
        free = os.dup(0)  # the lowest number that is free
        os.close(free)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            assert (await guard.check()).online is None
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert (await guard.check(since=now() + 1)).online is True


async def test_a_system_without_authorities_cannot_recognise_portals(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "neither"))
    async with serving(authority.context(NAME)) as port:
        answer = await Guard([Control("127.0.0.1", port, NAME)], timeout=10).check()
    assert answer.online is None
    assert set(answer.controls.values()) == {"monitor"}


async def test_handshakes_that_are_not_awaited_leave_nothing_behind(authority: Authority) -> None:
    async with (
        serving(authority.context(NAME)) as port,
        scripted_server([SILENCE]) as one,
        scripted_server([SILENCE]) as two,
    ):
        controls = [authority.control(one), authority.control(two), authority.control(port)]
        tasks = asyncio.all_tasks()
        answer = await Guard(controls, timeout=60).check()
        assert answer.controls[f"127.0.0.1:{port}"] == "ok"
        left = {task for task in asyncio.all_tasks() - tasks if not task.done()}
        assert [task for task in left if "_serve" not in repr(task)] == []
    # A socket left open is a ResourceWarning, and warnings are errors.
    gc.collect()


@pytest.mark.parametrize(
    ("control", "name"),
    [
        (Control("1.1.1.1", 443), "one.one.one.one"),
        (Control("9.9.9.9", 853), "dns.quad9.net"),
        (Control("2001:4860:4860::8888", 443), "dns.google"),
        (Control("2001:4860:4860:0:0:0:0:8888", 443), "dns.google"),
        (Control("8.8.8.8", 53), ""),
        (Control("192.0.2.1", 443), ""),
        (Control("192.0.2.1", 443, "own.example"), "own.example"),
        (Control("own.example", 443, "", Path("ca.pem")), "own.example"),
        (Control("1.1.1.1", 443, "own.example"), "own.example"),
    ],
)
def test_known_operators_are_asked_for_their_certificates(control: Control, name: str) -> None:
    assert control.certified == name


async def test_the_families_are_kept_apart(authority: Authority) -> None:
    async with serving(authority.context(NAME), "::1") as six, scripted_server([CLOSE]) as four:
        guard = Guard([authority.control(four), authority.control(six, "::1")], timeout=10)
        answer = await guard.check()
    assert (answer.online, answer.online4, answer.online6) == (True, False, True)
    assert answer.controls == {f"127.0.0.1:{four}": "disconnected", f"[::1]:{six}": "ok"}
