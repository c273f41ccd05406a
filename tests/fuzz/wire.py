"""A server on no network: a probe walks its phases, and an input says what is answered.

Between two answers stands 0x1e; 0x1f cuts an answer into packets; {tag} is the tag of the client's last line. An
answer is sent when the client has said something, or when it waits. After the last one the connection is lost.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.payloads import fact_payload
from mailwatch.model import Attempt, Cause, Observation, Outcome, TlsMode
from mailwatch.probes import TlsContexts
from mailwatch.probes.attempts import Probe, run_attempt
from mailwatch.probes.connect import Address, ProbeContext
from mailwatch.probes.recorder import Recorder
from mailwatch.probes.redact import redactor
from mailwatch.settings import Target
from tests.fuzz.target import Wrong

ANSWER, PACKET = b"\x1e", b"\x1f"
PASSWORD = "c4n4ry-Pa55w0rd"
PATIENCE = 4
"""Turns of the loop in which the client says nothing until it is sent the next answer."""
NOWHERE = Address(socket.AF_INET, ("127.0.0.1", 1))

_loop: list[asyncio.AbstractEventLoop] = []
logged: list[str] = []
"""What MailWatch logged of the input in hand."""


class _Kept(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        if len(logged) < 20:
            logged.append(record.getMessage())


def loop() -> asyncio.AbstractEventLoop:
    """Return the loop of this process."""
    if not _loop:
        _loop.append(asyncio.new_event_loop())
        log = logging.getLogger("mailwatch")
        log.addHandler(_Kept(logging.WARNING))
        log.propagate = False
    return _loop[0]


class Line(asyncio.Transport):
    """The client's end of a connection, whose other end is an input."""

    def __init__(self, answers: list[bytes], protocol: Any) -> None:
        super().__init__()
        self._answers, self._protocol = answers, protocol
        self._loop = asyncio.get_running_loop()
        self._written = self._paused = 0
        self._tag = b""
        self._closed = False
        self._loop.call_soon(self._wait, 0, PATIENCE)

    def begin(self) -> None:
        """The connection stands."""
        self._protocol.connection_made(self)

    def write(self, data: Any) -> None:
        if not self._closed:
            self._written += 1
            self._tag = bytes(data[:200]).partition(b" ")[0].strip() or self._tag

    def writelines(self, data: Any) -> None:
        self.write(b"".join(data))

    def _wait(self, written: int, turns: int) -> None:
        if self._closed:
            return
        if self._paused or (self._written == written and turns):
            self._loop.call_soon(self._wait, written, turns - 1)
        elif not self._answers:
            self._lose()
        else:
            now = self._written
            for packet in self._answers.pop(0).replace(b"{tag}", self._tag).split(PACKET):
                if not self._closed:
                    self._protocol.data_received(packet)
            self._loop.call_soon(self._wait, now, PATIENCE)

    def _lose(self) -> None:
        if not self._closed:
            self._closed = True
            self._protocol.connection_lost(None)

    def abort(self) -> None:
        self._loop.call_soon(self._lose)

    close = abort

    def is_closing(self) -> bool:
        return self._closed

    def pause_reading(self) -> None:
        self._paused = 1

    def resume_reading(self) -> None:
        self._paused = 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40000) if name == "sockname" else default

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: Any) -> None:
        self._protocol = protocol

    def get_write_buffer_size(self) -> int:
        return 0


class Played(ProbeContext):
    """A call whose server is an input."""

    __slots__ = ("answers",)
    answers: list[bytes]

    async def open(self, factory: Callable[[], Any]) -> Any:
        protocol = factory()
        self.transport = Line(self.answers, protocol)
        self.transport.begin()
        return protocol

    async def upgrade(self, protocol: asyncio.BaseProtocol) -> asyncio.Transport:
        assert self.transport is not None
        return self.transport


async def _nowhere(host: str, port: int, timeout: float) -> tuple[Address, ...]:
    raise socket.gaierror(socket.EAI_NONAME, "no such name")


_CONTEXTS = TlsContexts()


def play(data: bytes, target: Target, probe: Probe) -> Attempt:
    """Let the probe meet the server that the input makes. Raises Wrong for a fault of our own, or a secret on record."""

    async def met() -> Attempt:
        call = Played(target, NOWHERE, target.login, Recorder(redactor(target.login), None), _CONTEXTS)
        call.answers, call.lookup = data.split(ANSWER), _nowhere
        return await run_attempt(call, probe)

    logged.clear()
    made = loop().run_until_complete(met())
    judged(made, target)
    return made


def judged(made: Attempt, target: Target) -> None:
    """Hold what came of it against what must be true of any server."""
    if made.cause is Cause.MONITOR and "process stood still" not in made.detail:
        raise Wrong(f"a fault of our own: {made.detail}\n" + "\n".join(logged))
    observation = Observation(
        target=target.name,
        scheduled_at=0,
        started_at=made.started_at,
        ended_at=made.ended_at,
        outcome=made.cause.outcome if made.cause else Outcome.UP,
        cause=made.cause,
        failed_phase=made.failed_phase,
        detail=made.detail,
        attempts=(made,),
    )
    written = canonical(fact_payload(observation))
    if PASSWORD in written:
        raise Wrong("the password is on record")
    if logged:
        raise Wrong("logged: " + "\n".join(logged))
    if len(written) > 64 * 1024:
        raise Wrong(f"{len(written)} bytes are on record of one connection")


def run(work: Awaitable[Any]) -> Any:
    """Await something on the loop of this process."""

    async def awaited() -> Any:
        return await work

    return loop().run_until_complete(awaited())


CLEAR = TlsMode.NONE
