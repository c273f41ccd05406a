"""Limits on connections and requests: no client can hold every connection, and health is always answered.

A connection waits either for MailWatch or for its client: to send the rest of a request, to send the next request,
or to read its answer. A client that keeps us waiting for long is disconnected, and sooner when a newcomer needs
its place:

1. Each peer (an IPv4 address, or a /64 of IPv6) gets a share of the places. Loopback and trusted proxies, behind
   which there are many clients, get up to half of them.
2. When a peer's share, or every place, is taken, a newcomer takes the place of the connection that has waited
   longest for its client.
3. When no connection waits for its client, the newcomer goes into a separate lane, where it may ask for health and
   metrics only, and must do so at once.

`RequestLimit` bounds the requests in progress, so that a crowd of them takes no time from the probes: the event
loop finishes all work that is ready before it gets to a probe. A request above the bound waits in its connection.
No peer's requests wait for more than a few requests of each other peer.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from mailwatch.config.access import Networks
from mailwatch.web.rate_limit import peer_key

MAX_CONNECTIONS = 512
"""Concurrent connections. Each takes a file handle, and the probes need file handles too."""
MAX_PER_PEER = 64
MAX_PER_NEAR_PEER = 256
MAX_LANE = 16
MAX_QUEUE = 64
"""Connections that the kernel queues until they are accepted. We accept all of them at once."""
MAX_HANDLES = MAX_CONNECTIONS + MAX_LANE + 2 * MAX_QUEUE
"""Most file handles that connections use: while dropped connections are closing, a full queue may be accepted
again.
"""
LANE_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
TIMEOUT_SECONDS = 10.0
"""Seconds for a request to arrive, and for the client to read another `MIN_TAKEN_BYTES`."""
LANE_TIMEOUT_SECONDS = 2.0
CHECK_SECONDS = 1.0
GRACE_SECONDS = 1.0
"""Seconds for which a connection keeps its place before a newcomer may take it."""
MAX_PIPELINED = 8
"""Pipelined requests in a row: each arrived before the answer to the previous request was made."""
MIN_TAKEN_BYTES = 4096
MAX_BUFFERED_BYTES = 64 << 20
"""Total bytes of answers that wait for their clients."""
PART_BYTES = 1 << 14
"""Bytes parsed at once: h11 bounds the size of a request head only while the head is incomplete."""


class ConnectionLimits(NamedTuple):
    """Most connections: in all, per peer, in the lane, and in the accept queue."""

    connections: int
    per_peer: int
    per_near_peer: int
    lane: int
    queue: int


def limits_for(handles: int) -> ConnectionLimits:
    """Divide `handles` file handles among the limits. Below MAX_HANDLES each limit is smaller."""
    if handles >= MAX_HANDLES:
        return ConnectionLimits(MAX_CONNECTIONS, MAX_PER_PEER, MAX_PER_NEAR_PEER, MAX_LANE, MAX_QUEUE)
    lane, queue = min(MAX_LANE, max(2, handles // 8)), min(MAX_QUEUE, max(2, handles // 8))
    places = max(2, min(MAX_CONNECTIONS, handles - lane - 2 * queue))
    return ConnectionLimits(
        places, min(MAX_PER_PEER, max(1, places // 4)), min(MAX_PER_NEAR_PEER, places // 2), lane, queue
    )


class Connections:
    """The connections of one server. `proxies` returns the trusted proxies, `handles` the file handles that all
    connections together may hold: a reload may change both.
    """

    def __init__(
        self, proxies: Callable[[], Networks] = tuple, handles: Callable[[], int] = lambda: MAX_HANDLES
    ) -> None:
        self._proxies, self._handles = proxies, handles
        self.queue = limits_for(handles()).queue
        """Length of the accept queue, fixed for the server's life."""
        self._places: dict[str, set[Connection]] = defaultdict(set)
        self._lane: set[Connection] = set()
        self._taken = 0

    def admit(self, new: Connection) -> None:
        """Give a place to `new`, or a place in the lane when no other is free."""
        own, limits = self._places[new.peer], limits_for(self._handles())
        crowd: Iterable[Connection] = ()
        if len(own) >= (limits.per_near_peer if self.is_near(new.peer) else limits.per_peer):
            crowd = own
        elif self._taken >= limits.connections:
            crowd = (each for peer in self._places.values() for each in peer)
        else:
            return self._put(new)
        if self._drop_longest_waiting(crowd, GRACE_SECONDS):
            return self._put(new)
        if len(self._lane) >= limits.lane and not self._drop_longest_waiting(self._lane, 0.0):
            return new.drop()
        new.app, new.timeout = _lane_app(new.app), LANE_TIMEOUT_SECONDS
        self._lane.add(new)

    def _put(self, new: Connection) -> None:
        self._places[new.peer].add(new)
        self._taken += 1

    def release(self, one: Connection) -> None:
        """Free the place of a closed connection. Calling it twice does no harm."""
        self._lane.discard(one)
        own = self._places.get(one.peer, set())
        if one in own:
            own.remove(one)
            self._taken -= 1
        if not own:
            self._places.pop(one.peer, None)

    def _drop_longest_waiting(self, candidates: Iterable[Connection], grace: float) -> bool:
        """Drop the connection that has waited longest for its client, if that is longer than `grace` seconds."""
        now = time.monotonic()
        waiting = [(each.since, number, each) for number, each in enumerate(candidates) if each.since is not None]
        longest = min(waiting, default=None)
        if longest is None or now - longest[0] < grace:
            return False
        longest[2].drop()
        return True

    def _all(self) -> list[Connection]:
        return [*self._lane, *(each for peer in self._places.values() for each in peer)]

    def is_near(self, peer: str) -> bool:
        """Return whether a peer may stand for many clients: it is on this machine or a trusted proxy."""
        try:
            network = ipaddress.ip_network(peer)
        except ValueError:
            return False
        return network.is_loopback or any(
            network.version == proxy.version and network.overlaps(proxy) for proxy in self._proxies()
        )

    async def drop_slow_clients(self) -> None:
        """Drop clients that keep us waiting for too long, until cancelled."""
        while True:
            await asyncio.sleep(min(CHECK_SECONDS, TIMEOUT_SECONDS / 4))
            now = time.monotonic()
            for each in self._all():
                if each.waits_too_long(now):
                    each.drop()

    def close(self) -> None:
        """Drop all connections."""
        for each in self._all():
            each.drop()

    def wrote(self) -> None:
        """After a large write: drop the connections with the most buffered bytes while the total exceeds its
        bound.
        """
        sizes = sorted(((each.buffered, id(each), each) for each in self._all()), reverse=True)
        total = sum(size for size, _, _ in sizes)
        for size, _, each in sizes:
            if total <= MAX_BUFFERED_BYTES:
                return
            each.drop()
            total -= size


