"""Packs old entries of the running MailWatch in the background, and gives free pages back.

Encoding and comparing runs in a thread that waits in proportion to the processor time that it took. Packs are
written and rows deleted in short steps between the commits of new entries. A kill between any two steps leaves a
valid ledger, and the next start goes on where this one ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from mailwatch.config.schema_retention import RetentionSection
from mailwatch.metrics import Metrics
from mailwatch.monitor.member_packing import MemberPacking, StoppedError
from mailwatch.monitor.pruning import Pruning
from mailwatch.monitor.storage import StorageWatch
from mailwatch.store import Reader, Store, StoreError, Tokens, Writer
from mailwatch.store.packing import Packer, PackRange, PreparedPack, level_for
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

FIRST_AFTER_SECONDS = 60.0
"""Seconds after the start before which nothing is packed."""
MAX_CPU_SHARE = 0.05
"""The largest share of a processor that packing uses."""
IDLE_SECONDS = 600.0
"""Seconds until the next search for entries that are old enough."""
RETRY_SECONDS = 3600.0
"""Seconds after a failure."""
SWEPT_ROWS = 500
"""Rows to delete in a transaction, which takes some 15 ms."""
FREED_PAGES = 100
"""Pages of the file to give back in a transaction."""
KEPT_FREE_BYTES = 16_000_000
"""Bytes of free pages that stay in the file, besides those of two packs' rows."""
Made = TypeVar("Made")


class LedgerPacking:
    """Packs what is older than `retention.rows`, and prunes what is older than `retention.keep`, by the newest
    config.
    """

    def __init__(
        self, reader: Reader, writer: Writer, metrics: Metrics, storage: StorageWatch, tokens: Tokens
    ) -> None:
        self._reader, self._writer, self._metrics, self._storage = reader, writer, metrics, storage
        self._packer = Packer(reader)
        self._stopping = threading.Event()
        self._changed = asyncio.Event()
        self._logged: set[str] = set()
        self.pruning = Pruning(reader, tokens, storage, self._pause)
        self._members: MemberPacking | None = None

    def include(self, members: MemberPacking) -> None:
        """Pack the ledgers of a hub's members too, and measure them."""
        self._members = members
        self._storage.others = lambda: list(members.sizes.values())

    def set_retention(self, retention: RetentionSection) -> None:
        """Take over `retention` of a config, from the next pack on."""
        self._storage.retention = retention
        self._changed.set()

    async def run(self) -> None:
        """Pack until cancelled."""
        try:
            await asyncio.sleep(FIRST_AFTER_SECONDS)
            while True:
                self._changed.clear()
                await self._sleep(await self._work())
        finally:
            # A thread cannot be cancelled, and MailWatch would wait for it when it stops.
            self._stopping.set()

    async def _work(self) -> float:
        """Do all that there is to do; return the seconds after which to search again."""
        try:
            while await self.step():
                pass
        except StoppedError:
            return IDLE_SECONDS
        except StoreError as error:
            self._log(str(error))
        except Exception:
            # No failure to pack may stop the probes: the rows stay, and the ledger is whole.
            logger.exception("packing: internal error")
            self._metrics.internal_error()
        else:
            return IDLE_SECONDS
        return RETRY_SECONDS

    async def step(self) -> bool:
        """Pack one range and delete its rows, or else prune or give pages back, or else pack one range of a
        member; return whether there was anything to do. Raises StoreError.
        """
        if self._writer.problems():
            # A disk that takes no entries takes no packs either.
            return False
        own = await self._next_pack() or await self.pruning.step(self._in_turn) or await self._give_back()
        return own or await self._pack_members()

    async def _next_pack(self) -> bool:
        """Delete the rows that packs hold, pack one range and delete its rows; return whether there was one."""
        await self._sweep()
        wanted = await asyncio.to_thread(self._next_range)
        if wanted is None:
            return False
        prepared = await asyncio.to_thread(self._prepare, wanted)
        await self._in_turn(lambda store: store.save_pack(prepared))
        logger.debug("packing: %d entries from %d on", prepared.count, wanted.first)
        await self._sweep()
        return True

    async def _pack_members(self) -> bool:
        if (members := self._members) is None:
            return False
        return await asyncio.to_thread(members.step, self._rows_kept(), self._pause)

    def _rows_kept(self) -> Millis:
        return round(self._storage.retention.rows * 1000)

    def _next_range(self) -> PackRange | None:
        began = time.thread_time()
        found = self._packer.next_range(now() - self._rows_kept(), self._level())
        self._pause(time.thread_time() - began)
        return found

    def _level(self) -> int:
        own = self._storage.own
        return level_for((own and own.last_day) or 0)

    def _prepare(self, wanted: PackRange) -> PreparedPack:
        began = time.thread_time()

        def pause() -> None:
            nonlocal began
            self._pause(time.thread_time() - began)
            began = time.thread_time()

        prepared = self._packer.prepare(wanted, pause)
        pause()
        return prepared

    def _pause(self, took: float) -> None:
        """Wait in proportion to the seconds of a processor that a thread used. Raises StoppedError."""
        if self._stopping.wait(_rest(took)):
            raise StoppedError

    async def _sweep(self) -> None:
        """Delete the rows that packs hold, in steps."""
        while await self._in_turn(lambda store: store.sweep_packs(SWEPT_ROWS)):
            pass
        for finding in await self._in_turn(lambda store: store.sweep_findings()):
            self._log(finding)

    async def _give_back(self) -> bool:
        """Give free pages back that entries will not need before the next pack; return whether there were any."""
        if (sizes := self._storage.own) is None:
            return False
        row = sizes.rows / max(1, sizes.entries - sizes.packed)
        keep = KEPT_FREE_BYTES + round(2 * (1 << self._level()) * row)
        some = False
        while await self._in_turn(lambda store: store.give_back(keep, FREED_PAGES)):
            some = True
        return some

    async def _in_turn(self, work: Callable[[Store], Made]) -> Made:
        """Work in the ledger's thread, between two commits; then wait in proportion to what it took."""

        def measured(store: Store) -> tuple[Made, float]:
            began = time.thread_time()
            return work(store), time.thread_time() - began

        made, took = await self._writer.in_turn(measured)
        await asyncio.sleep(_rest(took))
        return made

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _log(self, what: str) -> None:
        if what not in self._logged:
            self._logged.add(what)
            logger.error("packing: %s", what)


def _rest(took: float) -> float:
    """Return the seconds to wait after so many seconds of a processor."""
    return took * (1 / MAX_CPU_SHARE - 1)
