"""Restores the state of targets from the ledger: at the start, and when a reload adds some."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from mailwatch import monotonic
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.guard.login_backoff import endpoint_observations
from mailwatch.guard.time_evidence import TimeEvidence
from mailwatch.model import Kind, Observation, Outcome, TargetChange, TargetEvent, TargetSettings
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import Outstanding
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.settings import Target
from mailwatch.store import Reader
from mailwatch.store.detector_states import read_detector
from mailwatch.store.kept_states import KeptState
from mailwatch.store.recent import MIN_TARGETS
from mailwatch.store.replay import (
    KEEP_WITHIN,
    RestoredState,
    RuleBook,
    recent_reader,
    restore_state,
    rule_book,
    state_to_keep,
)
from mailwatch.store.unobserved import paused_since
from mailwatch.times import HOUR_MS, now

if TYPE_CHECKING:
    from mailwatch.store import Reader

MAX_OBSERVATIONS = 1000
"""Observations read of a target that is not up: more than an hour of them."""
REMEMBERED_MS = 30 * 24 * HOUR_MS
"""Milliseconds of the record that are searched for messages of round trips."""


async def restore_targets(
    monitor: Pipeline, reader: Reader, targets: Iterable[Target], progress: StartupProgress | None = None
) -> None:
    """Start watching `targets`, each in the state that its entries give; record outages that a crash left out.

    `progress` gets the number of entries read.
    """
    wanted = list(targets)
    if len(wanted) >= MIN_TARGETS:
        reader = await asyncio.to_thread(recent_reader, reader, [target.name for target in wanted])
    observations = await asyncio.to_thread(login_observations, reader, wanted)
    monitor.runner.login_backoff.restore(observations, monitor.runner.steady_now())
    states, to_keep = await asyncio.to_thread(read_states, reader, wanted, progress, monitor.writer.keep_soon)
    if to_keep:
        await monitor.writer.keep(to_keep)
    pauses = await asyncio.to_thread(
        lambda: {target.name: paused_since(reader, target.name) for target in wanted if target.paused}
    )
    for target, replayed in zip(wanted, states, strict=True):
        runtime = restored_runtime(monitor, target, replayed)
        runtime.paused_at = pauses.get(target.name)
        if target.kind is Kind.ROUNDTRIP:
            await asyncio.to_thread(_restore_roundtrips, monitor, reader, runtime)
        monitor.add_target(runtime)
        monitor.metrics.earlier_outages(target, *_earlier(reader, target.name, replayed.recorded))
        for outage, settings in zip(replayed.unrecorded, replayed.unrecorded_settings, strict=True):
            await _record_missing(monitor, runtime, outage, settings, replayed.recorded.get(outage.id))
        monitor.recorder.update_outage_metrics(runtime)
        # So that /healthz is answered meanwhile, with ten thousand targets too.
        await asyncio.sleep(0)


def read_states(
    reader: Reader,
    targets: Sequence[Target],
    progress: StartupProgress | None,
    keep: Callable[[KeptState], None] = lambda _state: None,
) -> tuple[list[RestoredState], list[KeptState]]:
    """Return the state of each target, and those whose replay was long, to keep.

    `keep` gets states within a very long replay, and the one after it: an interrupted start goes on there.
    """
    book, size = rule_book(reader), reader.size()
    found, to_keep = [], []
    for number, target in enumerate(targets):

        def report(index: int, number: int = number) -> None:
            if progress is not None:
                progress.update(StartupStep.READING, number * size + index, len(targets) * size)

        report(0)
        found.append(restored := restore_state(reader, target.name, book, report, keep=keep))
        if (state := state_to_keep(reader, target.name, book, restored)) is not None:
            to_keep.append(state)
            if restored.history.facts >= KEEP_WITHIN:
                keep(state)
    return found, to_keep


def _earlier(reader: Reader, name: str, recorded: Collection[str]) -> tuple[int, float]:
    """Return the number of a target's outages that are not among those restored, and their seconds."""
    heads = [head for head in reader.outages.of_target(name) if head.id not in recorded]
    return len(heads), sum(head.least for head in heads) / 1000


def restored_runtime(monitor: Pipeline, target: Target, replayed: RestoredState) -> TargetRuntime:
    runtime = TargetRuntime(
        target=target,
        detector=replayed.detector,
        rolling_availability=RollingAvailability(
            interval=target.interval, excluded=partial(monitor.maintenance.windows_of, target.name)
        ),
        pending_backfill=[],
        observed_until=replayed.latest.ended_at if replayed.latest else None,
        observed_interval=target.interval,
        settings=replayed.settings,
        settings_written=monotonic.milliseconds(),
        latest=replayed.latest,
        # The gap of an overdue target, or one before an observation that a kill lost.
        trailing_gap=replayed.trailing_gap,
        outages=dict(replayed.recorded),
    )
    if still_open := monitor.recorder.open_outage(runtime):
        # The entry dates from the opening; a restart must not lower the durations that the metrics add up.
        runtime.outages[still_open.id] = still_open
    return runtime