class Connection(H11Protocol):
    """One connection. `since`: when it began to wait for its client (time.monotonic()); None while it does not."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        connections: Connections,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._connections = connections
        self._unparsed = b""
        self._written = self._taken = self._ahead = 0
        self.timeout: float | None = None
        self.since: float | None = None
        self.peer = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(_CountingTransport(transport, self._wrote))  # type: ignore[arg-type]
        self.flow = _Flow(self.transport, lambda: self.loop.call_soon(self._parse))
        self.peer = peer_key(self.client[0] if self.client else "")
        self.since = time.monotonic()
        self._connections.admit(self)

    def data_received(self, data: bytes) -> None:
        self._unparsed += data
        self._parse()

    def _parse(self) -> None:
        """Parse the received bytes in parts, and at most one request before its answer is made."""
        while self._unparsed and not self.flow.read_paused and not self.transport.is_closing():
            part, self._unparsed = self._unparsed[:PART_BYTES], self._unparsed[PART_BYTES:]
            super().data_received(part)
        self._update_waiting()

    def on_response_complete(self) -> None:
        # No browser and no proxy pipelines; a client that pipelined for long would keep its place that way.
        self._ahead = self._ahead + 1 if self._unparsed or self.conn.trailing_data[0] else 0
        if self._ahead > MAX_PIPELINED:
            self.transport.close()
        super().on_response_complete()
        self._update_waiting()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._update_waiting()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._update_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.release(self)
        super().connection_lost(exc)

    def _update_waiting(self) -> None:
        is_ours = self.cycle is not None and not self.cycle.response_complete
        if is_ours and not self.flow.write_paused and not self.transport.is_closing():
            self.since = None
        elif self.since is None:
            self.since = time.monotonic()

    def waits_too_long(self, now: float) -> bool:
        """Return whether to drop the connection. A client that reads part of its answer gets time for the next
        part.
        """
        if self.since is None and self.transport.is_closing():
            self.since = now
        if self.since is None:
            return False
        if self.buffered and self._written - self.buffered - self._taken >= MIN_TAKEN_BYTES:
            self._taken, self.since = self._written - self.buffered, now
        # The lane's shorter timeout applies to the request only.
        timeout = self.timeout if self.timeout and not self._written else TIMEOUT_SECONDS
        return now - self.since > timeout

    @property
    def buffered(self) -> int:
        """Bytes written that the client has not yet taken."""
        return self.transport.get_write_buffer_size()

    def _wrote(self, size: int) -> None:
        self._written += size
        if size > PART_BYTES << 2:
            self._connections.wrote()

    def drop(self) -> None:
        """Close the connection at once, and discard unsent bytes."""
        self._connections.release(self)
        if self.buffered:
            # Close with a reset, so that the kernel discards its unsent bytes too; otherwise it goes on sending
            # them.
            reset = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        self.transport.abort()


class _Flow(FlowControl):
    """Parses the bytes that arrived while reading was paused, once it is resumed."""

    def __init__(self, transport: asyncio.Transport, resumed: Callable[[], object]) -> None:
        super().__init__(transport)
        self._resumed = resumed

    def resume_reading(self) -> None:
        if self.read_paused:
            super().resume_reading()
            self._resumed()


class _CountingTransport:
    """A transport that reports how many bytes are written to it."""

    def __init__(self, transport: asyncio.Transport, wrote: Callable[[int], None]) -> None:
        self._transport, self._wrote = transport, wrote

    def write(self, data: bytes) -> None:
        self._transport.write(data)
        self._wrote(len(data))

    def __getattr__(self, name: str) -> object:
        return getattr(self._transport, name)


def _lane_app(app: ASGIApp) -> ASGIApp:
    """Wrap `app` to answer for health and metrics only, then close the connection."""
    busy = PlainTextResponse("too many connections\n", 503, {"retry-after": "5"})

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        await (app if scope["path"] in LANE_PATHS else busy)(scope, receive, closing)

    return answer


MAX_CONCURRENT = 16
AT_ONCE_OF_A_PEER = 4
AT_ONCE_OF_A_NEAR_PEER = 8


class RequestLimit:
    """Lets a few requests at once into `app`; health and metrics always. An answer that has begun no longer
    counts.
    """

    def __init__(self, app: ASGIApp, is_near: Callable[[str], bool]) -> None:
        self._app, self._is_near = app, is_near
        self._all = asyncio.Semaphore(MAX_CONCURRENT)
        self._of_peer: dict[str, asyncio.Semaphore] = {}
        self._waiting: dict[str, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] in LANE_PATHS:
            return await self._app(scope, receive, send)
        peer = peer_key((scope.get("client") or ("",))[0])
        of_peer = self._of_peer.get(peer)
        if of_peer is None:
            of_peer = asyncio.Semaphore(AT_ONCE_OF_A_NEAR_PEER if self._is_near(peer) else AT_ONCE_OF_A_PEER)
            self._of_peer[peer] = of_peer
        self._waiting[peer] += 1
        held: list[asyncio.Semaphore] = []

        def release() -> None:
            while held:
                held.pop().release()

        async def begun(message: Message) -> None:
            release()
            await send(message)

        try:
            for one in (of_peer, self._all):
                await one.acquire()
                held.append(one)
            await self._app(scope, receive, begun)
        finally:
            release()
            self._waiting[peer] -= 1
            if not self._waiting[peer]:
                del self._waiting[peer], self._of_peer[peer]
