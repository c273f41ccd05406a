"""What a node shows while it stands by: what the active node records. It writes nothing to the ledger.

It saves the newest checkpoint beside its keys, as the active node does: a database that lacks it later has lost
entries that were signed, whichever node signed them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence

from mailwatch.analysis.detector import IndexedFact
from mailwatch.analysis.outage_record import outage_from_payload
from mailwatch.ledger.checkpoint import Checkpoint, CheckpointError, verify
from mailwatch.model import Gap, Observation, TargetChange
from mailwatch.monitor.membership import Membership
from mailwatch.monitor.read_model import MonitorReadModel
from mailwatch.monitor.restore import read_states, restored_runtime
from mailwatch.monitor.service import Service
from mailwatch.settings import Target
from mailwatch.store import Entry, NewEntry, StoreError, Writer
from mailwatch.store.announcements import read_announcements
from mailwatch.store.errors import EvictedError
from mailwatch.store.first_start import save_signed_checkpoint, signed_size
from mailwatch.store.kept_states import KeptState
from mailwatch.store.keys import Keys
from mailwatch.store.replay import recent_reader

logger = logging.getLogger(__name__)
FOLLOW_SECONDS = 1.0
"""Seconds between two searches for new entries."""
MAX_ENTRIES = 2000
"""Entries that are taken at once: the pages are answered in between."""
STANDS_BY = "this node stands by"


class RefusingWriter(Writer):
    """The writer of a node that stands by: it takes nothing."""

    def __init__(self) -> None:
        self.failure = ""
        self.on_checkpoint = []

    @property
    def pending(self) -> int:
        """0: nothing waits."""
        return 0

    def problems(self) -> list[str]:
        """Return []: nothing is to be written."""
        return []

    def submit(self, new: NewEntry) -> asyncio.Future[Entry]:
        """Refuse an entry. Raises EvictedError."""
        raise EvictedError(STANDS_BY)

    async def checkpoint(self) -> Checkpoint | None:
        """Sign nothing: the active node does."""
        return None

    async def keep(self, states: Sequence[KeptState]) -> bool:
        """Keep nothing."""
        return False

    def unwritten(self) -> str:
        """Return "": nothing can be lost."""
        return ""

    def damage(self) -> str:
        """Return "": the active node finds damage."""
        return ""


class Follower:
    """Applies the entries of the active node to the targets in memory, for the pages."""

    def __init__(self, service: Service, keys: Keys) -> None:
        self._monitor, self._reader = service.monitor, service.reader
        self._data_dir, self._keys = service.config.data_dir, keys
        self._next = 0
        self._restored: dict[str, int] = {}
        """The last entry of each target that its state already has."""

    async def restore(self, targets: Sequence[Target]) -> None:
        """Read the states of the targets. Raises StoreError."""
        monitor, reader = self._monitor, self._reader
        monitor.maintenance.announced = await asyncio.to_thread(read_announcements, reader)
        self._next = await asyncio.to_thread(reader.size)
        recent = await asyncio.to_thread(recent_reader, reader, [target.name for target in targets])
        states, _ = await asyncio.to_thread(read_states, recent, targets, None)
        for target, restored in zip(targets, states, strict=True):
            monitor.add_target(restored_runtime(monitor, target, restored))
            self._restored[target.name] = restored.history.index

    async def run(self) -> None:
        """Follow the ledger until cancelled."""
        failing = False
        while True:
            try:
                entries = await asyncio.to_thread(
                    lambda: list(self._reader.entries(from_index=self._next, limit=MAX_ENTRIES))
                )
            except StoreError:
                # The membership reports a database that is away.
                failing = True
                entries = []
            else:
                if failing:
                    logger.info("the record can be read again")
                failing = False
            if entries:
                await asyncio.to_thread(self._save_checkpoint)
            for entry in entries:
                self._apply(entry)
                self._next = entry.index + 1
            if len(entries) < MAX_ENTRIES:
                await asyncio.sleep(FOLLOW_SECONDS)
            else:
                await asyncio.sleep(0)

    def _save_checkpoint(self) -> None:
        """Save the newest checkpoint beside the keys."""
        try:
            newest = self._reader.last_checkpoint()
            if newest is not None and newest.size > signed_size(self._data_dir, self._keys):
                verify(newest.note, self._keys.public)
                save_signed_checkpoint(self._data_dir, newest.note)
        except (StoreError, CheckpointError, OSError) as error:
            logger.warning("the newest checkpoint was not saved beside the keys: %s", error)

    def _apply(self, entry: Entry) -> None:
        """Apply one entry, as the pipeline does with what it has committed."""
        monitor = self._monitor
        if entry.kind == "guard":
            payload = entry.payload
            attribution = monitor.attribution
            went_down = payload.get("checked_at", payload["asked_at"])
            attribution.offline_since = (
                None if payload["online"] is not False else attribution.offline_since or went_down
            )
        runtime = monitor.targets.get(entry.target or "")
        if runtime is None or entry.index <= self._restored.get(runtime.target.name, -1):
            return
        if entry.kind == "outage":
            record = outage_from_payload(entry.payload)
            runtime.outages[record.id] = record
        fact = entry.fact
        if fact is None:
            return
        detector, _ = runtime.detector.feed(IndexedFact(entry.index, fact), monitor.rules)
        if isinstance(fact, Observation):
            runtime.probe_ended = time.monotonic()
            runtime.apply(entry.index, fact, detector, runtime.probe_ended)
            return
        runtime.detector = detector
        runtime.feed(entry.index, fact)
        if isinstance(fact, TargetChange):
            runtime.settings = fact.settings
            runtime.paused_at = (runtime.paused_at or fact.at) if fact.paused else None
        elif isinstance(fact, Gap):
            runtime.trailing_gap = fact


class StandbyReadModel(MonitorReadModel):
    """The read model of a node that stands by. Its metrics are only those of the nodes."""

    def __init__(self, service: Service, membership: Membership) -> None:
        super().__init__(service)
        self._membership = membership

    def unready_reasons(self) -> list[str]:
        """Return why nobody may be probing, or why this node could not take over."""
        return self._membership.standby_problems()

    def standby(self) -> str | None:
        """Return the name of the active node, "" without one."""
        active = self._membership.active_node()
        return active.name if active else ""

    def stale_reasons(self) -> list[str]:
        """Return why the record may not go on."""
        return self._membership.standby_problems()

    def storage_notes(self) -> list[str]:
        """Return that this node stands by, and which one probes."""
        active = self._membership.active_node()
        stands_by = f"{STANDS_BY}; {active.name} is active" if active else STANDS_BY
        return [stands_by, *self._membership.config_notes()]

    def metrics(self) -> Iterator[bytes]:
        """Yield the metrics of the nodes."""
        return self._monitor.metrics.node_exposition()

    async def _prepare(self, identity: str) -> None:
        """Sign nothing: a document ends where the record that the active node signed does."""
