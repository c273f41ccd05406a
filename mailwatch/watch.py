"""What the monitor remembers of a target while it runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mailwatch.models import Millis, Observation, Target
from mailwatch.outages import Proof, State
from mailwatch.probes import Outstanding
from mailwatch.service_level import Buckets


@dataclass(slots=True)
class Watch:
    """One target under watch; all of this can be had again from the ledger."""

    target: Target
    state: State
    buckets: Buckets
    unfilled: list[tuple[int, Observation]] | None = None
    """Looks that came while the buckets are being filled from the ledger; None once they are."""
    seen_until: Millis | None = None
    latest: Observation | None = None
    proof: Proof = field(default_factory=Proof)
    outages: dict[str, dict[str, Any]] = field(default_factory=dict)
    outstanding: Outstanding = field(default_factory=Outstanding)
    """Messages of a round trip that are on their way."""

    def add(self, index: int, observation: Observation) -> None:
        """Count a look towards availability."""
        if self.unfilled is None:
            self.buckets.add(observation)
        else:
            self.unfilled.append((index, observation))

    def filled(self, buckets: Buckets, last_index: int) -> None:
        """Go on with buckets that hold all looks up to entry `last_index`."""
        for index, observation in self.unfilled or ():
            if index > last_index:
                buckets.add(observation)
        self.buckets, self.unfilled = buckets, None
