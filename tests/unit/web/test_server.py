"""The socket under the pages: nobody holds a file handle for nothing, since the probes need them."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import select
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from mailwatch.web import connections
from mailwatch.web import server as serve
from mailwatch.web.rate_limit import peer_key
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need_root
from tests.servers import free_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is about what is under way when the server ends, and many leave such things behind."""
    monkeypatch.setattr(serve, "FINISH_SECONDS", 0.01)
    monkeypatch.setattr(serve, "ABANDON_SECONDS", 0.1)


ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def says_hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await PlainTextResponse("hello")(scope, receive, send)


@contextlib.asynccontextmanager
async def served(app: ASGIApp = says_hello, handles: int = connections.MAX_HANDLES) -> AsyncIterator[int]:
    port = free_port()
    async with asyncio.timeout(PATIENCE), serve.serving(app, "127.0.0.1", port, handles=lambda: handles):
        yield port


@contextlib.asynccontextmanager
async def opened(port: int, sent: bytes = b"", source: str = "127.0.0.1") -> AsyncIterator[Streams]:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
            break
        await asyncio.sleep(0)
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def hung_up(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read() == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: loc", ASKED + b"GET /"])
async def test_an_unfinished_request_is_dropped(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "TIMEOUT_SECONDS", 0.1)
    async with served() as port, opened(port, sent) as (reader, _):
        if sent.startswith(ASKED):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        assert await hung_up(reader)


async def test_a_request_that_has_come_in_is_answered_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "TIMEOUT_SECONDS", 0.1)
    asked = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    async with served() as port, opened(port, asked) as (reader, writer), opened(port) as (other, _):
        # By then the patience with the first would be over too.
        assert await hung_up(other)
        writer.write(b"ok")
        assert await reader.readuntil(b"hello")


BIG = b"x" * 3_000_000


async def says_much(scope: Scope, receive: Receive, send: Send) -> None:
    """A small answer for health, 3 MB in small parts for /parts, never one for /never, else 3 MB at once."""
    if scope["path"] == "/never":
        await asyncio.Event().wait()
    elif scope["path"] in connections.LANE_PATHS:
        await PlainTextResponse("hello")(scope, receive, send)
    elif scope["path"] == "/parts":
        parts = (BIG[:10_000] for _ in range(300))
        await StreamingResponse(parts)(scope, receive, send)
    else:
        await PlainTextResponse(BIG)(scope, receive, send)


def asked(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()


async def answered(port: int, path: str, source: str = "127.0.0.1") -> str:
    """Ask once; the first line of the answer, "" where one is hung up on."""
    async with opened(port, asked(path), source) as (reader, _):
        with contextlib.suppress(ConnectionError):
            return (await reader.readline()).decode().strip()
    return ""


@contextlib.asynccontextmanager
async def crowd(
    port: int, sent: bytes, number: int, source: str = "127.0.0.1", window: int = 4096
) -> AsyncIterator[list[socket.socket]]:
    """Clients who send and never read, each with a small window."""
    loop, crowd = asyncio.get_running_loop(), list[socket.socket]()
    try:
        for _ in range(number):
            client = socket.socket()
            crowd.append(client)
            client.setblocking(False)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            client.bind((source, 0))
            await loop.sock_connect(client, ("127.0.0.1", port))
            with contextlib.suppress(BlockingIOError, ConnectionError):
                client.send(sent)
        yield crowd
    finally:
        for client in crowd:
            client.close()


def gone(client: socket.socket) -> bool:
    """Whether it was hung up on, without reading what was sent to it."""
    poll = select.poll()
    poll.register(client, select.POLLHUP | select.POLLERR | select.POLLRDHUP)
    return bool(poll.poll(0))


@pytest.mark.parametrize("path", ["/", "/parts"])
@pytest.mark.parametrize("times", [1, 50], ids=["once", "pipelined"])
async def test_a_client_that_never_reads_is_dropped(
    monkeypatch: pytest.MonkeyPatch, path: str, times: int
) -> None:
    monkeypatch.setattr(connections, "TIMEOUT_SECONDS", 0.2)
    async with served(says_much) as port, crowd(port, asked(path) * times, 3) as clients:
        while not all(gone(client) for client in clients):
            await asyncio.sleep(0.02)


async def test_a_slow_client_gets_the_whole_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, made = [1000.0], list[connections.Connections]()

    def remembered(*given: Any) -> connections.Connections:
        made.append(connections.Connections(*given))
        return made[-1]

    monkeypatch.setattr(serve, "Connections", remembered)
    monkeypatch.setattr(connections, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.001)
    loop, took = asyncio.get_running_loop(), 0
    async with served(says_much) as port, crowd(port, asked("/"), 1, window=200_000) as (client,):
        while took < len(BIG):
            # Each part is taken late, but within the patience.
            clock[0] += connections.TIMEOUT_SECONDS - 1
            # The kernel moves the bytes on when it gets to it: a part was taken when the server has seen that.
            while took < len(BIG) and not any(one.since == clock[0] for one in made[0]._all()):
                took += len(await loop.sock_recv(client, 1 << 16))
                await asyncio.sleep(0.002)
    assert clock[0] > 1000 + 3 * connections.TIMEOUT_SECONDS


async def test_clients_that_never_read_leave_connections_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_PER_PEER", 8)
    monkeypatch.setattr(connections, "MAX_PER_NEAR_PEER", 8)
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 24)
    never = asked("/never")
    async with served(says_much) as port, crowd(port, never, 40, "127.0.0.2") as clients:
        # It has its part of the places and the lane; another peer has places of its own.
        assert await answered(port, "/") == "HTTP/1.1 200 OK"
        assert not gone(clients[0])
        assert not gone(clients[7])
        # Its own further requests are refused at once, but for health.
        assert await answered(port, "/", "127.0.0.2") == "HTTP/1.1 503 Service Unavailable"
        assert await answered(port, "/healthz", "127.0.0.2") == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("handles", [24, 100])
