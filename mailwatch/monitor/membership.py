"""This process as one of the nodes that share a ledger: it renews its lease, and takes over when it may."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mailwatch.metrics.node_families import NodeRecord
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.errors import DatabaseAwayError, EvictedError, StoreError
from mailwatch.store.lease import RENEW_SECONDS, WATCH_SECONDS, Lease, Node, Takeover
from mailwatch.store.node import join, leave
from mailwatch.store.postgres import PostgresPlace

logger = logging.getLogger(__name__)
T = TypeVar("T")
RETRY_SECONDS = 2.0
"""Seconds until a database that is away is asked again."""
LEAVE_SECONDS = 3.0
"""Seconds to end the lease at a stop. If the database takes none, the others wait until it is over."""


class Membership:
    """One node, in the event loop. `place` writes only while the lease is this node's.

    `nodes`: all nodes, as of the last answer. `problem`: why there was none, "" if there was one.
    """

    def __init__(self, place: PostgresPlace, lease: Lease) -> None:
        self.place, self.lease = place, lease
        self.nodes: list[Node] = []
        self.problem = ""
        self.evictions = 0
        """How often others ended this node's lease."""
        self.round_trip: float | None = None
        """Seconds of the latest search in the database."""
        self.ended = asyncio.Event()
        """Set when the term under way was ended by others."""
        self._searched = asyncio.Event()
        self._taken: asyncio.Future[Takeover] | None = None
        # One thread: a lease is never used by two at once. No other work delays a renewal there.
        self._thread = ThreadPoolExecutor(1, "lease")
        self._renewed = float("-inf")
        self._registered = True

    @classmethod
    async def join(cls, place: PostgresPlace, progress: StartupProgress) -> Membership:
        """Register this node, as soon as the database answers. Raises StoreError, OSError."""
        while True:
            try:
                return cls(place, await asyncio.to_thread(join, place, progress))
            except DatabaseAwayError as error:
                if progress.step != StartupStep.AWAY:
                    logger.error("ledger: %s; the start waits for it", error)
                progress.update(StartupStep.AWAY)
                await asyncio.sleep(RETRY_SECONDS)

    @contextlib.asynccontextmanager
    async def running(self, give_up: Callable[[], None]) -> AsyncIterator[None]:
        """Renew the lease while the context lasts; end it then, for others to take over at once.

        If the loop fails (our bug), call `give_up`.
        """

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                logger.error("the lease is not renewed any more; MailWatch stops", exc_info=task.exception())
                give_up()

        task = asyncio.create_task(self._run())
        task.add_done_callback(ended)
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))
            with contextlib.suppress(TimeoutError, StoreError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._in_thread(lambda: leave(self.place))
            self._thread.shutdown(wait=False)

    async def take(self) -> Takeover:
        """Wait until this node has taken over."""
        self.ended.clear()
        self._taken = asyncio.get_running_loop().create_future()
        try:
            return await self._taken
        finally:
            self._taken = None

    async def searched(self) -> None:
        """Wait for the next search for other nodes, whatever it finds."""
        self._searched.clear()
        await self._searched.wait()

    @property
    def is_active(self) -> bool:
        """Whether this node has the targets, as far as it knows."""
        return any(node.active and node.id == self.lease.node for node in self.nodes)

    def active_node(self) -> Node | None:
        """Return the node that has the targets, None if none is alive."""
        return next((node for node in self.nodes if node.active and node.lives), None)

    def may_probe(self) -> bool:
        """Return whether a probe may start now: not when another node may have taken over by the time it ends."""
        return self.lease.alone or self.lease.start_seconds_left() > 0

    def record(self) -> NodeRecord:
        """Return the numbers of this node, for the metrics. For any thread."""
        nodes, lease = self.nodes, self.lease
        return NodeRecord(
            active=self.is_active,
            lease=max(0.0, lease.start_seconds_left()),
            evictions=self.evictions,
            offset=None if lease.offset is None else lease.offset / 1000,
            bound=lease.bound / 1000,
            round_trip=self.round_trip,
            handovers=next((node.takeovers for node in nodes if node.active), None),
            states=Counter(node.state for node in nodes),
        )

    def active_problems(self) -> list[str]:
        """Return why this node, which is active, may not probe now."""
        if self.may_probe():
            return []
        return [f"this node could not renew its lease{f': {self.problem}' if self.problem else ''}"]

    def standby_problems(self) -> list[str]:
        """Return why nobody may be probing, or why this node could not take over."""
        if self.problem:
            return [self.problem]
        problems = [] if self.active_node() else ["no node is active"]
        return [*problems, *([f"this node does not take over: {why}"] if (why := self.lease.refusal()) else [])]

    async def _run(self) -> None:
        while True:
            began = time.monotonic()
            try:
                found = await self._in_thread(self._search)
            except EvictedError as error:
                self.evictions += 1
                logger.warning("nodes: %s", error)
                self.ended.set()
                self._registered = False
                continue
            except StoreError as error:
                if self.problem != error.public_reason:
                    logger.error("nodes: %s", error)
                self.problem = error.public_reason
            else:
                self.problem, self.round_trip = "", time.monotonic() - began
                if found is not None and self._taken is not None and not self._taken.done():
                    self._taken.set_result(found)
            self._searched.set()
            await asyncio.sleep(max(0.0, WATCH_SECONDS - (time.monotonic() - began)))

    def _search(self) -> Takeover | None:
        """Renew the lease when it is time, end those of others that are over, and take over if wanted."""
        if not self._registered:
            self.lease.register()
            self._registered, self._renewed = True, float("-inf")
        if time.monotonic() - self._renewed >= RENEW_SECONDS - WATCH_SECONDS / 2:
            began = time.monotonic()
            self.lease.renew()
            self._renewed = began
        self.lease.evict()
        taken = self.lease.take() if self._taken is not None and not self._taken.done() else None
        self.nodes = self.lease.nodes()
        return taken

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
