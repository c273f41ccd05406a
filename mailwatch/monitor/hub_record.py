"""Puts on the hub's own record what its members pushed, and their cosignatures: neither side can take it back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mailwatch.hub.receiver import CosignedHere, Pushed
from mailwatch.monitor.recorder import Recorder
from mailwatch.times import now

logger = logging.getLogger(__name__)

RECORD_SECONDS = 60.0
"""Seconds for which pushes are collected into one entry."""


class HubRecord:
    """Records pushes once a minute, the newest of each member, and cosignatures at once."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pushed: dict[str, Pushed] = {}
        self._cosigned: asyncio.Queue[CosignedHere] = asyncio.Queue(1000)

    def on_push(self, pushed: Pushed) -> None:
        """Note a push. For any thread."""
        self._call(lambda: self._pushed.__setitem__(pushed.member.origin, pushed))

    def on_cosigned(self, cosigned: CosignedHere) -> None:
        """Note a cosignature. For any thread."""
        self._call(lambda: self._queue(cosigned))

    async def run(self) -> None:
        """Record until cancelled."""
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._record_pushes())
            group.create_task(self._record_cosignatures())

    def _call(self, work: Callable[[], None]) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)

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
