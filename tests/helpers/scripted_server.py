"""A server on loopback that does what a script says, however rude.

A script is a list of steps, run for each connection:
- bytes are sent, with TAG replaced by the tag of the last line that was read (IMAP);
- a str is a regular expression that the next line from the client must match;
- an SSLContext begins TLS;
- SILENCE, RESET, CLOSE and HELLO are themselves; `Endless(bytes)` is sent until nobody listens.

A script that ran out closes the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto


class Behaviour(Enum):
    """What a server does instead of answering."""

    SILENCE = auto()
    RESET = auto()
    CLOSE = auto()
    HELLO = auto()
    """Reads whatever comes first, such as a TLS hello, and goes on."""


SILENCE, RESET, CLOSE, HELLO = Behaviour.SILENCE, Behaviour.RESET, Behaviour.CLOSE, Behaviour.HELLO


@dataclass(frozen=True, slots=True)
class Endless:
    """Sent again and again, with `pause` seconds between."""

    chunk: bytes
    pause: float = 0.0


Step = bytes | str | Behaviour | Endless | ssl.SSLContext


@contextlib.asynccontextmanager
async def scripted_server(
    script: Sequence[Step],
    *,
    then: Sequence[Step] | None = None,
    received: list[bytes] | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
) -> AsyncIterator[int]:
    """Serve the script, to all but the first connection `then` if given, and give the port.

    `heard` gets the client's lines.

    Raises AssertionError at the end if the client said what the script does not expect.
    """
    wrong: list[str] = []
    # TLS from the first byte is the listener's business: a script could begin it after the client's hello.
    tls = script[0] if script and isinstance(script[0], ssl.SSLContext) else None
    steps = script[1:] if tls else script
    serving: set[asyncio.Task[None]] = set()

    scripts = itertools.chain([steps], itertools.repeat(steps if then is None else then))

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = _Peer(reader, writer, [] if received is None else received)
        task = asyncio.ensure_future(_serve(peer, next(scripts), wrong))
        serving.add(task)
        task.add_done_callback(serving.discard)

    server = await asyncio.start_server(accept, host, port, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        waiting = list(serving)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    assert not wrong, wrong


@dataclass(slots=True)
class _Peer:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    received: list[bytes]
    tag: bytes = b""


async def _serve(peer: _Peer, script: Sequence[Step], wrong: list[str]) -> None:
    try:
        for step in script:
            await _play(peer, step, wrong)
    except (OSError, EOFError):
        pass  # the client left first, as it may
    finally:
        peer.writer.transport.abort()
        await asyncio.sleep(0)


async def _play(peer: _Peer, step: Step, wrong: list[str]) -> None:
    match step:
        case bytes():
            peer.writer.write(step.replace(b"TAG", peer.tag))
            await peer.writer.drain()
        case str():
            line = await peer.reader.readuntil(b"\n")
            peer.received.append(line.rstrip(b"\r\n"))
            # A line that goes on with a command, such as the answer to a challenge, has no tag.
            peer.tag = line.split(b" ")[0] if b" " in line else peer.tag
            if not re.search(step.encode(), line):
                wrong.append(f"expected {step!r}, got {line!r}")
        case Endless():
            while True:
                peer.writer.write(step.chunk)
                await peer.writer.drain()
                await asyncio.sleep(step.pause)
        case ssl.SSLContext():
            await peer.writer.start_tls(step)
        case Behaviour():
            await _behave(peer, step)


async def _behave(peer: _Peer, how: Behaviour) -> None:
    match how:
        case Behaviour.SILENCE:
            await asyncio.Event().wait()
        case Behaviour.RESET:
            sock = peer.writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.writer.transport.abort()
            await asyncio.sleep(0)
            raise ConnectionResetError
        case Behaviour.CLOSE:
            raise EOFError
        case Behaviour.HELLO:
            await peer.reader.read(1)
