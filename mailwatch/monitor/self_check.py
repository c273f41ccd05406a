"""Checks MailWatch itself: is the loop on time, does each probe end, is each target probed, is the disk fast?

It reads a few counters once a second. A check that fails for a while is a problem: /metrics shows it, a serious
one makes /readyz answer 503 with the reason, and its begin and end are notified as events of type `monitor`. While
a target is not probed, a gap is recorded. A suspend is no problem: the clock used here stops during it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field

from mailwatch.fleet.dispatcher import WAY_SECONDS
from mailwatch.model import EventType, HealthArea, Notification
from mailwatch.monitor import resources
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.resources import Usage
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import max_probe_seconds
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
OVERDUE_INTERVALS = 3.0
"""Intervals without a probe after which a target is overdue."""
SWEEP_TICKS = 10
"""Ticks in which all targets are checked once."""
RESOURCES_SECONDS = 5.0
MAX_LAG_SECONDS = 1.0
MAX_STORE_WAIT_SECONDS = 10.0
COMMIT_SECONDS = 60.0
"""Seconds that attributing and recording an observation may take while the disk takes entries."""
GRACE_SECONDS = 5.0
"""Seconds by which a probe may exceed its deadline."""
WARNING_SHARE, SERIOUS_SHARE = 0.8, 0.95
"""Used shares of a limit."""
MAX_THREADS = 1000
"""The limit where the system sets none: no more than a few hundred are ever needed at once."""
BEGIN_SECONDS, END_SECONDS = 15.0, 30.0
"""Seconds for which a check must fail before its problem begins, and pass before its problem ends."""
CONFIRMING_TICKS = 3
"""Consecutive ticks needed besides: one tick after a standstill is no evidence."""
MAX_NAMES = 3
"""The number of overdue targets that are named."""


@dataclass(frozen=True, slots=True)
class HealthFinding:
    """The current result of one check. `reason` is a sentence without target names: it is public."""

    area: HealthArea
    is_wrong: bool
    is_serious: bool
    reason: str
    facts: Mapping[str, object] = field(default_factory=dict)


@dataclass(slots=True)
class HealthProblem:
    """Tracks one area over time. A disturbance of a few seconds is no problem."""

    finding: HealthFinding
    begun: Millis | None = None
    """When the problem began; None while there is none."""
    turned: float | None = None
    """Since when (time.monotonic()) the findings contradict `begun`; None while they agree."""
    ticks: int = 0

    def update(self, finding: HealthFinding, at: float) -> Notification | None:
        """Process a finding; return the notification that the problem has begun or ended, if it has."""
        if finding.is_wrong or self.begun is None:
            self.finding = finding
        if finding.is_wrong is (self.begun is not None):
            self.turned, self.ticks = None, 0
            return None
        if self.turned is None:
            self.turned = at
        self.ticks += 1
        lasts = BEGIN_SECONDS if self.begun is None else END_SECONDS
        if at - self.turned < lasts or self.ticks < CONFIRMING_TICKS:
            return None
        self.turned, self.ticks = None, 0
        return self._begin() if self.begun is None else self._end(self.begun)

    def reason(self, at: float) -> str:
        """Return what is wrong at `at` (time.monotonic()), or was until a moment ago."""
        if self.begun is None or self.turned is None:
            return self.finding.reason
        recovering = f"it has been normal again for {at - self.turned:.0f} s; ready after {END_SECONDS:g} s"
        return f"{self.finding.reason}; {recovering}"

    def _begin(self) -> Notification:
        self.begun = now()
        sign = self.finding.area
        facts = {"sign": sign.value, **self.finding.facts}
        return Notification(
            key=f"monitor:{sign}:{self.begun}", event_type=EventType.MONITOR, time=self.begun, facts=facts
        )

    def _end(self, begun: Millis) -> Notification:
        self.begun = None
        sign = self.finding.area
        facts = {"sign": sign.value, "over": True, "first_wrong": begun}
        return Notification(
            key=f"monitor:{sign}:{begun}:over", event_type=EventType.MONITOR, time=now(), facts=facts
        )


class SelfCheck:
    """Runs the checks. `notify` sends a notification to people; the ticks do not wait for it."""

    def __init__(self, monitor: Pipeline, notify: Callable[[Notification], Awaitable[None]]) -> None:
        self._monitor, self._notify = monitor, notify
        self._began = time.monotonic()
        self._problems: dict[HealthArea, HealthProblem] = {}
        self._overdue: dict[str, float] = {}
        """The overdue targets, and when (time.monotonic()) to record the gap of each."""
        self._stalled: set[str] = set()
        """The targets whose probe, or its attribution, does not end."""
        self._rest: Iterator[TargetRuntime] = iter(())
        self._resources_at = float("-inf")
        self._used: dict[HealthArea, HealthFinding] = {}
        self._on_time = 0
        self._work: set[asyncio.Task[None]] = set()

    def reasons(self) -> list[str]:
        """Return the serious problems: why MailWatch is not ready."""
        at = time.monotonic()
        found = self._problems.values()
        return [each.reason(at) for each in found if each.begun is not None and each.finding.is_serious]

    async def run(self) -> None:
        """Check once a second until cancelled."""
        self._began = next_tick = time.monotonic()
        try:
            while True:
                next_tick = time.monotonic() + TICK_SECONDS
                await asyncio.sleep(TICK_SECONDS)
                at = time.monotonic()
                try:
                    self._act(at, max(0.0, at - next_tick))
                except Exception:
                    # A bug in the checks must not stop what they check.
                    self._monitor.metrics.internal_error()
                    logger.exception("self-check: one round failed: internal error")
        finally:
            for task in self._work:
                task.cancel()

    def _act(self, at: float, lag: float) -> None:
        for notification in self.tick(at, lag):
            self._in_background(self._notify(notification))
        if late := self._gaps_to_record(at):
            self._in_background(self._record_gaps(late))

    def tick(self, at: float, lag: float) -> list[Notification]:
        """Run all checks at `at` (time.monotonic()), the loop being `lag` seconds late; return notifications."""
        self._on_time = self._on_time + 1 if lag < MAX_LAG_SECONDS else 0
        itself = self._monitor.metrics.self_check
        itself.lag.observe(lag)
        notifications = []
        self._sweep(at)
        for finding in (self._loop(lag), self._probes(), self._targets(), self._store(), *self._resources(at)):
            problem = self._problems.setdefault(finding.area, HealthProblem(finding))
            if (turn := problem.update(finding, at)) is not None:
                over = "ended" if problem.begun is None else f"since {BEGIN_SECONDS:g} s"
                logger.warning("self-check: %s: %s (%s)", finding.area, problem.finding.reason, over)
                notifications.append(turn)
            itself.problems[finding.area.value] = problem.begun is not None
        return notifications

    def _loop(self, lag: float) -> HealthFinding:
        reason = f"the event loop is {lag:.1f} s late; the machine is overloaded, or something blocks the loop"
        return HealthFinding(HealthArea.LOOP, lag >= MAX_LAG_SECONDS, True, reason, {"seconds": round(lag)})

    def _sweep(self, at: float) -> None:
        """Check the next part of the targets, and all targets that were overdue or stalled."""
        runtimes = self._monitor.targets
        size = len(runtimes) // SWEEP_TICKS + 1
        part = [runtime.target.name for runtime in itertools.islice(self._rest, size)]
        if len(part) < size:
            # A copy, since reloads add and remove targets.
            self._rest = iter(list(runtimes.values()))
        waits = self._monitor.recorder.wait_seconds() > MAX_STORE_WAIT_SECONDS
        for name in {*part, *self._stalled}:
            runtime = runtimes.get(name)
            if runtime is not None and _is_stalled(runtime, at, waits):
                self._stalled.add(name)
            else:
                self._stalled.discard(name)
        for name in {*part, *self._overdue}:
            if self._is_overdue(name, at):
                self._overdue.setdefault(name, at)
            else:
                self._overdue.pop(name, None)

    def _probes(self) -> HealthFinding:
        count = len(self._monitor.runner.abandoned) + len(self._stalled)
        self._monitor.metrics.self_check.stalled = count
        reason = f"{count} probe(s) still run although all their timeouts have passed"
        return HealthFinding(HealthArea.PROBES, count > 0, True, reason, {"count": count})

    def _targets(self) -> HealthFinding:
        count, size = len(self._overdue), len(self._monitor.targets)
        self._monitor.metrics.self_check.overdue = count
        reason = f"{count} of {size} targets were not probed for three intervals"
        names = list(itertools.islice(self._overdue, MAX_NAMES))
        return HealthFinding(
            HealthArea.TARGETS, count > 0, True, reason, {"count": count, "all": size, "targets": names}
        )

    def _is_overdue(self, name: str, at: float) -> bool:
        runtime = self._monitor.targets.get(name)
        if runtime is None or runtime.target.paused or runtime.probing_since is not None or runtime.unrecorded:
            # A probe that is under way for too long counts as stalled instead.
            return False
        spooler = self._monitor.spooler
        waiting = 0.0 if spooler is None else spooler.probed_at(name)
        since = max(runtime.observed_at or 0.0, runtime.watched_since, self._began, waiting)
        return at - since > OVERDUE_INTERVALS * self._monitor.max_probe_interval(runtime) + GRACE_SECONDS

    def _store(self) -> HealthFinding:
        waits = self._monitor.recorder.wait_seconds()
        self._monitor.metrics.self_check.store_wait = waits
        if self._monitor.spooler is not None and self._monitor.spooler.is_active:
            # The spool says what waits, and whether it has no more room.
            waits = 0.0
        reason = f"an entry has waited for the disk for {waits:.0f} s"
        return HealthFinding(
            HealthArea.STORE, waits > MAX_STORE_WAIT_SECONDS, True, reason, {"seconds": round(waits)}
        )

    def _resources(self, at: float) -> list[HealthFinding]:
        if at - self._resources_at >= RESOURCES_SECONDS:
            self._resources_at = at
            self._used = {finding.area: finding for finding in self._read_resources()}
        return list(self._used.values())

    def _read_resources(self) -> Iterator[HealthFinding]:
        itself = self._monitor.metrics.self_check
        if (files := resources.open_files()) is not None:
            itself.files = files.used, files.limit
            yield _limit_finding(HealthArea.FILES, files, "file handles")
        threads = resources.threads()
        itself.threads = threads.used, threads.limit
        yield _limit_finding(HealthArea.THREADS, Usage(threads.used, threads.limit or MAX_THREADS), "threads")
        if memory := resources.memory():
            itself.memory = {of: (usage.used, usage.limit) for of, usage in memory.items()}
            most = max(memory.values(), key=lambda usage: usage.share)
            megabytes = Usage(most.used >> 20, None if most.limit is None else most.limit >> 20)
            yield _limit_finding(HealthArea.MEMORY, megabytes, "MB of memory")

    def _gaps_to_record(self, at: float) -> list[TargetRuntime]:
        """Return the overdue targets whose gap must be recorded now.

        None just after a standstill of ours, when the probes are about to start, nor on a disk that takes nothing.
        """
        if (
            self._on_time < CONFIRMING_TICKS
            or self._monitor.recorder.wait_seconds() > MAX_STORE_WAIT_SECONDS
            or not self._monitor.writer.healthy
        ):
            return []
        due_names = [name for name, when in self._overdue.items() if when <= at]
        for name in due_names:
            runtime = self._monitor.targets[name]
            # Wait as long again as it is overdue by now: a target that stays so does not fill the ledger.
            self._overdue[name] = at + (at - max(runtime.observed_at or 0.0, runtime.watched_since, self._began))
        return [self._monitor.targets[name] for name in due_names]

    async def _record_gaps(self, late: list[TargetRuntime]) -> None:
        await asyncio.gather(*(self._monitor.record_overdue(runtime) for runtime in late))

    def _in_background(self, work: Awaitable[None]) -> None:
        """Run work that may hang, without delaying the ticks."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._monitor.metrics.internal_error()
            logger.error("self-check: its finding could not be reported: internal error", exc_info=error)


def _is_stalled(runtime: TargetRuntime, at: float, store_waits: bool) -> bool:
    if runtime.probing_since is not None:
        longest = max_probe_seconds(runtime.target) + (WAY_SECONDS if runtime.is_elsewhere else 0.0)
        return at - runtime.probing_since > longest + GRACE_SECONDS
    return runtime.unrecorded and not store_waits and at - runtime.probe_ended > COMMIT_SECONDS


def _limit_finding(area: HealthArea, usage: Usage, what: str) -> HealthFinding:
    reason = f"{usage.used} of {usage.limit} {what} are in use"
    facts = {"used": usage.used, "limit": usage.limit or 0}
    return HealthFinding(area, usage.share >= WARNING_SHARE, usage.share >= SERIOUS_SHARE, reason, facts)
