"""Runs a probe for at most its longest time, and says when it ran on the steady clock."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable

from mailwatch import monotonic
from mailwatch.model import ClockSpan, Observation
from mailwatch.probes.connect import MonitorError
from mailwatch.times import Millis

CANCEL_SECONDS = 2.0
"""Seconds that a cancelled probe has to end; after that it is abandoned."""


class BoundedProbes:
    """Runs probes, and keeps those that did not end."""

    def __init__(self) -> None:
        self.abandoned: set[asyncio.Task[Observation]] = set()
        """Probes that exceeded our own deadline and have not ended although cancelled."""
        self._begun = deque[float]()

    def made_in_last_minute(self) -> int:
        """Return how many probes began in the last minute."""
        oldest = time.monotonic() - 60
        while self._begun and self._begun[0] < oldest:
            self._begun.popleft()
        return len(self._begun)

    async def run(self, seconds: float, probe: Awaitable[Observation]) -> Observation:
        """Await a probe for at most `seconds`. Raises MonitorError after that: its own deadlines should have ended
        it.
        """
        self._begun.append(time.monotonic())
        if len(self._begun) % 1000 == 0:
            self.made_in_last_minute()
        task = asyncio.ensure_future(probe)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return await task
        task.cancel()
        await asyncio.wait({task}, timeout=CANCEL_SECONDS)
        if not task.done():
            self.abandoned.add(task)
            task.add_done_callback(self._late_result)
        raise MonitorError(f"the probe did not end within {seconds:g} s, longer than all of its timeouts together")

    def _late_result(self, task: asyncio.Task[Observation]) -> None:
        self.abandoned.discard(task)
        if not task.cancelled():
            # The result came too late to count; retrieving the exception keeps asyncio from logging it.
            task.exception()


def attempts_span(observation: Observation, began: Millis, bound: Millis | None) -> ClockSpan:
    """Return the span of all attempts on the steady clock; from `began` on if there are none."""
    spans = [attempt.clock for attempt in observation.attempts if attempt.clock is not None]
    starts = [span.start for span in spans if span.start is not None]
    if not starts:
        return monotonic.since(began, bound)
    return ClockSpan(spans[0].boot, min(starts), max(span.end for span in spans), bound)


def widened_bound(bound: Millis | None, stepped: Millis) -> Millis | None:
    """Return the bound for times read before the clock was set by `stepped`; `bound` is the current bound."""
    return bound if bound is None or abs(stepped) <= monotonic.STEP_MS else bound + abs(stepped)
