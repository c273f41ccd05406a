"""When to probe: a steady interval for each target, and sooner probes on request.

APScheduler keeps the intervals. Late runs are run and never dropped (its default drops runs that are a second
late); missed runs lengthen the time between two probes, which the pipeline records as a gap.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job
from apscheduler.jobstores.base import JobLookupError
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from mailwatch.settings import Target
from mailwatch.times import EPOCH, Millis

ProbeStarter = Callable[[Target, Millis], Coroutine[Any, Any, None]]
"""Probes a target once; its argument is the time at which the probe was due."""

logger = logging.getLogger(__name__)
# At 10,000 targets a minute, one line per run would drown MailWatch's own log.
logging.getLogger("apscheduler").setLevel(logging.ERROR)


class FixedPhaseTrigger(BaseTrigger):  # type: ignore[misc]
    """Fires at `offset + k * interval` seconds of Unix time.

    The offset comes from the target's name: targets spread over the interval, and keep their phase over a restart.
    Computed in whole microseconds: a time that rounding puts at `now` again would fire for ever.
    """

    def __init__(self, name: str, interval: float) -> None:
        self.interval = round(interval * 1_000_000)
        digest = hashlib.sha256(name.encode()).digest()
        self.offset = int.from_bytes(digest[:8]) * self.interval >> 64

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """Return the first due time after `now`."""
        since = (now - EPOCH) // timedelta(microseconds=1)
        intervals = (since - self.offset) // self.interval + 1
        return EPOCH + timedelta(microseconds=self.offset + intervals * self.interval)


class _ProbeExecutor(BaseExecutor):  # type: ignore[misc]
    """Starts a probe as a task of the running loop, and passes its due time on.

    APScheduler's own asyncio executor does not pass the due time on. `max_instances` prevents a second probe of a
    target that is still being probed.
    """

    def __init__(self, start_probe: ProbeStarter) -> None:
        super().__init__()
        self._start_probe = start_probe
        self.tasks: set[asyncio.Task[None]] = set()

    @staticmethod
    def placeholder(target: Target) -> None:
        """The job's function for APScheduler, never called; `_do_submit_job` starts the probe."""

    def _do_submit_job(self, job: Job, run_times: list[datetime]) -> None:
        scheduled_at = (run_times[-1] - EPOCH) // timedelta(
            milliseconds=1
        )  # rounded down like now(): never after the probe
        task = asyncio.ensure_future(self._start_probe(job.args[0], scheduled_at))
        self.tasks.add(task)
        task.add_done_callback(lambda done: self._ended(job.id, done))

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        self._run_job_success(name, [])
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("probe of %s failed: internal error", name, exc_info=error)


class _Scheduler(AsyncIOScheduler):  # type: ignore[misc]
    def _start_timer(self, wait_seconds: float | None) -> None:
        # The loop's timers count whole milliseconds: without this extra one, the loop would wake just before the
        # due time.
        super()._start_timer(None if wait_seconds is None else wait_seconds + 0.001)


class Schedule:
    """The triggers of all targets. `start_probe` is awaited once an interval, never twice at once for a target."""

    def __init__(self, start_probe: ProbeStarter) -> None:
        self._triggers: dict[str, FixedPhaseTrigger] = {}
        self._executor = _ProbeExecutor(start_probe)
        self._scheduler = _Scheduler(
            timezone=UTC,
            executors={"default": self._executor},
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    @property
    def running(self) -> bool:
        """Whether the scheduler starts probes."""
        return bool(self._scheduler.running)

    def start(self) -> None:
        """Start the scheduler; needs a running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """Start no further probes; probes under way continue."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for the probes under way, then cancel the rest."""
        if self._executor.tasks:
            _, late = await asyncio.wait(self._executor.tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def add(self, target: Target) -> None:
        """Probe `target` from its next due time on; it replaces a target of the same name."""
        trigger = self._triggers[target.name] = FixedPhaseTrigger(target.name, target.interval)
        self._scheduler.add_job(
            _ProbeExecutor.placeholder,
            trigger,
            args=(target,),
            id=target.name,
            replace_existing=True,
            next_run_time=trigger.get_next_fire_time(None, datetime.now(UTC)),
        )

    def remove(self, name: str) -> None:
        """Stop probing the target of that name; nothing if it is not probed."""
        if self._triggers.pop(name, None) is not None:
            self._scheduler.remove_job(name)

    def advance_to(self, name: str, seconds: float) -> None:
        """Probe again in `seconds`, unless the next due time is earlier; later due times do not change."""
        job: Job = self._scheduler.get_job(name)
        if job is None:  # removed by a reload while the probe was under way
            return
        wanted = datetime.now(UTC) + timedelta(seconds=seconds)
        if job.next_run_time is not None and wanted < job.next_run_time:
            job.modify(next_run_time=wanted)

    def skip(self, name: str, seconds: float) -> None:
        """Skip the due times of the next `seconds`, except the last: probes keep their phase."""
        job: Job = self._scheduler.get_job(name)
        if job is None:
            return
        trigger = self._triggers[name]
        after = datetime.now(UTC) + timedelta(seconds=seconds) - timedelta(microseconds=trigger.interval)
        job.modify(next_run_time=trigger.get_next_fire_time(None, after))

    def realign(self) -> None:
        """Recompute the due times after a step of the wall clock, which would delay or hasten the probes."""
        now = datetime.now(UTC)
        for name, trigger in self._triggers.items():
            try:
                self._scheduler.modify_job(name, next_run_time=trigger.get_next_fire_time(None, now))
            except JobLookupError:
                continue
