"""The pipeline: the steps that `Pipeline.run_probe` takes with each observation.

1. *Probe* the target (runner.py), without its login while logins are suspended.
2. *Attribute* a failure to the provider, or to our line, our clock, our machine (guard/attribution.py).
3. *Commit* the observation to the ledger, after the gap before it, if there was one (gaps.py).
4. *Detect* outages (analysis/detector.py); each change is recorded and sealed.
5. *Publish* the state, the metrics and the data of the pages. Nothing is counted or shown before it is committed.
6. *Schedule* the next probe: sooner in doubt, later where the server throttles us.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector, IndexedFact, next_delay
from mailwatch.analysis.elapsed import gap_length
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject
from mailwatch.guard.attribution import FaultAttribution
from mailwatch.guard.clock import ClockMonitor
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.i18n import format_duration
from mailwatch.kinds import KINDS
from mailwatch.metrics import Metrics
from mailwatch.model import (
    Cause,
    ClockSpan,
    GapReason,
    Observation,
    Outcome,
    Rules,
)
from mailwatch.monitor.gaps import gap_before_first_probe, gaps_since_latest
from mailwatch.monitor.recorder import Recorder
from mailwatch.monitor.runner import ProbeRunner
from mailwatch.monitor.schedule import Schedule
from mailwatch.monitor.spooling import Spooler
from mailwatch.monitor.target_runtime import MaintenanceCalendar, TargetRuntime
from mailwatch.probes import ProbeFunction, observe
from mailwatch.probes.internal_errors import (
    ProbeStart,
    internal_error_observation,
    minimal_observation,
    redacted_traceback,
)
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Target, VantagePoint
from mailwatch.store import Writer
from mailwatch.store.errors import EvictedError
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

STALL_SECONDS = 1.0
"""Seconds by which a tick may be late on a busy machine."""
UNWRITABLE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""Errors raised when an observation cannot be encoded as an entry; the store itself raises none of these."""


@dataclass(frozen=True, slots=True)
class Committed:
    """A recorded observation, with its index in the ledger."""

    index: int
    observation: Observation


