"""Watches MailWatch itself: is the loop on time, does each probe end, is each target probed, is the disk fast?

Once a second a few counters are read. What is wrong for a while is a problem: it is shown on /metrics, a serious
one makes /readyz answer 503 with its reason, and its begin and end are news of the topic `monitor`. That a target
is not probed goes on record as a gap while it is so. A suspend is no problem: the clock used here stands still in
it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mailwatch.model import News, Sign, Topic
from mailwatch.monitor import resources
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.resources import Usage
from mailwatch.monitor.target_runtime import Watch
from mailwatch.probes.attempts import longest
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

TICK = 1.0
OVERDUE = 3.0
"""Intervals without a probe, after which a target is overdue."""
SLICE = 10
"""In so many ticks all targets are gone through."""
RESOURCES_EVERY = 5.0
LAG = 1.0
STORE_WAIT = 10.0
JUDGED_WITHIN = 60.0
"""Seconds that judging an observation, and putting it on record, may take while the disk takes entries."""
GRACE = 5.0
"""Seconds by which a probe may outlast its deadline."""
WARN, SERIOUS = 0.8, 0.95
"""Shares of a limit."""
THREADS_AT_MOST = 1000
"""Where nothing limits them: no more than a few hundred are ever needed at once."""
BEGINS_AFTER, ENDS_AFTER = 15.0, 30.0
"""Seconds for which something is wrong before it is a problem, and well again before the problem is over."""
TICKS = 3
"""Of our own, for which it is so besides: after a standstill one is no evidence."""
NAMES = 3
"""Overdue targets that are named."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What one sign shows now. `reason` is a sentence without a name of a target: anybody may read it."""

    sign: Sign
    is_wrong: bool
    is_serious: bool
    reason: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Problem:
    """Follows one sign. What comes and goes within a few seconds is no problem."""

    finding: Finding
    begun: Millis | None = None
    """Since when it is a problem; None while it is none."""
    turned: float | None = None
    """Since when (time.monotonic()) the sign says otherwise than `begun`."""
    ticks: int = 0

    def update(self, finding: Finding, at: float) -> News | None:
        """Take in a finding; return the news that the problem has begun or is over."""
        if finding.is_wrong or self.begun is None:
            self.finding = finding
        if finding.is_wrong is (self.begun is not None):
            self.turned, self.ticks = None, 0
            return None
        if self.turned is None:
            self.turned = at
        self.ticks += 1
        lasts = BEGINS_AFTER if self.begun is None else ENDS_AFTER
        if at - self.turned < lasts or self.ticks < TICKS:
            return None
        self.turned, self.ticks = None, 0
        return self._begin() if self.begun is None else self._end(self.begun)

    def reason(self, at: float) -> str:
        """Say what is, or was until a moment ago, wrong at `at` on time.monotonic()."""
        if self.begun is None or self.turned is None:
            return self.finding.reason
        well = f"it is well again for {at - self.turned:.0f} s, and ready after {ENDS_AFTER:g} s of that"
        return f"{self.finding.reason}; {well}"

    def _begin(self) -> News:
        self.begun = now()
        sign = self.finding.sign
        facts = {"sign": sign.value, **self.finding.facts}
        return News(key=f"monitor:{sign}:{self.begun}", topic=Topic.MONITOR, time=self.begun, facts=facts)

    def _end(self, begun: Millis) -> News:
        self.begun = None
        sign = self.finding.sign
        facts = {"sign": sign.value, "over": True, "first_wrong": begun}
        return News(key=f"monitor:{sign}:{begun}:over", topic=Topic.MONITOR, time=now(), facts=facts)


