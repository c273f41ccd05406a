"""The guard's answers in a simulated world, without sockets."""

from __future__ import annotations

import asyncio
from typing import Any

from mailwatch.models import GuardAnswer, Millis, now
from tests.campaign.virtual import Clocks
from tests.campaign.world import Spans, World

CONTROL_TIMEOUT = 3.0
GUARD_EVERY = 15.0
"""Seconds, as a fresh install has them."""


class LineGuard:
    """The guard's answers, from the truth about our line: as mailwatch.guard's, but without sockets.

    Silent rounds are remembered. Of the rounds that housekeeping asks for each quarter of a minute only their
    silence is reckoned, when somebody asks.
    """

    def __init__(self, world: World, clocks: Clocks) -> None:
        self._world, self._clocks = world, clocks
        self._silent: dict[int, tuple[float, float]] = {}

    def saw_up(self, *_: Any) -> None:
        """Nothing needs to be noted."""

    async def ask(
        self, provider: str | None = None, *, dns: bool = False, since: Millis | None = None
    ) -> GuardAnswer:
        """Ask now; a silent round since `since` outweighs the answer."""
        asked_at, began = now(), self._clocks.true
        trouble = [self._world.line, *([self._world.resolver] if dns else [])]
        answers = await asyncio.gather(*(self._round(spans) for spans in trouble))
        online = all(answers)
        if since is not None and online:
            back = began - (asked_at - since) / 1000
            online = not any(self._was_silent(spans, back, began) for spans in trouble)
        return GuardAnswer(asked_at=asked_at, online=online, controls={"control": "ok" if online else "timeout"})

    async def _round(self, spans: Spans) -> bool:
        began = self._clocks.true
        down = spans.at(began)
        if down is None:
            await asyncio.sleep(0.04)
            return True
        if down.what != "unreachable":
            await asyncio.sleep(min(CONTROL_TIMEOUT, down.end - began + 0.04))
        ended = self._clocks.true
        if ended >= down.end:
            return True
        self._silent[id(spans)] = began, ended
        return False

    def _was_silent(self, spans: Spans, start: float, end: float) -> bool:
        """Whether a round that ended in that time was silent from beginning to end."""
        if self._silent.get(id(spans), (0.0, -1.0))[1] >= start:
            return True
        for span in spans.touching(start, end):
            first = -(-max(span.start, start - CONTROL_TIMEOUT) // GUARD_EVERY) * GUARD_EVERY
            if first + CONTROL_TIMEOUT <= min(span.end, end):
                return True
        return False
