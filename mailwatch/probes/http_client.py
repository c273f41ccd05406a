"""An HTTP/1.1 client with bounds (RFC 9110, RFC 9112): one request over a connection of our own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import zlib
from collections.abc import Iterator
from typing import NamedTuple, Self

import anyio.lowlevel
import httpcore
import httpx

from mailwatch.model import Cause
from mailwatch.probes.connect import ProbeContext
from mailwatch.probes.failures import ProbeError

# At DEBUG they log headers, cookies included, and at INFO whole addresses.
for _library in ("httpcore", "httpx"):
    logging.getLogger(_library).setLevel(logging.WARNING)

MAX_HEAD_BYTES = 256 * 1024
"""Bytes until the end of the headers, interim answers (1xx) included; h11 takes 100 KiB for each."""
MAX_PAGE_BYTES = 1024 * 1024
"""Bytes of a decompressed page that are checked."""
_GZIP = zlib.MAX_WBITS | 16
_VERSION = b"HTTP/"


class Body(NamedTuple):
    """The content of a page; `whole` is False if the page is longer than MAX_PAGE_BYTES."""

    data: bytes
    whole: bool


class HttpStream(httpcore.AsyncNetworkStream):
    """The network stream that httpcore uses. The attempt's deadline is the only one."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.Transport) -> None:
        self._reader = reader
        self._transport = transport
        self._taken = 0
        self._first = b""
        self.allowed = MAX_HEAD_BYTES
        """Bytes that may be received in total."""
        self.ended = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return received bytes, b"" at the end. Raises ProbeError at the first byte that cannot be HTTP."""
        data = await self._reader.read(max_bytes)
        self.ended = not data
        self._taken += len(data)
        if len(self._first) < len(_VERSION):
            self._first += data[:80]
            if not self._first.startswith(_VERSION[: len(self._first)]):
                words = self._first.decode("utf-8", "backslashreplace")
                raise ProbeError(Cause.PROTOCOL, f"answer is not HTTP: {words}", words)
        if self._taken > self.allowed:
            raise ProbeError(Cause.PROTOCOL, f"answer longer than {self.allowed // 1024} KiB")
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send without waiting for the buffer to drain: a request is small."""
        self._transport.write(buffer)

    async def aclose(self) -> None:
        """Abort the connection."""
        self._transport.abort()


class HttpClient:
    """A client with one connection for one request."""

    def __init__(self, wire: HttpStream) -> None:
        self._wire = wire
        self._answer: httpcore.Response | None = None

    @classmethod
    async def open(cls, call: ProbeContext) -> Self:
        """Connect and start TLS, within the phases of `call`."""
        # httpcore's dependency anyio loads half of itself on first use; do that outside the phases.
        await anyio.lowlevel.checkpoint()
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(loop=loop)
        await call.open(lambda: asyncio.StreamReaderProtocol(reader, loop=loop))
        assert call.transport is not None
        return cls(HttpStream(reader, call.transport))

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send the request, and return the answer without its body. Raises ProbeError or ConnectionError."""
        url = request.url
        asked = httpcore.Request(
            request.method,
            httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers=request.headers.raw,
        )
        connection = httpcore.AsyncHTTP11Connection(asked.url.origin, self._wire)
        with self._explain_disconnect():
            self._answer = answer = await connection.handle_async_request(asked)
        # Compressed, a page is smaller than its limit; in chunks it is somewhat larger.
        self._wire.allowed += 2 * MAX_PAGE_BYTES
        return httpx.Response(
            answer.status,
            headers=answer.headers,
            stream=httpx.ByteStream(b""),
            request=request,
            extensions={"reason_phrase": answer.extensions["reason_phrase"]},
        )

    async def read_body(self, encoding: str) -> Body:
        """Read the page, decompressed by its Content-Encoding, up to MAX_PAGE_BYTES. Raises ProbeError."""
        assert self._answer is not None
        inflate = _inflater(encoding)
        data = bytearray()
        with self._explain_disconnect():
            async for chunk in self._answer.aiter_stream():
                # One byte above the limit shows that the page is longer; 0 would mean no limit.
                room = MAX_PAGE_BYTES + 1 - len(data)
                data += inflate.decompress(chunk, room) if inflate else chunk
                if len(data) > MAX_PAGE_BYTES:
                    return Body(bytes(data[:MAX_PAGE_BYTES]), whole=False)
        if inflate and data and not inflate.eof:
            raise ProbeError(Cause.PROTOCOL, "the page ends in the middle of its compressed data")
        return Body(bytes(data), whole=True)

    @contextlib.contextmanager
    def _explain_disconnect(self) -> Iterator[None]:
        """Distinguish a server that disconnects within its answer from one that does not speak HTTP."""
        try:
            yield
        except httpcore.RemoteProtocolError as error:
            if self._wire.ended:
                raise ConnectionResetError(str(error)) from error
            raise ProbeError(Cause.PROTOCOL, f"answer is not HTTP: {error}") from error
        except zlib.error as error:
            raise ProbeError(Cause.PROTOCOL, f"the page cannot be decompressed: {error}") from error


def _inflater(encoding: str) -> zlib._Decompress | None:
    """Return the decompressor, None if not needed; only gzip was requested (RFC 9110, section 8.4.1)."""
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(_GZIP)
    raise ProbeError(Cause.PROTOCOL, f"the page comes as {encoding[:40]}, which MailWatch did not request")
