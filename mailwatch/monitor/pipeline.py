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
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.detector import IndexedFact, next_delay
from mailwatch.analysis.elapsed import gap_length
from mailwatch.analysis.maintenance import Announcements
from mailwatch.analysis.outage import Outage, evidence_json, outage_json, outage_payload
from mailwatch.config.recorded_targets import recorded_settings
from mailwatch.guard.attribution import FaultAttribution
from mailwatch.guard.clock import ClockMonitor
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.i18n import format_duration
from mailwatch.ledger.entry import account_id, target_id
from mailwatch.ledger.payloads import rules_payload, settings_payload
from mailwatch.metrics import Metrics
from mailwatch.model import (
    Cause,
    ClockSpan,
    Fact,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Rules,
    TargetChange,
    TargetEvent,
    TargetSettings,
)
from mailwatch.monitor.gaps import gap_before_first_probe, gaps_since_latest
from mailwatch.monitor.runner import ProbeRunner
from mailwatch.monitor.schedule import Schedule
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import observe
from mailwatch.probes.internal_errors import (
    ProbeStart,
    internal_error_observation,
    minimal_observation,
    redacted_traceback,
)
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import RoundtripTask, Target, VantagePoint
from mailwatch.store import Entry, NewEntry, Writer
from mailwatch.times import Millis, Window, now, rfc3339

logger = logging.getLogger(__name__)

