"""Serves the app on a socket opened here, so that a port in use is reported before anything else is done."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from mailwatch.config.access import Networks
from mailwatch.errors import OperationError
from mailwatch.web.access import METRICS_ONLY
from mailwatch.web.connections import MAX_HANDLES, Connection, Connections, RequestLimit

# An attacker could fill the log with malformed requests.
logging.getLogger("uvicorn.error").setLevel(logging.ERROR)

RECEIVE_BUFFER_BYTES = 1 << 15
SEND_BUFFER_BYTES = 1 << 18
"""Bytes that the kernel buffers per connection; it doubles them for its own needs."""
GONE_AFTER_SECONDS = 60
"""Seconds without acknowledgement after which a client counts as gone (TCP_USER_TIMEOUT), and of silence before a
keep-alive probe (TCP_KEEPIDLE).
"""

FINISH_SECONDS = 1.0
"""Seconds for answers in progress at shutdown. A stream never ends by itself."""
ABANDON_SECONDS = 2
"""Seconds until requests still in progress at shutdown are given up."""


class ListenError(OperationError):
    """The web server cannot listen on its address. The message says what to change."""


@contextlib.asynccontextmanager
async def serving(
    app: ASGIApp,
    host: str,
    port: int,
    proxies: Callable[[], Networks] = tuple,
    handles: Callable[[], int] = lambda: MAX_HANDLES,
    key: str = "web.listen",
) -> AsyncIterator[None]:
    """Serve `app` while the context lasts. `proxies` returns the trusted proxies, `handles` the file handles that
    all connections together may hold, `key` the config key of the address. Raises ListenError.
    """
    listener = await asyncio.to_thread(open_listener, host, port, key)
    connections = Connections(proxies, handles)
    # uvicorn would trust X-Forwarded-For from any process on this machine; web/hosts.py trusts configured proxies
    # only.
    config = uvicorn.Config(
        RequestLimit(app, connections.is_near), http=partial(Connection, connections=connections),  # type: ignore[arg-type]
        log_config=None, access_log=False, lifespan="off", timeout_graceful_shutdown=ABANDON_SECONDS,
        proxy_headers=False, server_header=False, backlog=connections.queue,
    )  # fmt: skip
    server = _Server(config)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])),
        asyncio.create_task(connections.drop_slow_clients()),
    ]
    try:
        yield
    finally:
        server.should_exit = True
        last = asyncio.get_running_loop().call_later(FINISH_SECONDS, connections.close)
        await tasks[0]
        last.cancel()
        tasks[1].cancel()


class MetricsOnly:
    """Marks requests as those of the listener for metrics, which AccessControl then treats as such."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        await self._app({**scope, METRICS_ONLY: True}, receive, send)


class _Server(uvicorn.Server):
    """A server that leaves signal handling to `mailwatch run`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_listener(host: str, port: int, key: str = "web.listen") -> socket.socket:
    """Return a socket that listens on `host` and `port`, the value of `key`. Raises ListenError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, proto)
    except OSError as error:
        raise ListenError(f"{key}: {_listen_error_text(error, host, port, key)}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Accepted sockets inherit these options.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, GONE_AFTER_SECONDS)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, GONE_AFTER_SECONDS * 1000)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        listener.close()
        raise ListenError(f"{key}: {_listen_error_text(error, host, port, key)}") from None
    return listener


def _listen_error_text(error: OSError, host: str, port: int, key: str) -> str:
    """Return what is wrong with the address and what to change."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    everywhere = "use 127.0.0.1 for this machine only, 0.0.0.0 for all its addresses"
    if isinstance(error, socket.gaierror):
        return f"{host} does not resolve to an address here; {everywhere}"
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is used by another program on {host}; stop it, or change {key} ({address})"
    if error.errno in (errno.EACCES, errno.EPERM):
        if port < 1024:
            return (
                f"port {port} is reserved for root, like all below 1024; use another, such as 8080 (now {address})"
            )
        return f"the system does not allow listening on {address}; name another address or port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{host} is not an address of this machine; {everywhere} (now {address})"
    if error.errno == errno.EAFNOSUPPORT:
        return f"this machine has no IPv6, so MailWatch cannot listen on {address}; use IPv4: {everywhere}"
    return f"MailWatch cannot listen on {address}: {error.strerror}; name another address or port"
