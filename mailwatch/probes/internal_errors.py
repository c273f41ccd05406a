"""The observation of a probe that failed by our own fault; its cause is `monitor`.

Without an observation, the record would have a hole that looks like a probe that was never made.
"""

from __future__ import annotations

import logging
import traceback
from dataclasses import dataclass, field, replace

from mailwatch import monotonic
from mailwatch.model import Cause, Observation, Outcome
from mailwatch.probes.redact import redactor
from mailwatch.settings import Target
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProbeStart:
    """When a probe began, by the wall clock and on the steady clock, in milliseconds."""

    at: Millis = field(default_factory=now)
    clock: Millis = field(default_factory=monotonic.milliseconds)


def internal_error_observation(
    target: Target,
    scheduled_at: Millis,
    start: ProbeStart,
    error: BaseException,
    observed: Observation | None = None,
) -> Observation:
    """Log `error` with its traceback, secrets masked, and return an unknown observation.

    What was `observed` before the fault is kept, but decides nothing.
    """
    detail = redact_text(target, f"internal error: {type(error).__name__}: {error}")
    logger.error("probe of %s failed: internal error\n%s", target.name, redacted_traceback(error, target))
    if observed is not None:
        was = f"; was: {observed.cause}: {observed.detail}" if observed.cause else f"; was: {observed.outcome}"
        return replace(observed, outcome=Outcome.UNKNOWN, cause=Cause.MONITOR, detail=f"{detail}{was}")
    return Observation(
        target=target.name,
        scheduled_at=scheduled_at,
        started_at=start.at,
        ended_at=max(start.at, now()),
        outcome=Outcome.UNKNOWN,
        cause=Cause.MONITOR,
        detail=detail,
        clock=monotonic.since(start.clock),
        interval=max(1, round(target.interval * 1000)),
    )


def minimal_observation(observation: Observation, error: BaseException) -> Observation:
    """Return a minimal observation, without others' texts, in place of one that `error` kept from the record."""
    logger.error("the observation of %s cannot be recorded: %s", observation.target, type(error).__name__)
    return Observation(
        target=observation.target,
        scheduled_at=observation.scheduled_at,
        started_at=observation.started_at,
        ended_at=observation.ended_at,
        outcome=Outcome.UNKNOWN,
        cause=Cause.MONITOR,
        detail=f"internal error: the observation cannot be recorded ({type(error).__name__}); was: "
        f"{observation.cause or observation.outcome}",
        with_login=observation.with_login,
        secret=observation.secret,
        clock=observation.clock,
        interval=observation.interval,
    )


def redacted_traceback(error: BaseException, target: Target) -> str:
    """Return a traceback without the target's secrets: a library's exception may contain what was sent."""
    text = "".join(traceback.format_exception(error))
    for end in target.endpoints:
        text = redactor(end.login).hide(text)
    return text


def redact_text(target: Target, text: str) -> str:
    """Return a text fit for the record: bounded, without secrets and control characters."""
    for end in target.endpoints:
        text = redactor(end.login)(text)
    return text