class SelfWatch:
    """`notify` takes news to people; however long that takes, the ticks go on."""

    def __init__(self, monitor: Monitor, notify: Callable[[News], Awaitable[None]]) -> None:
        self._monitor, self._notify = monitor, notify
        self._began = time.monotonic()
        self._problems: dict[Sign, Problem] = {}
        self._overdue: dict[str, float] = {}
        """The overdue targets, and when (time.monotonic()) their gap is to be put on record."""
        self._stalled: set[str] = set()
        """The targets whose probe, or the judging of it, does not end."""
        self._rest: Iterator[Watch] = iter(())
        self._resources_at = float("-inf")
        self._used: dict[Sign, Finding] = {}
        self._on_time = 0
        self._work: set[asyncio.Task[None]] = set()

    def reasons(self) -> list[str]:
        """Say what is seriously wrong now: why MailWatch is not ready."""
        at = time.monotonic()
        found = self._problems.values()
        return [each.reason(at) for each in found if each.begun is not None and each.finding.is_serious]

    async def run(self) -> None:
        """Watch until cancelled."""
        self._began = due = time.monotonic()
        try:
            while True:
                due = time.monotonic() + TICK
                await asyncio.sleep(TICK)
                at = time.monotonic()
                try:
                    self._act(at, max(0.0, at - due))
                except Exception:
                    # A fault in here must not end what it watches.
                    self._monitor.metrics.error()
                    logger.exception("self-watch: a tick failed by our own fault")
        finally:
            for task in self._work:
                task.cancel()

    def _act(self, at: float, lag: float) -> None:
        for news in self.tick(at, lag):
            self._aside(self._notify(news))
        if late := self._to_record(at):
            self._aside(self._record(late))

    def tick(self, at: float, lag: float) -> list[News]:
        """Read all signs at `at` on time.monotonic(), the loop being `lag` seconds late; return the news."""
        self._on_time = self._on_time + 1 if lag < LAG else 0
        itself = self._monitor.metrics.itself
        itself.lag.observe(lag)
        news = []
        self._sweep(at)
        for finding in (self._loop(lag), self._probes(), self._targets(), self._store(), *self._resources(at)):
            problem = self._problems.setdefault(finding.sign, Problem(finding))
            if (turn := problem.update(finding, at)) is not None:
                over = "is over" if problem.begun is None else f"since {BEGINS_AFTER:g} s"
                logger.warning("self-watch: %s: %s (%s)", finding.sign, problem.finding.reason, over)
                news.append(turn)
            itself.problems[finding.sign.value] = problem.begun is not None
        return news

    def _loop(self, lag: float) -> Finding:
        reason = f"the event loop is {lag:.1f} s late; the machine is overloaded, or something blocks it"
        return Finding(Sign.LOOP, lag >= LAG, True, reason, {"seconds": round(lag)})

    def _sweep(self, at: float) -> None:
        """Go on through the targets, a part of them each time, and through all that something was wrong with."""
        watches = self._monitor.watches
        size = len(watches) // SLICE + 1
        part = [watch.target.name for watch in itertools.islice(self._rest, size)]
        if len(part) < size:
            # A copy: targets come and go by reloads.
            self._rest = iter(list(watches.values()))
        waits = self._monitor.store_waits() > STORE_WAIT
        for name in {*part, *self._stalled}:
            watch = watches.get(name)
            if watch is not None and _is_stalled(watch, at, waits):
                self._stalled.add(name)
            else:
                self._stalled.discard(name)
        for name in {*part, *self._overdue}:
            if self._is_overdue(name, at):
                self._overdue.setdefault(name, at)
            else:
                self._overdue.pop(name, None)

    def _probes(self) -> Finding:
        count = len(self._monitor.looking.left_behind) + len(self._stalled)
        self._monitor.metrics.itself.stalled = count
        reason = f"{count} probe(s) do not end although the time of all their timeouts is over"
        return Finding(Sign.PROBES, count > 0, True, reason, {"count": count})

    def _targets(self) -> Finding:
        count, size = len(self._overdue), len(self._monitor.watches)
        self._monitor.metrics.itself.overdue = count
        reason = f"{count} of {size} targets were not probed for three intervals"
        names = list(itertools.islice(self._overdue, NAMES))
        return Finding(Sign.TARGETS, count > 0, True, reason, {"count": count, "all": size, "targets": names})

    def _is_overdue(self, name: str, at: float) -> bool:
        watch = self._monitor.watches.get(name)
        if watch is None or watch.probing is not None or watch.pending:
            # What is under way for too long is a stalled probe.
            return False
        since = max(watch.seen_at or 0.0, watch.since, self._began)
        return at - since > OVERDUE * self._monitor.expected_within(watch) + GRACE

    def _store(self) -> Finding:
        waits = self._monitor.store_waits()
        self._monitor.metrics.itself.store_wait = waits
        reason = f"an entry has waited for the disk for {waits:.0f} s"
        return Finding(Sign.STORE, waits > STORE_WAIT, True, reason, {"seconds": round(waits)})

    def _resources(self, at: float) -> list[Finding]:
        if at - self._resources_at >= RESOURCES_EVERY:
            self._resources_at = at
            self._used = {finding.sign: finding for finding in self._read_resources()}
        return list(self._used.values())

    def _read_resources(self) -> Iterator[Finding]:
        itself = self._monitor.metrics.itself
        if (files := resources.open_files()) is not None:
            itself.files = files.used, files.limit
            yield _near(Sign.FILES, files, "file handles")
        threads = resources.threads()
        itself.threads = threads.used, threads.limit
        yield _near(Sign.THREADS, Usage(threads.used, threads.limit or THREADS_AT_MOST), "threads")
        if memory := resources.memory():
            itself.memory = {of: (usage.used, usage.limit) for of, usage in memory.items()}
            most = max(memory.values(), key=lambda usage: usage.share)
            megabytes = Usage(most.used >> 20, None if most.limit is None else most.limit >> 20)
            yield _near(Sign.MEMORY, megabytes, "MB of memory")

    def _to_record(self, at: float) -> list[Watch]:
        """Return the overdue targets whose gap is to be put on record now.

        Not just after a standstill of ours, when the probes are about to come, nor on a disk that takes nothing.
        """
        if self._on_time < TICKS or self._monitor.store_waits() > STORE_WAIT or not self._monitor.writer.healthy:
            return []
        due = [name for name, when in self._overdue.items() if when <= at]
        for name in due:
            watch = self._monitor.watches[name]
            # As long again as it is overdue by now: a target that stays so fills no ledger.
            self._overdue[name] = at + (at - max(watch.seen_at or 0.0, watch.since, self._began))
        return [self._monitor.watches[name] for name in due]

    async def _record(self, late: list[Watch]) -> None:
        await asyncio.gather(*(self._monitor.record_overdue(watch) for watch in late))

    def _aside(self, work: Any) -> None:
        """Do what may hang beside the ticks."""
        task = asyncio.ensure_future(work)
        self._work.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._monitor.metrics.error()
            logger.error("self-watch: what it found could not be reported, by our own fault", exc_info=error)


def _is_stalled(watch: Watch, at: float, store_waits: bool) -> bool:
    if watch.probing is not None:
        return at - watch.probing > longest(watch.target) + GRACE
    return watch.pending and not store_waits and at - watch.ended > JUDGED_WITHIN


def _near(sign: Sign, usage: Usage, what: str) -> Finding:
    reason = f"{usage.used} of {usage.limit} {what} are in use"
    facts = {"used": usage.used, "limit": usage.limit or 0}
    return Finding(sign, usage.share >= WARN, usage.share >= SERIOUS, reason, facts)
