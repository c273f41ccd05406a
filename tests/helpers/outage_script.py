"""A ledger of outages alone, as they open and end at random, for tests of what follows from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.outage_record import OutageRecord, outage_payload
from mailwatch.model import Kind
from mailwatch.store import NewEntry, Store
from tests.helpers.records import made_record

TARGETS = {"a": "lab", "b": "lab", "c": "", "d": "", "e": "mail"}


@dataclass
class OutageScript:
    """Outages at random, as they open and end: some were never seen up before, some are never seen to end."""

    store: Store
    chance: random.Random
    at: int = 1_000_000
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(10**6)))
    still_open: dict[str, OutageRecord] = field(default_factory=dict)

    def step(self) -> None:
        self.at += self.chance.choice([0, 1000, 60_000, 600_000])
        target = self.chance.choice(list(TARGETS))
        if (begun := self.still_open.pop(target, None)) is None:
            self.still_open[target] = self._begin(target)
            self._write(self.still_open[target])
            return
        last_bad = max(begun.last_bad, self.at - 500)
        over = replace(begun, last_bad=last_bad, durations=Durations(last_bad - begun.first_bad, None, None, None))
        unwatched = self.chance.random() < 0.2
        self._write(replace(over, unwatched=unwatched, first_good=None if unwatched else max(self.at, last_bad)))

    def _begin(self, target: str) -> OutageRecord:
        good = None if self.chance.random() < 0.2 else self.at - self.chance.choice([0, 500, 90_000])
        return made_record(
            self.at, self.at, id=f"{next(self.numbers):012x}", target=target, provider=TARGETS[target],
            kind=Kind.IMAP, vantage_point="here", last_good=good,
        )  # fmt: skip

    def _write(self, record: OutageRecord) -> None:
        payload: dict[str, Any] = {**outage_payload(record)}
        self.store.append_batch([NewEntry(kind="outage", time=1, target=record.target, payload=payload)])
