"""Watches over what the ledger takes on disk, for the metrics, /readyz, the ledger page and the messages."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterable

from mailwatch.analysis.storage_budget import LedgerSizes, StorageBudget, combined, storage_budget
from mailwatch.config.schema_retention import RetentionSection
from mailwatch.metrics import Metrics
from mailwatch.store.errors import StoreError
from mailwatch.store.place import Place
from mailwatch.store.postgres_check import examine
from mailwatch.store.sizes import SizeMeter
from mailwatch.times import now

logger = logging.getLogger(__name__)

MEASURE_SECONDS = 60.0
"""Seconds between two measurements."""
MAX_DAYS = 36_500
"""A disk that lasts a century is not said to be full one day."""


class StorageWatch:
    """Measures the ledger. `latest` is None until the first measurement. `retention` is that of the config.

    `place`: where it is, None if only its size matters.
    """

    def __init__(
        self, meter: SizeMeter, metrics: Metrics, retention: RetentionSection, place: Place | None = None
    ) -> None:
        self._meter, self._metrics, self._place = meter, metrics, place
        self.retention = retention
        self._losses: list[str] = []
        self.latest: StorageBudget | None = None
        self.own: LedgerSizes | None = None
        """The sizes of this ledger alone, as of the same measurement."""
        self.others: Callable[[], Iterable[LedgerSizes]] = tuple
        """Returns the sizes of other ledgers that `latest` counts: those of a hub's members."""

    async def run(self) -> None:
        """Measure until cancelled. A disk that cannot be measured leaves the last figures unknown."""
        while True:
            try:
                await asyncio.to_thread(self.measure)
            except (StoreError, OSError) as error:
                logger.debug("storage: not measured: %s", error)
                self.latest = self.own = None
                self._metrics.storage(None)
            await asyncio.sleep(MEASURE_SECONDS)

    def measure(self) -> StorageBudget:
        """Measure once. Raises StoreError, OSError."""
        retention = self.retention
        kept = None if retention.keep is None else round(retention.keep * 1000)
        self.own = self._meter.measure(now())
        sizes = combined(self.own, self.others())
        self.latest = storage_budget(sizes, round(retention.rows * 1000), kept)
        self._metrics.storage(self.latest)
        facts = examine(self._place) if self._place else None
        self._losses = facts.losses() if facts else []
        return self.latest

    def notes(self) -> list[str]:
        """Return when the disk is full, and how entries may be lost, for /readyz; [] while that is not known."""
        return [*self._until_full(), *self._losses]

    def _until_full(self) -> list[str]:
        found = self.latest
        if found is None or found.days_until_full is None or found.bytes_a_day is None:
            return []
        if found.days_until_full > MAX_DAYS:
            return ["the ledger does not fill its disk"]
        grows = f"at {found.bytes_a_day / 1e6:.1f} MB a day"
        return [f"the disk of the ledger is full in {math.floor(found.days_until_full)} days, {grows}"]
