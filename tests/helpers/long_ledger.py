"""A ledger of years, written in minutes: each entry is sealed as the Store does, most are made from a template.

What a run of equal observations leaves out of the rules is what changes nothing: an up observation after another,
and a failed one in an outage that stays open until the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject, outage_payload
from mailwatch.ledger.entry import encode_entry, target_id
from mailwatch.ledger.merkle import leaf_hash
from mailwatch.ledger.payloads import fact_payload
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.model import (
    Attempt,
    Cause,
    ClockSpan,
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
from mailwatch.store import Store
from mailwatch.times import DAY_MS, Millis
from tests.helpers.sqlite_access import wait_for_no_disk

Pattern = Callable[[int], bool]
"""Whether the target is up at the step with that number."""
BATCH = 20_000
STEPS_A_DAY = 1440
"""Steps after which the settings of each target are written again, as a running MailWatch does each day."""
RULES = Rules()


def steady(step: int) -> bool:
    """Return that the target is up, always."""
    return True


def down_since(first: int) -> Pattern:
    """Return the pattern of a target that is down from a step on."""
    return lambda step: step < first


def flapping(period: int, failures: int = 4) -> Pattern:
    """Return the pattern of an outage of some observations in each period."""
    return lambda step: step % period >= failures


@dataclass(slots=True)
class _Series:
    """One target as it is written."""

    name: str
    opaque: str
    pattern: Pattern
    number: int = 0
    detector: Detector = field(default_factory=Detector)
    last_up: IndexedFact | None = None


class _LedgerWriter:
    """Appends rows past the Store's own checks; the Store signs the tree."""

    def __init__(self, store: Store) -> None:
        self._store, self._rows = store, list[dict[str, Any]]()
        self.size, self.clock = store.size, 0

    def append(
        self, kind: str, at: Millis, series: _Series | None, payload: Mapping[str, Any], outcome: str | None
    ) -> None:
        if series is not None:
            series.number += 1
            payload = {**payload, "salt": f"{self.size:032x}"}
        sealed = encode_entry(
            index=self.size, kind=kind, time=at, target=series.opaque if series else None,
            number=series.number if series else None, payload=payload, clock=self.clock, origin=monotonic.origin(),
        )  # fmt: skip
        self._rows.append(
            {
                "idx": self.size, "kind": kind, "time_ms": at, "target": series.name if series else None,
                "number": series.number if series else None, "outcome": outcome, "header": sealed.header,
                "payload": sealed.payload,
            }
        )  # fmt: skip
        self.size += 1
        if len(self._rows) >= BATCH:
            self.flush()

    def flush(self) -> None:
        store = self._store
        before, after = store._tree, store._tree.copy()
        for row in self._rows:
            after.append(leaf_hash(row["header"].encode()))
        if self._rows:
            assert store._hold.append(before, after, self._rows)
        store._tree = after
        self._rows.clear()
        store.checkpoint()


