"""What a scenario counts, and the promises that it saw broken."""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field

SHOWN = 400
"""Characters of what is said of a broken promise."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is done. `thorough`: each page by both damages, each offset with both guards."""

    seed: str = "1"
    kills: int = 40
    hours: float = 1.0
    thorough: bool = False


@dataclass(slots=True)
class Figures:
    """Of one scenario. `counts` come in the order in which they were first counted."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    most: dict[str, tuple[float, str]] = field(default_factory=dict)
    """The largest of what was measured, with its unit."""
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    quiet: bool = False
    _said: float = field(default_factory=time.monotonic)

    def count(self, what: str, number: int = 1) -> None:
        """Count something."""
        self.counts[what] += number

    def at_most(self, what: str, value: float, unit: str = "s") -> None:
        """Keep the largest value."""
        self.most[what] = (max(value, self.most.get(what, (value, unit))[0]), unit)

    def promise(self, holds: object, what: str) -> None:
        """Note that a promise was kept or, with `what` happened, that it was not."""
        self.count("promises checked")
        if not holds:
            self.broken.append(what if len(what) < SHOWN else f"{what[:SHOWN]} [...]")
            self.show(f"BROKEN: {self.broken[-1]}")

    def show(self, what: str) -> None:
        """Show how far it is."""
        if not self.quiet:
            sys.stderr.write(f"{self.name}: {what}\n")
            sys.stderr.flush()

    def progress(self, done: int, of: int) -> None:
        """Show how far it is, every few seconds."""
        if done == of or time.monotonic() - self._said > 5:
            self._said = time.monotonic()
            self.show(f"{done} of {of}")
