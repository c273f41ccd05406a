"""Takes targets up where the ledger left them: at the start, and when a reload adds some."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from functools import partial

from mailwatch.logins import end_looks
from mailwatch.models import Kind, Millis, Observation, Outcome, Target, now
from mailwatch.monitor import Monitor
from mailwatch.outages import payload_json
from mailwatch.probes import Outstanding
from mailwatch.replay import Replayed, resume, rule_book
from mailwatch.service_level import Buckets
from mailwatch.store import Reader
from mailwatch.watch import Watch

HOUR: Millis = 3_600_000
REMEMBERED = 30 * 24 * HOUR
"""How far back messages of round trips are looked for on record."""


async def take_up(monitor: Monitor, reader: Reader, targets: Iterable[Target]) -> None:
    """Begin to watch `targets`, each in the state that its entries give; tell what a crash left untold."""
    wanted = list(targets)

    def read() -> list[Replayed]:
        book = rule_book(reader)
        return [resume(reader, target.name, book) for target in wanted]

    since = now() - HOUR
    for target, replayed in zip(wanted, await asyncio.to_thread(read), strict=True):
        watch = Watch(
            target=target,
            state=replayed.state,
            proof=replayed.proof,
            buckets=Buckets(interval=target.interval, excluded=partial(monitor.excluded, target.name)),
            unfilled=[],
            seen_until=replayed.seen_until,
            latest=replayed.latest,
            outages={identity: payload_json(told) for identity, told in replayed.recorded.items()},
        )
        if replayed.state.outage:
            # Its entry is as old as its opening; what the metrics add up must not fall at a restart.
            watch.outages[replayed.state.outage.id] = monitor.told(target, replayed.state.outage)
        if target.login:
            monitor.logins.recall(target, await asyncio.to_thread(_looks, reader, target.name, since))
        if target.kind is Kind.ROUNDTRIP:
            await asyncio.to_thread(_recall_trips, monitor, reader, watch)
        monitor.watch(watch)
        for outage in replayed.missing:
            await monitor.outage_changed(watch, outage)
        monitor.show(watch)


def last_sign_of_life(reader: Reader) -> Millis | None:
    """When the ledger was last written: MailWatch was off since then, or died soon after."""
    return next((entry.time for entry in reader.entries(descending=True, limit=1)), None)


def _recall_trips(monitor: Monitor, reader: Reader, watch: Watch) -> None:
    """Learn which messages are on their way, and which logins were rejected within the hour."""
    name, at = watch.target.name, now()
    entries = reader.entries(target=name, kinds=["observation"], start_ms=at - REMEMBERED)
    looks = [fact for entry in entries if isinstance(fact := entry.fact, Observation)]
    watch.outstanding = Outstanding.recall(looks)
    for look in looks:
        for end, seen in end_looks(watch.target, look):
            # Which password was accepted is known from the looks at the ends themselves.
            if seen.cause is not None and seen.ended_at >= at - HOUR:
                monitor.logins.learn(end, seen)


def _looks(reader: Reader, name: str, since: Millis) -> list[Observation]:
    """Read what the login gate must know: the last good look, and the looks of the last hour."""
    good = reader.last_index(target=name, outcome=Outcome.UP)
    entries = [] if good is None else list(reader.entries(target=name, from_index=good, limit=1))
    entries += reader.entries(target=name, kinds=["observation"], start_ms=since)
    looks = {entry.index: entry.fact for entry in entries}
    return [look for _, look in sorted(looks.items()) if isinstance(look, Observation)]
