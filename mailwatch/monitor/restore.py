"""Takes targets up where the ledger left them: at the start, and when a reload adds some."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

from mailwatch import monotonic
from mailwatch.analysis.availability import Buckets
from mailwatch.analysis.outage import Outage, payload_json
from mailwatch.guard.login_backoff import end_looks
from mailwatch.guard.time_evidence import TimeEvidence
from mailwatch.model import Kind, Observation, Outcome, WatchChange, WatchEvent, WatchSettings
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.target_runtime import Watch
from mailwatch.probes import Outstanding
from mailwatch.progress import Progress, Step
from mailwatch.settings import Target
from mailwatch.store import Reader
from mailwatch.store.replay import Replayed, resume, rule_book
from mailwatch.times import Millis, now

if TYPE_CHECKING:
    from mailwatch.store import Reader

HOUR: Millis = 3_600_000
LATEST = 1000
"""Observations of a target that was never up: more than an hour of them."""
REMEMBERED = 30 * 24 * HOUR
"""How far back messages of round trips are looked for on record."""


async def take_up(
    monitor: Monitor, reader: Reader, targets: Iterable[Target], progress: Progress | None = None
) -> None:
    """Begin to watch `targets`, each in the state that its entries give; tell what a crash left untold.

    `progress` is told how much is read.
    """
    wanted = list(targets)

    def read() -> list[Replayed]:
        book, size = rule_book(reader), reader.size()
        found = []
        for number, target in enumerate(wanted):

            def told(index: int, number: int = number) -> None:
                if progress is not None:
                    progress.at(Step.READING, number * size + index, len(wanted) * size)

            told(0)
            found.append(resume(reader, target.name, book, told))
        return found

    looks = await asyncio.to_thread(looks_with_logins, reader, wanted)
    monitor.looking.logins.recall(looks, monitor.looking.steady())
    for target, replayed in zip(wanted, await asyncio.to_thread(read), strict=True):
        watch = Watch(
            target=target,
            state=replayed.state,
            proof=replayed.proof,
            buckets=Buckets(interval=target.interval, excluded=partial(monitor.excluded, target.name)),
            unfilled=[],
            seen_until=replayed.latest.ended_at if replayed.latest else None,
            seen_interval=target.interval,
            settings=replayed.settings,
            settings_written=monotonic.milliseconds(),
            latest=replayed.latest,
            # Of a target that was overdue, or before an observation that a kill lost.
            blind=replayed.blind,
            outages={identity: payload_json(told) for identity, told in replayed.recorded.items()},
        )
        if replayed.state.outage:
            # Its entry is as old as its opening; what the metrics add up must not fall at a restart.
            watch.outages[replayed.state.outage.id] = monitor.told(target, replayed.state.outage)
        if target.kind is Kind.ROUNDTRIP:
            await asyncio.to_thread(_recall_trips, monitor, reader, watch)
        monitor.watch(watch)
        for outage, settings in zip(replayed.missing, replayed.missing_under, strict=True):
            await _put_missing(monitor, watch, outage, settings, replayed.recorded.get(outage.id))
        monitor.show(watch)
        # Of ten thousand targets too, health is answered meanwhile.
        await asyncio.sleep(0)


async def _put_missing(
    monitor: Monitor, watch: Watch, outage: Outage, settings: WatchSettings | None, recorded: dict[str, Any] | None
) -> None:
    """Put on record what a crash or the end of an earlier watching left out: that one may be another service's."""
    if settings is None or (watch.settings and settings.service == watch.settings.service):
        await monitor.outage_changed(watch, outage, settings)
        return
    identity = recorded or {"provider": settings.provider, "kind": settings.kind.value}
    watch.outages[outage.id] = payload_json(await monitor.put_outage(outage, identity, settings))


def looks_with_logins(reader: Reader, targets: Iterable[Target]) -> list[tuple[Target, Observation]]:
    """Read what the login gate must know, oldest first: from each target's last good look on, or the latest.

    Accounts are rejected together that began to be; what began longer ago than an hour must not seem to begin
    with the first rejection within it.
    """
    found: dict[int, tuple[Target, Observation]] = {}
    for target in targets:
        if target.login is None:
            continue
        good = reader.last_index(target=target.name, outcome=Outcome.UP)
        # Not by their wall times: these may be off by years.
        some = LATEST if good is None else None
        newest = reader.entries(
            target=target.name, kinds=["observation"], from_index=good, descending=True, limit=some
        )
        for entry in newest:
            if isinstance(fact := entry.fact, Observation):
                found[entry.index] = target, fact
    return [look for _, look in sorted(found.items(), key=lambda item: item[0])]


def _recall_trips(monitor: Monitor, reader: Reader, watch: Watch) -> None:
    """Learn which messages are on their way, and which logins were rejected within the hour."""
    name, at = watch.target.name, now()
    begun = 0
    for entry in reader.entries(target=name, kinds=["watch"], start_ms=at - REMEMBERED):
        if isinstance(fact := entry.fact, WatchChange) and fact.event is WatchEvent.BEGIN:
            # What was sent between other mailboxes before arrives in none of these.
            begun = entry.index
    entries = reader.entries(target=name, kinds=["observation"], start_ms=at - REMEMBERED, from_index=begun)
    looks = [fact for entry in entries if isinstance(fact := entry.fact, Observation)]
    watch.outstanding = Outstanding.recall(looks)
    for look in looks:
        for end, seen in end_looks(watch.target, look):
            # Which password was accepted is known from the looks at the ends themselves.
            if seen.cause is not None and seen.ended_at >= at - HOUR:
                monitor.looking.logins.learn(end, seen, min(seen.ended_at, monitor.looking.steady()))


NEWEST = 100
"""How many entries are read for a time that is known."""


def recall(evidence: TimeEvidence, reader: Reader) -> None:
    """Take in what the time is not earlier than: the newest trusted token, the newest time of known bound."""
    for entry in reader.entries(kinds=["token"], descending=True, limit=NEWEST):
        if "distrust" not in entry.payload:
            evidence.at_least(
                "token on record", entry.payload["time"] - max(1000, entry.payload.get("accuracy_ms", 0))
            )
            break
    for entry in reader.entries(kinds=["observation"], descending=True, limit=NEWEST):
        fact = entry.fact
        if isinstance(fact, Observation) and fact.clock is not None and fact.clock.bound is not None:
            evidence.at_least("record", fact.ended_at - fact.clock.bound)
            break
