"""This process as one of the nodes that share a ledger: it renews its lease, and takes over when it may.

The lease is renewed in a thread of its own, so that a busy event loop does not lose it. A loop that stands still
probes nothing, so the thread renews nothing for it: another node then takes over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

from mailwatch.metrics.node_families import NodeRecord
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.errors import DatabaseAwayError, EvictedError, StoreError
from mailwatch.store.lease import RENEW_SECONDS, WATCH_SECONDS, Lease, Node, Takeover
from mailwatch.store.node import join, leave
from mailwatch.store.postgres import PostgresPlace

logger = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
"""Seconds until a database that is away is asked again."""
LEAVE_SECONDS = 3.0
"""Seconds to end the lease at a stop. If the database takes none, the others wait until it is over."""
TICK_SECONDS = 0.25
STANDSTILL_SECONDS = 3.0
"""For a loop that has not ticked for so long, nothing is renewed: with the lease, others probe after 10 s."""


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
        self._renewed = float("-inf")
        self._registered = True
        self._ticked = time.monotonic()
        self._stopping, self._left = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        """The loop that `running` was entered in."""

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

        If the thread fails (our bug), call `give_up`.
        """
        self._loop = asyncio.get_running_loop()
        ticking = asyncio.create_task(self._tick())
        threading.Thread(target=self._run, args=(give_up,), name="lease", daemon=True).start()
        try:
            yield
        finally:
            self._stopping.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self._left.wait()
            ticking.cancel()

    async def take(self) -> Takeover:
        """Wait until this node has taken over."""
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

    async def _tick(self) -> None:
        """Show that the loop turns."""
        while True:
            self._ticked = time.monotonic()
            await asyncio.sleep(TICK_SECONDS)

    def _run(self, give_up: Callable[[], None]) -> None:
        """Search until this node stops; then leave. In the one thread that uses the lease."""
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                if began - self._ticked < STANDSTILL_SECONDS and not self._search_once(began):
                    continue
                self._stopping.wait(max(0.0, WATCH_SECONDS - (time.monotonic() - began)))
        except Exception:
            logger.exception("the lease is not renewed any more; MailWatch stops")
            self._in_loop(give_up)
        with contextlib.suppress(StoreError):
            leave(self.place)
        self._in_loop(self._left.set)

    def _search_once(self, began: float) -> bool:
        """Search, and tell the loop what was found; return False if the lease was ended by others."""
        try:
            found = self._search()
        except EvictedError as error:
            self.evictions += 1
            logger.warning("nodes: %s", error)
            self._registered = False
            self._in_loop(self.ended.set)
            return False
        except StoreError as error:
            if self.problem != error.public_reason:
                logger.error("nodes: %s", error)
            self.problem = error.public_reason
        else:
            self.problem, self.round_trip = "", time.monotonic() - began
            if found is not None:
                self._in_loop(self._give, found)
        self._in_loop(self._searched.set)
        return True

    def _give(self, found: Takeover) -> None:
        """Have the waiting term begin."""
        # What ended before it was no term, or an earlier one.
        self.ended.clear()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(found)

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
        wanted = self._taken
        taken = self.lease.take() if wanted is not None and not wanted.done() else None
        self.nodes = self.lease.nodes()
        return taken

    def _in_loop(self, work: Callable[..., None], *args: object) -> None:
        """Call something in the loop, soon; not once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *args)
