"""Ledgers of observations that were never made, written by the Store as the monitor would."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    Phase,
    Rules,
    TargetChange,
    TargetEvent,
    TargetSettings,
    TlsMode,
)
from mailwatch.store import NewEntry, Store
from mailwatch.store.place import Place
from mailwatch.times import Millis
from tests.helpers.records import payload_of
from tests.helpers.sqlite_access import wait_for_no_disk

SECOND: Millis = 1000
MINUTE: Millis = 60 * SECOND
HOUR: Millis = 60 * MINUTE
DAY: Millis = 24 * HOUR

Pattern = Callable[[Millis], str]
"""What a probe at that time sees: + up, - down, ? unknown, and a blank when there is no observation."""


def observation_of(target: str, mark: str, at: Millis) -> Observation:
    """An observation of 200 ms."""
    cause = {"+": None, "-": Cause.TIMEOUT, "?": Cause.OFFLINE}[mark]
    failed = Phase.CONNECT if cause else None
    detail = "no answer within 30 s" if cause else ""
    attempt = Attempt(
        started_at=at, ended_at=at + 200, peer="192.0.2.1:993", phases={Phase.CONNECT: 20_000}, cause=cause,
        failed_phase=failed, detail=detail,
    )  # fmt: skip
    outcome = cause.outcome if cause else Outcome.UP
    return Observation(
        target=target, scheduled_at=at, started_at=at, ended_at=at + 200, outcome=outcome, cause=cause,
        failed_phase=failed, detail=detail, attempts=(attempt,), clock=clock_of(at, at + 200),
    )  # fmt: skip


def clock_of(start: Millis, end: Millis) -> ClockSpan:
    """A machine that was started in 1970, and whose wall clock was never set and is right to a tenth of a
    second.
    """
    return ClockSpan(monotonic.origin().boot, start, end, 100)


def write(
    folder: Path | Place,
    patterns: dict[str, Pattern],
    start: Millis,
    end: Millis,
    *,
    interval: Millis = MINUTE,
    provider: str = "lab",
    vantage: str = "here",
    rules: Rules | None = None,
    every: int = 60,
    observe: Callable[[str, str, Millis], Observation] = observation_of,
    durable: bool = True,
    monitor_entries: Sequence[tuple[str, Millis, dict[str, Any]]] = (),
    backdated: bool = False,
) -> Store:
    """Write a ledger of imap targets, probed every `interval`; a checkpoint after `every` intervals. Not closed.

    `seen` makes an observation of a target, a mark and a time. Not `durable`: nothing waits for the disk.
    `own` are entries about MailWatch itself (kind, time, payload), in order; each precedes the observations of its
    time. `backdated`: checkpoints say that they were made when their last entry was, not now.
    """
    rules = rules or Rules()
    store = Store.open(folder)
    ticked = start
    store.read_clock = lambda: ticked
    if not durable:
        wait_for_no_disk(store)
    program = {"version": "0.1.0", "python": "3.11.2", "system": "Linux-6.1-x86_64", "config": "c0" * 32}
    node = {"event": "start", **program, "vantage_point": vantage, "rules": rules_payload(rules)}
    drafts = [NewEntry(kind="node", time=start, target=None, payload=node)]
    index, detectors = store.size + 1, dict.fromkeys(patterns, Detector())
    blind: dict[str, Millis] = {}
    waiting = list(monitor_entries)

    def sign(at: Millis) -> None:
        # The ledger cannot be changed afterwards, so it is the clock that is set.
        with patch("mailwatch.store.store.now", lambda: at) if backdated else nullcontext():
            store.checkpoint()

    for number, at in enumerate(range(start, end, interval)):
        while waiting and waiting[0][1] <= at:
            what, when, payload = waiting.pop(0)
            drafts.append(NewEntry(kind=what, time=when, target=None, payload=payload))
            index += 1
        for name, pattern in patterns.items():
            mark = pattern(at)
            if mark == " ":
                blind.setdefault(name, at)
                continue
            facts: list[Observation | Gap] = [observe(name, mark, at)]
            if name in blind:
                since = blind.pop(name)
                why, clock = GapReason.NOT_RUNNING, clock_of(since, at)
                facts.insert(0, Gap(target=name, start=since, end=at, reason=why, clock=clock))
            for fact in facts:
                what, when = ("gap", at) if isinstance(fact, Gap) else ("observation", fact.ended_at)
                drafts.append(NewEntry(kind=what, time=when, target=name, payload=fact))
                detectors[name], changed = detectors[name].feed(IndexedFact(index, fact), rules)
                index += 1
                for outage in changed:
                    payload = payload_of(outage, provider, Kind.IMAP, vantage)
                    payload |= {"rules": rules_payload(rules)}
                    drafts.append(NewEntry(kind="outage", time=at, target=name, payload=payload))
                    index += 1
        ticked = at + interval
        if drafts and number % every == 0:
            store.append_batch(drafts)
            drafts = []
            sign(at)
    if drafts:
        store.append_batch(drafts)
    sign(end)
    return store


def observed(target: str, at: int, outcome: Outcome = Outcome.UP) -> NewEntry:
    clock = monotonic.since(monotonic.milliseconds())
    observation = Observation(
        target=target, scheduled_at=at, started_at=at, ended_at=at + 1, outcome=outcome, clock=clock
    )  # fmt: skip
    return NewEntry(kind="observation", time=at, target=target, payload=observation)


def change(event: TargetEvent, at: Millis, interval: Millis, name: str = "mail", **more: Any) -> TargetChange:
    settings: dict[str, Any] = {
        "kind": Kind.IMAP, "provider": "lab", "host": "127.0.0.1", "port": 1, "tls": TlsMode.NONE,
        "interval": interval, "timeout": 30_000, "catalogue": False, "own_ca": False, **more,
    }  # fmt: skip
    return TargetChange(
        target=name,
        at=at,
        event=event,
        settings=TargetSettings(**settings),
        reason="start",
        clock=clock_of(at, at),
    )
