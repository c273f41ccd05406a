"""Packs the ledgers of a hub's members, one after the other, and measures what they take on disk.

LedgerPacking (packing.py) calls it where it has nothing to do with the hub's own ledger, so that both together use
the same share of a processor. A ledger that cannot be read is named in the log, and the others go on.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from mailwatch.analysis.storage_budget import LedgerSizes
from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.store import Reader, StoreError
from mailwatch.store.hub_register import HubMember, HubRegister
from mailwatch.store.member_ledger import MemberLedger, member_place
from mailwatch.store.packing import Packer, level_for
from mailwatch.store.place import Place
from mailwatch.store.sizes import SizeMeter
from mailwatch.store.sweeping import Sweeper
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

ROUND_SECONDS = 3600.0
"""Seconds between two rounds over all members."""
SWEPT_ROWS = 500
"""Rows to delete in a transaction, for which a push waits."""
FREED_PAGES = 100
KEPT_FREE_BYTES = 1_000_000
"""Bytes of free pages that stay in the file of a member, besides those of two packs' rows."""


Made = TypeVar("Made")


class StoppedError(Exception):
    """MailWatch is stopping; the pack need not be finished."""


class MemberPacking:
    """Packs the ledgers of members. For one thread at a time. `pause` waits in proportion to the seconds of a
    processor that were used.
    """

    def __init__(self, hub: Place, register: HubRegister, ledgers: MemberLedgers) -> None:
        self._hub, self._register, self._ledgers = hub, register, ledgers
        self.sizes: dict[str, LedgerSizes] = {}
        """What each member's ledger takes, by its name, as of the last round."""
        self._due: deque[HubMember] = deque()
        self._next_round = 0.0
        self._current: _Opened | None = None
        self._logged: set[str] = set()

    def step(self, rows_kept: Millis, pause: Callable[[float], None]) -> bool:
        """Pack one range of one ledger and delete its rows; return False if there was nothing to do in any.

        `rows_kept`: how old an entry is packed. Raises StoppedError where `pause` does, and StoreError if the
        register cannot be read.
        """
        if not self._due and time.monotonic() >= self._next_round:
            self._begin_round(pause)
        while self._due:
            try:
                if self._pack(self._due[0], now() - rows_kept, pause):
                    return True
            except StoppedError:
                raise
            except (StoreError, OSError) as error:
                self._log(self._due[0], _reason(error))
            except Exception as error:
                # Whatever a member sent may not keep the others from being packed.
                self._log(self._due[0], f"internal error: {type(error).__name__}")
                logger.debug("packing: internal error", exc_info=True)
            self._close()
            self._due.popleft()
        return False

    def close(self) -> None:
        """Close what is open."""
        self._close()

    def _begin_round(self, pause: Callable[[float], None]) -> None:
        """Measure all ledgers, and have them packed. Raises StoreError."""
        members = self._register.members()
        for gone in self.sizes.keys() - {member.origin for member in members}:
            del self.sizes[gone]
        for member in members:
            began = time.thread_time()
            with contextlib.suppress(FileNotFoundError):
                try:
                    with contextlib.closing(_Opened(self._hub, member)) as opened:
                        self.sizes[member.origin] = opened.meter.measure(now())
                    self._due.append(member)
                except (StoreError, OSError) as error:
                    self._log(member, _reason(error))
            pause(time.thread_time() - began)
        self._next_round = time.monotonic() + ROUND_SECONDS

    def _pack(self, member: HubMember, before_ms: Millis, pause: Callable[[float], None]) -> bool:
        """Pack the next range of a ledger, and measure it where there is none; return whether there was one."""
        began = time.thread_time()

        def paused() -> None:
            nonlocal began
            pause(time.thread_time() - began)
            began = time.thread_time()

        if self._current is None or self._current.member.origin != member.origin:
            self._close()
            self._current = _Opened(self._hub, member)
        opened = self._current
        self._sweep(opened, paused)
        level = level_for(self.sizes[member.origin].last_day or 0)
        wanted = opened.packer.next_range(before_ms, level)
        paused()
        if wanted is None:
            sizes = self.sizes[member.origin] = opened.meter.measure(now())
            keep = KEPT_FREE_BYTES + 2 * (1 << level) * (sizes.rows // max(1, sizes.entries - sizes.packed))
            while self._write(member, lambda ledger: ledger.give_back(keep, FREED_PAGES)):
                paused()
            paused()
            return False
        prepared = opened.packer.prepare(wanted, paused)
        self._write(member, lambda ledger: ledger.save_pack(prepared))
        logger.debug("packing: %s: %d entries from %d on", member.name, prepared.count, wanted.first)
        self._sweep(opened, paused)
        paused()
        return True

    def _sweep(self, opened: _Opened, paused: Callable[[], None]) -> None:
        sweeper, member = opened.sweeper, opened.member
        while self._write(member, lambda ledger: ledger.sweep_packs(sweeper, SWEPT_ROWS)):
            paused()
        for finding in sweeper.findings:
            self._log(member, finding)

    def _write(self, member: HubMember, work: Callable[[MemberLedger], Made]) -> Made:
        """Work with a ledger between two pushes."""
        with self._ledgers.using(member) as ledger:
            return work(ledger)

    def _close(self) -> None:
        if self._current is not None:
            self._current.close()
            self._current = None

    def _log(self, member: HubMember, why: str) -> None:
        what = f"the ledger of {member.name}: {why}"
        if what not in self._logged:
            self._logged.add(what)
            logger.error("packing: %s", what)


def _reason(error: StoreError | OSError) -> str:
    """Return an error without the advice for a ledger of one's own."""
    return error.public_reason if isinstance(error, StoreError) else str(error)


class _Opened:
    """A member's ledger, opened for reading. Raises FileNotFoundError before the first push, StoreError."""

    def __init__(self, hub: Place, member: HubMember) -> None:
        self.member, self.sweeper = member, Sweeper()
        place = member_place(hub, member.origin)
        with ExitStack() as undo:
            reader = Reader.open(place)
            undo.callback(reader.close)
            self.meter = SizeMeter(place)
            undo.callback(self.meter.close)
            self.packer = Packer(reader)
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Close it."""
        self._undo.close()
