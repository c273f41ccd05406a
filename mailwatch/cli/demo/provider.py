"""The fake provider of the demo: its listeners on 127.0.0.1, its behaviour, and its true downtime.

Its certificate comes from an authority that exists only during the demo.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

from mailwatch.cli.demo.imap import serve_imap
from mailwatch.cli.demo.line_connection import Behaviour, HangupError, LineConnection
from mailwatch.cli.demo.smtp import serve_smtp
from mailwatch.times import Millis, now

Conversation = Callable[[LineConnection], Awaitable[None]]


def server_context(folder: Path) -> ssl.SSLContext:
    """Return the server's TLS context. Writes its authority to `folder`/ca.pem for the clients."""
    authority = trustme.CA(organization_name="MailWatch demo authority")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1", "localhost", organization_name="MailWatch demo provider")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class FakeProvider:
    """A mail provider that runs while the context lasts.

    It serves IMAP over implicit TLS, submission over STARTTLS, and a control endpoint that is always up: the
    demo's proof of being online. `ca_file`: the certificate to trust. Ports stay the same through all behaviours.
    """

    def __init__(self, folder: Path) -> None:
        self.ca_file = folder / "ca.pem"
        self.history: list[tuple[Millis, Behaviour]] = []
        """Each behaviour with its start; the last is the current one."""
        tls = server_context(folder)
        self._imap = _Port(serve_imap, tls)
        self._smtp = _Port(lambda dialogue: serve_smtp(dialogue, tls), None)
        self._control = _Port(_control, None)

    @property
    def behaviour(self) -> Behaviour:
        """The current behaviour."""
        return self.history[-1][1] if self.history else Behaviour.FINE

    @property
    def imap_port(self) -> int:
        """Port of IMAP over implicit TLS."""
        return self._imap.port

    @property
    def smtp_port(self) -> int:
        """Port of submission with STARTTLS."""
        return self._smtp.port

    @property
    def control_port(self) -> int:
        """Port of the control endpoint, which always accepts connections."""
        return self._control.port

    async def __aenter__(self) -> Self:
        for port in (self._control, self._imap, self._smtp):
            await port.open(lambda: self.behaviour)
        self.history.append((now(), Behaviour.FINE))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for port in (self._control, self._imap, self._smtp):
            await port.close()
            port.release()

    async def change(self, behaviour: Behaviour) -> None:
        """Switch to another behaviour. A refusing provider also drops its open connections."""
        ports = (self._imap, self._smtp)
        if self.behaviour is Behaviour.REFUSING and behaviour is not Behaviour.REFUSING:
            for port in ports:
                await port.open(lambda: self.behaviour)
        self.history.append((now(), behaviour))
        if behaviour is Behaviour.REFUSING:
            for port in ports:
                await port.close()

    def down_time(self) -> tuple[Millis, Millis | None] | None:
        """Return the true downtime [begin, end), end None while it lasts; None if the provider was never down."""
        began = next((i for i, (_, behaviour) in enumerate(self.history) if not behaviour.serves), None)
        if began is None:
            return None
        return self.history[began][0], next(
            (at for at, behaviour in self.history[began:] if behaviour.serves), None
        )


class _Port:
    """A port of 127.0.0.1. While closed it stays bound but does not listen, so connections are refused."""

    def __init__(self, talk: Conversation, tls: ssl.SSLContext | None) -> None:
        self._talk = talk
        self._tls = tls
        self._socket = _bound(0)
        self.port: int = self._socket.getsockname()[1]
        self._server: asyncio.Server | None = None
        self._talks: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def open(self, behaviour: Callable[[], Behaviour]) -> None:
        async def talk(dialogue: LineConnection) -> None:
            with contextlib.suppress(HangupError, OSError, EOFError):
                await self._talk(dialogue)

        # Not a coroutine: one that has not begun when the port closes would be lost.
        def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(talk(LineConnection(reader, writer, behaviour)))
            self._talks[task] = writer
            task.add_done_callback(lambda ended: self._talks.pop(ended).close())

        self._server = await asyncio.start_server(serve, sock=self._socket, ssl=self._tls)

    async def close(self) -> None:
        """Refuse new connections from now on, and drop open ones."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        self._socket = _bound(self.port)
        for task, writer in self._talks.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)

    def release(self) -> None:
        """Release the port."""
        self._socket.close()


async def _control(dialogue: LineConnection) -> None:
    """Accepts the connection and sends nothing."""


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    bound.setblocking(False)
    return bound
