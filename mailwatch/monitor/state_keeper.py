"""Keeps beside the ledger what starts and pages would else replay: states of targets that are down or unknown for
long, the symptoms of their outages, and the index of outages.
"""

from __future__ import annotations

import asyncio
import logging

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.store import Reader
from mailwatch.store.detector_states import KEEP_AFTER
from mailwatch.store.kept_states import KeptState
from mailwatch.store.replay import restore_state, rule_book, state_to_keep
from mailwatch.store.symptom_states import read_symptoms, symptoms_to_keep

logger = logging.getLogger(__name__)

KEEP_SECONDS = 15.0
"""Seconds between two searches for new outages, and for targets whose replay has become long."""


class StateKeeper:
    """Keeps the index of outages, and each target's state each KEEP_AFTER observations since its last up one."""

    def __init__(self, monitor: Pipeline, reader: Reader) -> None:
        self._monitor, self._reader = monitor, reader
        self._kept_at: dict[str, int] = {}
        """For each target, how many observations since its last up observation the latest kept state included."""

    async def run(self) -> None:
        """Keep states until cancelled."""
        await asyncio.sleep(KEEP_SECONDS)
        await self.remove_damaged()
        while True:
            await self._monitor.writer.index_outages()
            await self.keep_due()
            await asyncio.sleep(KEEP_SECONDS)

    async def remove_damaged(self) -> None:
        """Remove the states that cannot be read: some are written again only when a target is down for long."""
        if damaged := await asyncio.to_thread(self._reader.damaged_states):
            logger.warning(
                "kept states that cannot be read are removed, and made anew when needed: %s",
                ", ".join(damaged[:3]),
            )
            await self._monitor.writer.remove_damaged_states()

    async def keep_due(self) -> int:
        """Keep the states that are due; return how many."""
        count = 0
        for name, runtime in list(self._monitor.targets.items()):
            since_up = _observations_since_up(runtime)
            if since_up < self._kept_at.get(name, 0):
                del self._kept_at[name]
            if since_up - self._kept_at.get(name, 0) < KEEP_AFTER:
                continue
            states = await asyncio.to_thread(self._states, name, self._monitor.recorder.open_outage(runtime))
            if not states or await self._monitor.writer.keep(states):
                self._kept_at[name] = since_up
                count += bool(states)
        return count

    def _states(self, name: str, outage: OutageRecord | None) -> list[KeptState]:
        """Return the state of a target, and the symptoms of its open outage, as far as they are to be kept."""
        book = rule_book(self._reader)
        found = [state_to_keep(self._reader, name, book, restore_state(self._reader, name, book))]
        if outage is not None:
            found.append(symptoms_to_keep(self._reader, outage, read_symptoms(self._reader, outage)))
        return [state for state in found if state is not None]


def _observations_since_up(runtime: TargetRuntime) -> int:
    counters = runtime.state.counters
    return counters.down + counters.up + counters.unknown
