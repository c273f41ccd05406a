"""The hall: carries each observation through the rooms.

look -> guard and clock judge -> ledger (committed) -> outage rules -> metrics -> when to look next.
Nothing is counted or shown before it is committed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.detector import Event, advance, next_delay
from mailwatch.analysis.elapsed import length_of
from mailwatch.analysis.login_outages import advance_proof
from mailwatch.analysis.maintenance import Notices
from mailwatch.analysis.outage import Outage, outage_json, outage_payload, payload_json
from mailwatch.config.recorded_targets import settings_of
from mailwatch.guard.attribution import Judging
from mailwatch.guard.clock import ClockWatch
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.i18n import span
from mailwatch.ledger.entry import account_id, target_id
from mailwatch.ledger.payloads import written_rules, written_settings
from mailwatch.metrics import Metrics
from mailwatch.model import (
    Cause,
    ClockSpan,
    Fact,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Rules,
    WatchChange,
    WatchEvent,
    WatchSettings,
)
from mailwatch.monitor.runner import Looking
from mailwatch.monitor.schedule import Schedule
from mailwatch.monitor.target_runtime import Watch
from mailwatch.probes import observe
from mailwatch.probes.internal_errors import Begun, bare, our_fault, trace_of
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Delivery, Target, VantagePoint
from mailwatch.store import Draft, Entry, Writer
from mailwatch.times import Millis, Window, now, rfc3339

logger = logging.getLogger(__name__)

SHORTEST_GAP: Millis = 1000
STALL = 1.0
"""Seconds by which a tick may be late on a machine that has other work to do."""
UNWRITABLE = (TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RecursionError)
"""What the making of an entry raises for what it cannot hold; what the store itself raises is none of these."""
STORE_SLOW: Millis = 10_000
"""A commit that takes longer is itself a reason for missing looks."""


class Monitor:
    """Looks at targets and keeps the record. Everything it works with is passed in.

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
        clock: ClockWatch,
        secret: bytes,
        tokens: AccessTokens | None = None,
        at_once: int = 200,
        time_servers: Sequence[tuple[str, int]] = (),
        observe: Callable[..., Awaitable[Observation]] = observe,
    ) -> None:
        self.vantage_point = vantage_point
        self.rules = rules
        self.watches: dict[str, Watch] = {}
        self.tokens = tokens or AccessTokens()
        self.writer = writer
        self.metrics = metrics
        self.judging = Judging(guard, port25, time_servers)
        self.looking = Looking(
            secret=secret,
            tokens=self.tokens,
            metrics=metrics,
            at_once=at_once,
            beside=self.judging.line_watched,
            clock_bound=self.judging.clock_bound.milliseconds,
            observe=observe,
        )
        self.maintenance = Notices()
        self._clock = clock
        self.secret = secret
        self.former: dict[str, dict[str, Any]] = {}
        """Outages on record of targets that are not watched any more, by their ids, in the public form."""
        self.sealed: list[Callable[[], None]] = []
        """Called when an outage has been put on record and sealed."""
        self._writing: dict[object, float] = {}
        """Since when each entry waits for the disk, on time.monotonic(), the oldest first."""
        self.schedule = Schedule(self.look)

    def watch(self, watch: Watch) -> None:
        """Begin to look at a target, or go on under a changed config."""
        self.watches[watch.target.name] = watch
        self.metrics.declare(watch.target)
        self.schedule.add(watch.target)

    def change(self, watch: Watch, target: Target) -> None:
        """Go on with the same target under changed settings: its record and open outage stay."""
        self.metrics.change(watch.target, target)
        watch.target = target
        self.schedule.add(target)
        self._hurry(watch)

    def watch_change(self, name: str, event: WatchEvent, settings: WatchSettings, reason: str) -> WatchChange:
        """Make what is to be put on record of the watching of a target."""
        here = monotonic.milliseconds()
        clock = ClockSpan(monotonic.origin().boot, here, here, self.judging.clock_bound.milliseconds())
        return WatchChange(target=name, at=now(), event=event, settings=settings, reason=reason, clock=clock)

    async def confirm(self, watch: Watch, reason: str) -> None:
        """Put on record once more how a target is watched."""
        async with watch.lock:
            if self._is_watched(watch) and watch.settings is not None:
                await self._happened(watch, WatchEvent.CONTINUE, watch.settings, reason)

    async def rewatch(self, watch: Watch, target: Target, reason: str) -> None:
        """Go on with the same service under changed settings, which are put on record first."""
        settings = settings_of(target, self.rules, self.secret)
        async with watch.lock:
            if not self._is_watched(watch):
                return
            if settings != watch.settings:
                await self._happened(watch, WatchEvent.CHANGE, settings, reason)
            self.change(watch, target)

    async def end(self, watch: Watch, reason: str) -> None:
        """Watch a target no more: put it on record, with what was open, and forget it.

        A probe that is still under way is not put on record.
        """
        async with watch.lock:
            if not self._is_watched(watch):
                return
            held = watch.settings or settings_of(watch.target, self.rules, self.secret)
            await self._happened(watch, WatchEvent.END, held, reason)
            self.former |= watch.outages
            self.forget(watch.target.name)

    def _is_watched(self, watch: Watch) -> bool:
        return self.watches.get(watch.target.name) is watch

    async def _happened(self, watch: Watch, event: WatchEvent, settings: WatchSettings, reason: str) -> None:
        """Put a change on record, and let the rules take it in there. The lock is held."""
        name = watch.target.name
        change = self.watch_change(name, event, settings, reason)
        entry = await self.write("watch", change.at, name, change)
        state, transition = advance(watch.state, Event(entry.index, change), self.rules)
        proof, _ = advance_proof(watch.proof, entry.index, change, state.is_open)
        if transition is not None:
            await self.outage_changed(watch, transition.outage, settings)
        watch.state, watch.proof, watch.settings = state, proof, settings
        watch.settings_written = monotonic.milliseconds()
        watch.add(entry.index, change)

    def forget(self, name: str) -> None:
        """Look no more at the target; what is on record stays."""
        watch = self.watches.pop(name)
        self.schedule.remove(name)
        self.metrics.forget(watch.target)

    async def look(self, target: Target, due: Millis) -> None:
        """One look at a target, from its due time to the next one."""
        watch = self.watches.get(target.name)
        if watch is None:
            return
        try:
            await self._record(watch, await self._seen(watch, target, due))
        except Exception as error:
            self.metrics.error()
            logger.error("the look at %s is not on record\n%s", target.name, trace_of(error, target))
        finally:
            watch.pending = False

    async def _seen(self, watch: Watch, target: Target, due: Millis) -> Observation:
        """Look and judge. Whatever raises in that is our own fault, and an observation too."""
        begun, seen = Begun(), None
        try:
            seen = await self.looking.look(watch, target, due)
            if seen.cause is Cause.MONITOR:
                self.metrics.error()
            # Also after a good look: it may have begun before the tick that notices a suspend, and hide the gap.
            await self.check_clock()
            judged = await self.judging.judge(watch.target, seen, watch.began)
        except Exception as error:
            self.metrics.error()
            watch.ended = time.monotonic()
            return our_fault(target, due, begun, error, seen)
        if watch.state.first_bad is not None:
            return judged
        try:
            return await self.judging.diagnosed(watch.target, judged)
        except Exception as error:
            # A diagnosis decides nothing, and neither does its failure.
            self.metrics.error()
            logger.error("%s was not diagnosed by our own fault\n%s", target.name, trace_of(error, target))
            return replace(judged, facts={**(judged.facts or {}), "diagnosis": {"failed": type(error).__name__}})

    async def _record(self, watch: Watch, observation: Observation) -> None:
        async with watch.lock:
            # Not of what is watched no more: another service may stand under its name by now.
            if self._is_watched(watch):
                await self._record_watched(watch, observation)

    async def _record_watched(self, watch: Watch, observation: Observation) -> None:
        name = watch.target.name
        assert observation.clock is not None
        await self._record_gap(watch, observation.started_at, observation.clock)
        try:
            entry = await self.write("observation", observation.ended_at, name, observation)
        except UNWRITABLE as error:
            self.metrics.error()
            observation = bare(observation, error)
            entry = await self.write("observation", observation.ended_at, name, observation)
        state, transition = advance(watch.state, Event(entry.index, observation), self.rules)
        proof, proven = advance_proof(watch.proof, entry.index, observation, state.is_open)
        if transition is not None:
            await self.outage_changed(watch, transition.outage, watch.settings)
        if proven is not None:
            await self.outage_changed(watch, proven, watch.settings)
        if watch.seen_at is None or state.name != watch.state.name:
            logger.info("%s: %s%s", name, state.name, _why(observation))
        # All at once and after the last await: no page shows a state whose outage is not yet on record.
        watch.state, watch.proof = state, proof
        watch.latest, watch.seen_until, watch.seen_at = observation, observation.ended_at, watch.ended
        watch.seen_interval = watch.target.interval
        watch.blind, watch.blind_at = None, None
        if watch.target.kind is Kind.ROUNDTRIP:
            watch.outstanding = watch.outstanding.after(observation)
        watch.add(entry.index, observation)
        open_outage = watch.state.outage
        least = None if open_outage is None else open_outage.durations.least / 1000
        self.metrics.observed(watch.target, observation, watch.state.name, least)
        delay = next_delay(watch.state, watch.target.interval, self.rules)
        if delay > watch.target.interval:
            self.schedule.later(name, delay)
        self._hurry(watch)

    def _hurry(self, watch: Watch) -> None:
        """In doubt, look again before the next beat."""
        delay = next_delay(watch.state, watch.target.interval, self.rules)
        # A round trip sends a message: in doubt too, its beat is enough.
        if delay < watch.target.interval and watch.target.kind is not Kind.ROUNDTRIP:
            # Counted from the look's end: the guard, the diagnosis and the disk may have taken their time.
            self.schedule.sooner(watch.target.name, max(0.0, delay - (time.monotonic() - watch.ended)))

    def expected_within(self, watch: Watch) -> float:
        """Return the seconds within which a target is to be probed again: its interval, or longer if throttled."""
        return max(
            next_delay(watch.state, watch.target.interval, self.rules), watch.target.interval, watch.seen_interval
        )

    def store_waits(self) -> float:
        """Return for how many seconds the oldest entry that is not on disk yet has waited; 0 without one."""
        oldest = next(iter(self._writing.values()), None)
        return 0.0 if oldest is None else time.monotonic() - oldest

    async def record_overdue(self, watch: Watch) -> None:
        """Put on record that nobody probes a target now, while it is so: MailWatch may be killed before the next
        observation, which takes the rest of the gap.
        """
        async with watch.lock:
            # Meanwhile a probe may have begun, or come back.
            if not self._is_watched(watch) or watch.probing is not None or watch.pending:
                return
            here = monotonic.milliseconds()
            clock = ClockSpan(monotonic.origin().boot, here, here, self.judging.clock_bound.milliseconds())
            await self._record_gap(watch, now(), clock, overdue=True)

    async def _record_gap(self, watch: Watch, wall: Millis, here: ClockSpan, *, overdue: bool = False) -> None:
        """Put on record when nobody probed between the latest observation and `wall`, where the next one began.

        A time much longer than the interval is a gap as a whole, and so is one over a restart; in a shorter one,
        only while MailWatch was asleep or stopped. The interval is the one that was in force: a shorter one that
        was configured meanwhile makes no gap.
        """
        found = self._unprobed_yet(watch, wall, here) if overdue else None
        for gap in self._gaps(watch, wall, here) if found is None else [found]:
            entry = await self.write("gap", gap.end, watch.target.name, gap)
            # A gap opens and closes nothing.
            watch.state, _ = advance(watch.state, Event(entry.index, gap), self.rules)
            watch.proof, _ = advance_proof(watch.proof, entry.index, gap, watch.state.is_open)
            watch.add(entry.index, gap)
            watch.blind, watch.blind_at = gap, time.monotonic()
            self.metrics.gap(watch.target, length_of(gap) / 1000)
            if overdue:
                self.metrics.unobserved(watch.target)

    def _unprobed_yet(self, watch: Watch, wall: Millis, here: ClockSpan) -> Gap | None:
        """Return the gap of a target that was never probed since it is watched; None for others."""
        if watch.latest is not None or watch.blind is not None:
            return None
        start, length = watch.settings_written, here.end - watch.settings_written
        clock = ClockSpan(here.boot, start, here.end, here.bound)
        return Gap(target=watch.target.name, start=wall - length, end=wall, reason=GapReason.MISSED, clock=clock)

    def _gaps(self, watch: Watch, wall: Millis, here: ClockSpan) -> list[Gap]:
        blind, latest = watch.blind, watch.latest
        if blind is None and (watch.seen_until is None or latest is None):
            return []
        # What is on record as a gap already is not put there again.
        before = blind.clock if blind is not None else latest.clock if latest is not None else None
        seen_until = blind.end if blind is not None else watch.seen_until or wall
        name = watch.target.name
        assert here.start is not None
        if before is None or before.boot != here.boot:
            # The machine was restarted, or an older MailWatch wrote the record: only the wall clock is left.
            known = None not in (before and before.bound, here.bound)
            bound = (before.bound or 0) + (here.bound or 0) if before and known else None
            clock = ClockSpan(here.boot, None, here.start, bound)
            gap = Gap(
                target=name,
                start=min(seen_until, wall),
                end=wall,
                reason=GapReason.NOT_RUNNING,
                clock=clock,
            )
            # Also where the wall clock runs backwards over it: nobody probed while the machine was off.
            return [gap]
        since, until = before.end, here.start
        if watch.seen_at is None and watch.blind_at is None:
            found = [(since, until, GapReason.NOT_RUNNING)] if until - since >= SHORTEST_GAP else []
        else:
            found = [
                (max(each.start, since), min(each.end, until), each.reason)
                for each in self.judging.disturbances
                if each.noticed >= (watch.seen_at or watch.blind_at or 0.0)
                and min(each.end, until) - max(each.start, since) >= SHORTEST_GAP
            ]
            short = [part for part in found if part[2] is not GapReason.CLOCK_STEP]
            longest = SHORTEST_GAP if blind else max(watch.target.interval, watch.seen_interval) * 1500 + 1000
            if until - since > longest:
                why = GapReason.THROTTLED if watch.state.throttled else GapReason.MISSED
                found = [(since, until, found[-1][2] if found else why)]
            else:
                # Nobody slept while the clock was set: it is no time in which nobody probed.
                found = short
        shift = wall - here.start
        return [
            Gap(
                target=name,
                start=start + shift,
                end=end + shift,
                reason=reason,
                clock=ClockSpan(here.boot, start, end, here.bound),
            )
            for start, end, reason in found
        ]

    async def outage_changed(self, watch: Watch, outage: Outage, settings: WatchSettings | None) -> None:
        """Put the opening or closing of an outage on record, seal it with a checkpoint, then show it.

        `settings` are those that were in force when it was decided, None where the record did not say.
        """
        target = watch.target
        identity = {"provider": target.provider, "kind": target.kind.value, "account": self._account(target)}
        payload = await self.put_outage(outage, identity, settings)
        watch.outages[outage.id] = payload_json(payload)
        self.show(watch)

    async def put_outage(
        self, outage: Outage, identity: Mapping[str, Any], settings: WatchSettings | None
    ) -> dict[str, Any]:
        """Put an outage on record, seal it with a checkpoint, and return its payload.

        `identity` says whose it is: provider, kind and, if known, account. `settings` are those in force.
        """
        provider, kind = identity["provider"], Kind(identity["kind"])
        payload = outage_payload(outage, provider, kind, self.vantage_point.name)
        payload["rules"] = written_rules(self.rules)
        if settings is not None:
            payload["watch"] = written_settings(settings)
        if account := identity.get("account"):
            payload["account"] = account
        await self.write("outage", now(), outage.target, payload)
        await self.writer.checkpoint()
        for tell in self.sealed:
            tell()
        state = "proven afterwards" if outage.proven_afterwards else payload["state"]
        logger.warning("%s: outage %s is %s", outage.target, outage.id, state)
        return payload

    def _account(self, target: Target) -> str:
        """Tell which targets share an account without telling which it is; a round trip is its reader's."""
        login = target.task.to.login if isinstance(target.task, Delivery) else target.login
        return account_id(self.secret, target.provider, login.username) if login else ""

    def excluded(self, name: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance of a target in [start, end), as announced so far."""
        return self.maintenance.of(target_id(self.secret, name), start, end) if self.maintenance.notices else ()

    def told(self, target: Target, outage: Outage) -> dict[str, Any]:
        """Return an outage in the public form."""
        return outage_json(outage, target.provider, target.kind, self.vantage_point.name)

    def open_outages(self) -> dict[str, dict[str, Any]]:
        """Return what the ledger would say of each outage that is open now, by its id."""
        vantage = self.vantage_point.name
        opened = [(w.target, w.state.outage) for w in list(self.watches.values())]
        return {
            outage.id: outage_payload(outage, target.provider, target.kind, vantage)
            for target, outage in opened
            if outage
        }

    def show(self, watch: Watch) -> None:
        """Tell the metrics of the target's outages."""
        if watch.outages:
            self.metrics.outages(watch.target, list(watch.outages.values()))

    def status(self, watch: Watch) -> dict[str, Any]:
        """Return the target as GET /api/v1/targets has it."""
        target, latest = watch.target, watch.latest
        return {
            "target": target.name,
            "provider": target.provider,
            "kind": target.kind,
            "state": watch.state.name,
            "interval": target.interval,
            "last_observation": rfc3339(latest.started_at) if latest else None,
            "outcome": latest.outcome if latest else None,
            "cause": latest.cause if latest else None,
            "failed_phase": latest.failed_phase if latest else None,
            "detail": latest.detail if latest else "",
            "outage": next((o["id"] for o in watch.outages.values() if o["state"] == "open"), None),
        }

    async def check_clock(self) -> None:
        """Note suspends and steps since the last call; after a step the due times are set anew."""
        events = self._clock.tick()
        if self._clock.late > STALL:
            self.judging.stalled(self._clock.late)
        for event in events:
            reason = GapReason.CLOCK_STEP if event.kind == "step" else GapReason.SUSPENDED
            self.judging.disturb(event.since, event.until, reason)
            if reason is GapReason.CLOCK_STEP:
                self.schedule.realign()
                for watch in self.watches.values():
                    self._hurry(watch)
            logger.warning("clock: %s of %.1f s", event.kind, event.seconds)
            await self.write("clock", event.end, None, event.as_json())

    async def write(self, kind: str, at: Millis, target: str | None, payload: Fact | dict[str, Any]) -> Entry:
        """Put something on record; return when it is on disk."""
        began = monotonic.milliseconds()
        waiting = object()
        self._writing[waiting] = time.monotonic()
        try:
            entry = await self.writer.submit(Draft(kind=kind, time=at, target=target, payload=payload))
        finally:
            del self._writing[waiting]
        if (ended := monotonic.milliseconds()) - began > STORE_SLOW:
            # No probe is made while its record cannot be written: the gap has a name.
            self.judging.disturb(began, ended, GapReason.STORE)
        return entry


def _why(observation: Observation) -> str:
    """Say how long a good look took, or why another one was not."""
    if observation.outcome is Outcome.UP:
        return f", {span((observation.ended_at - observation.started_at) / 1000)}"
    where = f" at {observation.failed_phase}" if observation.failed_phase else ""
    return f": {observation.cause}{where}: {observation.detail}"
