"""What the monitor remembers of a target while it runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any

from mailwatch.analysis.detector import Detector, State
from mailwatch.analysis.maintenance import Announcements
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.ledger.entry import target_id
from mailwatch.model import Fact, Gap, Kind, Observation, TargetSettings
from mailwatch.probes import Outstanding
from mailwatch.settings import Target
from mailwatch.times import Millis, Window


@dataclass(slots=True)
class TargetRuntime:
    """One target under watch; all of this can be had again from the ledger."""

    target: Target
    detector: Detector
    rolling_availability: RollingAvailability
    pending_backfill: list[tuple[int, Fact]] | None = None
    """Facts that came while the buckets are being filled from the ledger; None once they are."""
    observed_until: Millis | None = None
    """When the latest observation had ended, by the wall clock; None where nothing was observed since it is
    watched.
    """
    observed_interval: float = 0.0
    """The interval in seconds that was in force then."""
    probe_began: float = 0.0
    probe_ended: float = 0.0
    """The latest probe on time.monotonic()."""
    observed_at: float | None = None
    """`observed_until` on that clock; None until MailWatch has probed since its start."""
    watched_since: float = field(default_factory=time.monotonic)
    """When this process began to watch the target, on that clock."""
    probing_since: float | None = None
    """Since when a probe is under way, on that clock; None between probes."""
    unrecorded: bool = False
    """Whether a probe has ended and is not on record yet."""
    trailing_gap: Gap | None = None
    """The latest gap on record, if no observation came after it."""
    gap_recorded_at: float | None = None
    """When this process put it on record, on time.monotonic(); None if an earlier one did."""
    latest: Observation | None = None
    outages: dict[str, dict[str, Any]] = field(default_factory=dict)
    outstanding: Outstanding = field(default_factory=Outstanding)
    """Messages of a round trip that are on their way."""
    settings: TargetSettings | None = None
    """What the record has of the target, and when that was written (on the steady clock)."""
    settings_written: Millis = 0
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an observation or a change goes on record: the rules take in each at its place in the ledger."""

    @property
    def state(self) -> State:
        """Where the target stands, by what is on record."""
        return self.detector.state

    def apply(self, index: int, observation: Observation, detector: Detector) -> None:
        """Take in an observation that is on record, with the state that follows from it."""
        self.detector = detector
        self.latest = observation
        self.observed_until, self.observed_at = observation.ended_at, self.probe_ended
        self.observed_interval = self.target.interval
        self.trailing_gap, self.gap_recorded_at = None, None
        if self.target.kind is Kind.ROUNDTRIP:
            self.outstanding = self.outstanding.after(observation)
        self.feed(index, observation)

    def feed(self, index: int, fact: Fact) -> None:
        """Count a fact towards availability."""
        if self.pending_backfill is None:
            self.rolling_availability.feed(fact)
        else:
            self.pending_backfill.append((index, fact))

    def backfilled(self, rolling_availability: RollingAvailability, last_index: int) -> None:
        """Go on with an availability that holds all observations up to entry `last_index`."""
        for index, fact in self.pending_backfill or ():
            if index > last_index:
                rolling_availability.feed(fact)
        self.rolling_availability, self.pending_backfill = rolling_availability, None


@dataclass(slots=True)
class MaintenanceCalendar:
    """The maintenance that is announced on record, under keyed ids of the targets; `secret` is the ledger's."""

    secret: bytes
    announced: Announcements = field(default_factory=Announcements)

    def windows_of(self, name: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the maintenance of a target in [start, end), as announced so far."""
        if not self.announced.announcements:
            return ()
        return self.announced.windows_of(target_id(self.secret, name), start, end)

    def includes(self, name: str, at: Millis) -> bool:
        """Whether a target is in maintenance at a time."""
        return bool(self.windows_of(name, at, at + 1))
