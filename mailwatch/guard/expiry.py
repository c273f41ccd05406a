"""Attributes a certificate that our clock calls out of date: to the provider, or to our clock.

What is known of the true time is used first. Only if that is not enough, time servers and controls are asked, at
most once a minute, for all waiting probes. The findings are recorded with the observation.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from dataclasses import replace

from mailwatch import monotonic
from mailwatch.facts import ExpiryFacts, ObservationFacts
from mailwatch.guard.clock import ClockSurvey, survey
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.time_evidence import ExpiryFault, TimeEvidence, TrueTimeBounds, expiry_fault
from mailwatch.i18n import format_duration
from mailwatch.model import Attempt, Cause, Observation, Outcome
from mailwatch.times import Millis, rfc3339

logger = logging.getLogger(__name__)

ASK_INTERVAL_MS: Millis = 60_000
SERVER_TIMEOUT_SECONDS = 2.0
"""Seconds that a time server may take."""
ADVICE = "keep this machine's clock right by NTP, or let MailWatch ask time servers (UDP port 123)"


def add_survey(evidence: TimeEvidence, survey: ClockSurvey, wall_offset: Millis) -> None:
    """Add what the kernel or time servers found of the wall clock, which is at `wall_offset` (monotonic.py)."""
    found = survey.window_us
    evidence.forget("kernel")
    evidence.forget("sntp")
    if found is None:
        return
    low, high = found
    here = monotonic.milliseconds()
    wall = here + wall_offset
    evidence.add_window("sntp" if survey.answers else "kernel", here, wall + low // 1000, wall - (-high // 1000))


class ExpiryAttribution:
    """Attributes certificates that are out of date by our clock; `evidence` is what is known of the true time."""

    def __init__(
        self, guard: Guard | None, servers: Sequence[tuple[str, int]], evidence: TimeEvidence | None = None
    ) -> None:
        self.evidence = evidence or TimeEvidence()
        self._guard = guard
        self._servers = tuple(servers)
        self._asking: asyncio.Task[None] | None = None
        self._asked: Millis | None = None

    def reconfigure(self, guard: Guard | None, servers: Sequence[tuple[str, int]]) -> None:
        """Replace guard and time servers; knowledge of the true time stays."""
        self._guard, self._servers = guard, tuple(servers)

    async def attribute(self, observation: Observation) -> Observation:
        """Return the observation with the evidence; unknown unless the certificate is surely out of date."""
        attempt = observation.deciding_attempt
        found = (attempt.facts or {}).get("out_of_date") if attempt is not None else None
        if observation.outcome is not Outcome.DOWN or attempt is None or found is None:
            return observation
        whose, known = self._weigh(attempt, found)
        if whose is ExpiryFault.UNKNOWN:
            await self._ask()
            whose, known = self._weigh(attempt, found)
        weighed: ExpiryFacts = {**found, "fault": whose.value, "by": list(known.sources)}
        if known.earliest is not None:
            weighed["true_time_from"] = known.earliest
        if known.latest is not None:
            weighed["true_time_until"] = known.latest
        facts: ObservationFacts = {**(observation.facts or {}), "out_of_date": weighed}
        with_facts = replace(observation, facts=facts)
        if whose is ExpiryFault.PROVIDER:
            return replace(with_facts, detail=f"{observation.detail}; {_certainty_detail(known)}")
        why = (
            _clock_wrong_detail(known, attempt.ended_at)
            if whose is ExpiryFault.CLOCK
            else _uncertain_detail(known)
        )
        detail = f"{why}; {ADVICE} (was: {observation.cause}, {observation.detail})"
        return replace(with_facts, outcome=Outcome.UNKNOWN, cause=Cause.MONITOR, detail=detail)

    def _weigh(self, attempt: Attempt, found: ExpiryFacts) -> tuple[ExpiryFault, TrueTimeBounds]:
        reading = attempt.clock.end if attempt.clock is not None else monotonic.milliseconds()
        known = self.evidence.bounds_at(reading)
        return expiry_fault(found.get("not_before"), found.get("not_after"), known, attempt.ended_at), known

    async def _ask(self) -> None:
        """Ask time servers and controls, unless they were asked within the last minute."""
        if self._asking is None or self._asking.done():
            here = monotonic.milliseconds()
            if self._asked is not None and here - self._asked < ASK_INTERVAL_MS:
                return
            self._asked = here
            self._asking = asyncio.create_task(self._ask_all())
        # Shielded: a cancelled caller must not take the answer from the others.
        await asyncio.shield(self._asking)

    async def _ask_all(self) -> None:
        asked = [self._survey(), *([self._controls(self._guard)] if self._guard else [])]
        for result in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(result, Exception):
                logger.error("the time request failed: internal error", exc_info=result)

    async def _survey(self) -> None:
        before = monotonic.offset()
        asked = await survey(self._servers, SERVER_TIMEOUT_SECONDS)
        after = monotonic.offset()
        # If the clock was set meanwhile, it is unknown to which clock the answers refer.
        if abs(after - before) <= monotonic.STEP_MS:
            add_survey(self.evidence, asked, after)

    async def _controls(self, guard: Guard) -> None:
        for label, time in (await guard.control_times()).items():
            self.evidence.add_window(f"control:{label}", time.at, time.earliest, time.latest)


def _sources(known: TrueTimeBounds) -> str:
    """Return the sources as text. On record, "program" stands for the date of this release."""
    return ", ".join("the release date of this MailWatch" if each == "program" else each for each in known.sources)


def _certainty_detail(known: TrueTimeBounds) -> str:
    """Return how precisely the time is known, as text."""
    by = _sources(known)
    if known.earliest is not None and known.latest is not None:
        return f"the time is known to {_format_length(known.latest - known.earliest)} ({by})"
    return f"it is {rfc3339(known.earliest or 0)} or later ({by})"


def _clock_wrong_detail(known: TrueTimeBounds, wall: Millis) -> str:
    by = _sources(known)
    if known.earliest is not None and wall < known.earliest:
        return f"our own clock is behind by at least {_format_length(known.earliest - wall)} ({by})"
    if known.latest is not None and wall > known.latest:
        return f"our own clock is ahead by at least {_format_length(wall - known.latest)} ({by})"
    return f"our own clock is wrong ({by})"


def _uncertain_detail(known: TrueTimeBounds) -> str:
    if known.contradicted:
        return f"our own clock is not verified: {_sources(known)} contradict each other"
    return "our own clock is not verified"


def _format_length(millis: Millis) -> str:
    with contextlib.suppress(OverflowError):
        return format_duration(max(millis, 0) / 1000)
    return "an unknown time"
