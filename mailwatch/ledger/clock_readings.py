"""Checks that the readings of the steady clock are consistent, entry by entry; pure.

The audit of a ledger and the verification of a bundle share it, so that both reject the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mailwatch.times import Millis

READING_KEYS = ("boot", "clock", "run")
"""Keys of the clock reading in a header of version 2."""
SPAN_KINDS = frozenset({"observation", "gap", "watch"})
"""Kinds of entries whose payload has a start and end on the steady clock."""
_IDENTITY = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class ReadingsMemory:
    """What is known of the readings between two entries, as of `ClockReadings`."""

    begun: bool
    boot: str
    run: str
    clock: Millis
    boots: tuple[str, ...]
    runs: tuple[str, ...]
    ended: Mapping[str, tuple[str, Millis]]


class ClockReadings:
    """Checks the readings through a ledger or a part of it."""

    def __init__(self) -> None:
        self.begun = False
        """Whether an entry has had a reading; all later entries must have one."""
        self._boot = self._run = ""
        self._clock: Millis = 0
        self._boots: set[str] = set()
        self._runs: set[str] = set()
        self._ended: dict[str, tuple[str, Millis]] = {}

    @property
    def memory(self) -> ReadingsMemory:
        """What is known after the entries so far."""
        boots, runs = tuple(sorted(self._boots)), tuple(sorted(self._runs))
        return ReadingsMemory(self.begun, self._boot, self._run, self._clock, boots, runs, dict(self._ended))

    @classmethod
    def of(cls, memory: ReadingsMemory) -> ClockReadings:
        """Return a check that goes on from there."""
        made = cls()
        made.begun, made._boot, made._run, made._clock = memory.begun, memory.boot, memory.run, memory.clock
        made._boots, made._runs, made._ended = set(memory.boots), set(memory.runs), dict(memory.ended)
        return made

    @property
    def boots(self) -> frozenset[str]:
        """The boots of all entries so far."""
        return frozenset(self._boots)

    def check_header(self, header: Mapping[str, Any]) -> Iterator[str]:
        """Process the next entry's header and yield its faults."""
        boot, clock, run = (header.get(key) for key in READING_KEYS)
        if header.get("v") == 1:
            if any(key in header for key in READING_KEYS):
                yield "its header is of version 1 but has a clock reading"
            elif self.begun:
                yield "its clock reading is missing, which the entries before it have"
            return
        self.begun = True
        if missing := [key for key in READING_KEYS if key not in header]:
            yield f"its clock reading is missing: {', '.join(missing)}"
            return
        if type(clock) is not int or clock < 0 or not _is_identity(boot) or not _is_identity(run):
            yield "its clock reading is not whole milliseconds of a boot and a run"
            return
        assert isinstance(boot, str)
        assert isinstance(run, str)
        if boot != self._boot:
            if boot in self._boots:
                yield f"boot {boot} comes back after another one"
            if run in self._runs:
                yield f"run {run} goes on in another boot"
            self._boots.add(boot)
        elif clock < self._clock:
            yield f"its clock runs backwards, from {self._clock} to {clock} ms"
        if run != self._run and run in self._runs:
            yield f"run {run} comes back after another one"
        self._runs.add(run)
        self._boot, self._run, self._clock = boot, run, clock

    def advance(self, clock: Millis) -> None:
        """Process a header of the same boot and run with a clock not earlier than the last."""
        self._clock = clock

    def check_payload(self, kind: str, target: str, payload: Mapping[str, Any]) -> Iterator[str]:
        """Process the payload of the entry whose header came last, and yield its faults."""
        span = payload.get("clock")
        if kind not in SPAN_KINDS:
            return
        if not self.begun:
            if span is not None:
                yield "it has a clock reading, but its header has none"
            return
        if not isinstance(span, dict):
            yield f"the clock reading of its {kind} is missing"
            return
        start, end = span.get("start"), span.get("end")
        bound = span.get("bound", 0)
        whole = all(type(value) is int and value >= 0 for value in (end, bound, 0 if start is None else start))
        if not whole or span.keys() - {"boot", "start", "end", "bound"} or (start is None and kind != "gap"):
            yield f"the clock reading of its {kind} is not from and to in whole milliseconds"
            return
        assert type(end) is int
        if span.get("boot") != self._boot:
            yield f"the clock reading of its {kind} is of another boot than its header"
        elif end > self._clock:
            yield f"its {kind} ends after it was written, by the clock of its header"
        if type(start) is int and start > end:
            yield f"the clock of its {kind} runs backwards, from {start} to {end} ms"
        if kind != "observation" or type(start) is not int:
            return
        boot, ended = self._ended.get(target, ("", 0))
        if boot == self._boot and start < ended:
            yield f"its clock runs backwards: it begins before the observation of {target} before it had ended"
        self._ended[target] = (self._boot, end)


def _is_identity(value: object) -> bool:
    return isinstance(value, str) and _IDENTITY.fullmatch(value) is not None
