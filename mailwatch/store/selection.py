"""What a query wants of the ledger, and which rows of a run that are."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from mailwatch.model import Outcome
from mailwatch.store.run_format import OUTCOMES, WITHHELD_CONTENTS, WITHHELD_KIND, Run
from mailwatch.times import Millis

PACKED_KINDS = ("observation", "gap")
"""Kinds of entries that packs hold, besides withheld ones; all others stay rows."""
WITHHELD = WITHHELD_KIND
ALL_CONTENTS = sum(OUTCOMES.values()) + WITHHELD_CONTENTS


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which entries a query wants; bounds as in `Reader.entries`, None for no bound."""

    target: str | None = None
    kinds: Collection[str] = ()
    outcome: Outcome | None = None
    start_ms: Millis | None = None
    end_ms: Millis | None = None
    from_index: int | None = None
    to_index: int | None = None
    headers: bool = True
    """Whether the headers are wanted too: out of packs they take half of the time."""

    @property
    def contents(self) -> int:
        """Bits of `runs.contents` that a run must have one of; 0 if packs hold nothing of it."""
        if self.outcome is not None:
            return OUTCOMES[self.outcome.value] if not self.kinds or "observation" in self.kinds else 0
        if not self.kinds:
            return ALL_CONTENTS
        found = OUTCOMES[None] if "gap" in self.kinds else 0
        found |= WITHHELD_CONTENTS if WITHHELD in self.kinds else 0
        return found | (sum(OUTCOMES.values()) - OUTCOMES[None] if "observation" in self.kinds else 0)

    def positions(self, run: Run) -> Sequence[int]:
        """Return the positions of the wanted rows of a run, in ledger order."""
        low, high = 0, run.count
        if self.from_index is not None:
            low = bisect_left(run.indices, self.from_index)
        if self.to_index is not None:
            high = bisect_left(run.indices, self.to_index)
        found: Sequence[int] = range(low, high)
        wanted = self.contents
        bits = [(WITHHELD_CONTENTS if run.is_withheld else OUTCOMES[head[1]]) & wanted for head in run.heads]
        if not all(bits):
            members = run.members
            found = [at for at in found if bits[members[at]]]
        times = run.times
        if self.start_ms is not None and min(times) < self.start_ms:
            found = [at for at in found if times[at] >= self.start_ms]
        if self.end_ms is not None and max(times) >= self.end_ms:
            found = [at for at in found if times[at] < self.end_ms]
        return found