async def _record_missing(
    monitor: Pipeline,
    runtime: TargetRuntime,
    outage: Outage,
    settings: TargetSettings | None,
    recorded: OutageRecord | None,
) -> None:
    """Record an outage that a crash or an earlier end left out; it may belong to another service of this name."""
    if settings is None or (runtime.settings and settings.service == runtime.settings.service):
        await monitor.recorder.record_outage_change(runtime, outage, settings)
        return
    subject = monitor.recorder.recorded_subject(recorded, settings)
    assert subject is not None
    runtime.outages[outage.id] = await monitor.recorder.record_outage(outage, subject, settings)


def login_observations(reader: Reader, targets: Iterable[Target]) -> list[tuple[Target, Observation]]:
    """Return what the login back-off needs, oldest first: each target's last up observation, and those after it;
    of more than MAX_OBSERVATIONS, the latest.

    Rejections count as simultaneous if they began together: one that began more than an hour ago must not seem to
    begin with the first rejection within the hour.
    """
    found: dict[int, tuple[Target, Observation]] = {}
    book = rule_book(reader)
    for target in targets:
        if target.login is None:
            continue
        good = _last_good(reader, target.name, book)
        # Not by wall time, which may be off by years.
        newest = list(
            reader.entries(
                target=target.name, kinds=["observation"], from_index=good, descending=True, limit=MAX_OBSERVATIONS
            )
        )
        if good is not None and newest and newest[-1].index > good:
            # Of a long outage, what was accepted before it, and what was rejected lately.
            newest += reader.entries(from_index=good, to_index=good + 1)
        for entry in newest:
            if isinstance(fact := entry.fact, Observation):
                found[entry.index] = target, fact
    return [observation for _, observation in sorted(found.items(), key=lambda item: item[0])]


def _last_good(reader: Reader, name: str, book: RuleBook) -> int | None:
    """Return the entry of a target's last up observation, without a search through a long outage."""
    kept = read_detector(reader, name, book.at)
    if kept is None:
        return reader.last_index(target=name, outcome=Outcome.UP)
    state = kept.detector.state
    before = state.first_good or state.last_good
    later = reader.last_index(target=name, outcome=Outcome.UP, after=kept.index)
    return later if later is not None or before is None else before.index


def _restore_roundtrips(monitor: Pipeline, reader: Reader, runtime: TargetRuntime) -> None:
    """Restore which messages are under way, and which logins were rejected within the hour."""
    name, at = runtime.target.name, now()
    begun = 0
    for entry in reader.entries(target=name, kinds=["watch"], start_ms=at - REMEMBERED_MS):
        if isinstance(fact := entry.fact, TargetChange) and fact.event is TargetEvent.BEGIN:
            # Messages sent earlier, between other mailboxes, never arrive in these.
            begun = entry.index
    entries = reader.entries(target=name, kinds=["observation"], start_ms=at - REMEMBERED_MS, from_index=begun)
    observations = [fact for entry in entries if isinstance(fact := entry.fact, Observation)]
    runtime.outstanding = Outstanding.restore(observations)
    for observation in observations:
        for end, endpoint_observation in endpoint_observations(runtime.target, observation):
            # The accepted password is known from the observations of the two mailboxes themselves.
            if endpoint_observation.cause is not None and endpoint_observation.ended_at >= at - HOUR_MS:
                monitor.runner.login_backoff.record(
                    end, endpoint_observation, min(endpoint_observation.ended_at, monitor.runner.steady_now())
                )


MAX_RECALLED_ENTRIES = 100
"""The number of entries searched for a usable time."""


def restore_evidence(evidence: TimeEvidence, reader: Reader) -> None:
    """Add lower bounds of the true time: the newest trusted token, the newest time of known bound."""
    for entry in reader.entries(kinds=["token"], descending=True, limit=MAX_RECALLED_ENTRIES):
        if "distrust" not in entry.payload:
            evidence.add_floor(
                "token on record", entry.payload["time"] - max(1000, entry.payload.get("accuracy_ms", 0))
            )
            break
    for entry in reader.entries(kinds=["observation"], descending=True, limit=MAX_RECALLED_ENTRIES):
        fact = entry.fact
        if isinstance(fact, Observation) and fact.clock is not None and fact.clock.bound is not None:
            evidence.add_floor("record", fact.ended_at - fact.clock.bound)
            break
