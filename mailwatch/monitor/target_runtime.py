"""The state of a target in memory while it is watched."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from mailwatch.analysis.detector import Detector, State
from mailwatch.analysis.maintenance import Announcements
from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.analysis.response_series import ResponseSeries
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.ledger.entry import target_id
from mailwatch.model import Fact, Gap, Kind, Observation, TargetSettings
from mailwatch.probes import Outstanding
from mailwatch.settings import Target
from mailwatch.times import Millis, Window


@dataclass(slots=True)
class TargetRuntime:
    """One watched target; all its state can be restored from the ledger."""

    target: Target
    detector: Detector
    rolling_availability: RollingAvailability
    responses: ResponseSeries = field(default_factory=ResponseSeries)
    pending_backfill: list[tuple[int, Fact]] | None = None
    """Facts that came during the backfill of both from the ledger; None once it is done."""
    observed_until: Millis | None = None
    """When the latest observation ended, by the wall clock; None if there is none since the target is watched."""
    observed_interval: float = 0.0
    """The interval in seconds that was in force at `observed_until`."""
    probe_began: float = 0.0
    probe_ended: float = 0.0
    """Begin and end of the latest probe, on time.monotonic()."""
    observed_at: float | None = None
    """`observed_until` on time.monotonic(); None until this process has probed the target."""
    watched_since: float = field(default_factory=time.monotonic)
    """When this process began to watch the target, on time.monotonic()."""
    probing_since: float | None = None
    """When the probe under way began, on time.monotonic(); None between probes."""
    unrecorded: bool = False
    """Whether a probe has ended whose observation is not recorded yet."""
    is_elsewhere: bool = False
    """Whether another node makes the probe under way."""
    trailing_gap: Gap | None = None
    """The latest recorded gap, if no observation came after it."""
    gap_recorded_at: float | None = None
    """When this process recorded `trailing_gap`, on time.monotonic(); None if an earlier one did."""
    latest: Observation | None = None
    outages: dict[str, OutageRecord] = field(default_factory=dict)
    """The latest outages on record and those that are open, by id, each by its latest entry."""
    outstanding: Outstanding = field(default_factory=Outstanding)
    """The messages of a round trip that are under way."""
    settings: TargetSettings | None = None
    """The target's latest settings on record, and when they were written (on the steady clock)."""
    settings_written: Millis = 0
    paused_at: Millis | None = None
    """Since when its owner has paused it, by the record; None if it is not paused."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while an observation or a change is recorded, so that the rules process each in ledger order."""

    @property
    def state(self) -> State:
        """The target's state by the record."""
        return self.detector.state

    @property
    def state_name(self) -> str:
        """The name of its state, or "paused"."""
        return "paused" if self.target.paused else self.state.name

    def apply(self, index: int, observation: Observation, detector: Detector, ended: float | None) -> None:
        """Apply a recorded observation, with the state that follows from it.

        `ended`: when its probe ended, on time.monotonic(); None if another process made it.
        """
        self.detector = detector
        self.latest = observation
        self.observed_until, self.observed_at = observation.ended_at, ended
        self.observed_interval = self.target.interval
        self.trailing_gap, self.gap_recorded_at = None, None
        if self.target.kind is Kind.ROUNDTRIP:
            self.outstanding = self.outstanding.after(observation)
        self.feed(index, observation)

    def feed(self, index: int, fact: Fact) -> None:
        """Add a fact to the availability and the response times."""
        if self.pending_backfill is None:
            self.rolling_availability.feed(fact)
            self.responses.feed(fact)
        else:
            self.pending_backfill.append((index, fact))

    def backfilled(
        self, rolling_availability: RollingAvailability, responses: ResponseSeries, last_index: int
    ) -> None:
        """Use an availability and response times that hold all facts up to entry `last_index`, and add the later
        ones.
        """
        for index, fact in self.pending_backfill or ():
            if index > last_index:
                rolling_availability.feed(fact)
                responses.feed(fact)
        self.rolling_availability, self.responses, self.pending_backfill = rolling_availability, responses, None


@dataclass(slots=True)
class MaintenanceCalendar:
    """The announced maintenance on record, under keyed ids of the targets; `secret` is the ledger's."""

    secret: bytes
    announced: Announcements = field(default_factory=Announcements)

    def windows_of(self, name: str, start: Millis, end: Millis) -> tuple[Window, ...]:
        """Return the announced maintenance windows of a target in [start, end)."""
        if not self.announced.announcements:
            return ()
        return self.announced.windows_of(target_id(self.secret, name), start, end)

    def includes(self, name: str, at: Millis) -> bool:
        """Return whether a target is in maintenance at a time."""
        return bool(self.windows_of(name, at, at + 1))