class Pipeline:
    """Probes targets and records the results. All its collaborators are passed in.

    `secret` is the ledger's, for the keyed digests of passwords. `time_servers` (host, port) are asked when a
    verdict depends on our clock.
    """

    def __init__(
        self,
        *,
        vantage_point: VantagePoint,
        rules: Rules,
        writer: Writer,
        metrics: Metrics,
        guard: Guard | None,
        port25: Port25 | None = None,
        clock: ClockMonitor,
        secret: bytes,
        tokens: AccessTokens | None = None,
        at_once: int = 200,
        time_servers: Sequence[tuple[str, int]] = (),
        observe: ProbeFunction = observe,
    ) -> None:
        self.vantage_point, self.rules = vantage_point, rules
        self.targets: dict[str, TargetRuntime] = {}
        self.tokens = tokens or AccessTokens()
        self.writer = writer
        self.metrics = metrics
        self.attribution = FaultAttribution(guard, port25, time_servers)
        self.recorder = Recorder(
            writer, self.attribution, metrics, rules=rules, vantage_point=vantage_point, secret=secret
        )
        self.runner = ProbeRunner(
            secret=secret,
            tokens=self.tokens,
            metrics=metrics,
            at_once=at_once,
            while_probing=self.attribution.check_line_meanwhile,
            clock_bound=self.attribution.clock_bound.milliseconds,
            observe=observe,
        )
        self.maintenance = MaintenanceCalendar(secret)
        self._clock = clock
        self.secret = secret
        self.former_outages: dict[str, OutageRecord] = {}
        """The latest recorded outages of targets that are no longer watched, by id."""
        self.schedule = Schedule(self.run_probe)
        self.spooler: Spooler | None = None
        """Where observations wait while the database is away; None where the record is a file of this machine."""
        self.may_probe: Callable[[], bool] = lambda: True
        """Whether this process may start a probe now: not while it is unsure whether another node does."""
        self.is_handover = False
        """Whether another node wrote the ledger before: its targets have a gap of that reason."""

    def add_target(self, runtime: TargetRuntime) -> None:
        """Start probing a target, or continue under a changed config."""
        self.targets[runtime.target.name] = runtime
        self.metrics.declare(runtime.target)
        if not runtime.target.paused:
            self.schedule.add(runtime.target)

    def change_target(self, runtime: TargetRuntime, target: Target) -> None:
        """Change the settings of a target: its record and open outage stay."""
        resumed = runtime.target.paused and not target.paused
        if runtime.target.paused != target.paused:
            logger.info("%s: %s", target.name, "resumed" if resumed else "paused: it is not probed")
        self.metrics.change(runtime.target, target)
        runtime.target = target
        if target.paused:
            self.schedule.remove(target.name)
            return
        self.schedule.add(target)
        if resumed:
            runtime.watched_since = time.monotonic()
            self.schedule.advance_to(target.name, 0.0)
        self._schedule_recheck(runtime)

    def forget_target(self, name: str) -> None:
        """Stop probing the target; its record stays."""
        runtime = self.targets.pop(name)
        self.schedule.remove(name)
        self.metrics.forget(runtime.target)

    def watched_subjects(self) -> dict[str, OutageSubject]:
        """Return the targets that are probed by name, with their providers and accounts. For any thread."""
        return {
            name: self.recorder.subject_of(runtime.target)
            for name, runtime in list(self.targets.items())
            if not runtime.target.paused
        }

    def paused_targets(self) -> set[str]:
        """Return the names of the targets that their owner has paused. For any thread."""
        return {name for name, runtime in list(self.targets.items()) if runtime.target.paused}

    def is_watched(self, runtime: TargetRuntime) -> bool:
        """Return whether this runtime is current: after an end, another one may have the same name."""
        return self.targets.get(runtime.target.name) is runtime

    async def run_probe(self, target: Target, scheduled_at: Millis) -> None:
        """Probe a target once, and take the observation through all the steps."""
        runtime = self.targets.get(target.name)
        if runtime is None or runtime.target.paused or not self.may_probe():
            return
        if self.spooler is not None and self.spooler.full_since is not None:
            return
        try:
            observation = await self._probe_and_attribute(runtime, target, scheduled_at)
            if self.spooler is not None:
                await self.spooler.take(runtime, observation)
                return
            async with runtime.lock:
                await self.record(runtime, observation, runtime.probe_ended)
        except EvictedError:
            # Another node probes the target by now: its observation counts, this one does not.
            logger.info("the observation of %s was dropped: another node has taken over", target.name)
        except Exception as error:
            self.metrics.internal_error()
            logger.error(
                "the observation of %s was not recorded\n%s", target.name, redacted_traceback(error, target)
            )
        finally:
            runtime.unrecorded = False

    async def record(self, runtime: TargetRuntime, observation: Observation, ended: float | None) -> None:
        """Take an observation through the steps after the probe. The caller holds the target's lock.

        `ended`: when the probe ended, on time.monotonic(); None if another process made it.
        """
        # Skip a target that is no longer watched: its name may now stand for another service. One that was paused
        # meanwhile is not observed from then on.
        if self.is_watched(runtime) and not runtime.target.paused:
            committed = await self._commit(runtime, observation)
            detector = await self._detect(runtime, committed)
            self._publish(runtime, committed, detector, ended)
            self._schedule_next(runtime)

    async def _probe_and_attribute(
        self, runtime: TargetRuntime, target: Target, scheduled_at: Millis
    ) -> Observation:
        """Probe and attribute. Any exception here is our own fault, and is returned as an observation."""
        begun, observation = ProbeStart(), None
        try:
            observation = await self.runner.run(runtime, target, scheduled_at)
            if observation.cause is Cause.MONITOR:
                self.metrics.internal_error()
            # Also after an up observation: the probe may have begun before the tick that notices a suspend, and
            # hide the gap.
            await self.check_clock()
            if observation.node:
                # The node that made it has attributed it, by its own line and machine.
                return observation
            attributed = await self.attribution.attribute(runtime.target, observation, runtime.probe_began)
        except Exception as error:
            self.metrics.internal_error()
            runtime.probe_ended = time.monotonic()
            return internal_error_observation(target, scheduled_at, begun, error, observation)
        if runtime.state.first_bad is not None:
            return attributed
        return await self._with_diagnosis(runtime.target, attributed)

    async def _with_diagnosis(self, target: Target, attributed: Observation) -> Observation:
        try:
            return await self.attribution.with_diagnosis(target, attributed)
        except Exception as error:
            # A diagnosis decides nothing, and neither does its failure.
            self.metrics.internal_error()
            logger.error(
                "the diagnosis of %s failed: internal error\n%s", target.name, redacted_traceback(error, target)
            )
            return replace(
                attributed, facts={**(attributed.facts or {}), "diagnosis": {"failed": type(error).__name__}}
            )

    async def _commit(self, runtime: TargetRuntime, observation: Observation) -> Committed:
        """Record the observation, after the gap before it; if it cannot be encoded, record a minimal one."""
        name = runtime.target.name
        assert observation.clock is not None
        await self._record_gap(runtime, observation.started_at, observation.clock)
        try:
            entry = await self.recorder.append("observation", observation.ended_at, name, observation)
        except UNWRITABLE_ERRORS as error:
            self.metrics.internal_error()
            observation = minimal_observation(observation, error)
            entry = await self.recorder.append("observation", observation.ended_at, name, observation)
        return Committed(entry.index, observation)

    async def _detect(self, runtime: TargetRuntime, committed: Committed) -> Detector:
        """Apply the rules to the observation, and record the outages that it opens or closes."""
        detector, changed = runtime.detector.feed(IndexedFact(committed.index, committed.observation), self.rules)
        for outage in changed:
            await self.recorder.record_outage_change(runtime, outage, runtime.settings)
        if runtime.observed_at is None or detector.state.name != runtime.state.name:
            name, state = runtime.target.name, detector.state.name
            line = f"{name}: {state}{_failure_text(committed.observation)}"
            self.recorder.changes.log(logger, logging.INFO, runtime.target.provider, state, name, line)
        return detector

    def _publish(
        self, runtime: TargetRuntime, committed: Committed, detector: Detector, ended: float | None
    ) -> None:
        """Publish state and observation together: no page shows a state whose outage is not yet recorded."""
        runtime.apply(committed.index, committed.observation, detector, ended)
        open_outage = runtime.state.outage
        least = None if open_outage is None else open_outage.durations.least / 1000
        self.metrics.observed(runtime.target, committed.observation, runtime.state.name, least)

    def _schedule_next(self, runtime: TargetRuntime) -> None:
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        if delay > runtime.target.interval:
            self.schedule.skip(runtime.target.name, delay)
        self._schedule_recheck(runtime)

    def _schedule_recheck(self, runtime: TargetRuntime) -> None:
        """If the state is in doubt, probe again before the next interval."""
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        # A round trip sends a message, so it keeps its interval also in doubt.
        if delay < runtime.target.interval and not KINDS[runtime.target.kind].awaits_delivery:
            # Counted from the probe's end: guard, diagnosis and disk may have taken time since.
            self.schedule.advance_to(
                runtime.target.name, max(0.0, delay - (time.monotonic() - runtime.probe_ended))
            )

    def max_probe_interval(self, runtime: TargetRuntime) -> float:
        """Return the seconds within which the next probe of a target is due: its interval, more if throttled."""
        return max(
            next_delay(runtime.state, runtime.target.interval, self.rules),
            runtime.target.interval,
            runtime.observed_interval,
        )

    async def record_overdue(self, runtime: TargetRuntime) -> None:
        """Record now that a target is not being probed: MailWatch may be killed before the next observation.

        The next observation records the rest of the gap.
        """
        async with runtime.lock:
            # A probe may have begun or ended meanwhile.
            if not self.is_watched(runtime) or runtime.probing_since is not None or runtime.unrecorded:
                return
            if self.spooler is not None and self.spooler.is_active:
                return
            here = monotonic.milliseconds()
            clock = ClockSpan(monotonic.origin().boot, here, here, self.attribution.clock_bound.milliseconds())
            await self._record_gap(runtime, now(), clock, overdue=True)

    async def record_pause(self, runtime: TargetRuntime) -> None:
        """Record the pause that ends now as a gap, however short it is. The caller holds the lock."""
        here = monotonic.milliseconds()
        clock = ClockSpan(monotonic.origin().boot, here, here, self.attribution.clock_bound.milliseconds())
        await self._record_gap(runtime, now(), clock)

    async def _record_gap(
        self, runtime: TargetRuntime, wall: Millis, here: ClockSpan, *, overdue: bool = False
    ) -> None:
        """Record the gaps between the latest observation and `wall`, where the next probe began.

        A time much longer than the interval is one gap, and so is a restart; in a shorter time, only while
        MailWatch was suspended or stopped. The interval is the one that was in force: a shorter one configured
        meanwhile makes no gap.
        """
        found = gap_before_first_probe(runtime, wall, here) if overdue else None
        for gap in (
            gaps_since_latest(runtime, wall, here, self.attribution.disruptions, handover=self.is_handover)
            if found is None
            else [found]
        ):
            entry = await self.recorder.append("gap", gap.end, runtime.target.name, gap)
            # A gap opens and closes no outage.
            runtime.detector, _ = runtime.detector.feed(IndexedFact(entry.index, gap), self.rules)
            runtime.feed(entry.index, gap)
            runtime.trailing_gap, runtime.gap_recorded_at = gap, time.monotonic()
            self.metrics.gap(runtime.target, gap_length(gap) / 1000)
            if overdue:
                self.metrics.mark_unknown(runtime.target)

    async def check_clock(self) -> None:
        """Record suspends and steps since the last call; after a step, realign the due times."""
        events = self._clock.tick()
        if self._clock.late > STALL_SECONDS:
            self.attribution.note_stall(self._clock.late)
        for event in events:
            reason = GapReason.CLOCK_STEP if event.kind == "step" else GapReason.SUSPENDED
            self.attribution.note_disruption(event.since, event.until, reason)
            if reason is GapReason.CLOCK_STEP:
                self.schedule.realign()
                for runtime in self.targets.values():
                    self._schedule_recheck(runtime)
            logger.warning("clock: %s of %.1f s", event.kind, event.seconds)
            append = self.recorder.append_own if self.spooler is None else self.spooler.note
            await append("clock", event.end, event.as_json())


def _failure_text(observation: Observation) -> str:
    """Return how long an up observation took, or why another one failed."""
    if observation.outcome is Outcome.UP:
        return f", {format_duration((observation.ended_at - observation.started_at) / 1000)}"
    where = f" at {observation.failed_phase}" if observation.failed_phase else ""
    return f": {observation.cause}{where}: {observation.detail}"