STALL_SECONDS = 1.0
"""Seconds by which a tick may be late on a machine that has other work to do."""
UNWRITABLE_ERRORS = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What the making of an entry raises for what it cannot hold; what the store itself raises is none of these."""
SLOW_COMMIT_MS: Millis = 10_000
"""A commit that takes longer is itself a reason for missing probes."""


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
        observe: Callable[..., Awaitable[Observation]] = observe,
    ) -> None:
        self.vantage_point = vantage_point
        self.rules = rules
        self.targets: dict[str, TargetRuntime] = {}
        self.tokens = tokens or AccessTokens()
        self.writer = writer
        self.metrics = metrics
        self.attribution = FaultAttribution(guard, port25, time_servers)
        self.runner = ProbeRunner(
            secret=secret,
            tokens=self.tokens,
            metrics=metrics,
            at_once=at_once,
            while_probing=self.attribution.check_line_meanwhile,
            clock_bound=self.attribution.clock_bound.milliseconds,
            observe=observe,
        )
        self.maintenance = Announcements()
        self._clock = clock
        self.secret = secret
        self.former_outages: dict[str, dict[str, Any]] = {}
        """Outages on record of targets that are not watched any more, by their ids, in the public form."""
        self.on_outage_recorded: list[Callable[[], None]] = []
        """Called when an outage has been put on record and sealed."""
        self._writing: dict[object, float] = {}
        """Since when each entry waits for the disk, on time.monotonic(), the oldest first."""
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

    def target_change(self, name: str, event: TargetEvent, settings: TargetSettings, reason: str) -> TargetChange:
        """Make what is to be put on record of the watching of a target."""
        here = monotonic.milliseconds()
        clock = ClockSpan(monotonic.origin().boot, here, here, self.attribution.clock_bound.milliseconds())
        return TargetChange(target=name, at=now(), event=event, settings=settings, reason=reason, clock=clock)

    async def confirm_target(self, runtime: TargetRuntime, reason: str) -> None:
        """Put on record once more how a target is watched."""
        async with runtime.lock:
            if self._is_watched(runtime) and runtime.settings is not None:
                await self._record_target_change(runtime, TargetEvent.CONTINUE, runtime.settings, reason)

    async def apply_settings(self, runtime: TargetRuntime, target: Target, reason: str) -> None:
        """Go on with the same service under changed settings, which are put on record first."""
        settings = recorded_settings(target, self.rules, self.secret)
        async with runtime.lock:
            if not self._is_watched(runtime):
                return
            if settings != runtime.settings:
                await self._record_target_change(runtime, TargetEvent.CHANGE, settings, reason)
            self.change_target(runtime, target)

    async def end_target(self, runtime: TargetRuntime, reason: str) -> None:
        """Watch a target no more: put it on record, with what was open, and forget it.

        A probe that is still under way is not put on record.
        """
        async with runtime.lock:
            if not self._is_watched(runtime):
                return
            held = runtime.settings or recorded_settings(runtime.target, self.rules, self.secret)
            await self._record_target_change(runtime, TargetEvent.END, held, reason)
            self.former_outages |= runtime.outages
            self.forget_target(runtime.target.name)

    def _is_watched(self, runtime: TargetRuntime) -> bool:
        return self.targets.get(runtime.target.name) is runtime

    async def _record_target_change(
        self, runtime: TargetRuntime, event: TargetEvent, settings: TargetSettings, reason: str
    ) -> None:
        """Put a change on record, and let the rules take it in there. The lock is held."""
        name = runtime.target.name
        change = self.target_change(name, event, settings, reason)
        entry = await self.append("watch", change.at, name, change)
        detector, changed = runtime.detector.feed(IndexedFact(entry.index, change), self.rules)
        for outage in changed:
            await self.record_outage_change(runtime, outage, settings)
        runtime.detector, runtime.settings = detector, settings
        runtime.settings_written = monotonic.milliseconds()
        runtime.feed(entry.index, change)

    def forget_target(self, name: str) -> None:
        """Stop probing the target; what is on record stays."""
        runtime = self.targets.pop(name)
        self.schedule.remove(name)
        self.metrics.forget(runtime.target)

    async def run_probe(self, target: Target, scheduled_at: Millis) -> None:
        """Probe a target once, and carry the observation through to the next due time."""
        runtime = self.targets.get(target.name)
        if runtime is None:
            return
        try:
            await self._record(runtime, await self._probe_and_attribute(runtime, target, scheduled_at))
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
        try:
            return await self.attribution.with_diagnosis(runtime.target, attributed)
        except Exception as error:
            # A diagnosis decides nothing, and neither does its failure.
            self.metrics.internal_error()
            logger.error(
                "the diagnosis of %s failed: internal error\n%s", target.name, redacted_traceback(error, target)
            )
            return replace(
                attributed, facts={**(attributed.facts or {}), "diagnosis": {"failed": type(error).__name__}}
            )

    async def _record(self, runtime: TargetRuntime, observation: Observation) -> None:
        async with runtime.lock:
            # Not of what is watched no more: another service may stand under its name by now.
            if self._is_watched(runtime):
                await self._commit_observation(runtime, observation)

    async def _commit_observation(self, runtime: TargetRuntime, observation: Observation) -> None:
        name = runtime.target.name
        assert observation.clock is not None
        await self._record_gap(runtime, observation.started_at, observation.clock)
        try:
            entry = await self.append("observation", observation.ended_at, name, observation)
        except UNWRITABLE_ERRORS as error:
            self.metrics.internal_error()
            observation = minimal_observation(observation, error)
            entry = await self.append("observation", observation.ended_at, name, observation)
        detector, changed = runtime.detector.feed(IndexedFact(entry.index, observation), self.rules)
        for outage in changed:
            await self.record_outage_change(runtime, outage, runtime.settings)
        if runtime.observed_at is None or detector.state.name != runtime.state.name:
            logger.info("%s: %s%s", name, detector.state.name, _failure_text(observation))
        # All at once and after the last await: no page shows a state whose outage is not yet on record.
        runtime.detector = detector
        runtime.latest, runtime.observed_until, runtime.observed_at = (
            observation,
            observation.ended_at,
            runtime.probe_ended,
        )
        runtime.observed_interval = runtime.target.interval
        runtime.trailing_gap, runtime.gap_recorded_at = None, None
        if runtime.target.kind is Kind.ROUNDTRIP:
            runtime.outstanding = runtime.outstanding.after(observation)
        runtime.feed(entry.index, observation)
        open_outage = runtime.state.outage
        least = None if open_outage is None else open_outage.durations.least / 1000
        self.metrics.observed(runtime.target, observation, runtime.state.name, least)
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        if delay > runtime.target.interval:
            self.schedule.skip(name, delay)
        self._schedule_recheck(runtime)

    def _schedule_recheck(self, runtime: TargetRuntime) -> None:
        """Where the state is in doubt, probe again before the next interval."""
        delay = next_delay(runtime.state, runtime.target.interval, self.rules)
        # A round trip sends a message: in doubt too, its interval is enough.
        if delay < runtime.target.interval and runtime.target.kind is not Kind.ROUNDTRIP:
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

    def store_wait_seconds(self) -> float:
        """Return for how many seconds the oldest entry that is not on disk yet has waited; 0 without one."""
        oldest = next(iter(self._writing.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def record_overdue(self, runtime: TargetRuntime) -> None:
        """Put on record that a target is not probed now, while it is so: MailWatch may be killed before the next
        observation, which takes the rest of the gap.
        """
        async with runtime.lock:
            # Meanwhile a probe may have begun, or come back.
            if not self._is_watched(runtime) or runtime.probing_since is not None or runtime.unrecorded:
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
            entry = await self.append("gap", gap.end, runtime.target.name, gap)
            # A gap opens and closes nothing.
            runtime.detector, _ = runtime.detector.feed(IndexedFact(entry.index, gap), self.rules)
            runtime.feed(entry.index, gap)
            runtime.trailing_gap, runtime.gap_recorded_at = gap, time.monotonic()
            self.metrics.gap(runtime.target, gap_length(gap) / 1000)
            if overdue:
                self.metrics.mark_unknown(runtime.target)

    async def record_outage_change(
        self, runtime: TargetRuntime, outage: Outage, settings: TargetSettings | None
    ) -> None:
        """Put the opening or closing of an outage on record, seal it with a checkpoint, then show it.

        `settings` are those that were in force when it was decided, None where the record did not say.
        """
        target = runtime.target
        identity = {"provider": target.provider, "kind": target.kind.value, "account": self._account(target)}
        payload = await self.record_outage(outage, identity, settings)
        runtime.outages[outage.id] = evidence_json(payload)
        self.update_outage_metrics(runtime)

    async def record_outage(
        self, outage: Outage, identity: Mapping[str, Any], settings: TargetSettings | None
    ) -> dict[str, Any]:
        """Put an outage on record, seal it with a checkpoint, and return its payload.

        `identity` says whose it is: provider, kind and, if known, account. `settings` are those in force.
        """
        provider, kind = identity["provider"], Kind(identity["kind"])
        payload = outage_payload(outage, provider, kind, self.vantage_point.name)
        payload["rules"] = rules_payload(self.rules)
        if settings is not None:
            payload["watch"] = settings_payload(settings)
        if account := identity.get("account"):
            payload["account"] = account
        await self.append("outage", now(), outage.target, payload)
        await self.writer.checkpoint()
        for notify in self.on_outage_recorded:
            notify()
        state = "proven afterwards" if outage.proven_afterwards else payload["state"]
        logger.warning("%s: outage %s is %s", outage.target, outage.id, state)
        return payload

    def _account(self, target: Target) -> str:
        """Return a digest that targets of the same account share; a round trip has its reader's."""
        login = target.task.to.login if isinstance(target.task, RoundtripTask) else target.login
        return account_id(self.secret, target.provider, login.username) if login else ""

    def maintenance_windows(self, name: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance of a target in [start, end), as announced so far."""
        return (
            self.maintenance.windows_of(target_id(self.secret, name), start, end)
            if self.maintenance.announcements
            else ()
        )

    def public_outage(self, target: Target, outage: Outage) -> dict[str, Any]:
        """Return an outage in the public form."""
        return outage_json(outage, target.provider, target.kind, self.vantage_point.name)

    def open_outages(self) -> dict[str, dict[str, Any]]:
        """Return what the ledger would say of each outage that is open now, by its id."""
        vantage = self.vantage_point.name
        opened = [(w.target, w.state.outage) for w in list(self.targets.values())]
        return {
            outage.id: outage_payload(outage, target.provider, target.kind, vantage)
            for target, outage in opened
            if outage
        }

    def update_outage_metrics(self, runtime: TargetRuntime) -> None:
        """Update the metrics of the target's outages."""
        if runtime.outages:
            self.metrics.outages(runtime.target, list(runtime.outages.values()))

    def status(self, runtime: TargetRuntime) -> dict[str, Any]:
        """Return the target as GET /api/v1/targets has it."""
        target, latest = runtime.target, runtime.latest
        return {
            "target": target.name,
            "provider": target.provider,
            "kind": target.kind,
            "state": runtime.state.name,
            "interval": target.interval,
            "last_observation": rfc3339(latest.started_at) if latest else None,
            "outcome": latest.outcome if latest else None,
            "cause": latest.cause if latest else None,
            "failed_phase": latest.failed_phase if latest else None,
            "detail": latest.detail if latest else "",
            "outage": next((o["id"] for o in runtime.outages.values() if o["state"] == "open"), None),
        }

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
            await self.append("clock", event.end, None, event.as_json())

    async def append(self, kind: str, at: Millis, target: str | None, payload: Fact | dict[str, Any]) -> Entry:
        """Put something on record; return when it is on disk."""
        began = monotonic.milliseconds()
        waiting = object()
        self._writing[waiting] = time.monotonic()
        try:
            entry = await self.writer.submit(NewEntry(kind=kind, time=at, target=target, payload=payload))
        finally:
            del self._writing[waiting]
        if (ended := monotonic.milliseconds()) - began > SLOW_COMMIT_MS:
            # No probe is made while its record cannot be written: the gap has a name.
            self.attribution.note_disruption(began, ended, GapReason.STORE)
        return entry


def _failure_text(observation: Observation) -> str:
    """Say how long an up observation took, or why another one failed."""
    if observation.outcome is Outcome.UP:
        return f", {format_duration((observation.ended_at - observation.started_at) / 1000)}"
    where = f" at {observation.failed_phase}" if observation.failed_phase else ""
    return f": {observation.cause}{where}: {observation.detail}"
