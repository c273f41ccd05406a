"""What is left of a look that a fault of our own ended: an observation all the same, whose cause is `monitor`.

A look without an observation would be a hole in the record that nobody can tell from a probe that was never made.
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
class Begun:
    """When a look began: by the wall clock, and on the clock that nobody can set, in milliseconds."""

    at: Millis = field(default_factory=now)
    clock: Millis = field(default_factory=monotonic.milliseconds)


def our_fault(
    target: Target, due: Millis, begun: Begun, error: BaseException, seen: Observation | None = None
) -> Observation:
    """Log `error` with its traceback, secrets masked, and return the look as unknown.

    What was `seen` before the fault is kept, but decides nothing any more.
    """
    said = hidden(target, f"our own fault: {type(error).__name__}: {error}")
    logger.error("the look at %s failed by our own fault\n%s", target.name, trace_of(error, target))
    if seen is not None:
        was = f"; was: {seen.cause}: {seen.detail}" if seen.cause else f"; was: {seen.outcome}"
        return replace(seen, outcome=Outcome.UNKNOWN, cause=Cause.MONITOR, detail=f"{said}{was}")
    return Observation(
        target=target.name,
        scheduled_at=due,
        started_at=begun.at,
        ended_at=max(begun.at, now()),
        outcome=Outcome.UNKNOWN,
        cause=Cause.MONITOR,
        detail=said,
        clock=monotonic.since(begun.clock),
        interval=max(1, round(target.interval * 1000)),
    )


def bare(observation: Observation, error: BaseException) -> Observation:
    """Return an observation that can be written where `error` kept it from being: without the words of others."""
    logger.error("what was seen of %s cannot be written: %s", observation.target, type(error).__name__)
    return Observation(
        target=observation.target,
        scheduled_at=observation.scheduled_at,
        started_at=observation.started_at,
        ended_at=observation.ended_at,
        outcome=Outcome.UNKNOWN,
        cause=Cause.MONITOR,
        detail=f"our own fault: what was seen cannot be written ({type(error).__name__}); was: "
        f"{observation.cause or observation.outcome}",
        with_login=observation.with_login,
        secret=observation.secret,
        clock=observation.clock,
        interval=observation.interval,
    )


def trace_of(error: BaseException, target: Target) -> str:
    """Write a traceback without the target's secrets: the text of a foreign exception may hold what was sent."""
    text = "".join(traceback.format_exception(error))
    for end in target.ends:
        text = redactor(end.login).hide(text)
    return text


def hidden(target: Target, text: str) -> str:
    """Make a text fit for the record: without secrets and control characters, bounded."""
    for end in target.ends:
        text = redactor(end.login)(text)
    return text
