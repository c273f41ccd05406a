"""A ledger of years, written in minutes: each entry is sealed as the Store does, most are made from a template.

What a run of equal observations leaves out of the rules is what changes nothing: an up observation after another,
and a failed one in an outage that stays open until the end.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zstandard

from mailwatch.analysis.detector import Detector, IndexedFact
from mailwatch.analysis.outage_record import OutageRecord, OutageSubject, outage_payload
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.entry import encode_entry, target_id
from mailwatch.ledger.merkle import leaf_hash, perfect_root
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
from mailwatch.monotonic import Origin
from mailwatch.store import Store
from mailwatch.store.last_numbers import last_numbers
from mailwatch.store.packing import SMALL_LEVEL, KeptWindows, PackRange, PreparedPack, PreparedRun
from mailwatch.store.run_format import (
    LEVEL,
    MAX_RUN_ENTRIES,
    OUTCOMES,
    PackableRow,
    Row,
    RunEncoder,
    packable,
)
from mailwatch.times import DAY_MS, Millis
from tests.helpers.sqlite_access import wait_for_no_disk

Pattern = Callable[[int], bool]
"""Whether the target is up at the step with that number."""
BATCH = 20_000
STEPS_A_DAY = 1440
"""Steps after which the settings of each target are written again, as a running MailWatch does each day."""
RULES = Rules()
ORIGIN = Origin(boot="b0" * 8, run="c0" * 8)
"""Of another boot than this one, whose clock has not run for years."""


def steady(step: int) -> bool:
    """Return that the target is up, always."""
    return True


def down_since(first: int) -> Pattern:
    """Return the pattern of a target that is down from a step on."""
    return lambda step: step < first


def flapping(first: int, period: int = 10, failures: int = 4) -> Pattern:
    """Return the pattern of an outage of some observations in each period, from a step on."""
    return lambda step: step < first or step % period >= failures


class _Texts:
    """Payloads of observations that differ in their times and salts only, as the store would write them."""

    def __init__(self, target: str, up: bool, interval: Millis) -> None:
        at, clock = 7_000_000_000_001, 8_000_000_000_001
        payload = fact_payload(_observation(target, up, at, clock, interval)) | {"salt": "@salt"}
        text = canonical(payload).replace("%", "%%")
        places = {str(at): "at", str(at + 200): "end", str(clock): "clock", str(clock + 200): "over"}
        for number, name in places.items():
            text = text.replace(number, f"%({name})d")
        self._form = text.replace("@salt", "%(salt)s")

    def payload(self, at: Millis, clock: Millis, salt: str) -> str:
        return self._form % {"at": at, "end": at + 200, "clock": clock, "over": clock + 200, "salt": salt}


@dataclass(slots=True)
class _Series:
    """One target as it is written."""

    name: str
    opaque: str
    pattern: Pattern
    number: int
    texts: Mapping[bool, _Texts]
    settings: TargetSettings
    detector: Detector = field(default_factory=Detector)
    last_up: IndexedFact | None = None


class _LedgerWriter:
    """Appends rows past the Store's own checks; the Store signs the tree.

    What ends before `pack_before` becomes packs at once, as the Packer would make them of the rows.
    """

    def __init__(self, store: Store, pack_before: Millis, level: int) -> None:
        self._store, self._rows = store, list[Row]()
        self._pack_before, self._level = pack_before, level
        self._packing = True
        self._batch = 1 << level if pack_before else BATCH
        self._compressor = zstandard.ZstdCompressor(level=LEVEL, write_checksum=True)
        self._encoder, self._salts = RunEncoder(), random.Random(1)
        self._origin = ORIGIN
        self.kept = KeptWindows()
        self.size, self.clock = store.size, 0

    def append(
        self, kind: str, at: Millis, series: _Series | None, payload: Mapping[str, Any], outcome: str | None = None
    ) -> None:
        if series is not None:
            series.number += 1
            payload = {**payload, "salt": self._salt()}
        sealed = encode_entry(
            index=self.size, kind=kind, time=at, target=series.opaque if series else None,
            number=series.number if series else None, payload=payload, clock=self.clock, origin=self._origin,
        )  # fmt: skip
        name, number = (series.name, series.number) if series else (None, None)
        self._add(Row(self.size, kind, at, name, number, outcome, sealed.header, sealed.payload))

    def observe(self, series: _Series, at: Millis, clock: Millis, up: bool) -> None:
        """Append an observation, in a tenth of the time that `append` takes."""
        series.number += 1
        origin, ended = self._origin, at + 200
        payload = series.texts[up].payload(at, clock, self._salt())
        header = (
            f'{{"boot":"{origin.boot}","clock":{self.clock},"index":{self.size},"kind":"observation",'
            f'"number":{series.number},"payload":"{hashlib.sha256(payload.encode()).hexdigest()}",'
            f'"run":"{origin.run}","target":"{series.opaque}","time":{ended},"v":2}}'
        )
        outcome = "up" if up else "down"
        self._add(Row(self.size, "observation", ended, series.name, series.number, outcome, header, payload))

    def _salt(self) -> str:
        return self._salts.randbytes(16).hex()

    def _add(self, row: Row) -> None:
        self._rows.append(row)
        self.size += 1
        # An outage may begin within an hour of a range: the range waits for the next one.
        if len(self._rows) >= 2 * self._batch:
            self._flush(self._batch)

    def flush(self) -> None:
        while self._rows:
            self._flush(self._batch)
        self._store.checkpoint()

    def _flush(self, count: int) -> None:
        rows, self._rows = self._rows[:count], self._rows[count:]
        before, after = self._store._tree, self._store._tree.copy()
        leaves = [leaf_hash(row.header.encode()) for row in rows]
        for leaf in leaves:
            after.append(leaf)
        self._packing = self._packing and rows[-1].time_ms < self._pack_before and len(rows) == count
        prepared = self._prepare(rows, leaves) if self._packing else None
        in_runs = set[int]() if prepared is None else prepared[1]
        staying = [row._asdict() for row in rows if row.idx not in in_runs]
        if staying:
            assert self._store._hold.append(before, after, staying)
        self._store._tree = after
        if prepared is not None:
            self._store.save_pack(prepared[0])
        elif self._pack_before == 0 or len(self._rows) == 0:
            self._store.checkpoint()

    def _prepare(self, rows: Sequence[Row], leaves: Sequence[bytes]) -> tuple[PreparedPack, set[int]]:
        """Return the pack of a range, and the entries that its runs hold."""
        segments: dict[str, list[list[PackableRow]]] = {}
        for row in rows:
            if row.target is None or row.kind != "observation":
                continue
            parts = segments.setdefault(row.target, [[]])
            one = None if self.kept.of(row.target).include(row.time_ms) else packable(row)
            if one is None or len(parts[-1]) == MAX_RUN_ENTRIES:
                parts.append([])
            if one is not None:
                parts[-1].append(one)
        runs, held = list[PreparedRun](), set[int]()
        for target, parts in segments.items():
            for part in filter(None, parts):
                times = [one.row.time_ms for one in part]
                held.update(one.row.idx for one in part)
                runs.append(
                    PreparedRun(
                        target=target, first=part[0].row.idx, last=part[-1].row.idx, count=len(part),
                        low_ms=min(times), high_ms=max(times),
                        contents=sum({OUTCOMES[one.row.outcome] for one in part}),
                        data=self._encoder.encode(part).compress(self._compressor),
                    )
                )  # fmt: skip
        prepared = PreparedPack(
            range=PackRange(rows[0].idx, self._level), root=perfect_root(leaves), dictionary_of=rows[0].idx,
            dictionary=None, runs=tuple(runs),
        )  # fmt: skip
        return prepared, held


def write_long_ledger(
    folder: Path,
    patterns: Mapping[str, Pattern],
    end: Millis,
    days: float,
    *,
    interval: Millis = 60_000,
    host: str = "127.0.0.1",
    port: int = 993,
    provider: Callable[[str], str] = lambda _name: "lab",
    rows_days: float | None = None,
    level: int = SMALL_LEVEL,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> int:
    """Write a ledger of imap targets that ends at `end`; return its number of entries.

    What is older than `rows_days` is in packs of so many entries by `level`; None for rows only.
    """
    store = Store.open(folder)
    wait_for_no_disk(store)
    steps = round(days * DAY_MS / interval)
    begin = end - steps * interval
    writer = _LedgerWriter(store, 0 if rows_days is None else end - round(rows_days * DAY_MS), level)
    node = {
        "event": "start", "version": "0.2.0", "python": "3.11.2", "system": "Linux", "config": "c0" * 32,
        "vantage_point": "here", "rules": rules_payload(RULES),
    }  # fmt: skip
    writer.append("node", begin, None, node)
    with store._hold.transaction() as connection:
        numbers = last_numbers(connection, store.health, list(patterns))
    written = [
        _Series(
            name, target_id(store.keys.secret, name), pattern, numbers[name],
            {up: _Texts(name, up, interval) for up in (True, False)},
            _settings(provider(name), interval, host, port),
        )
        for name, pattern in patterns.items()
    ]  # fmt: skip
    for series in written:
        writer.append("watch", begin, series, fact_payload(_watched(series.name, begin, series.settings)))
    for step in range(steps):
        at = begin + step * interval
        writer.clock = at - begin + 1000
        for series in written if step % STEPS_A_DAY == STEPS_A_DAY - 1 else ():
            daily = replace(_watched(series.name, at, series.settings), event=TargetEvent.CONTINUE, reason="daily")
            clock = ClockSpan(ORIGIN.boot, at - begin, at - begin, 100)
            writer.append("watch", at, series, fact_payload(replace(daily, clock=clock)))
        for series in written:
            _write_step(writer, series, step, at, at - begin)
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
) -> None:
    up, state, interval = series.pattern(step), series.detector.state, series.settings.interval
    index = writer.size
    writer.observe(series, at, clock, up)
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
            subject = OutageSubject(provider=series.settings.provider, kind=Kind.IMAP, vantage_point="here")
            record = OutageRecord.of(outage, subject, rules=RULES, settings=series.settings)
            writer.kept.add(record)
            writer.append("outage", at + 200, series, outage_payload(record))


def _settings(provider: str, interval: Millis, host: str, port: int) -> TargetSettings:
    return TargetSettings(
        kind=Kind.IMAP, provider=provider, host=host, port=port, tls=TlsMode.IMPLICIT, interval=interval,
        timeout=30_000, catalogue=False, own_ca=False,
    )  # fmt: skip


def _watched(name: str, at: Millis, settings: TargetSettings) -> TargetChange:
    clock = ClockSpan(ORIGIN.boot, 0, 0, 100)
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
        attempts=(attempt,), clock=ClockSpan(ORIGIN.boot, clock, clock + 200, 100),
    )  # fmt: skip
