"""The parts of the monitor that pack, on a ledger of ten days."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from prometheus_client import CollectorRegistry

from mailwatch.config.schema_retention import RetentionSection
from mailwatch.metrics import Metrics
from mailwatch.monitor.packing import LedgerPacking
from mailwatch.monitor.storage import StorageWatch
from mailwatch.store import Reader, Store, Tokens, Writer
from mailwatch.store.sizes import SizeMeter
from tests.helpers.ledger_factory import DAY

START = 1_767_225_600_000
END = START + 10 * DAY


def retention(**given: str) -> RetentionSection:
    """The section of a config."""
    return RetentionSection.model_validate(given)


class Running:
    """The parts that pack."""

    def __init__(self, folder: Path, **given: str) -> None:
        self.store = Store.open(folder)
        self.store.read_clock = lambda: START + 200 * DAY
        self.reader, self.writer = Reader.open(folder), Writer(self.store)
        self.meter, metrics = SizeMeter(folder), Metrics(CollectorRegistry())
        self.storage = StorageWatch(self.meter, metrics, retention(**given))
        self.packing = LedgerPacking(self.reader, self.writer, metrics, self.storage, Tokens(folder))

    @property
    def packed(self) -> int:
        """How many entries packs hold."""
        return self.meter.measure(END).packed

    async def idle(self) -> None:
        """Pack all that there is."""
        while await self.packing.step():
            pass


@contextlib.asynccontextmanager
async def running(folder: Path, **given: str) -> AsyncIterator[Running]:
    parts = Running(folder, **given)
    await parts.writer.start()
    try:
        yield parts
    finally:
        await parts.writer.close()
        parts.reader.close()
        parts.meter.close()
