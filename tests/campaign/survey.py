"""What the kernel and the time servers truly say of the wall clock, in place of `mailwatch.guard.clock.survey`."""

from __future__ import annotations

import asyncio
from typing import Any

from mailwatch.guard.clock import ClockSurvey, KernelSync
from mailwatch.guard.sntp import Offset
from mailwatch.times import now
from tests.campaign.virtual import Clocks
from tests.campaign.world import World

SYNCHRONISED_WITHIN = 0.05
"""Seconds to which NTP sets the clock."""
MAX_ERROR_US = 60_000
"""What the kernel then says of it."""
TIME_ERROR = 5
SERVERS = ("time1.example", "time2.example", "time3.example")


class Survey:
    """The kernel knows whether NTP disciplines the clock; the servers know how far it is off, while they are
    reached.
    """

    def __init__(self, world: World, clocks: Clocks) -> None:
        self._world, self._clocks = world, clocks

    async def ask(self, *_: Any) -> ClockSurvey:
        """Ask once."""
        at = now()
        answers: tuple[Offset, ...] = ()
        if self._world.time_servers:
            if self._reached():
                await asyncio.sleep(0.03)
                answers = tuple(self._answer(server) for server in SERVERS)
            else:
                await asyncio.sleep(2.0)
        synchronised = self._clocks.synchronised
        kernel = KernelSync(0 if synchronised else TIME_ERROR, synchronised, MAX_ERROR_US, MAX_ERROR_US // 2)
        return ClockSurvey(at=at, kernel=kernel, answers=answers)

    def _reached(self) -> bool:
        here = self._clocks.true
        return self._world.line.at(here) is None and self._world.resolver.at(here) is None

    def _answer(self, server: str) -> Offset:
        error = self._world.chance.uniform(-0.01, 0.01)
        return Offset(server, round((error - self._clocks.offset) * 1e6), 15_000, 30_000, 2)
