"""Attributes failures to the provider, or to our own line, clock or machine; in doubt never to the provider.

`attribute` is a pure function of the observation and the guard's answer. `FaultAttribution` also considers
suspends, clock steps and stalls, certificates that our clock calls out of date, and port 25.
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
from mailwatch.guard.controls import IPV4, IPV6
from mailwatch.guard.diagnosis import Diagnosis
from mailwatch.guard.expiry import ExpiryAttribution
from mailwatch.guard.port25 import Port25
from mailwatch.model import (
    Attempt,
    Cause,
    ConnectivityResult,
    ControlState,
    GapReason,
    Observation,
    Outcome,
    Phase,
    ResolverState,
)
from mailwatch.net import family_of, is_loopback, is_outside, peer_host
from mailwatch.settings import Target
from mailwatch.times import Millis

Excuse = tuple[Cause, str]
"""The cause and the text of why a failure is not the provider's."""


def resolver_matters(observation: Observation, host: str) -> bool:
    """Return whether a wrong DNS answer could have caused this failure, so that the resolver must be checked too.

    A peer that presented the certificate of `host` is the provider, wherever its address came from.
    """
    if _is_resolve_failure(observation):
        return True
    name = host.casefold().rstrip(".")
    if not name or name == "localhost" or family_of(host) is not None:
        return False
    return observation.deciding_attempt is None or observation.deciding_attempt.tls is None


def attribute(observation: Observation, answer: ConnectivityResult) -> Observation:
    """Return the observation with the guard's answer; a failure while we were not surely online becomes unknown.

    If a name has addresses of both families and one family is broken here, the attempts over the other decide.
    """
    with_answer = replace(observation, guard=answer)
    if observation.outcome is not Outcome.DOWN:
        return with_answer
    if _is_resolve_failure(observation):
        return _unknown(with_answer, _line_excuse(answer) or _resolver_excuse(answer))
    failed = [attempt for attempt in observation.attempts if attempt.peer and attempt.cause is not None]
    if not failed:
        return _unknown(with_answer, _line_excuse(answer))
    sure = [attempt for attempt in failed if _online(attempt, answer)]
    if not sure:
        return _unknown(with_answer, _excuse_of_attempts(failed, answer))
    if sure[-1] is not failed[-1]:
        last = sure[-1]
        with_answer = replace(with_answer, cause=last.cause, failed_phase=last.failed_phase, detail=last.detail)
    return _unknown(with_answer, _spoofing_excuse(sure[-1], answer))


def _is_resolve_failure(observation: Observation) -> bool:
    return observation.cause is Cause.DNS or observation.failed_phase is Phase.RESOLVE


def _unknown(observation: Observation, excuse: Excuse | None) -> Observation:
    if excuse is None:
        return observation
    cause, why = excuse
    detail = f"{why} (was: {observation.cause})"
    return replace(observation, outcome=Outcome.UNKNOWN, cause=cause, detail=detail)


def _line_excuse(answer: ConnectivityResult) -> Excuse | None:
    if answer.online is None:
        return Cause.MONITOR, "whether our own line was up is unknown"
    if answer.online:
        return None
    if ControlState.INTERCEPTED in answer.controls.values():
        return Cause.OFFLINE, "something else answered for the control servers (captive portal?)"
    return Cause.OFFLINE, "our own line was down"


def _online(attempt: Attempt, answer: ConnectivityResult) -> bool | None:
    """Return whether we were online for the family of the attempt's address; None if unknown."""
    host = peer_host(attempt.peer)
    online = answer.online6 if family_of(host) == IPV6 else answer.online4
    if online is not None:
        return online
    if is_loopback(host) or (answer.online4, answer.online6) == (None, None):
        return answer.online
    # This family was not checked. A connection that was established shows that the family works that far.
    return None if attempt.failed_phase is Phase.CONNECT else answer.online


