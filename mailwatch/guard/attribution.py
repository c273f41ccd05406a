"""Whose failure it is: the provider's, or our line's, our clock's, our machine's? In doubt not the provider's.

Whose failure was it? A pure function of what was seen and what the guard said.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mailwatch.guard.clock import ClockBound
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import IPV4, IPV6, family_of, host_of, is_loopback, is_outside
from mailwatch.guard.diagnosis import Diagnosis
from mailwatch.guard.expiry import Expiry
from mailwatch.guard.port25 import Port25
from mailwatch.model import (
    Attempt,
    Cause,
    ControlState,
    GapReason,
    GuardAnswer,
    Observation,
    Outcome,
    Phase,
    ResolverState,
)
from mailwatch.settings import Target
from mailwatch.times import Millis

Doubt = tuple[Cause, str]
"""Why a failure is not the provider's."""


def names_matter(observation: Observation, host: str) -> bool:
    """Whether a wrong answer of the resolver could have made this failure: then it is asked as well.

    Whoever showed the certificate of `host` is the provider, however the name came to its address.
    """
    if _of_names(observation):
        return True
    name = host.casefold().rstrip(".")
    if not name or name == "localhost" or family_of(host) is not None:
        return False
    return observation.deciding is None or observation.deciding.tls is None


def judge(observation: Observation, answer: GuardAnswer) -> Observation:
    """Return the observation with the answer; a failure while we were not surely online is unknown.

    Where a name has addresses of both families and one of them is broken here, what the other saw decides.
    """
    told = replace(observation, guard=answer)
    if observation.outcome is not Outcome.DOWN:
        return told
    if _of_names(observation):
        return _unknown(told, _line(answer) or _resolver(answer))
    failed = [attempt for attempt in observation.attempts if attempt.peer and attempt.cause is not None]
    if not failed:
        return _unknown(told, _line(answer))
    sure = [attempt for attempt in failed if _online(attempt, answer)]
    if not sure:
        return _unknown(told, _apart(failed, answer))
    if sure[-1] is not failed[-1]:
        last = sure[-1]
        told = replace(told, cause=last.cause, failed_phase=last.failed_phase, detail=last.detail)
    return _unknown(told, _misled(sure[-1], answer))


def _of_names(observation: Observation) -> bool:
    return observation.cause is Cause.DNS or observation.failed_phase is Phase.RESOLVE


def _unknown(observation: Observation, doubt: Doubt | None) -> Observation:
    if doubt is None:
        return observation
    cause, why = doubt
    detail = f"{why} (was: {observation.cause})"
    return replace(observation, outcome=Outcome.UNKNOWN, cause=cause, detail=detail)


def _line(answer: GuardAnswer) -> Doubt | None:
    if answer.online is None:
        return Cause.MONITOR, "we could not tell whether our own line was up"
    if answer.online:
        return None
    if ControlState.INTERCEPTED in answer.controls.values():
        return Cause.OFFLINE, "a captive portal answered in the place of others"
    return Cause.OFFLINE, "our own line was down"


def _online(attempt: Attempt, answer: GuardAnswer) -> bool | None:
    """Whether we were online for the family of the attempt's address."""
    host = host_of(attempt.peer)
    online = answer.online6 if family_of(host) == IPV6 else answer.online4
    if online is not None:
        return online
    if is_loopback(host) or (answer.online4, answer.online6) == (None, None):
        return answer.online
    # Nobody was asked over this family. A connection that came about shows that it works as far as that.
    return None if attempt.failed_phase is Phase.CONNECT else answer.online


def _apart(failed: Sequence[Attempt], answer: GuardAnswer) -> Doubt:
    """Say why none of the attempts counts."""
    if not answer.online and (doubt := _line(answer)):
        return doubt
    families = sorted({family_of(host_of(attempt.peer)) or IPV4 for attempt in failed})
    names = " and ".join(f"IPv{family}" for family in families)
    if any(_online(attempt, answer) is None for attempt in failed):
        return Cause.MONITOR, f"we could not tell whether our own line was up over {names}"
    return Cause.OFFLINE, f"our own line was down over {names}"


def _resolver(answer: GuardAnswer) -> Doubt | None:
    if answer.resolver == ResolverState.SILENT:
        return Cause.OFFLINE, "names did not resolve here, not even the control names"
    if answer.resolver in (ResolverState.LIES, ResolverState.POISONED):
        return Cause.OFFLINE, _lies(answer)
    if answer.resolver == ControlState.MONITOR:
        return Cause.MONITOR, "we could not tell whether names resolved here"
    return None


def _misled(attempt: Attempt, answer: GuardAnswer) -> Doubt | None:
    """Whether the resolver may have sent us to somebody else."""
    if attempt.tls is not None:
        return None
    host = host_of(attempt.peer)
    made_up = host in answer.lie or not is_outside(host)
    if answer.resolver == ResolverState.POISONED or (answer.resolver == ResolverState.LIES and made_up):
        return Cause.OFFLINE, f"{_lies(answer)}, and sent us to {host}"
    return None


def _lies(answer: GuardAnswer) -> str:
    where = f" with {', '.join(answer.lie[:3])}" if answer.lie else ""
    what = "the names of controls" if answer.resolver == ResolverState.POISONED else "a name that cannot exist"
    return f"the resolver lies: it answers {what}{where}"


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

    async def judge(self, target: Target, observation: Observation, began: float) -> Observation:
        """Is a failure the provider's, or our line's, or that of a machine that slept?

        `began` is when the probe began, on time.monotonic().
        """
        if observation.outcome is Outcome.UP:
            if self.guard:
                peer = observation.deciding.peer if observation.deciding else ""
                self.guard.saw_up(target.provider or target.host, observation.ended_at, peer)
            return observation
        if observation.outcome is not Outcome.DOWN:
            return observation
        for found in self.disturbances:
            # A slow disk holds up the record, not the look.
            if found.noticed >= began and found.reason in (GapReason.SUSPENDED, GapReason.CLOCK_STEP):
                return replace(
                    observation,
                    outcome=Outcome.UNKNOWN,
                    cause=Cause.MONITOR,
                    detail=f"{found.reason} during the look; was: {observation.cause} ({observation.detail})",
                )
        stalled = sum(seconds for noticed, seconds in self._stalls if noticed >= began)
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

    async def diagnosed(self, target: Target, observation: Observation) -> Observation:
        """Add to a first failure what else is seen at that moment."""
        if observation.outcome is not Outcome.DOWN:
            return observation
        found = await self._diagnosis.of(target, observation)
        bound = self.clock_bound.milliseconds()
        found["clock_error_bound_us"] = None if bound is None else bound * 1000
        return replace(observation, facts={**(observation.facts or {}), "diagnosis": found})
