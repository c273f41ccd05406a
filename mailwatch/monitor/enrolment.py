"""Puts on record which targets are watched, and how: at a start, at a reload, and once a day.

Each entry is a fact like an observation: the outage rules take it in at its place (detector.py), so that a
replay comes to what was decided live. What is on record and not in the config any more ends here, also when it was
taken out while MailWatch was stopped, or by a MailWatch that did not yet put such changes on record.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Collection, Iterable, Mapping
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.outage import payload_json
from mailwatch.analysis.segments import GUESS_FROM, usual_interval
from mailwatch.config.recorded_targets import DAILY, RELOAD, REMOVED, REPLACED, START, Step, settings_of, steps
from mailwatch.model import Kind, TlsMode, WatchChange, WatchEvent, WatchSettings
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.target_runtime import Watch
from mailwatch.settings import Target
from mailwatch.store import Reader, StoreError
from mailwatch.store.replay import resume, rule_book
from mailwatch.times import Millis

logger = logging.getLogger(__name__)

HOUR: Millis = 3_600_000
RENEW_AFTER = 24 * HOUR
"""How old the settings on record may be, so that the bundle of a window holds those in force."""
RENEW_SPREAD = 6 * HOUR
"""By how much earlier those of some targets are written: not all in one batch."""


async def enrol(monitor: Monitor, reader: Reader, targets: Collection[Target], reason: str = START) -> None:
    """Put on record that `targets` are watched; to be called before they are taken up."""
    wanted = {target.name: settings_of(target, monitor.rules, monitor.secret) for target in targets}

    def read() -> dict[str, list[Step]]:
        known = set(reader.targets())
        latest = latest_changes(reader, wanted.keys() & known)
        return {
            name: list(steps(latest.get(name), name in known, settings, reason))
            for name, settings in wanted.items()
        }

    found = await asyncio.to_thread(read)
    await asyncio.gather(*(_write(monitor, name, happening) for name, happening in found.items()))


async def _write(monitor: Monitor, name: str, happening: Iterable[Step]) -> None:
    drafts = [monitor.watch_change(name, event, settings, why) for event, settings, why in happening]
    # Handed in together, they stay in order.
    await asyncio.gather(*(monitor.write("watch", change.at, name, change) for change in drafts))


async def retire(monitor: Monitor, reader: Reader, names: Collection[str]) -> None:
    """End the watching of all targets on record but `names`; what was open of them becomes unwatched."""

    def read() -> tuple[dict[str, WatchChange], dict[str, dict[str, dict[str, Any]]]]:
        gone = set(reader.targets()) - set(names)
        recorded: dict[str, dict[str, dict[str, Any]]] = {}
        for entry in reader.entries(kinds=["outage"]) if gone else ():
            if entry.target in gone:
                payload = entry.payload
                recorded.setdefault(payload["target"], {})[payload["id"]] = payload
        return latest_changes(reader, gone), recorded

    latest, recorded = await asyncio.to_thread(read)
    watched = {name: change.settings for name, change in latest.items() if change.event is not WatchEvent.END}
    still_open = {
        name for name, outages in recorded.items() if any(o["state"] == "open" for o in outages.values())
    }
    for name in sorted(still_open - latest.keys()):
        # On record before such changes were. Without an open outage nothing would follow from its end.
        watched[name] = await asyncio.to_thread(_guessed, reader, name, recorded[name])
    for name in watched:
        # Should a crash have kept the opening of an outage from the record.
        await _complete(monitor, reader, name, recorded.setdefault(name, {}))
    ends = [(name, [(WatchEvent.END, settings, REMOVED)]) for name, settings in watched.items()]
    await asyncio.gather(*(_write(monitor, name, happening) for name, happening in ends))
    for name, outages in recorded.items():
        if any(outage["state"] == "open" for outage in outages.values()):
            await _complete(monitor, reader, name, outages)
        monitor.former |= {identity: payload_json(payload) for identity, payload in outages.items()}


async def _complete(monitor: Monitor, reader: Reader, name: str, recorded: dict[str, dict[str, Any]]) -> None:
    """Put on record what follows from the entries of a target that is not watched any more."""
    replayed = await asyncio.to_thread(lambda: resume(reader, name, rule_book(reader)))
    for outage, settings in zip(replayed.missing, replayed.missing_under, strict=True):
        identity: Mapping[str, Any] | None = recorded.get(outage.id)
        if identity is None and settings is not None:
            identity = {"provider": settings.provider, "kind": settings.kind.value}
        if identity is not None:
            recorded[outage.id] = await monitor.put_outage(outage, identity, settings)


async def reenrol(monitor: Monitor, targets: Mapping[str, Target]) -> list[Target]:
    """Take over a changed config while running. Return the targets that are to be taken up."""
    ends, changes = [], []
    for name, watch in monitor.watches.items():
        target = targets.get(name)
        if target is None:
            ends.append((watch, REMOVED))
        elif target != watch.target:
            if _is_another(monitor, watch, target):
                ends.append((watch, REPLACED))
            else:
                changes.append((watch, target))
    over = [monitor.end(watch, reason) for watch, reason in ends]
    await _each([*over, *(monitor.rewatch(watch, target, RELOAD) for watch, target in changes)])
    return [target for name, target in targets.items() if name not in monitor.watches]


def _is_another(monitor: Monitor, watch: Watch, target: Target) -> bool:
    here, there = (settings_of(each, monitor.rules, monitor.secret) for each in (watch.target, target))
    return here.service != there.service


async def renew(monitor: Monitor) -> None:
    """Say once more how targets are watched whose settings on record are a day old."""
    at = monotonic.milliseconds()
    due = [w for w in monitor.watches.values() if w.settings and at - w.settings_written >= _period(w.target.name)]
    try:
        await _each(monitor.confirm(watch, DAILY) for watch in due)
    except StoreError:
        raise
    except Exception:
        monitor.metrics.error()
        logger.exception("how a target is watched was not put on record again, by our own fault")


async def _each(changes: Iterable[Awaitable[None]]) -> None:
    """Await all; the first that fails is raised when the others are done, so that it takes nothing from them."""
    done = await asyncio.gather(*changes, return_exceptions=True)
    for failure in (each for each in done if isinstance(each, BaseException)):
        raise failure


def _period(name: str) -> Millis:
    share = int.from_bytes(hashlib.sha256(f"renew\0{name}".encode()).digest()[:4]) / 2**32
    return RENEW_AFTER - round(share * RENEW_SPREAD)


def latest_changes(reader: Reader, names: Collection[str]) -> dict[str, WatchChange]:
    """Return the latest change on record of each target, as far as there is one."""
    found: dict[str, WatchChange] = {}
    # Each target has one of the last day: read together, they come a hundred times as fast.
    for entry in reader.entries(kinds=["watch"], descending=True, limit=3 * len(names)) if names else ():
        if entry.target in names and entry.target not in found and isinstance(fact := entry.fact, WatchChange):
            found[fact.target] = fact
    for name in set(names) - found.keys():
        latest = reader.latest(name, "watch")
        if latest is not None and isinstance(fact := latest.fact, WatchChange):
            found[name] = fact
    return found


def _guessed(reader: Reader, name: str, recorded: Mapping[str, Mapping[str, Any]]) -> WatchSettings:
    """Say what an old record gives of a target: its host, port, timeout and trust are not known ("", 0)."""
    outage = list(recorded.values())[-1]
    newest = reader.entries(target=name, kinds=["observation"], descending=True, limit=GUESS_FROM)
    due = [entry.payload["scheduled"] for entry in newest][::-1]
    return WatchSettings(
        kind=Kind(outage["kind"]),
        provider=outage["provider"],
        host="",
        port=0,
        tls=TlsMode.IMPLICIT,
        interval=usual_interval(due),
        timeout=0,
        catalogue=False,
        own_ca=False,
    )
