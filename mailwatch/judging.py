"""Whose failure it is: the provider's, or our line's, our clock's, our machine's? In doubt not the provider's."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mailwatch.clock import ClockBound
from mailwatch.diagnosis import Diagnosis
from mailwatch.expiry import Expiry
from mailwatch.guard import Guard, judge, names_matter
from mailwatch.models import Cause, GapReason, Millis, Observation, Outcome
from mailwatch.port25 import Port25
from mailwatch.watch import Watch

HANGS_AFTER = 2.0
ASK_AGAIN = 3.0
"""Seconds: a look that takes longer than the first has the guard asked, and again after the second."""

STALLED_SHARE = 0.2
"""A timeout says nothing of a server that had so much less of its time because we stood still."""


@dataclass(frozen=True, slots=True)
class Disturbance:
    """Why observations in a time may be missing or wrong.

    `noticed` is on time.monotonic(), `start` and `end` in milliseconds of the clock that nobody can set.
    """

    noticed: float
    start: Millis
    end: Millis
    reason: GapReason


class Judging:
    """Judges what a look saw, by the guard and by what disturbed us meanwhile."""

    def __init__(
        self, guard: Guard | None, port25: Port25 | None, time_servers: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.guard, self.port25 = guard, port25
        self.expiry = Expiry(guard, time_servers)
        """Whose failure a certificate is that is out of date by our clock."""
        self.line_in_doubt = asyncio.Event()
        """Set when a look failed while we were offline."""
        self.clock_bound = ClockBound()
        """How far the wall clock may be off."""
        self.clock_in_doubt = asyncio.Event()
        """Set when the wall clock was set: it is to be surveyed anew."""
        self.disturbances: list[Disturbance] = []
        self._stalls: deque[tuple[float, float]] = deque(maxlen=100)
        self._diagnosis = Diagnosis()

    def use(self, guard: Guard | None, port25: Port25 | None, time_servers: Sequence[tuple[str, int]]) -> None:
        """Ask these from now on. What others saw of the line is forgotten; what is known of the time is not."""
        if guard is not self.guard:
            self.line_in_doubt.set()
        self.guard, self.port25 = guard, port25
        self.expiry.use(guard, time_servers)

    def stalled(self, seconds: float) -> None:
        """Remember that we stood still just now."""
        self._stalls.append((time.monotonic(), seconds))

    def disturb(self, start: Millis, end: Millis, reason: GapReason) -> None:
        """Remember why observations from `start` to `end`, on the steady clock, may be missing or wrong."""
        self.disturbances.append(Disturbance(time.monotonic(), start, end, reason))
        if reason is GapReason.CLOCK_STEP:
            self.clock_bound.learn(None)
            self.clock_in_doubt.set()
        del self.disturbances[:-100]

    @contextlib.contextmanager
    def line_watched(self) -> Iterator[None]:
        """While a look hangs, keep asking whether we are online: else nobody saw the line go and come back."""
        asking: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        timer = loop.call_later(HANGS_AFTER, lambda: asking.append(loop.create_task(self._keep_asking())))
        try:
            yield
        finally:
            timer.cancel()
            for task in asking:
                task.cancel()

    async def _keep_asking(self) -> None:
        while self.guard is not None:
            await self.guard.ask(dns=True)
            await asyncio.sleep(ASK_AGAIN)

    async def judge(self, watch: Watch, observation: Observation) -> Observation:
        """Is a failure the provider's, or our line's, or that of a machine that slept?"""
        target = watch.target
        if observation.outcome is Outcome.UP:
            if self.guard:
                peer = observation.deciding.peer if observation.deciding else ""
                self.guard.saw_up(target.provider or target.host, observation.ended_at, peer)
            return observation
        if observation.outcome is not Outcome.DOWN:
            return observation
        for found in self.disturbances:
            # A slow disk holds up the record, not the look.
            if found.noticed >= watch.began and found.reason in (GapReason.SUSPENDED, GapReason.CLOCK_STEP):
                return replace(
                    observation,
                    outcome=Outcome.UNKNOWN,
                    cause=Cause.MONITOR,
                    detail=f"{found.reason} during the look; was: {observation.cause} ({observation.detail})",
                )
        stalled = sum(seconds for noticed, seconds in self._stalls if noticed >= watch.began)
        if observation.cause is Cause.TIMEOUT and stalled > target.timeout * STALLED_SHARE:
            return replace(
                observation,
                outcome=Outcome.UNKNOWN,
                cause=Cause.MONITOR,
                detail=f"our own process stood still for {stalled:.1f} s; was: timeout ({observation.detail})",
            )
        observation = await self.expiry.judge(observation)
        if self.guard is None or observation.outcome is not Outcome.DOWN:
            return observation
        answer = await self.guard.ask(
            target.provider or target.host,
            dns=names_matter(observation, target.host),
            since=observation.started_at,
        )
        judged = judge(observation, answer)
        if judged.cause is Cause.OFFLINE:
            self.line_in_doubt.set()
        return await self.port25.judge(target, judged) if self.port25 else judged

    async def diagnosed(self, watch: Watch, observation: Observation) -> Observation:
        """Add to the first bad look what else is seen at that moment."""
        if observation.outcome is not Outcome.DOWN or watch.state.first_bad is not None:
            return observation
        found = await self._diagnosis.of(watch.target, observation)
        bound = self.clock_bound.milliseconds()
        found["clock_error_bound_us"] = None if bound is None else bound * 1000
        return replace(observation, facts={**(observation.facts or {}), "diagnosis": found})
