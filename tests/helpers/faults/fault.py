"""One way in which a mailbox fails, as a server can play it, and what MailWatch must say of it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from pydantic import SecretStr

from mailwatch.model import Cause, Kind, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeFunction, observe
from mailwatch.settings import Login, MxTask, Target
from tests.helpers.scripted_server import SILENCE, Step, scripted_server

USER = "mario.rossi@example.org"
PASSWORD = "a-secret-of-the-table-5d1f"
TIMEOUT_SECONDS = 20.0
"""A probe's timeout where the server answers at once: a slow machine is not a fault of the server."""
SHORT_TIMEOUT_SECONDS = 8.0
"""Where the server never answers: long enough for all that comes before, on a busy machine."""

Place = Callable[[Target], AbstractAsyncContextManager[Target]]
"""Makes the fault for as long as the block lasts, and points the target at it."""
"""Probes the target, with the arguments of `observe`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """`what` is for people; `lesson` names another monitor that got it wrong."""

    kind: Kind
    what: str
    cause: Cause | None
    phase: Phase | None
    place: Place
    outcome: Outcome | None = None
    says: str = ""
    lesson: str = ""
    probe: ProbeFunction = observe

    @property
    def expected(self) -> Outcome:
        """The outcome: that of the cause, unless the fault says otherwise."""
        if self.outcome is not None:
            return self.outcome
        return self.cause.outcome if self.cause else Outcome.UP

    @property
    def target(self) -> Target:
        """What is probed, before `place` points it at a server."""
        return Target(
            name="lab",
            kind=self.kind,
            host="127.0.0.1",
            port=1,
            provider="lab",
            tls=TlsMode.NONE,
            login=None if self.kind is Kind.MX else Login(username=USER, password=SecretStr(PASSWORD)),
            timeout=TIMEOUT_SECONDS,
            task=MxTask(recipient=USER) if self.kind is Kind.MX else None,
        )


def plays(*script: Step, tls: TlsMode = TlsMode.NONE) -> Place:
    """A server that plays the script, for each connection anew."""

    @contextlib.asynccontextmanager
    async def place(target: Target) -> AsyncIterator[Target]:
        timeout = SHORT_TIMEOUT_SECONDS if SILENCE in script else target.timeout
        async with scripted_server(script) as port:
            yield replace(target, port=port, tls=tls, timeout=timeout)

    return place


@contextlib.asynccontextmanager
async def closed_port(target: Target) -> AsyncIterator[Target]:
    """A port that refuses."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield replace(target, port=holder.getsockname()[1])


@contextlib.asynccontextmanager
async def full_backlog(target: Target) -> AsyncIterator[Target]:
    """A port whose queue of connections is full, so that the kernel answers no further one."""
    with socket.socket() as deaf, contextlib.ExitStack() as callers:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(deaf.getsockname())
        yield replace(target, port=deaf.getsockname()[1], timeout=SHORT_TIMEOUT_SECONDS)


@contextlib.asynccontextmanager
async def no_such_name(target: Target) -> AsyncIterator[Target]:
    """A name that no name server knows (RFC 6761, section 6.4)."""
    yield replace(target, host="does-not-exist.invalid")


@contextlib.asynccontextmanager
async def no_route(target: Target) -> AsyncIterator[Target]:
    """An address that the kernel refuses at once with ENETUNREACH: no TCP goes to a multicast group."""
    yield replace(target, host="224.0.0.1")
