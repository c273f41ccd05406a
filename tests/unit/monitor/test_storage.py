"""What the running MailWatch says about its disk."""

from __future__ import annotations

import asyncio
import contextlib
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import time_machine
from prometheus_client import CollectorRegistry

from mailwatch.analysis.storage_budget import LedgerSizes, StorageBudget
from mailwatch.config.schema_retention import RetentionSection
from mailwatch.metrics import Metrics
from mailwatch.monitor.storage import StorageWatch
from mailwatch.store import StoreUnavailableError
from mailwatch.store.sizes import SizeMeter
from tests.helpers.ledger_factory import HOUR, write

START = 1_767_225_600_000
SIZES = LedgerSizes(rows=1000, entries=1)


def exposed(metrics: Metrics, name: str) -> list[str]:
    lines = b"".join(metrics.exposition()).decode().splitlines()
    return [line for line in lines if line.startswith(f"mailwatch_ledger_{name}")]


@pytest.mark.parametrize("hours", [1, 30])
def test_a_ledger_is_measured_for_metrics_and_readyz(tmp_path: Path, hours: int) -> None:
    write(tmp_path, {"mail": lambda _: "+"}, START, START + hours * HOUR, every=500, durable=False).close()
    metrics, meter = Metrics(CollectorRegistry()), SizeMeter(tmp_path)
    watch = StorageWatch(meter, metrics, RetentionSection())
    with time_machine.travel((START + hours * HOUR) / 1000, tick=False):
        budget = watch.measure()
    meter.close()
    assert watch.latest == budget
    assert exposed(metrics, "bytes{") == [
        f'mailwatch_ledger_bytes{{form="{form}"}} {number}' for form, number in budget.sizes.by_form().items()
    ]
    is_known = hours > 24
    assert len(exposed(metrics, "bytes_per_day ")) == len(exposed(metrics, "until_full_seconds ")) == is_known
    assert len(watch.notes()) == is_known


@pytest.mark.parametrize(
    ("budget", "notes"),
    [
        (None, []),
        (StorageBudget(SIZES, None, None), []),
        (StorageBudget(SIZES, 2_340_000, None), []),
        (StorageBudget(SIZES, 2_340_000, 12.9), ["the disk of the ledger is full in 12 days, at 2.3 MB a day"]),
        (StorageBudget(SIZES, 2_340_000, math.inf), ["the ledger does not fill its disk"]),
    ],
)
def test_readyz_says_when_the_disk_is_full_if_that_is_known(
    budget: StorageBudget | None, notes: list[str]
) -> None:
    watch = StorageWatch(cast(SizeMeter, None), Metrics(CollectorRegistry()), RetentionSection())
    watch.latest = budget
    assert watch.notes() == notes


@dataclass
class _Away:
    """A disk that does not answer; the first measurement succeeded."""

    asked: asyncio.Event = field(default_factory=asyncio.Event)
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)

    def measure(self, at: int) -> LedgerSizes:
        self.loop.call_soon_threadsafe(self.asked.set)
        raise StoreUnavailableError("the disk is away", "away")


async def test_a_disk_that_cannot_be_measured_is_unknown() -> None:
    metrics, away = Metrics(CollectorRegistry()), _Away()
    watch = StorageWatch(cast(SizeMeter, away), metrics, RetentionSection())
    watch.latest = StorageBudget(SIZES, 1.0, 1.0)
    metrics.storage(watch.latest)
    running = asyncio.create_task(watch.run())
    await away.asked.wait()
    while watch.latest is not None:
        await asyncio.sleep(0)
    assert exposed(metrics, "bytes{") == []
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
