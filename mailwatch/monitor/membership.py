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
from collections.abc import AsyncIterator, Callable, Mapping

from mailwatch.config import Config
from mailwatch.config.compared import compared_parts
from mailwatch.fleet.dispatcher import FleetRecord
from mailwatch.metrics.node_families import NodeRecord
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store.errors import DatabaseAwayError, EvictedError, StoreError
from mailwatch.store.lease import ANSWER_SECONDS, RENEW_SECONDS, Lease, Node, Takeover
from mailwatch.store.node import join, leave
from mailwatch.store.postgres import PostgresPlace

logger = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
"""Seconds until a database that is away is asked again."""
JOIN_SECONDS = ANSWER_SECONDS
"""Seconds without any progress after which a start gives up a database, the second time over."""
LOG_SECONDS, MAX_LOG_SECONDS = 60.0, 3600.0
"""Seconds until the log repeats that a start waits for the database, doubled each time up to the maximum."""
LEAVE_SECONDS = 3.0
"""Seconds to end the lease at a stop. If the database takes none, the others wait until it is over."""
TICK_SECONDS = 0.25
LAPSE_SECONDS = 0.05
"""Seconds after the end of another node's lease at which it is asked for, if it was not renewed."""
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
        self.current_config: Callable[[], Config] | None = None
        """Returns the config in force, which the others compare with theirs. For any thread."""
        self._compared: Config | None = None
        self.fleet: Callable[[], FleetRecord] | None = None
        """Returns the numbers of the probes that other nodes make, while this one is active. For any thread."""
        self.evictions = 0
        """How often others ended this node's lease."""
        self.round_trip: float | None = None
        """Seconds of the latest search in the database."""
        self.ended = asyncio.Event()
        """Set when the term under way was ended by others."""
        self._said: dict[str, str] = {}
        """What the log says of each node's config, and of why this one would not take over."""
        self._asked: float | None = None
        """Since when the database is asked, on time.monotonic(); None while it is not."""
        self._searched = asyncio.Event()
        self._taken: asyncio.Future[Takeover] | None = None
        self._registered = True
        self._ticked = time.monotonic()
        self._stopping, self._left = threading.Event(), asyncio.Event()
        self._loop: asyncio.AbstractEventLoop
        """The loop that `running` was entered in."""

    @classmethod
    async def join(
        cls, place: PostgresPlace, progress: StartupProgress, config: Mapping[str, str] | None = None
    ) -> Membership:
        """Register this node, as soon as the database answers. Raises StoreError, OSError.

        `config`: digests of the parts of its config, by name.
        """
        waiting = WaitingLog()
        while True:
            try:
                return cls(place, await _joined(place, progress, config))
            except DatabaseAwayError as error:
                waiting.say(str(error))
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
            shares=next((node.probe_shares for node in nodes if node.id == lease.node), 0),
            minute=lease.probing.get("minute", 0),
            **({} if self.fleet is None else self.fleet().as_numbers()),
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

    def config_notes(self) -> list[str]:
        """Return which other nodes have another config than this one, and where it differs. For any thread."""
        nodes = self.nodes
        own = next((node for node in nodes if node.id == self.lease.node), None)
        others = [node for node in nodes if node.lives and node is not own]
        return [
            f"the config of node {other.name} ({other.id[:4]}) differs from this node's: {', '.join(parts)}"
            for other in others
            if own is not None and (parts := own.differs_in(other))
        ]

    async def _tick(self) -> None:
        """Show that the loop turns, and give up a database that does not answer."""
        while True:
            self._ticked = time.monotonic()
            if self._asked is not None and self._ticked - self._asked > ANSWER_SECONDS:
                self._asked = self._ticked
                # The pages of a node that stands by would hang as well; the active one's writer sees to its own.
                await asyncio.to_thread(self.lease.cut if self.is_active else self.place.cut)
            await asyncio.sleep(TICK_SECONDS)

    def _run(self, give_up: Callable[[], None]) -> None:
        """Search until this node stops; then leave. In the one thread that uses the lease."""
        try:
            while not self._stopping.is_set():
                began = time.monotonic()
                if began - self._ticked < STANDSTILL_SECONDS and not self._search_once(began):
                    continue
                self._stopping.wait(self._pause(began))
        except Exception:
            logger.exception("the lease is not renewed any more; MailWatch stops")
            self._in_loop(give_up)
        with contextlib.suppress(StoreError):
            leave(self.place)
        self._in_loop(self._left.set)

    def _pause(self, began: float) -> float:
        """Return the seconds until the next search: at the end of another node's lease, if that comes first."""
        others = [node.left for node in self.nodes if node.left > 0 and node.id != self.lease.node]
        soon = RENEW_SECONDS if self.problem else min(others, default=RENEW_SECONDS) + LAPSE_SECONDS
        return max(0.0, min(RENEW_SECONDS - (time.monotonic() - began), soon))

    def _search_once(self, began: float) -> bool:
        """Search, and tell the loop what was found; return False if the lease was ended by others."""
        try:
            self._asked = began
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
            self._say_what_differs()
            if found is not None:
                self._in_loop(self._give, found)
        finally:
            self._asked = None
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
            self._registered = True
        if self.current_config is not None and (config := self.current_config()) is not self._compared:
            self.lease.config, self._compared = compared_parts(config), config
        nodes = self.lease.renew()
        gone = self.lease.evict() if any(node.is_over for node in nodes if node.id != self.lease.node) else []
        wanted = self._taken
        taken = self.lease.take() if wanted is not None and not wanted.done() else None
        self.nodes = self.lease.nodes() if gone or taken else nodes
        return taken

    def _say_what_differs(self) -> None:
        """Log once what keeps this node from taking over, and whose config differs from its own."""
        refusal = "" if self.is_active else self.lease.refusal()
        now = {note: note for note in self.config_notes()}
        if refusal:
            # The numbers in it change all the time.
            now[" ".join(refusal.split()[:2])] = f"this node does not take over: {refusal}"
        for key, words in now.items():
            if key not in self._said:
                logger.warning("nodes: %s", words)
        self._said = now

    def _in_loop(self, work: Callable[..., None], *args: object) -> None:
        """Call something in the loop, soon; not once the loop is closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(work, *args)


async def _joined(place: PostgresPlace, progress: StartupProgress, config: Mapping[str, str] | None) -> Lease:
    """Register this node; break the connections of a database that accepts them, and then answers nothing.

    Raises DatabaseAwayError then, StoreError, OSError.
    """
    joining = asyncio.create_task(asyncio.to_thread(join, place, progress, config))
    before = None
    try:
        while not (await asyncio.wait({joining}, timeout=JOIN_SECONDS))[0]:
            # To update the tables of a long ledger takes what it takes.
            if progress.current == before and progress.step is not StartupStep.MIGRATING:
                await asyncio.to_thread(place.cut)
            before = progress.current
    finally:
        joining.cancel()
    return joining.result()


class WaitingLog:
    """Logs that a start waits for the database: at once, and again at growing intervals."""

    def __init__(self) -> None:
        self._next = float("-inf")
        self._seconds = LOG_SECONDS

    def say(self, what: str) -> None:
        """Log what it waits for, if it is time."""
        now = time.monotonic()
        if now >= self._next:
            logger.error("ledger: %s; the start waits for it", what)
            self._next = now + self._seconds
            self._seconds = min(2 * self._seconds, MAX_LOG_SECONDS)
