"""Notifies people at once that the ledger of the running MailWatch is damaged or was moved away.

The outbox is in the same database, so each channel is tried from memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path

from mailwatch.metrics import Metrics
from mailwatch.notify import notify_ledger_broken
from mailwatch.settings import Channel
from mailwatch.store import StoreDamagedError, StoreError
from mailwatch.store.errors import StoreMovedError

logger = logging.getLogger(__name__)


class DamageAlarm:
    """Created in the event loop, which sends the messages. `trigger` may be called from any thread."""

    def __init__(self, channels: Sequence[Channel], data_dir: Path, metrics: Metrics) -> None:
        self._data_dir, self._metrics = data_dir, metrics
        self.channels = channels
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def trigger(self, error: StoreError) -> None:
        """Report the finding in the log, in the metrics, and over all channels that subscribe to ledger events."""
        logger.error("ledger: %s", error)
        if isinstance(error, StoreDamagedError):
            self._metrics.audited(False)
        with contextlib.suppress(RuntimeError):
            # The loop has ended, and MailWatch with it; the next start reports the finding.
            self._loop.call_soon_threadsafe(self._notify, str(error), isinstance(error, StoreMovedError))

    def _notify(self, finding: str, moved: bool) -> None:
        task = self._loop.create_task(notify_ledger_broken(self.channels, self._data_dir, finding, moved=moved))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Wait up to `seconds` for messages under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=seconds)