async def test_a_crowd_holds_no_more_file_handles_than_the_probes_leave(handles: int) -> None:
    folder = Path("/proc/self/fd")
    async with served(handles=handles) as port:
        assert await answered(port, "/healthz") == "HTTP/1.1 200 OK"
        before = len(list(folder.iterdir()))
        async with crowd(port, b"", 120) as clients:
            assert len(list(folder.iterdir())) - before - len(clients) <= handles
            assert await answered(port, "/healthz") == "HTTP/1.1 200 OK"


def test_all_connections_together_are_no_more_than_their_file_handles(subtests: pytest.Subtests) -> None:
    for handles in (*range(24, 200), connections.MAX_HANDLES - 1, connections.MAX_HANDLES):
        with subtests.test(handles=handles):
            limits = connections.limits_for(handles)
            assert limits.connections + limits.lane + 2 * limits.queue <= handles
            assert 1 <= limits.per_peer < limits.per_near_peer < limits.connections


async def test_health_is_answered_when_all_connections_are_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 8)
    monkeypatch.setattr(connections, "LANE_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(connections, "CHECK_SECONDS", 0.05)
    async with served(says_much) as port, crowd(port, asked("/never"), 8):
        assert await answered(port, "/") == "HTTP/1.1 503 Service Unavailable"
        for path in connections.LANE_PATHS:
            assert await answered(port, path) == "HTTP/1.1 200 OK"
        # The lane itself is full of those that ask for nothing.
        async with crowd(port, b"", connections.MAX_LANE + 4) as idle:
            assert await answered(port, "/healthz") == "HTTP/1.1 200 OK"
            while not all(gone(client) for client in idle):
                await asyncio.sleep(0.02)


async def test_a_new_connection_replaces_the_longest_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(connections, "GRACE_SECONDS", 0.0)
    async with served(says_much) as port, crowd(port, asked("/never"), 1) as (working,):
        async with crowd(port, b"GET /", 1) as (first,), crowd(port, b"GET /", 1) as (second,):
            assert await answered(port, "/") == "HTTP/1.1 200 OK"
            assert gone(first)
            assert not gone(second)
        assert not gone(working)


async def test_all_buffers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_BUFFERED_BYTES", 2 * len(BIG))
    async with served(says_much) as port, crowd(port, asked("/"), 6) as clients:
        while sum(gone(client) for client in clients) < 4:
            await asyncio.sleep(0.02)
        assert sum(gone(client) for client in clients) == 4
        assert await answered(port, "/healthz") == "HTTP/1.1 200 OK"


@pytest.mark.parametrize("head", [b"a:\r\n" * 60_000, b"a: " + b"x" * 240_000 + b"\r\n"], ids=["many", "long"])
@pytest.mark.parametrize("before", [b"", asked("/healthz")], ids=["first", "pipelined"])
async def test_a_head_is_bounded_however_it_comes(
    monkeypatch: pytest.MonkeyPatch, head: bytes, before: bytes
) -> None:
    parsed = list[int]()
    feed = H11Protocol.data_received

    def counted(self: H11Protocol, data: bytes) -> None:
        parsed.append(len(data))
        feed(self, data)

    monkeypatch.setattr(H11Protocol, "data_received", counted)
    sent = before + b"GET / HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n"
    async with served(says_much) as port, opened(port, sent) as (reader, _):
        if before:
            assert await reader.readuntil(b"hello")
        with contextlib.suppress(ConnectionError):
            assert BIG[:100] not in await reader.read()
    # Of a head that is too long no more is parsed than it takes to know that.
    assert sum(parsed) <= 3 << 14


async def test_a_long_body_is_not_stuck_where_reading_was_paused() -> None:
    body = b"x" * 1_000_000
    sent = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    async with served(says_hello) as port, opened(port, sent + ASKED) as (reader, _):
        for _ in range(2):
            assert await reader.readuntil(b"hello")


async def test_a_client_that_pipelines_far_ahead_is_dropped() -> None:
    async with served(says_much) as port, opened(port, asked("/healthz") * 100) as (reader, _):
        answers = 0
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                await reader.readuntil(b"hello")
                answers += 1
        assert answers == connections.MAX_PIPELINED + 1


async def test_the_server_works_on_few_requests_at_once() -> None:
    working = 0

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal working
        if scope["path"] == "/":
            working += 1
            await asyncio.Event().wait()
        await PlainTextResponse("hello")(scope, receive, send)

    async with served(works) as port, crowd(port, asked("/"), connections.AT_ONCE_OF_A_NEAR_PEER + 5):
        while working < connections.AT_ONCE_OF_A_NEAR_PEER:
            await asyncio.sleep(0.01)
        assert await answered(port, "/healthz") == "HTTP/1.1 200 OK"
        assert working == connections.AT_ONCE_OF_A_NEAR_PEER


async def test_few_requests_are_worked_on_at_once_and_few_of_a_peer() -> None:
    working, most, go = Counter[str](), Counter[str](), asyncio.Event()

    async def works(scope: Scope, receive: Receive, send: Send) -> None:
        peer = scope["client"][0]
        working[peer] += 1
        most[peer], most["all"] = max(most[peer], working[peer]), max(most["all"], working.total())
        await go.wait()
        working[peer] -= 1
        await PlainTextResponse("hello")(scope, receive, send)

    async def ask(peer: str, path: str = "/") -> int:
        messages: list[Message] = []

        async def send(message: Message) -> None:
            messages.append(message)

        scope = {"type": "http", "path": path, "method": "GET", "client": (peer, 1), "headers": []}
        await own(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
        return int(messages[0]["status"])

    own = connections.RequestLimit(works, connections.Connections().is_near)
    peers = ["192.0.2.1"] * 50 + ["127.0.0.1"] * 50 + [f"198.51.100.{number}" for number in range(50)]
    asking = [asyncio.create_task(ask(peer)) for peer in peers]
    health = asyncio.create_task(ask("192.0.2.1", "/healthz"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert most["all"] == connections.MAX_CONCURRENT + 1
    assert most["192.0.2.1"] == connections.AT_ONCE_OF_A_PEER + 1
    assert most["127.0.0.1"] == connections.AT_ONCE_OF_A_NEAR_PEER
    # A client that goes away while it waits holds nothing.
    for task in asking[20:30]:
        task.cancel()
    go.set()
    assert await health == 200
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert [answer == 200 for answer in answers].count(False) == 10
    assert not own._of_peer
    assert own._all._value == connections.MAX_CONCURRENT


def test_a_proxy_on_this_machine_or_a_trusted_one_has_half_of_the_places() -> None:
    proxies = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::7/128"))
    own = connections.Connections(lambda: proxies)
    for near in ("127.0.0.1", "::1", "10.1.2.3", "2001:db8::7"):
        assert own.is_near(peer_key(near)), near
    for far in ("192.0.2.1", "2001:db9::7", "", "unix"):
        assert not own.is_near(peer_key(far)), far


@pytest.mark.parametrize(
    ("host", "port", "says"),
    [
        ("192.0.2.1", 8080, "192.0.2.1 is not an address of this machine"),
        ("2001:db8::1", 8080, "use IPv4|is not an address of this machine"),
        ("no.such.name.invalid", 8080, "does not resolve to an address here"),
    ],
)
def test_an_unusable_address_is_reported_with_the_setting_to_change(host: str, port: int, says: str) -> None:
    with pytest.raises(serve.ListenError, match=says) as caught:
        serve.open_listener(host, port)
    message = str(caught.value)
    assert message.startswith("web.listen: ")
    assert "rrno" not in message


def test_a_port_in_use_is_reported_with_the_setting_to_change() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(serve.ListenError, match=f"^web.listen: port {port} is used by another program"):
            serve.open_listener("127.0.0.1", port)


def test_a_privileged_port_is_reported_with_the_setting_to_change() -> None:
    need_root("unshare")
    # What is loaded later the user may not be able to read.
    load = "import os, encodings.idna; from mailwatch.web.server import open_listener"
    code = f"{load}; os.setuid(65534); open_listener('127.0.0.1', 80)"
    restricted = 'ip link set lo up; echo 1024 > /proc/sys/net/ipv4/ip_unprivileged_port_start; exec "$@"'
    words = ("unshare", "--net", "--mount", "sh", "-c", restricted, "sh", sys.executable, "-c", code)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "port 80 is reserved for root, like all below 1024; use another, such as 8080" in done.stderr
