"""How many requests are worked on at once, so that a crowd of them takes no time from the probes.

All work of one moment is done before the event loop gets to a probe. What is above the bound waits in its
connection, and no peer's requests wait for more than a few of each other peer.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mailwatch.web.connections import LANE
from mailwatch.web.tries import peer_key

AT_ONCE = 16
AT_ONCE_OF_A_PEER = 4
AT_ONCE_OF_A_NEAR_PEER = 8


class Turns:
    """Lets a few requests at once into `app`; health and metrics always. An answer that has begun is no work."""

    def __init__(self, app: ASGIApp, is_near: Callable[[str], bool]) -> None:
        self._app, self._is_near = app, is_near
        self._all = asyncio.Semaphore(AT_ONCE)
        self._of_peer: dict[str, asyncio.Semaphore] = {}
        self._waiting: dict[str, int] = defaultdict(int)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["path"] in LANE:
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
