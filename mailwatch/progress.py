"""The progress of the start: written by the threads that do its work, read by the event loop."""

from __future__ import annotations

from enum import Enum


class StartupStep(Enum):
    """A step of the start, or what the start waits for."""

    CONFIG = "reading the secrets and certificates that the config names"
    OPENING = "opening the ledger"
    MIGRATING = "updating the tables of the ledger to this version"
    CHECKING = "checking the ledger"
    READING = "reading the ledger"
    WRITING = "recording the start"
    FULL = "the disk of data_dir is full; free some space, and the start continues by itself"
    AWAY = "the database does not answer; the start continues once it does"


class StartupProgress:
    """The current step, with the share of it that is done, None if unknown."""

    def __init__(self) -> None:
        # One tuple, replaced as a whole, since other threads read it.
        self._current: tuple[StartupStep, float | None] = (StartupStep.CONFIG, None)

    @property
    def step(self) -> StartupStep:
        """The current step."""
        return self._current[0]

    @property
    def percent(self) -> int | None:
        """The percentage of the step that is done; None if unknown."""
        share = self._current[1]
        return None if share is None else min(100, int(share * 100))

    @property
    def current(self) -> tuple[StartupStep, float | None]:
        """The current step, and the share of it that is done, None if unknown."""
        return self._current

    def update(self, step: StartupStep, done: int = 0, of: int = 0) -> None:
        """Set the step; `done` of `of` parts are done, and `of` is 0 if their number is unknown."""
        self._current = (step, done / of if of > 0 else None)

    def __str__(self) -> str:
        """Return the progress in English: "reading the ledger, 40 %"."""
        percent = self.percent
        return self.step.value if percent is None else f"{self.step.value}, {percent} %"
