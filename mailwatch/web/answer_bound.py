"""An answer that waits for a database which answers nothing is given up, with a plain sentence.

A statement that waits for a lock, or a pooler that stands still, neither answers nor fails, and a page would wait
as long. Whether it is so is asked only after a while: a long answer is no sign of it, and goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

PATIENCE_SECONDS = 8.0
"""Seconds without an answer after which the database is asked whether it answers; again after each such time."""
SHORT_PATIENCE_SECONDS = 2.0
"""The same while it is known not to answer: pages out of memory are made in time."""
ASKED_SECONDS = 4.0
"""Seconds for the database to answer."""


class AnswerBound:
    """Passes requests on. `read` reads a little of the ledger; an error of it is an answer of the database too.

    `unreadable` makes the answer in place of one that is given up. What makes that goes on, unread.
    """

    def __init__(
        self, app: ASGIApp, read: Callable[[], object], unreadable: Callable[[Request], Response]
    ) -> None:
        self._app, self._read, self._unreadable = app, read, unreadable
        self._asking: asyncio.Task[object] | None = None
        self._asked_at = 0.0
        self._given_up: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = asyncio.Event()
        is_given_up = False

        async def pass_on(message: Message) -> None:
            begun.set()
            if not is_given_up:
                await send(message)

        answering = asyncio.ensure_future(self._answer(scope, receive, pass_on))
        answering.add_done_callback(lambda _: begun.set())
        try:
            while not begun.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SHORT_PATIENCE_SECONDS if self._is_silent() else PATIENCE_SECONDS):
                        await begun.wait()
                if not begun.is_set() and not await self._answers() and not begun.is_set():
                    is_given_up = True
                    self._let_go(answering)
                    await self._unreadable(Request(scope))(scope, receive, send)
                    return
            await answering
        except asyncio.CancelledError:
            answering.cancel()
            raise

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    def _is_silent(self) -> bool:
        """Return whether the database was asked, and has not answered in time."""
        asking = self._asking
        return asking is not None and not asking.done() and time.monotonic() - self._asked_at >= ASKED_SECONDS

    async def _answers(self) -> bool:
        """Return whether the database answers; it is asked once for all who wait."""
        if self._asking is None or self._asking.done():
            self._asked_at = time.monotonic()
            self._asking = asyncio.create_task(asyncio.to_thread(self._read))
            # Its error is an answer too, and read here, or asyncio logs it.
            self._asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        left = self._asked_at + ASKED_SECONDS - time.monotonic()
        await asyncio.wait([self._asking], timeout=max(0.0, left))
        return self._asking.done()

    def _let_go(self, answering: asyncio.Task[None]) -> None:
        self._given_up.add(answering)

        def ended(done: asyncio.Task[None]) -> None:
            self._given_up.discard(done)
            if not done.cancelled():
                done.exception()

        answering.add_done_callback(ended)
