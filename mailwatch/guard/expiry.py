"""Whose failure a certificate is that our clock calls out of date: the provider's, or our clock's.

What is known of the true time is used first. Only if that does not settle it, time servers and controls are
asked, at most once a minute, for all probes that wait. What was found goes on record with the observation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mailwatch import monotonic
from mailwatch.guard.clock import ClockSurvey, survey
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.time_evidence import Blame, Bounds, TimeEvidence, blame
from mailwatch.i18n import span
from mailwatch.model import Attempt, Cause, Observation, Outcome
from mailwatch.times import Millis, rfc3339

logger = logging.getLogger(__name__)

ASK_AGAIN: Millis = 60_000
SECONDS = 2.0
"""How long a time server may take."""
ADVICE = "keep this machine's clock right by NTP, or let MailWatch ask time servers (UDP port 123)"


def learn_survey(evidence: TimeEvidence, asked: ClockSurvey, wall_offset: Millis) -> None:
    """Take in what the kernel or time servers said of the wall clock, which is `wall_offset` (monotonic.py)."""
    found = asked.window_us
    evidence.forget("kernel")
    evidence.forget("sntp")
    if found is None:
        return
    low, high = found
    here = monotonic.milliseconds()
    wall = here + wall_offset
    evidence.learn("sntp" if asked.answers else "kernel", here, wall + low // 1000, wall - (-high // 1000))


class Expiry:
    """Judges certificates that are out of date by our clock; `evidence` is what is known of the true time."""

    def __init__(
        self, guard: Guard | None, servers: Sequence[tuple[str, int]], evidence: TimeEvidence | None = None
    ) -> None:
        self.evidence = evidence or TimeEvidence()
        self._guard = guard
        self._servers = tuple(servers)
        self._asking: asyncio.Task[None] | None = None
        self._asked: Millis | None = None

    def use(self, guard: Guard | None, servers: Sequence[tuple[str, int]]) -> None:
        """Ask these from now on; what is known of the true time stays."""
        self._guard, self._servers = guard, tuple(servers)

    async def judge(self, observation: Observation) -> Observation:
        """Return the observation with what was weighed; unknown unless the certificate is surely out of date."""
        attempt = observation.deciding
        found = (attempt.facts or {}).get("out_of_date") if attempt is not None else None
        if observation.outcome is not Outcome.DOWN or attempt is None or found is None:
            return observation
        whose, known = self._weigh(attempt, found)
        if whose is Blame.UNKNOWN:
            await self._ask()
            whose, known = self._weigh(attempt, found)
        weighed: dict[str, Any] = {**found, "fault": whose.value, "by": list(known.by)}
        weighed |= {"true_time_from": known.earliest} if known.earliest is not None else {}
        weighed |= {"true_time_until": known.latest} if known.latest is not None else {}
        facts = {**(observation.facts or {}), "out_of_date": weighed}
        told = replace(observation, facts=facts)
        if whose is Blame.PROVIDER:
            return replace(told, detail=f"{observation.detail}; {_sure(known)}")
        why = _wrong(known, attempt.ended_at) if whose is Blame.CLOCK else _unsure(known)
        detail = f"{why}; {ADVICE} (was: {observation.cause}, {observation.detail})"
        return replace(told, outcome=Outcome.UNKNOWN, cause=Cause.MONITOR, detail=detail)

    def _weigh(self, attempt: Attempt, found: dict[str, Any]) -> tuple[Blame, Bounds]:
        reading = attempt.clock.end if attempt.clock is not None else monotonic.milliseconds()
        known = self.evidence.at(reading)
        return blame(found.get("not_before"), found.get("not_after"), known, attempt.ended_at), known

    async def _ask(self) -> None:
        """Ask time servers and controls, unless that was done within the last minute."""
        if self._asking is None or self._asking.done():
            here = monotonic.milliseconds()
            if self._asked is not None and here - self._asked < ASK_AGAIN:
                return
            self._asked = here
            self._asking = asyncio.create_task(self._ask_all())
        # Shielded: who is cancelled does not take the answer from the others.
        await asyncio.shield(self._asking)

    async def _ask_all(self) -> None:
        asked = [self._survey(), *([self._controls(self._guard)] if self._guard else [])]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("the time was not asked for, by our own fault", exc_info=result)

    async def _survey(self) -> None:
        before = monotonic.offset()
        asked = await survey(self._servers, SECONDS)
        after = monotonic.offset()
        # Of which clock the answers are cannot be told where it was set meanwhile.
        if abs(after - before) <= monotonic.STEP_MS:
            learn_survey(self.evidence, asked, after)

    async def _controls(self, guard: Guard) -> None:
        for label, shown in (await guard.known_time()).items():
            self.evidence.learn(f"control:{label}", shown.at, shown.earliest, shown.latest)


def _sources(known: Bounds) -> str:
    """Name what says so. On record the date of this release has a word of its own, "program"."""
    return ", ".join("the date of this MailWatch's release" if each == "program" else each for each in known.by)


def _sure(known: Bounds) -> str:
    """Say how well the time is known."""
    by = _sources(known)
    if known.earliest is not None and known.latest is not None:
        return f"the time is known to {_length(known.latest - known.earliest)} ({by})"
    return f"it is {rfc3339(known.earliest or 0)} or later ({by})"


def _wrong(known: Bounds, wall: Millis) -> str:
    by = _sources(known)
    if known.earliest is not None and wall < known.earliest:
        return f"our own clock is behind by at least {_length(known.earliest - wall)} ({by})"
    if known.latest is not None and wall > known.latest:
        return f"our own clock is ahead by at least {_length(wall - known.latest)} ({by})"
    return f"our own clock is wrong ({by})"


def _unsure(known: Bounds) -> str:
    if known.contradicted:
        return f"our own clock is not known to be right: {_sources(known)} contradict each other"
    return "our own clock is not known to be right"


def _length(millis: Millis) -> str:
    with contextlib.suppress(OverflowError):
        return span(max(millis, 0) / 1000)
    return "an unknown time"