def _excuse_of_attempts(failed: Sequence[Attempt], answer: ConnectivityResult) -> Excuse:
    """Return why none of the attempts counts."""
    if not answer.online and (doubt := _line_excuse(answer)):
        return doubt
    families = sorted({family_of(peer_host(attempt.peer)) or IPV4 for attempt in failed})
    names = " and ".join(f"IPv{family}" for family in families)
    if any(_online(attempt, answer) is None for attempt in failed):
        return Cause.MONITOR, f"whether our own line was up over {names} is unknown"
    return Cause.OFFLINE, f"our own line was down over {names}"


def _resolver_excuse(answer: ConnectivityResult) -> Excuse | None:
    if answer.resolver == ResolverState.SILENT:
        return Cause.OFFLINE, "DNS lookups failed here, even for the control names"
    if answer.resolver in (ResolverState.LIES, ResolverState.POISONED):
        return Cause.OFFLINE, _spoofing_detail(answer)
    if answer.resolver == ControlState.MONITOR:
        return Cause.MONITOR, "whether DNS lookups worked here is unknown"
    return None


def _spoofing_excuse(attempt: Attempt, answer: ConnectivityResult) -> Excuse | None:
    """Return an excuse if the resolver may have sent us to another host."""
    if attempt.tls is not None:
        return None
    host = peer_host(attempt.peer)
    made_up = host in answer.spoofed or not is_outside(host)
    if answer.resolver == ResolverState.POISONED or (answer.resolver == ResolverState.LIES and made_up):
        return Cause.OFFLINE, f"{_spoofing_detail(answer)}, and sent us to {host}"
    return None


def _spoofing_detail(answer: ConnectivityResult) -> str:
    where = f" with {', '.join(answer.spoofed[:3])}" if answer.spoofed else ""
    what = "the names of controls" if answer.resolver == ResolverState.POISONED else "a name that cannot exist"
    return f"the resolver lies: it answers {what}{where}"


SLOW_PROBE_SECONDS = 2.0
RECHECK_SECONDS = 3.0
"""Seconds after which a slow probe triggers a check of the line, and seconds between further checks."""

MAX_STALL_SHARE = 0.2
"""Share of a timeout that our own stalls may take; beyond it, the timeout says nothing about the server."""


@dataclass(frozen=True, slots=True)
class Disruption:
    """A period in which observations may be missing or wrong, and the reason.

    `noticed` is on time.monotonic(); `start` and `end` are milliseconds of the steady clock.
    """

    noticed: float
    start: Millis
    end: Millis
    reason: GapReason


