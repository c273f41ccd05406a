"""What runs beside the looks: clock, guard, checkpoints, availability. Each loop until it is cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial

from mailwatch import monotonic
from mailwatch.analysis.availability import Buckets
from mailwatch.guard.clock import survey
from mailwatch.guard.expiry import learn_survey
from mailwatch.guard.guard_log import Changes
from mailwatch.ledger.payloads import FACTS
from mailwatch.monitor.enrolment import renew
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.target_runtime import Watch
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError
from mailwatch.store.errors import first_of
from mailwatch.store.queries import guessed_interval, watched_at
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

CLOCK_EVERY = 1.0
GUARD_EVERY = 15.0
GUARD_EVERY_OFFLINE = 5.0
LEDGER_EVERY = 15.0
FILL_EVERY = 5.0
READING = "reading the record"
AVAILABILITY_EVERY = 60.0
MAINTENANCE_EVERY = 5.0
RENEW_EVERY = 60.0
SURVEY_EVERY = 3600.0
"""Seconds."""
CHECKPOINT_EVERY: Millis = 600_000
HOUR: Millis = 3_600_000
QUARTER = 90 * 24 * HOUR
WINDOWS = {"24h": 24 * HOUR, "7d": 7 * 24 * HOUR, "30d": 30 * 24 * HOUR, "90d": QUARTER}

ONLINE = {True: "we are online again", False: "we are offline", None: "it cannot be told whether we are online"}


class Housekeeping:
    """`time_servers` (host, port) are asked how far our clock is off; `others` are loops of other rooms."""

    def __init__(
        self,
        monitor: Monitor,
        reader: Reader,
        time_servers: Sequence[tuple[str, int]],
        *others: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        self._monitor = monitor
        self._reader = reader
        self._time_servers = tuple(time_servers)
        self._others = others
        self._said: set[tuple[str, str]] = set()
        """What has failed for which target; told once."""

    def ask(self, time_servers: Sequence[tuple[str, int]]) -> None:
        """Ask these time servers from now on, and if they are others than before at once."""
        if tuple(time_servers) != self._time_servers:
            self._time_servers = tuple(time_servers)
            self._monitor.judging.clock_in_doubt.set()

    @contextlib.asynccontextmanager
    async def running(self, give_up: Callable[[], None]) -> AsyncIterator[None]:
        """Keep house while the context lasts. A loop that fails is our bug: `give_up` is called."""

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                logger.error("housekeeping stopped; MailWatch stops with it", exc_info=task.exception())
                self._monitor.metrics.error()
                give_up()

        work = (
            self.clock,
            self.survey,
            self.guard,
            self.ledger,
            self.fill,
            self.availability,
            self.maintenance,
            self.renew,
        )
        tasks = [asyncio.create_task(self._kept(loop)) for loop in (*work, *self._others)]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _kept(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Begin a loop again that the store ended: neither a damaged page nor a failing disk ends the looks."""
        said = ""
        while True:
            try:
                return await loop()
            except* StoreError as group:
                # Alone, or from a TaskGroup of the loop's own; what else is in one goes on up.
                error = first_of(group)
                if error.why != said:
                    said = error.why
                    logger.error("housekeeping: %s", error)
            await asyncio.sleep(LEDGER_EVERY)

    async def clock(self) -> None:
        """Notice suspends and steps within a second of their end."""
        while True:
            await self._monitor.check_clock()
            await asyncio.sleep(CLOCK_EVERY)

    async def survey(self) -> None:
        """How far the clock may be off, at the start, each hour, and when it was set."""
        judging = self._monitor.judging
        while True:
            judging.clock_in_doubt.clear()
            asked = await survey(self._time_servers)
            await self._monitor.check_clock()
            if judging.clock_in_doubt.is_set():
                # It was set while the servers were asked.
                continue
            judging.clock_bound.learn(asked.error_bound_us)
            learn_survey(judging.expiry.evidence, asked, monotonic.offset())
            self._monitor.metrics.clock(asked.error_bound_seconds())
            if asked.degraded:
                logger.warning("clock: not known to be right; times on record may be off; is NTP running?")
            await self._monitor.write("clock", asked.at, None, asked.as_json())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SURVEY_EVERY):
                    await judging.clock_in_doubt.wait()

    async def guard(self) -> None:
        """Ask regularly, and when a look found us offline, so that being offline is itself on record."""
        monitor, judging, changes = self._monitor, self._monitor.judging, Changes()
        told: bool | None = True
        while True:
            judging.line_in_doubt.clear()
            if judging.guard is None:
                # Until a reload names somebody.
                monitor.metrics.guard(None)
                told = True
                await judging.line_in_doubt.wait()
                continue
            offset = monotonic.offset()
            answer = await judging.guard.ask(dns=True)
            # Of which clock its times are cannot be told where that was set meanwhile: the next answer counts.
            stepped = abs(monotonic.offset() - offset) > monotonic.STEP_MS
            monitor.metrics.guard(answer.online, answer.online4, answer.online6)
            if not stepped and (payload := changes.entry(answer, judging.clock_bound.milliseconds())) is not None:
                await monitor.write("guard", answer.asked_at, None, payload)
            if answer.online is not told:
                logger.warning("guard: %s", ONLINE[answer.online])
            told = answer.online
            if not told:
                await asyncio.sleep(GUARD_EVERY_OFFLINE)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GUARD_EVERY):
                    await judging.line_in_doubt.wait()

    async def ledger(self) -> None:
        """Sign a checkpoint every ten minutes, also in quiet times, and show how the ledger stands."""
        while True:
            last = await asyncio.to_thread(self._reader.last_checkpoint)
            # Also when the clock was set back: else none would be signed until it has caught up.
            if last is None or not 0 <= now() - last.time_ms < CHECKPOINT_EVERY:
                await self._monitor.writer.checkpoint()
                last = await asyncio.to_thread(self._reader.last_checkpoint)
            size = await asyncio.to_thread(self._reader.size)
            at = last.time_ms if last else None
            self._monitor.metrics.ledger(size=size, last_checkpoint_ms=at)
            await asyncio.sleep(LEDGER_EVERY)

    async def fill(self) -> None:
        """Count what the ledger has of the last 90 days towards availability; after a reload too."""
        while True:
            for watch in [watch for watch in self._monitor.watches.values() if self._is_to_fill(watch)]:
                with self._alone(watch, READING):
                    watch.filled(*await asyncio.to_thread(self._buckets, watch.target))
                    self._show_availability(watch)
            await asyncio.sleep(FILL_EVERY)

    def _is_to_fill(self, watch: Watch) -> bool:
        # What our own fault keeps us from reading is not read again every few seconds.
        return watch.unfilled is not None and (watch.target.name, READING) not in self._said

    def _buckets(self, target: Target) -> tuple[Buckets, int]:
        excluded = partial(self._monitor.excluded, target.name)
        # Where no interval is on record, it is found in the record itself; today's says nothing of the past.
        since, last = now() - QUARTER, -1
        watched = watched_at(self._reader, target.name, since)
        interval = guessed_interval(self._reader, target.name, since) / 1000
        buckets = Buckets(interval=interval, excluded=excluded, infer=watched is None)
        if watched is not None:
            buckets.add(watched.fact)
        for entry in self._reader.entries(target=target.name, kinds=FACTS, start_ms=since):
            fact, last = entry.fact, entry.index
            if fact is not None:
                buckets.add(fact)
        return buckets, last

    async def maintenance(self) -> None:
        """Show which targets are in announced maintenance."""
        monitor = self._monitor
        while True:
            for watch in list(monitor.watches.values()) if monitor.maintenance.notices else ():
                at = now()
                with self._alone(watch, "its maintenance"):
                    active = bool(monitor.excluded(watch.target.name, at, at + 1))
                    monitor.metrics.maintenance(watch.target, active)
                await asyncio.sleep(0)
            await asyncio.sleep(MAINTENANCE_EVERY)

    async def renew(self) -> None:
        """Put on record once a day how each target is watched."""
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await renew(self._monitor)

    async def availability(self) -> None:
        """Bring the gauges up to date, giving way to the looks between targets."""
        while True:
            for watch in list(self._monitor.watches.values()):
                with self._alone(watch, "its availability"):
                    self._show_availability(watch)
                await asyncio.sleep(0)
            await asyncio.sleep(AVAILABILITY_EVERY)

    @contextlib.contextmanager
    def _alone(self, watch: Watch, what: str) -> Iterator[None]:
        """What fails for one target by our own fault is counted and logged once; the others go on."""
        try:
            yield
        except StoreError:
            raise
        except Exception:
            self._monitor.metrics.error()
            if (said := (watch.target.name, what)) not in self._said:
                self._said.add(said)
                logger.exception("%s: %s failed by our own fault", *said)

    def _show_availability(self, watch: Watch) -> None:
        for window, length in WINDOWS.items():
            told = watch.buckets.ratio(length, now())
            self._monitor.metrics.availability(watch.target, window, told.lower, told.upper, told.coverage)
