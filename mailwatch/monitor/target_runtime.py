"""What the monitor remembers of a target while it runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from mailwatch.analysis.availability import Buckets
from mailwatch.analysis.detector import State
from mailwatch.analysis.login_outages import Proof
from mailwatch.model import Fact, Gap, Observation, WatchSettings
from mailwatch.probes import Outstanding
from mailwatch.settings import Target
from mailwatch.times import Millis


@dataclass(slots=True)
class Watch:
    """One target under watch; all of this can be had again from the ledger."""

    target: Target
    state: State
    buckets: Buckets
    unfilled: list[tuple[int, Fact]] | None = None
    """Facts that came while the buckets are being filled from the ledger; None once they are."""
    seen_until: Millis | None = None
    """When the latest observation had ended, by the wall clock; None where nothing was observed since it is
    watched.
    """
    seen_interval: float = 0.0
    """The interval in seconds that was in force then."""
    began: float = 0.0
    ended: float = 0.0
    """The latest probe on time.monotonic()."""
    seen_at: float | None = None
    """`seen_until` on that clock; None until MailWatch has probed since its start."""
    since: float = field(default_factory=time.monotonic)
    """When this process began to watch the target, on that clock."""
    probing: float | None = None
    """Since when a probe is under way, on that clock; None between probes."""
    pending: bool = False
    """Whether a probe has ended and is not on record yet."""
    blind: Gap | None = None
    """The latest gap on record, if no observation came after it."""
    blind_at: float | None = None
    """When this process put it on record, on time.monotonic(); None if an earlier one did."""
    latest: Observation | None = None
    proof: Proof = field(default_factory=Proof)
    outages: dict[str, dict[str, Any]] = field(default_factory=dict)
    outstanding: Outstanding = field(default_factory=Outstanding)
    """Messages of a round trip that are on their way."""
    settings: WatchSettings | None = None
    """What the record says of the target, and when that was written (on the clock that nobody can set)."""
    settings_written: Millis = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an observation or a change goes on record: the rules take in each at its place in the ledger."""

    def add(self, index: int, fact: Fact) -> None:
        """Count a fact towards availability."""
        if self.unfilled is None:
            self.buckets.add(fact)
        else:
            self.unfilled.append((index, fact))

    def filled(self, buckets: Buckets, last_index: int) -> None:
        """Go on with buckets that hold all looks up to entry `last_index`."""
        for index, fact in self.unfilled or ():
            if index > last_index:
                buckets.add(fact)
        self.buckets, self.unfilled = buckets, None