def write_long_ledger(
    folder: Path,
    patterns: Mapping[str, Pattern],
    end: Millis,
    days: float,
    *,
    interval: Millis = 60_000,
    host: str = "127.0.0.1",
    port: int = 993,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Write a ledger of imap targets that ends at `end`; return its number of entries."""
    settings = _settings(interval, host, port)
    store = Store.open(folder)
    wait_for_no_disk(store)
    steps = round(days * DAY_MS / interval)
    begin = end - steps * interval
    writer = _LedgerWriter(store)
    node = {
        "event": "start", "version": "0.2.0", "python": "3.11.2", "system": "Linux", "config": "c0" * 32,
        "vantage_point": "here", "rules": rules_payload(RULES),
    }  # fmt: skip
    writer.append("node", begin, None, node, None)
    written = [_Series(name, target_id(store.keys.secret, name), pattern) for name, pattern in patterns.items()]
    for series in written:
        writer.append("watch", begin, series, fact_payload(_watched(series.name, begin, settings)), None)
    templates = {up: fact_payload(_observation("", up, 0, 0, interval)) for up in (True, False)}
    for step in range(steps):
        at = begin + step * interval
        writer.clock = at - begin + 1000
        for series in written if step % STEPS_A_DAY == STEPS_A_DAY - 1 else ():
            daily = replace(_watched(series.name, at, settings), event=TargetEvent.CONTINUE, reason="daily")
            clock = ClockSpan(monotonic.origin().boot, at - begin, at - begin, 100)
            writer.append("watch", at, series, fact_payload(replace(daily, clock=clock)), None)
        for series in written:
            _write_step(writer, series, step, at, at - begin, settings, templates)
        if step % 1000 == 0:
            progress(step, steps)
    writer.flush()
    store.close()
    return writer.size


def _write_step(
    writer: _LedgerWriter,
    series: _Series,
    step: int,
    at: Millis,
    clock: Millis,
    settings: TargetSettings,
    templates: Mapping[bool, Mapping[str, Any]],
) -> None:
    up, state, interval = series.pattern(step), series.detector.state, settings.interval
    payload: dict[str, Any] = {**templates[up], "target": series.name, "scheduled": at, "start": at}
    payload |= {"end": at + 200, "clock": {**payload["clock"], "start": clock, "end": clock + 200}}
    payload["attempts"] = [{**payload["attempts"][0], "start": at, "end": at + 200}]
    index = writer.size
    outcome = Outcome.UP if up else Outcome.DOWN
    writer.append("observation", at + 200, series, payload, outcome.value)
    if up and state.name in ("up", "unknown") and not state.is_open:
        series.last_up = IndexedFact(index, _observation(series.name, True, at, clock, interval))
        if state.name == "up":
            return
    if state.is_open and not up and not any(series.pattern(step + ahead) for ahead in range(1, 61)):
        return
    facts = [IndexedFact(index, _observation(series.name, up, at, clock, interval))]
    if series.last_up is not None and series.last_up.index < index:
        facts.insert(0, series.last_up)
        series.last_up = None
    for fact in facts:
        series.detector, changed = series.detector.feed(fact, RULES)
        for outage in changed:
            subject = OutageSubject(provider="lab", kind=Kind.IMAP, vantage_point="here")
            record = OutageRecord.of(outage, subject, rules=RULES, settings=settings)
            writer.append("outage", at + 200, series, outage_payload(record), None)


def _settings(interval: Millis, host: str, port: int) -> TargetSettings:
    return TargetSettings(
        kind=Kind.IMAP, provider="lab", host=host, port=port, tls=TlsMode.IMPLICIT, interval=interval,
        timeout=30_000, catalogue=False, own_ca=False,
    )  # fmt: skip


def _watched(name: str, at: Millis, settings: TargetSettings) -> TargetChange:
    clock = ClockSpan(monotonic.origin().boot, 0, 0, 100)
    return TargetChange(
        target=name, at=at, event=TargetEvent.BEGIN, settings=settings, reason="start", clock=clock
    )


def _observation(name: str, up: bool, at: Millis, clock: Millis, interval: Millis) -> Observation:
    cause = None if up else Cause.TIMEOUT
    failed = None if up else Phase.CONNECT
    detail = "" if up else "no answer within 30 s"
    attempt = Attempt(
        started_at=at, ended_at=at + 200, peer="192.0.2.1:993", phases={Phase.CONNECT: 20_000}, cause=cause,
        failed_phase=failed, detail=detail,
    )  # fmt: skip
    return Observation(
        target=name, scheduled_at=at, started_at=at, ended_at=at + 200, interval=interval,
        outcome=Outcome.UP if up else Outcome.DOWN, cause=cause, failed_phase=failed, detail=detail,
        attempts=(attempt,), clock=ClockSpan(monotonic.origin().boot, clock, clock + 200, 100),
    )  # fmt: skip