class FaultAttribution:
    """Attributes failures, using the guard and the disruptions of this machine."""

    def __init__(
        self, guard: Guard | None, port25: Port25 | None, time_servers: Sequence[tuple[str, int]] = ()
    ) -> None:
        self.guard, self.port25 = guard, port25
        self.expiry = ExpiryAttribution(guard, time_servers)
        """Attributes failures by certificates that are out of date by our clock."""
        self.line_check_wanted = asyncio.Event()
        """Set when a probe failed while we were offline: the line must be checked."""
        self.address_wanted = asyncio.Event()
        """Set when our public address may be another one, or is wanted on record."""
        self.offline_since: Millis | None = None
        """When the guard found our own line down, by the wall clock; None unless it is down now."""
        self.clock_bound = ClockBound()
        """The bound of the wall clock's error."""
        self.clock_check_wanted = asyncio.Event()
        """Set when the wall clock was set: it must be surveyed again."""
        self.disruptions: list[Disruption] = []
        self._stalls: deque[tuple[float, float]] = deque(maxlen=100)
        self._diagnosis = Diagnosis()

    def reconfigure(
        self, guard: Guard | None, port25: Port25 | None, time_servers: Sequence[tuple[str, int]]
    ) -> None:
        """Replace guard and time servers. Answers of the old guard are forgotten; knowledge of the time stays."""
        if guard is not self.guard:
            self.line_check_wanted.set()
        self.guard, self.port25 = guard, port25
        self.expiry.reconfigure(guard, time_servers)

    def note_line(self, answer: ConnectivityResult) -> None:
        """Record the latest answer about our own line. An undecided answer does not count as down."""
        if answer.online is not False:
            if self.offline_since is not None:
                self.address_wanted.set()
            self.offline_since = None
        elif self.offline_since is None:
            self.offline_since = answer.asked_at

    def note_stall(self, seconds: float) -> None:
        """Record that this process has just stalled for `seconds`."""
        self._stalls.append((time.monotonic(), seconds))

    def note_disruption(self, start: Millis, end: Millis, reason: GapReason) -> None:
        """Record why observations from `start` to `end` (steady clock) may be missing or wrong."""
        self.disruptions.append(Disruption(time.monotonic(), start, end, reason))
        if reason is GapReason.CLOCK_STEP:
            self.clock_bound.set(None)
            self.clock_check_wanted.set()
        del self.disruptions[:-100]

    @contextlib.contextmanager
    def check_line_meanwhile(self) -> Iterator[None]:
        """While a probe is slow, keep checking the line, so that a line outage within it is noticed."""
        asking: list[asyncio.Task[None]] = []
        loop = asyncio.get_running_loop()
        timer = loop.call_later(SLOW_PROBE_SECONDS, lambda: asking.append(loop.create_task(self._keep_checking())))
        try:
            yield
        finally:
            timer.cancel()
            for task in asking:
                task.cancel()

    async def _keep_checking(self) -> None:
        while self.guard is not None:
            await self.guard.check(dns=True)
            await asyncio.sleep(RECHECK_SECONDS)

    async def attribute(self, target: Target, observation: Observation, began: float) -> Observation:
        """Attribute a failure to the provider, our line, or a machine that was suspended.

        `began` is when the probe began, on time.monotonic().
        """
        if observation.outcome is Outcome.UP:
            if self.guard:
                peer = observation.deciding_attempt.peer if observation.deciding_attempt else ""
                self.guard.record_up(target.provider or target.host, observation.ended_at, peer)
            return observation
        if observation.outcome is not Outcome.DOWN:
            return observation
        if (ours := self._of_our_machine(target, observation, began)) is not None:
            return ours
        observation = await self.expiry.attribute(observation)
        if self.guard is None or observation.outcome is not Outcome.DOWN:
            return observation
        answer = await self.guard.check(
            target.provider or target.host,
            dns=resolver_matters(observation, target.host),
            since=observation.started_at,
        )
        attributed = attribute(observation, answer)
        if attributed.cause is Cause.OFFLINE:
            self.line_check_wanted.set()
        return await self.port25.attribute(target, attributed) if self.port25 else attributed

    def _of_our_machine(self, target: Target, observation: Observation, began: float) -> Observation | None:
        """Return the failure as ours if this machine was suspended, stalled or its clock set during the probe."""
        for found in self.disruptions:
            # A slow disk delays the record, not the probe.
            if found.noticed >= began and found.reason in (GapReason.SUSPENDED, GapReason.CLOCK_STEP):
                return replace(
                    observation,
                    outcome=Outcome.UNKNOWN,
                    cause=Cause.MONITOR,
                    detail=f"{found.reason} during the check; was: {observation.cause} ({observation.detail})",
                )
        stalled = sum(seconds for noticed, seconds in self._stalls if noticed >= began)
        if observation.cause is Cause.TIMEOUT and stalled > target.timeout * MAX_STALL_SHARE:
            return replace(
                observation,
                outcome=Outcome.UNKNOWN,
                cause=Cause.MONITOR,
                detail=f"MailWatch itself was stopped for {stalled:.1f} s; was: timeout ({observation.detail})",
            )
        return None

    async def with_diagnosis(self, target: Target, observation: Observation) -> Observation:
        """Add a diagnosis, the further findings at that moment, to a first failure."""
        if observation.outcome is not Outcome.DOWN:
            return observation
        found = await self._diagnosis.diagnose(target, observation)
        bound = self.clock_bound.milliseconds()
        found["clock_error_bound_us"] = None if bound is None else bound * 1000
        return replace(observation, facts={**(observation.facts or {}), "diagnosis": found})
