"""Puts on the hub's own record what its members pushed, their cosignatures, and what enough of them confirm."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from mailwatch.analysis.confirmation import Confirmation, Sight, is_ahead, is_late
from mailwatch.hub.quorum import KIND, QuorumBoard
from mailwatch.hub.receiver import Agreed, CosignedHere, Pushed
from mailwatch.ledger import consent
from mailwatch.metrics import Metrics
from mailwatch.metrics.hub_families import PushRecord
from mailwatch.monitor.recorder import Recorder
from mailwatch.store import StoreUnavailableError
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

RECORD_SECONDS = 60.0
"""Seconds for which pushes are collected into one entry."""
TICK_SECONDS = 10.0
"""Seconds after which silence is noticed where nothing is pushed."""
RETRY_SECONDS = 10.0
MAX_UNDECIDED = 32
"""Pushes that wait for a decision with their entries, of up to 8 MiB each."""
AGREED_SECONDS = 30.0
"""Seconds within which what a member agrees to must be on record."""

Members = Callable[[], Mapping[str, Millis]]
"""Returns the members that count: when each pushed last, by the name of its ledger."""


class HubRecord:
    """Records the newest push of each member once a minute, and cosignatures and decisions at once."""

    def __init__(self, recorder: Recorder, metrics: Metrics) -> None:
        self._recorder, self._metrics = recorder, metrics
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pushed: dict[str, Pushed] = {}
        self._misdated: set[str] = set()
        self._undecided: list[Pushed] = []
        self._arrived = asyncio.Event()
        self._cosigned: asyncio.Queue[CosignedHere] = asyncio.Queue(1000)
        self.board: QuorumBoard | None = None
        """What the members say together, None without `detection.quorum`."""
        self.members: Members = dict

    def on_push(self, pushed: Pushed) -> None:
        """Note a push. For any thread."""
        self._call(lambda: self._note(pushed))

    def on_cosigned(self, cosigned: CosignedHere) -> None:
        """Note a cosignature. For any thread."""
        self._call(lambda: self._queue(cosigned))

    def on_agreed(self, agreed: Agreed) -> None:
        """Record what a member agrees to send, and return once that is on record. For any thread but the loop's.

        Raises StoreUnavailableError if it is not by then.
        """
        if self._loop is None or self._loop.is_closed():
            raise StoreUnavailableError("the hub is starting or stopping")
        kept = self._recorder.append(consent.KIND, now(), None, agreed.payload())
        try:
            asyncio.run_coroutine_threadsafe(kept, self._loop).result(AGREED_SECONDS)
        except TimeoutError:
            raise StoreUnavailableError("the record takes too long") from None
        logger.info("hub: %s agrees to send: %s", agreed.member.name, agreed.consent.amount)

    async def run(self) -> None:
        """Record until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._record_pushes())
            group.create_task(self._record_cosignatures())
            if self.board is not None:
                group.create_task(self._decide(self.board))

    def _call(self, work: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

    def _note(self, pushed: Pushed) -> None:
        self._pushed[pushed.member.origin] = replace(pushed, entries=())
        self._note_clock(pushed)
        self._metrics.hub.members[pushed.member.name] = PushRecord(pushed.checkpoint.size, pushed.at)
        if self.board is not None:
            # What is left out is read from the member's ledger.
            is_much = len(self._undecided) >= MAX_UNDECIDED
            self._undecided.append(replace(pushed, entries=()) if is_much else pushed)
            self._arrived.set()

    def _note_clock(self, pushed: Pushed) -> None:
        """Warn once of a member whose entries are dated otherwise than they arrive."""
        if not pushed.entries:
            return
        name, newest = pushed.member.name, pushed.entries[-1].time
        if is_ahead(newest, pushed.at):
            if name not in self._misdated:
                logger.warning("hub: %s dates its entries %d s ahead", name, (newest - pushed.at) // 1000)
            self._misdated.add(name)
        elif is_late(newest, pushed.at):
            if name not in self._misdated:
                late = (pushed.at - newest) // 1000
                logger.warning(
                    "hub: the newest entry of %s was %d s old: late, or its clock is behind", name, late
                )
            self._misdated.add(name)
        else:
            self._misdated.discard(name)

    def _queue(self, cosigned: CosignedHere) -> None:
        if self._cosigned.full():
            logger.warning("hub: a cosignature by %s is dropped: the disk is too slow", cosigned.member.name)
        else:
            self._cosigned.put_nowait(cosigned)

    async def _record_pushes(self) -> None:
        while True:
            await asyncio.sleep(RECORD_SECONDS)
            if not self._pushed:
                continue
            pushed, self._pushed = self._pushed, {}
            ledgers = [
                {
                    "ledger": origin,
                    "size": one.checkpoint.size,
                    "root": one.checkpoint.root.hex(),
                    "at": one.at,
                }
                for origin, one in sorted(pushed.items())
            ]
            await self._recorder.append("witnessed", now(), None, {"ledgers": ledgers})

    async def _record_cosignatures(self) -> None:
        while True:
            one = await self._cosigned.get()
            payload = {
                "checkpoint": one.size,
                "witness": str(one.witness),
                "cosignature": str(one.signature),
                "time": one.time,
            }
            await self._recorder.append("witness", now(), None, payload)

    async def _decide(self, board: QuorumBoard) -> None:
        """Decide after each push, and where nothing arrives."""
        is_restored = False
        while True:
            try:
                if not is_restored:
                    await asyncio.to_thread(self._restore, board)
                    is_restored = True
                pushed, self._undecided = self._undecided, []
                self._arrived.clear()
                for decided, payload in await asyncio.to_thread(self._decided, board, pushed):
                    await self._recorder.append(KIND, decided.at, None, payload)
                    _log(decided)
                    self._metrics.hub.confirm(decided.channel, decided.confirmed)
            except Exception:
                # A member's ledger that cannot be read must not stop the hub's own probes.
                is_restored = False
                self._metrics.internal_error()
                logger.exception("hub: no decision about what is confirmed; it is tried again")
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                async with asyncio.timeout(TICK_SECONDS):
                    await self._arrived.wait()
            except TimeoutError:
                pass

    def _restore(self, board: QuorumBoard) -> None:
        board.restore(self.members())
        for channel in board.confirmed:
            self._metrics.hub.confirm(channel, True)

    def _decided(self, board: QuorumBoard, pushed: list[Pushed]) -> list[tuple[Confirmation, dict[str, object]]]:
        for one in pushed:
            board.feed(one.member.origin, one.entries, one.checkpoint.size, one.at)
        board.follow_own(now())
        for ledger in board.members.keys() - self.members().keys() - {board.origin}:
            board.forget(ledger)
        return [(decided, board.payload(decided)) for decided in board.changes(now())]


def _log(decided: Confirmation) -> None:
    said = ", ".join(f"{decided.count(sight)} {sight}" for sight in Sight if decided.count(sight))
    if decided.confirmed:
        logger.warning("hub: %s is confirmed down: %s", decided.channel, said)
    else:
        logger.info("hub: %s is no longer confirmed down: %s", decided.channel, said)
