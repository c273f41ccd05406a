"""Ledgers as real clocks write them: wall and steady milliseconds are each rounded on its own, and drift apart."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from mailwatch import monotonic
from mailwatch.evidence.outage_case import find_outage_evidence, write_outage_bundle
from mailwatch.evidence.period_case import ReportTarget, find_period_evidence, write_period_bundle
from mailwatch.model import ClockSpan, Observation
from mailwatch.store import Reader, Tokens, begin_successor, queries
from mailwatch.store.keys import load_keys
from mailwatch.times import Millis
from tests.helpers import ledger_factory as ledgers
from tests.helpers.joint_parts import START

TARGET = "a@example.org"
INTERVAL: Millis = 20_000
Observe = Callable[[str, str, Millis], Observation]


def observing(chance: Random, peer: str, *, on_record: bool = True) -> Observe:
    """Make observations of any length, by clocks that drift apart. `on_record`: they have their interval."""
    phase, drift = chance.random(), chance.uniform(-2e-5, 2e-5)

    def observe(name: str, mark: str, at: Millis) -> Observation:
        start = at + 400 * chance.random()
        end = start + chance.uniform(5, 900)
        begun, ended = (round(START + (each - START) * (1 + drift) + phase) for each in (start, end))
        span = ClockSpan(monotonic.origin().boot, begun, ended, 100)
        made = ledgers.observation_of(name, mark, at)
        attempts = tuple(
            dataclasses.replace(one, peer=peer, started_at=round(start), ended_at=round(end))
            for one in made.attempts
        )
        return dataclasses.replace(
            made, started_at=round(start), ended_at=round(end), attempts=attempts, clock=span,
            interval=INTERVAL if on_record else None,
        )  # fmt: skip

    return observe


def at_random(chance: Random, letters: str) -> Callable[[Millis], str]:
    """Runs of one mark each, mostly long ones of good observations."""
    marks: list[str] = []

    def mark(at: Millis) -> str:
        number = (at - START) // INTERVAL
        while len(marks) <= number:
            one = chance.choice(letters)
            marks.extend(one * (chance.randint(1, 40) if one == "+" else chance.randint(1, 6)))
        return marks[number]

    return mark


class RealClockLedger:
    """A ledger of one target in a folder, and its bundles."""

    def __init__(
        self,
        folder: Path,
        chance: Random,
        pattern: Callable[[Millis], str],
        *,
        start: Millis = START,
        length: int = 150,
        provider: str = "libero",
        vantage: str = "here",
        peer: str = "192.0.2.1:993",
        on_record: bool = True,
        entries: list[tuple[str, Millis, dict[str, Any]]] | None = None,
    ) -> None:
        self.folder, self.provider, self.vantage, self._chance = folder, provider, vantage, chance
        self.start, self.end = start, start + length * INTERVAL
        self._count = 0
        store = ledgers.write(
            folder, {TARGET: pattern}, start, self.end, interval=INTERVAL, provider=provider, vantage=vantage,
            every=10, observe=observing(chance, peer, on_record=on_record), durable=False,
            monitor_entries=entries or [],
        )  # fmt: skip
        store.close()

    @contextlib.contextmanager
    def _written(self) -> Iterator[tuple[Path, io.BytesIO]]:
        self._count += 1
        name = f".{(self.start - START) // INTERVAL}.{self._count}.zip"
        path, out = self.folder.with_suffix(name), io.BytesIO()
        yield path, out
        path.write_bytes(out.getvalue())

    def lose(self) -> Millis:
        """Lose the database, and appoint a successor, which is written to the same folder; return from when on."""
        (self.folder / "mailwatch.sqlite").unlink()
        begin_successor(self.folder)
        return self.end + 10 * INTERVAL

    def outages(self) -> list[Path]:
        """A bundle of each outage."""
        made = []
        with contextlib.closing(Reader.open(self.folder)) as reader:
            keys, tokens = load_keys(self.folder), Tokens(self.folder)
            for record in sorted(queries.outage_records(reader), key=lambda one: one.first_index):
                case = find_outage_evidence(reader, tokens, keys, record.id, None)
                with self._written() as (path, out):
                    write_outage_bundle(out, reader, keys, case, "en", [])
                made.append(path)
        return made

    def period(self, start: float, end: float) -> Path:
        """A bundle of a window, from one share of the ledger's time to another one."""
        length = self.end - self.start
        window = self.start + round(start * length), self.start + round(end * length)
        with contextlib.closing(Reader.open(self.folder)) as reader, self._written() as (path, out):
            keys, watched = load_keys(self.folder), [ReportTarget(TARGET, self.provider, "imap")]
            case = find_period_evidence(reader, Tokens(self.folder), keys, window, watched, self.vantage)
            write_period_bundle(out, reader, keys, case, "en", [])
        return path
