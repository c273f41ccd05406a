"""How far the start has come: written by the threads that do its work, read by the event loop."""

from __future__ import annotations

from enum import Enum


class Step(Enum):
    """What a start does, or waits for."""

    CONFIG = "reading the secrets and certificates that the config names"
    OPENING = "opening the ledger"
    MIGRATING = "bringing the ledger's tables to the shape of this version"
    CHECKING = "checking the ledger"
    READING = "reading the ledger"
    WRITING = "putting the start on record"
    FULL = "the disk of data_dir is full; make room, and the start goes on by itself"


class Progress:
    """One step after the other, each with the share of it that is done, None where that is not known."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole: other threads read it.
        self._now: tuple[Step, float | None] = (Step.CONFIG, None)

    @property
    def step(self) -> Step:
        """What is being done."""
        return self._now[0]

    @property
    def percent(self) -> int | None:
        """How much of it is done."""
        share = self._now[1]
        return None if share is None else min(100, int(share * 100))

    def at(self, step: Step, done: int = 0, of: int = 0) -> None:
        """Take note of what is being done; `done` of `of` parts, 0 where their number is not known."""
        self._now = (step, done / of if of > 0 else None)

    def __str__(self) -> str:
        """Say it in English: "reading the ledger, 40 %"."""
        percent = self.percent
        return self.step.value if percent is None else f"{self.step.value}, {percent} %"
