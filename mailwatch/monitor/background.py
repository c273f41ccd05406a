"""The loops that run beside the probes, each until it is cancelled: clock, guard, checkpoints, availability."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial

from mailwatch import monotonic
from mailwatch.guard.clock import survey
from mailwatch.guard.expiry import add_survey
from mailwatch.guard.guard_log import GuardLog
from mailwatch.ledger.entry import target_id
from mailwatch.monitor.enrolment import renew_records
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.store import Reader, StoreError
from mailwatch.store.availability_history import History, Subject, history_to_keep, read_history
from mailwatch.store.errors import first_of
from mailwatch.store.kept_states import KeptState
from mailwatch.times import HOUR_MS, Millis, now

logger = logging.getLogger(__name__)

CLOCK_SECONDS = 1.0
GUARD_SECONDS = 15.0
GUARD_OFFLINE_SECONDS = 5.0
LEDGER_SECONDS = 15.0
BACKFILL_SECONDS = 5.0
KEEP_HISTORY_MS: Millis = HOUR_MS
"""Milliseconds after which the last 90 days of a target are kept again; a start reads what came after."""
HISTORIES_AT_ONCE = 25
"""Targets whose days are kept in one commit."""
READING_TASK = "reading the record"
AVAILABILITY_SECONDS = 60.0
MAINTENANCE_SECONDS = 5.0
RENEW_SECONDS = 60.0
SURVEY_SECONDS = 3600.0
"""Seconds between two clock surveys."""
CHECKPOINT_MS: Millis = 600_000
QUARTER_MS = 90 * 24 * HOUR_MS
AVAILABILITY_WINDOWS = {"24h": 24 * HOUR_MS, "7d": 7 * 24 * HOUR_MS, "30d": 30 * 24 * HOUR_MS, "90d": QUARTER_MS}

ONLINE_TEXTS = {
    True: "we are online again",
    False: "we are offline",
    None: "whether we are online is unknown",
}


class BackgroundTasks:
    """Runs the background loops. `time_servers` are (host, port) pairs; `others` are loops of other modules."""

    def __init__(
        self,
        monitor: Pipeline,
        reader: Reader,
        time_servers: Sequence[tuple[str, int]],
        *others: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        self._monitor = monitor
        self._reader = reader
        self._time_servers = tuple(time_servers)
        self._others = others
        self._logged: set[tuple[str, str]] = set()
        """(target, task) of each failure: each is logged once."""
        self._history_kept: dict[str, Millis] = {}
        """When the last 90 days of each target were kept, on the steady clock."""

    def set_time_servers(self, time_servers: Sequence[tuple[str, int]]) -> None:
        """Replace the time servers; if they differ from the current ones, ask them at once."""
        if tuple(time_servers) != self._time_servers:
            self._time_servers = tuple(time_servers)
            self._monitor.attribution.clock_check_wanted.set()

    @contextlib.asynccontextmanager
    async def running(
        self, give_up: Callable[[], None], *others: Callable[[], Coroutine[None, None, None]]
    ) -> AsyncIterator[None]:
        """Run the background tasks, and `others`, while the context lasts. If a loop fails (our bug), call
        `give_up`.
        """
        work = (
            self.clock,
            self.survey,
            self.guard,
            self.ledger,
            self.backfill,
            self.keep_histories,
            self.availability,
            self.maintenance,
            self.renew_target_records,
        )
        async with self._run(give_up, *work, *self._others, *others):
            yield

    @contextlib.asynccontextmanager
    async def reading(
        self, give_up: Callable[[], None], *others: Callable[[], Coroutine[None, None, None]]
    ) -> AsyncIterator[None]:
        """Run only the tasks that read the record, and `others`, while the context lasts."""
        async with self._run(give_up, self.backfill, self.availability, self.maintenance, *others):
            yield

    @contextlib.asynccontextmanager
    async def _run(
        self, give_up: Callable[[], None], *work: Callable[[], Coroutine[None, None, None]]
    ) -> AsyncIterator[None]:
        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and task.exception() is not None:
                logger.error("a background task ended; MailWatch stops", exc_info=task.exception())
                self._monitor.metrics.internal_error()
                give_up()

        tasks = [asyncio.create_task(self._keep_running(loop)) for loop in work]
        for task in tasks:
            task.add_done_callback(ended)
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep_running(self, loop: Callable[[], Coroutine[None, None, None]]) -> None:
        """Restart a loop that raised StoreError: neither a damaged page nor a failing disk may end the probing."""
        logged = ""
        while True:
            try:
                return await loop()
            except* StoreError as group:
                # A bare StoreError, or one in a loop's TaskGroup; the group's other errors propagate.
                error = first_of(group)
                if error.public_reason != logged:
                    logged = error.public_reason
                    logger.error("housekeeping: %s", error)
            await asyncio.sleep(LEDGER_SECONDS)

    async def clock(self) -> None:
        """Detect suspends and steps within a second of their end."""
        while True:
            await self._monitor.check_clock()
            await asyncio.sleep(CLOCK_SECONDS)

    async def survey(self) -> None:
        """Measure how far the clock may be off: at the start, each hour, and when the clock was set."""
        attribution = self._monitor.attribution
        while True:
            attribution.clock_check_wanted.clear()
            offset = monotonic.offset()
            asked = await survey(self._time_servers)
            await self._monitor.check_clock()
            if attribution.clock_check_wanted.is_set():
                # The clock was set while the servers were asked.
                continue
            attribution.clock_bound.set(asked.error_bound_us, offset)
            add_survey(attribution.expiry.evidence, asked, monotonic.offset())
            self._monitor.metrics.clock(asked.error_bound_seconds())
            if asked.degraded:
                logger.warning("clock: not verified, so recorded times may be wrong; is NTP running?")
            await self._monitor.recorder.append("clock", asked.at, None, asked.as_json())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SURVEY_SECONDS):
                    await attribution.clock_check_wanted.wait()

    async def guard(self) -> None:
        """Check the line regularly, and when a failure is attributed to it, to record offline periods."""
        monitor, attribution, changes = self._monitor, self._monitor.attribution, GuardLog()
        logged: bool | None = True
        while True:
            attribution.line_check_wanted.clear()
            if attribution.guard is None:
                # No guard is configured; a reload may add one.
                monitor.metrics.guard(None)
                logged, attribution.offline_since = True, None
                await attribution.line_check_wanted.wait()
                continue
            offset = monotonic.offset()
            answer = await attribution.guard.check(dns=True)
            # The clock was set during the check, so the answer's times are ambiguous: wait for the next.
            stepped = abs(monotonic.offset() - offset) > monotonic.STEP_MS
            monitor.metrics.guard(answer.online, answer.online4, answer.online6)
            attribution.note_line(answer)
            if (
                not stepped
                and (payload := changes.entry(answer, attribution.clock_bound.milliseconds())) is not None
            ):
                await monitor.recorder.append("guard", answer.asked_at, None, payload)
            if answer.online is not logged:
                logger.warning("guard: %s", ONLINE_TEXTS[answer.online])
            logged = answer.online
            if not logged:
                await asyncio.sleep(GUARD_OFFLINE_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GUARD_SECONDS):
                    await attribution.line_check_wanted.wait()

    async def ledger(self) -> None:
        """Sign a checkpoint every ten minutes, also in quiet times, and update the metrics of the ledger."""
        while True:
            last = await asyncio.to_thread(self._reader.last_checkpoint)
            # Also after the clock was set back: else no checkpoint would be signed until the clock has caught up.
            if last is None or not 0 <= now() - last.time_ms < CHECKPOINT_MS:
                await self._monitor.writer.checkpoint()
                last = await asyncio.to_thread(self._reader.last_checkpoint)
            size = await asyncio.to_thread(self._reader.size)
            at = last.time_ms if last else None
            self._monitor.metrics.ledger(size=size, last_checkpoint_ms=at)
            await asyncio.sleep(LEDGER_SECONDS)

    async def backfill(self) -> None:
        """Add the last 90 days of the ledger to each target's availability, after a reload too."""
        while True:
            due = [runtime for runtime in self._monitor.targets.values() if self._needs_backfill(runtime)]
            for first in range(0, len(due), HISTORIES_AT_ONCE):
                await self._fill(due[first : first + HISTORIES_AT_ONCE])
            await asyncio.sleep(BACKFILL_SECONDS)

    def _needs_backfill(self, runtime: TargetRuntime) -> bool:
        # A target whose backfill failed by our own fault is not retried every few seconds.
        return runtime.pending_backfill is not None and (runtime.target.name, READING_TASK) not in self._logged

    def _subject(self, name: str) -> Subject:
        return Subject(name, target_id(self._monitor.secret, name), self._monitor.maintenance.announced)

    async def _fill(self, runtimes: Sequence[TargetRuntime]) -> None:
        """Add the last 90 days to the availability of targets, and keep them for the next start, in one commit."""
        states: list[KeptState] = []
        try:
            for runtime in runtimes:
                with self._isolated(runtime, READING_TASK):
                    name = runtime.target.name
                    found, state = await asyncio.to_thread(self._read_history, self._subject(name))
                    found.availability.exclude(partial(self._monitor.maintenance.windows_of, name))
                    runtime.backfilled(found.availability, found.responses, found.last)
                    self._show_availability(runtime)
                    self._history_kept[name] = monotonic.milliseconds()
                    states += [] if state is None else [state]
        finally:
            if states:
                await self._monitor.writer.keep(states)

    def _read_history(self, subject: Subject) -> tuple[History, KeptState | None]:
        found = read_history(self._reader, subject, now())
        return found, history_to_keep(subject, found)

    async def keep_histories(self) -> None:
        """Keep the last 90 days of each target each hour: of a few targets at a time."""
        while True:
            await asyncio.sleep(BACKFILL_SECONDS)
            oldest = monotonic.milliseconds() - KEEP_HISTORY_MS
            due = [name for name, kept in self._history_kept.items() if kept < oldest][:HISTORIES_AT_ONCE]
            states: list[KeptState] = []
            for name in due:
                del self._history_kept[name]
                if (runtime := self._monitor.targets.get(name)) is None:
                    continue
                with self._isolated(runtime, "keeping its availability"):
                    _, state = await asyncio.to_thread(self._read_history, self._subject(name))
                    self._history_kept[name] = monotonic.milliseconds()
                    states += [] if state is None else [state]
            if states:
                await self._monitor.writer.keep(states)

    async def maintenance(self) -> None:
        """Update the metric of which targets are in announced maintenance."""
        monitor = self._monitor
        while True:
            for runtime in list(monitor.targets.values()) if monitor.maintenance.announced.announcements else ():
                at = now()
                with self._isolated(runtime, "its maintenance"):
                    active = monitor.maintenance.includes(runtime.target.name, at)
                    monitor.metrics.maintenance(runtime.target, active)
                await asyncio.sleep(0)
            await asyncio.sleep(MAINTENANCE_SECONDS)

    async def renew_target_records(self) -> None:
        """Record the settings of each watched target once a day."""
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            await renew_records(self._monitor)

    async def availability(self) -> None:
        """Update the availability gauges, yielding to the probes between targets."""
        while True:
            for runtime in list(self._monitor.targets.values()):
                with self._isolated(runtime, "its availability"):
                    self._show_availability(runtime)
                await asyncio.sleep(0)
            await asyncio.sleep(AVAILABILITY_SECONDS)

    @contextlib.contextmanager
    def _isolated(self, runtime: TargetRuntime, what: str) -> Iterator[None]:
        """Count a failure that is our own fault, and log it once per target and task; the other targets go on."""
        try:
            yield
        except StoreError:
            raise
        except Exception:
            self._monitor.metrics.internal_error()
            if (failure := (runtime.target.name, what)) not in self._logged:
                self._logged.add(failure)
                logger.exception("%s: %s failed: internal error", *failure)

    def _show_availability(self, runtime: TargetRuntime) -> None:
        for window, length in AVAILABILITY_WINDOWS.items():
            ratio = runtime.rolling_availability.ratio(length, now())
            self._monitor.metrics.availability(runtime.target, window, ratio.lower, ratio.upper, ratio.coverage)
