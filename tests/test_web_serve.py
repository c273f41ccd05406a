"""The socket under the pages: nobody holds a file handle for nothing, since the looks need them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mailwatch.web import serve
from tests.servers import free_port

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
ASKED = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def says_hello(scope: Scope, receive: Receive, send: Send) -> None:
    await Request(scope, receive).body()
    await PlainTextResponse("hello")(scope, receive, send)


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[int]:
    port = free_port()
    async with asyncio.timeout(20), serve.serving(says_hello, "127.0.0.1", port):
        yield port


@contextlib.asynccontextmanager
async def opened(port: int, sent: bytes = b"") -> AsyncIterator[Streams]:
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
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
async def test_who_does_not_end_a_request_is_hung_up_on(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(serve, "PATIENCE", 0.1)
    async with served() as port, opened(port, sent) as (reader, _):
        if sent.startswith(ASKED):
            assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
        assert await hung_up(reader)


async def test_a_request_that_has_come_in_is_answered_however_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "PATIENCE", 0.1)
    asked = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n"
    async with served() as port, opened(port, asked) as (reader, writer), opened(port) as (other, _):
        # By then the patience with the first would be over too.
        assert await hung_up(other)
        writer.write(b"ok")
        assert await reader.readuntil(b"hello")


async def test_connections_above_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "CONNECTIONS_AT_MOST", 2)
    async with served() as port, opened(port, b"GET /"):
        async with opened(port, b"GET /"), opened(port, ASKED) as (reader, _):
            assert await hung_up(reader)
        answer = b""
        while not answer:
            async with opened(port, ASKED) as (reader, _):
                with contextlib.suppress(ConnectionResetError, asyncio.IncompleteReadError):
                    answer = await reader.readuntil(b"hello")
