"""The pipeline: what becomes of each observation. `Pipeline.run_probe` carries it through.

1. *Probe* the target (runner.py), with its login or while that is held back.
2. *Attribute* a failure: to the provider, or to our line, our clock, our machine (guard/attribution.py).
3. *Commit* the observation to the ledger, after the gap before it, if there was one (gaps.py).
4. *Detect* outages (analysis/detector.py); each change goes on record and is sealed.
5. *Publish*: the state, the metrics and what the pages show. Nothing is counted or shown before it is committed.
6. *Schedule* the next probe: sooner in doubt, later where the server throttles us.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector, IndexedFact, next_delay
from mailwatch.analysis.elapsed import gap_length
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
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

STALL_SECONDS = 1.0
"""Seconds by which a tick may be late on a machine that has other work to do."""
UNWRITABLE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What the making of an entry raises for what it cannot hold; what the store itself raises is none of these."""


@dataclass(frozen=True, slots=True)
class Committed:
    """An observation that is on record, with its index there."""

    index: int
    observation: Observation


class Pipeline:
    """Probes targets and keeps the record. Everything it works with is passed in.

    `secret` is the ledger's, for the keyed digests of passwords. `time_servers` (host, port) are asked when it
    matters whether our clock is right.
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
        self.vantage_point = vantage_point
        self.rules = rules
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
        self.former_outages: dict[str, dict[str, Any]] = {}
        """Outages on record of targets that are not watched any more, by their ids, in the public form."""
        self.schedule = Schedule(self.run_probe)

    def add_target(self, runtime: TargetRuntime) -> None:
        """Begin to probe a target, or go on under a changed config."""
        self.targets[runtime.target.name] = runtime
        self.metrics.declare(runtime.target)
        self.schedule.add(runtime.target)

    def change_target(self, runtime: TargetRuntime, target: Target) -> None:
        """Go on with the same target under changed settings: its record and open outage stay."""
        self.metrics.change(runtime.target, target)
        runtime.target = target
        self.schedule.add(target)
        self._schedule_recheck(runtime)

    def forget_target(self, name: str) -> None:
        """Stop probing the target; what is on record stays."""
        runtime = self.targets.pop(name)
        self.schedule.remove(name)
        self.metrics.forget(runtime.target)

    def is_watched(self, runtime: TargetRuntime) -> bool:
        """Whether a target is watched in this form: after an end, another may stand under its name."""
        return self.targets.get(runtime.target.name) is runtime

    async def run_probe(self, target: Target, scheduled_at: Millis) -> None:
        """Probe a target once, and carry the observation through all the steps."""
        runtime = self.targets.get(target.name)
        if runtime is None:
            return
        try:
            observation = await self._probe_and_attribute(runtime, target, scheduled_at)
            async with runtime.lock:
                # Not of what is watched no more: another service may stand under its name by now.
                if self.is_watched(runtime):
                    committed = await self._commit(runtime, observation)
                    detector = await self._detect(runtime, committed)
                    self._publish(runtime, committed, detector)
                    self._schedule_next(runtime)
        except Exception as error:
            self.metrics.internal_error()
            logger.error(
                "the observation of %s was not recorded\n%s", target.name, redacted_traceback(error, target)
            )
        finally:
            runtime.unrecorded = False

    async def _probe_and_attribute(
        self, runtime: TargetRuntime, target: Target, scheduled_at: Millis
    ) -> Observation:
        """Probe and attribute. Whatever raises in that is our own fault, and an observation too."""
        begun, observation = ProbeStart(), None
        try:
            observation = await self.runner.run(runtime, target, scheduled_at)
            if observation.cause is Cause.MONITOR:
                self.metrics.internal_error()
            # Also after an up observation: it may have begun before the tick that notices a suspend, and hide the
            # gap.
            await self.check_clock()
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
        """Put the observation on record, after the gap before it; of one that cannot be written, its minimum."""
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
        """Let the rules take in the observation, and put on record which outages it opens or closes."""
        detector, changed = runtime.detector.feed(IndexedFact(committed.index, committed.observation), self.rules)
        for outage in changed:
            await self.recorder.record_outage_change(runtime, outage, runtime.settings)
        if runtime.observed_at is None or detector.state.name != runtime.state.name:
            logger.info("%s: %s%s", runtime.target.name, detector.state.name, _failure_text(committed.observation))
        return detector

    def _publish(self, runtime: TargetRuntime, committed: Committed, detector: Detector) -> None:
        """Show the state and the observation, all at once: no page shows a state whose outage is not yet on
        record.
        """
        runtime.apply(committed.index, committed.observation, detector)
        open_outage = runtime.state.outage
        least = None if open_outage is None else open_outage.durations.least / 1000
        self.metrics.observed(runtime.target, committed.observation, runtime.state.name, least)

    def _schedule_next(self, runtime: TargetRuntime) -> None:
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        if delay > runtime.target.interval:
            self.schedule.skip(runtime.target.name, delay)
        self._schedule_recheck(runtime)

    def _schedule_recheck(self, runtime: TargetRuntime) -> None:
        """Where the state is in doubt, probe again before the next interval."""
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        # A round trip sends a message: in doubt too, its interval is enough.
        if delay < runtime.target.interval and not KINDS[runtime.target.kind].awaits_delivery:
            # Counted from the probe's end: the guard, the diagnosis and the disk may have taken their time.
            self.schedule.advance_to(
                runtime.target.name, max(0.0, delay - (time.monotonic() - runtime.probe_ended))
            )

    def max_probe_interval(self, runtime: TargetRuntime) -> float:
        """Return the seconds within which a target is to be probed again: its interval, or longer if throttled."""
        return max(
            next_delay(runtime.state, runtime.target.interval, self.rules),
            runtime.target.interval,
            runtime.observed_interval,
        )

    async def record_overdue(self, runtime: TargetRuntime) -> None:
        """Put on record that a target is not probed now, while it is so: MailWatch may be killed before the next
        observation, which takes the rest of the gap.
        """
        async with runtime.lock:
            # Meanwhile a probe may have begun, or come back.
            if not self.is_watched(runtime) or runtime.probing_since is not None or runtime.unrecorded:
                return
            here = monotonic.milliseconds()
            clock = ClockSpan(monotonic.origin().boot, here, here, self.attribution.clock_bound.milliseconds())
            await self._record_gap(runtime, now(), clock, overdue=True)

    async def _record_gap(
        self, runtime: TargetRuntime, wall: Millis, here: ClockSpan, *, overdue: bool = False
    ) -> None:
        """Put on record when there was no probe between the latest observation and `wall`, where the next one
        began.

        A time much longer than the interval is a gap as a whole, and so is one over a restart; in a shorter one,
        only while MailWatch was asleep or stopped. The interval is the one that was in force: a shorter one that
        was configured meanwhile makes no gap.
        """
        found = gap_before_first_probe(runtime, wall, here) if overdue else None
        for gap in (
            gaps_since_latest(runtime, wall, here, self.attribution.disruptions) if found is None else [found]
        ):
            entry = await self.recorder.append("gap", gap.end, runtime.target.name, gap)
            # A gap opens and closes nothing.
            runtime.detector, _ = runtime.detector.feed(IndexedFact(entry.index, gap), self.rules)
            runtime.feed(entry.index, gap)
            runtime.trailing_gap, runtime.gap_recorded_at = gap, time.monotonic()
            self.metrics.gap(runtime.target, gap_length(gap) / 1000)
            if overdue:
                self.metrics.mark_unknown(runtime.target)

    async def check_clock(self) -> None:
        """Note suspends and steps since the last call; after a step the due times are set anew."""
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
            await self.recorder.append("clock", event.end, None, event.as_json())


def _failure_text(observation: Observation) -> str:
    """Say how long an up observation took, or why another one failed."""
    if observation.outcome is Outcome.UP:
        return f", {format_duration((observation.ended_at - observation.started_at) / 1000)}"
    where = f" at {observation.failed_phase}" if observation.failed_phase else ""
    return f": {observation.cause}{where}: {observation.detail}"
