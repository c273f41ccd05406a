"""Records which targets are watched, and how: at a start, at a reload, and once a day.

Each entry is a fact like an observation: the outage rules process it in ledger order (detector.py), so that a
replay reaches the decisions made live. A target on record that the config no longer names ends here, also when it
was removed while MailWatch was stopped, or by a version that did not yet record such changes.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Collection, Iterable, Mapping

from mailwatch import monotonic
from mailwatch.analysis.detector import IndexedFact
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.segments import INTERVAL_SAMPLE_SIZE, usual_interval
from mailwatch.config.recorded_targets import (
    DAILY,
    RELOAD,
    REMOVED,
    REPLACED,
    START,
    TargetStep,
    change_reason,
    recorded_settings,
    renewed_steps,
    target_steps,
)
from mailwatch.model import RESUMED, ClockSpan, TargetChange, TargetEvent, TargetSettings, TlsMode
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError
from mailwatch.store.replay import recorded_outages, restore_state, rule_book
from mailwatch.times import HOUR_MS, Millis, now

logger = logging.getLogger(__name__)

RENEW_AFTER_MS = 24 * HOUR_MS
"""Milliseconds after which settings are recorded again, so that the bundle of a window holds those in force."""
RENEW_SPREAD_MS = 6 * HOUR_MS
"""Spread of the renewals in milliseconds, so that the targets are not all written in one batch."""


async def record_targets(
    monitor: Pipeline, reader: Reader, targets: Collection[Target], reason: str = START
) -> None:
    """Record that `targets` are watched; call this before restore_targets()."""
    wanted = {target.name: recorded_settings(target, monitor.rules, monitor.secret) for target in targets}
    paused = {target.name for target in targets if target.paused}

    def read() -> dict[str, list[TargetStep]]:
        known = set(reader.targets())
        latest = latest_changes(reader, wanted.keys() & known)
        found = {}
        for name, settings in wanted.items():
            before = latest.get(name)
            why = change_reason(reason, paused=name in paused, was_paused=bool(before and before.paused))
            steps = target_steps(before, name in known, settings, why)
            if before is not None and why == RESUMED and _is_suspect(reader, name):
                steps = renewed_steps(steps, before.settings)
            found[name] = list(steps)
        return found

    found = await asyncio.to_thread(read)
    await asyncio.gather(*(_write(monitor, name, happening) for name, happening in found.items()))


def _is_suspect(reader: Reader, name: str) -> bool:
    return restore_state(reader, name, rule_book(reader)).detector.state.is_suspect


async def _write(monitor: Pipeline, name: str, happening: Iterable[TargetStep]) -> None:
    drafts = [target_change(monitor, name, event, settings, why) for event, settings, why in happening]
    # Submitted together, the entries stay in order.
    await asyncio.gather(*(monitor.recorder.append("watch", change.at, name, change) for change in drafts))


async def end_targets(monitor: Pipeline, reader: Reader, names: Collection[str]) -> None:
    """Record the end of all targets on record but `names`; their open outages become unwatched."""

    def read() -> tuple[dict[str, TargetChange], dict[str, dict[str, OutageRecord]]]:
        gone = set(reader.targets()) - set(names)
        recorded: dict[str, dict[str, OutageRecord]] = {}
        for name in gone:
            if found := recorded_outages(reader, name):
                recorded[name] = found
        return latest_changes(reader, gone), recorded

    latest, recorded = await asyncio.to_thread(read)
    watched = {name: change.settings for name, change in latest.items() if change.event is not TargetEvent.END}
    still_open = {name for name, outages in recorded.items() if any(o.state == "open" for o in outages.values())}
    for name in sorted(still_open - latest.keys()):
        # Recorded before such changes were. Without an open outage, nothing would follow from an end.
        watched[name] = await asyncio.to_thread(_inferred_settings, reader, name, recorded[name])
    for name in watched:
        # A crash may have kept the opening of an outage from the record.
        await _record_missing(monitor, reader, name, recorded.setdefault(name, {}))
    ends = [(name, [(TargetEvent.END, settings, REMOVED)]) for name, settings in watched.items()]
    await asyncio.gather(*(_write(monitor, name, happening) for name, happening in ends))
    for name, outages in recorded.items():
        if any(outage.state == "open" for outage in outages.values()):
            await _record_missing(monitor, reader, name, outages)
        monitor.former_outages |= outages


async def _record_missing(monitor: Pipeline, reader: Reader, name: str, recorded: dict[str, OutageRecord]) -> None:
    """Record the outages that follow from the entries of a target that is no longer watched."""
    replayed = await asyncio.to_thread(lambda: restore_state(reader, name, rule_book(reader)))
    for outage, settings in zip(replayed.unrecorded, replayed.unrecorded_settings, strict=True):
        subject = monitor.recorder.recorded_subject(recorded.get(outage.id), settings)
        if subject is not None:
            recorded[outage.id] = await monitor.recorder.record_outage(outage, subject, settings)


async def apply_config(monitor: Pipeline, targets: Mapping[str, Target]) -> list[Target]:
    """Apply a changed config while running. Return the targets that are new and must be restored."""
    ends, changes = [], []
    for name, runtime in monitor.targets.items():
        target = targets.get(name)
        if target is None:
            ends.append((runtime, REMOVED))
        elif target != runtime.target:
            if _is_another(monitor, runtime, target):
                ends.append((runtime, REPLACED))
            else:
                changes.append((runtime, target))
    over = [end_target(monitor, runtime, reason) for runtime, reason in ends]
    await _await_all([*over, *(apply_settings(monitor, runtime, target, RELOAD) for runtime, target in changes)])
    return [target for name, target in targets.items() if name not in monitor.targets]


def target_change(
    monitor: Pipeline, name: str, event: TargetEvent, settings: TargetSettings, reason: str
) -> TargetChange:
    """Return the record of a change in how a target is watched."""
    here = monotonic.milliseconds()
    clock = ClockSpan(monotonic.origin().boot, here, here, monitor.attribution.clock_bound.milliseconds())
    return TargetChange(target=name, at=now(), event=event, settings=settings, reason=reason, clock=clock)


async def confirm_target(monitor: Pipeline, runtime: TargetRuntime, reason: str) -> None:
    """Record the settings of a target again."""
    async with runtime.lock:
        if monitor.is_watched(runtime) and runtime.settings is not None:
            why = change_reason(reason, paused=runtime.target.paused, was_paused=False)
            await _record_change(monitor, runtime, TargetEvent.CONTINUE, runtime.settings, why)


async def apply_settings(monitor: Pipeline, runtime: TargetRuntime, target: Target, reason: str) -> None:
    """Apply changed settings to a target whose service stays the same; they are recorded first."""
    settings = recorded_settings(target, monitor.rules, monitor.secret)
    async with runtime.lock:
        if not monitor.is_watched(runtime):
            return
        was_paused = runtime.target.paused
        if was_paused and not target.paused:
            await monitor.record_pause(runtime)
        if settings != runtime.settings or was_paused != target.paused:
            event = TargetEvent.CHANGE if settings != runtime.settings else TargetEvent.CONTINUE
            why = change_reason(reason, paused=target.paused, was_paused=was_paused)
            steps: Iterable[TargetStep] = [(event, settings, why)]
            if why == RESUMED and runtime.state.is_suspect:
                steps = renewed_steps(steps, runtime.settings or settings)
            for step in steps:
                await _record_change(monitor, runtime, *step)
        monitor.change_target(runtime, target)


async def end_target(monitor: Pipeline, runtime: TargetRuntime, reason: str) -> None:
    """Stop watching a target: record its end and the end of its open outage, then forget it.

    A probe that is still under way is not recorded.
    """
    async with runtime.lock:
        if not monitor.is_watched(runtime):
            return
        held = runtime.settings or recorded_settings(runtime.target, monitor.rules, monitor.secret)
        await _record_change(monitor, runtime, TargetEvent.END, held, reason)
        monitor.former_outages |= runtime.outages
        monitor.forget_target(runtime.target.name)


async def _record_change(
    monitor: Pipeline, runtime: TargetRuntime, event: TargetEvent, settings: TargetSettings, reason: str
) -> None:
    """Record a change, and apply the rules to it. The caller holds the lock."""
    name = runtime.target.name
    change = target_change(monitor, name, event, settings, reason)
    entry = await monitor.recorder.append("watch", change.at, name, change)
    detector, changed = runtime.detector.feed(IndexedFact(entry.index, change), monitor.rules)
    for outage in changed:
        await monitor.recorder.record_outage_change(runtime, outage, settings)
    runtime.detector, runtime.settings = detector, settings
    runtime.paused_at = (runtime.paused_at or change.at) if change.paused else None
    runtime.settings_written = monotonic.milliseconds()
    runtime.feed(entry.index, change)


def _is_another(monitor: Pipeline, runtime: TargetRuntime, target: Target) -> bool:
    here, there = (recorded_settings(each, monitor.rules, monitor.secret) for each in (runtime.target, target))
    return here.service != there.service


async def renew_records(monitor: Pipeline) -> None:
    """Record again the settings of the targets whose settings on record are a day old."""
    at = monotonic.milliseconds()
    due_targets = [
        w
        for w in monitor.targets.values()
        if w.settings and at - w.settings_written >= _renewal_period(w.target.name)
    ]
    try:
        await _await_all(confirm_target(monitor, runtime, DAILY) for runtime in due_targets)
    except StoreError:
        raise
    except Exception:
        monitor.metrics.internal_error()
        logger.exception("the settings of a target were not recorded again: internal error")


async def _await_all(changes: Iterable[Awaitable[None]]) -> None:
    """Await all changes; only when all are done, raise the first failure, so that it cancels no other."""
    done = await asyncio.gather(*changes, return_exceptions=True)
    for failure in (each for each in done if isinstance(each, BaseException)):
        raise failure


def _renewal_period(name: str) -> Millis:
    share = int.from_bytes(hashlib.sha256(f"renew\0{name}".encode()).digest()[:4]) / 2**32
    return RENEW_AFTER_MS - round(share * RENEW_SPREAD_MS)


def latest_changes(reader: Reader, names: Collection[str]) -> dict[str, TargetChange]:
    """Return the latest recorded change of each target that has one."""
    found: dict[str, TargetChange] = {}
    # Each target has a change within the last day: one query is a hundred times as fast as one per target.
    for entry in reader.entries(kinds=["watch"], descending=True, limit=3 * len(names)) if names else ():
        if entry.target in names and entry.target not in found and isinstance(fact := entry.fact, TargetChange):
            found[fact.target] = fact
    for name in set(names) - found.keys():
        latest = reader.latest(name, "watch")
        if latest is not None and isinstance(fact := latest.fact, TargetChange):
            found[name] = fact
    return found


def _inferred_settings(reader: Reader, name: str, recorded: Mapping[str, OutageRecord]) -> TargetSettings:
    """Infer the settings of a target from an old record: host, port, timeout and trust are unknown ("", 0)."""
    outage = list(recorded.values())[-1]
    newest = reader.entries(target=name, kinds=["observation"], descending=True, limit=INTERVAL_SAMPLE_SIZE)
    due_times = [entry.payload["scheduled"] for entry in newest][::-1]
    return TargetSettings(
        kind=outage.kind,
        provider=outage.provider,
        host="",
        port=0,
        tls=TlsMode.IMPLICIT,
        interval=usual_interval(due_times),
        timeout=0,
        catalogue=False,
        own_ca=False,
    )
