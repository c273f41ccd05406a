"""Prunes packs of the running MailWatch that are older than `retention.keep`, which is off by default.

It never prunes what an outage needs: its hour before and after, and the entries of its evidence. Nor does it prune
what no outside authority has stamped, and where there are witnesses, what one of them has not cosigned. An entry
`node` announces which packs go, and a checkpoint signs it, before anything is dropped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar

from mailwatch.analysis.outage_record import OutageRecord
from mailwatch.evidence.ledger_range import EvidenceError, select_range
from mailwatch.monitor.storage import StorageWatch
from mailwatch.store import Reader, Store, Tokens
from mailwatch.store.pruning import BESIDE_MS, Needed, Prunable, prunable
from mailwatch.store.queries import outage_records
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

Made = TypeVar("Made")
EVER: Millis = 1 << 60
"""Later than any time or index."""
MAX_TOKENS = 1000
"""Most tokens, from the newest on, among which a trusted one is searched."""


class InTurn(Protocol):
    """Works with the store between two commits, and waits in proportion."""

    async def __call__(self, work: Callable[[Store], Made], /) -> Made:
        """Return the result of the work."""


class Pruning:
    """Prunes. `pause` waits in proportion to the processor time that a thread took."""

    def __init__(
        self, reader: Reader, tokens: Tokens, storage: StorageWatch, pause: Callable[[float], None]
    ) -> None:
        self._reader, self._tokens, self._storage, self._pause = reader, tokens, storage, pause
        self._ranges: dict[str, tuple[int, int]] = {}
        """The evidence of each closed outage."""
        self._announce: Callable[..., Awaitable[None]] | None = None
        self._sign: Callable[[], Awaitable[object]] | None = None
        self._witnessed: Callable[[], Sequence[int]] = tuple

    def connect(
        self,
        announce: Callable[..., Awaitable[None]],
        sign: Callable[[], Awaitable[object]],
        witnessed: Callable[[], Sequence[int]],
    ) -> None:
        """Set what records a node event, what signs a checkpoint, and how many entries each witness cosigned."""
        self._announce, self._sign, self._witnessed = announce, sign, witnessed

    async def step(self, in_turn: InTurn) -> bool:
        """Prune some packs; return whether there were any. Raises StoreError."""
        keep = self._storage.retention.keep
        if keep is None or self._announce is None or self._sign is None:
            return False
        found = await asyncio.to_thread(self._prunable, now() - round(keep * 1000))
        if not found:
            return False
        packs = [[pack.first, pack.end] for pack in found]
        count = sum(pack.count for pack in found)
        await self._announce("prune", pruned={"keep": round(keep * 1000), "entries": count, "packs": packs})
        await self._sign()
        for pack in found:
            await in_turn(_pruner(pack))
        logger.info("retention: %d observations older than %.0f days were pruned", count, keep / 86_400)
        return True

    def _prunable(self, before_ms: Millis) -> list[Prunable]:
        began = time.thread_time()
        covered = self._covered()
        found = prunable(self._reader, before_ms, covered, Needed()) if covered else []
        if found:
            # Only now, since it takes longest: what outages need.
            found = prunable(self._reader, before_ms, covered, self._needed())
        self._pause(time.thread_time() - began)
        return found

    def _covered(self) -> int:
        """Return how many of the first entries a trusted authority and all witnesses have signed."""
        found = self._reader.entries(kinds=["token"], descending=True, limit=MAX_TOKENS)
        # Read to the end, so that no connection is left open.
        trusted = [int(one.payload["checkpoint"]) for one in list(found) if not one.payload.get("distrust")]
        return min([trusted[0], *self._witnessed()]) if trusted else 0

    def _needed(self) -> Needed:
        ranges: list[tuple[int, int]] = []
        windows: list[tuple[Millis, Millis]] = []
        for record in outage_records(self._reader):
            times = [at for at in (record.last_good, record.first_bad) if at is not None]
            ends = [at for at in (record.first_good, record.last_bad) if at is not None]
            is_open = record.state == "open"
            windows.append((min(times) - BESIDE_MS, EVER if is_open else max(ends) + BESIDE_MS))
            ranges.append(self._evidence(record))
        return Needed(ranges, windows)

    def _evidence(self, record: OutageRecord) -> tuple[int, int]:
        """Return the entries of an outage's evidence; all since it began while that is not complete."""
        if record.id in self._ranges:
            return self._ranges[record.id]
        try:
            range_ = select_range(
                self._reader, self._tokens, record.first_index, record.last_index, [record.provider]
            )
        except EvidenceError:
            return record.first_index, EVER
        found = range_.start.size, EVER if record.state == "open" else range_.end.size
        if record.state != "open":
            self._ranges[record.id] = found
        return found


def _pruner(pack: Prunable) -> Callable[[Store], Any]:
    return lambda store: store.prune_packs([pack.first], now())
