"""Runs one connection to one address, and tries the addresses of a name in turn, as a mail program does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mailwatch.model import Attempt, Cause, Outcome, Phase
from mailwatch.probes.connect import (
    Address,
    CloseCallback,
    MonitorError,
    ProbeContext,
    interleave_families,
)
from mailwatch.probes.failures import Classification, classify_error
from mailwatch.probes.internal_errors import redacted_traceback
from mailwatch.probes.oauth.tokens import WAIT_SECONDS
from mailwatch.probes.recorder import Recorder
from mailwatch.probes.redact import redactor
from mailwatch.probes.request import ProbeRequest
from mailwatch.settings import Target

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
MAX_OTHER_ADDRESSES = 8
OTHER_ADDRESS_SECONDS = 10.0
CLOSE_SECONDS = 1.0
"""Seconds that a server may take to answer LOGOUT or QUIT."""

Probe = Callable[[ProbeContext], Awaitable[CloseCallback]]
"""Runs the phases of one connection; the first failure raises. Returns the callback that closes the session."""

STALL_SECONDS = 1.0
"""Seconds: a deadline handled later than this found us stopped, and data that came in time was not read."""

RETRYABLE_CAUSES = frozenset({Cause.REFUSED, Cause.UNREACHABLE, Cause.TIMEOUT})


async def try_addresses(
    request: ProbeRequest, probe: Probe, *, max_seconds: float | None = None
) -> tuple[list[Attempt], tuple[Address, ...]]:
    """Resolve the target's host and try its addresses; return the attempts and all addresses found.

    The next address is tried only if the previous one does not connect, IPv4 and IPv6 in turn. A probe that bounds
    its phases itself may take `max_seconds` in all, instead of the target's timeout.
    """
    target, listener = request.target, request.listener
    hide = redactor(target.login)
    recorder = Recorder(hide, listener)
    try:
        with recorder.phase(Phase.RESOLVE):
            addresses = interleave_families(await request.lookup(target.host, target.port, target.timeout))
    except Exception as error:
        return [failed_attempt(recorder, error, target)], ()
    attempts: list[Attempt] = []
    for address in addresses[: 2 * MAX_ATTEMPTS]:
        # Without IPv6 such an attempt fails at once; it must not use up the attempts left for IPv4.
        if sum(made.cause is not Cause.UNREACHABLE for made in attempts) == MAX_ATTEMPTS:
            break
        call = ProbeContext(target, address, target.login, recorder, request.contexts, lookup=request.lookup)
        attempts.append(await run_attempt(call, probe, max_seconds))
        # A webmail page that did connect may have redirected to a host that does not.
        connected = attempts[-1].failed_phase is not Phase.CONNECT or call.transport is not None
        if connected or attempts[-1].cause not in RETRYABLE_CAUSES:
            break
        recorder = Recorder(hide, listener)
    return attempts, addresses


async def probe_other_addresses(
    request: ProbeRequest, probe: Probe, addresses: Sequence[Address]
) -> list[Attempt]:
    """Probe further addresses of the name, all at once and without a login, since each would count as a login."""
    target = request.target
    bare = replace(target, login=None, timeout=min(target.timeout, OTHER_ADDRESS_SECONDS))
    hide = redactor(target.login)
    calls = [
        ProbeContext(bare, address, None, Recorder(hide, None), request.contexts)
        for address in addresses[:MAX_OTHER_ADDRESSES]
    ]
    return await asyncio.gather(*(run_attempt(call, probe) for call in calls))


async def run_attempt(context: ProbeContext, probe: Probe, max_seconds: float | None = None) -> Attempt:
    """Make one connection, within one deadline: `max_seconds`, else the target's timeout."""
    target, recorder = context.target, context.recorder
    loop = asyncio.get_running_loop()
    seconds = max_seconds or target.timeout
    # The loop's time is that of its last iteration, which may itself have been late.
    deadline, due = loop.time() + seconds, time.monotonic() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            close = await probe(context)
        made = recorder.to_attempt(context.address.peer)
        await _close_politely(close, min(deadline, loop.time() + CLOSE_SECONDS), target)
    except Exception as error:
        late = time.monotonic() - due
        if isinstance(error, TimeoutError) and late > STALL_SECONDS:
            error = MonitorError(f"MailWatch itself was stopped for {late:.1f} s; was: timeout")
        made = failed_attempt(recorder, error, target, context.address.peer)
    finally:
        context.close()
    # The loop closes the socket in its next iteration; a returned observation leaves nothing open.
    await asyncio.sleep(0)
    return made


async def _close_politely(close: CloseCallback, deadline: float, target: Target) -> None:
    """Close the session; failures decide nothing here, but a fault of our own is logged."""
    try:
        async with asyncio.timeout_at(deadline):
            await close()
    except Exception as error:
        classification, fault = _classify(error, target)
        if classification.cause is Cause.MONITOR:
            logger.error(
                "closing the connection to %s failed: internal error\n%s",
                target.name,
                redacted_traceback(fault, target),
            )


def failed_attempt(recorder: Recorder, error: Exception, target: Target, peer: str = "") -> Attempt:
    """Return the attempt that `error` ended."""
    classification, error = _classify(error, target, recorder.unanswered)
    for line in classification.lines or (classification.server_text,):
        if line:
            recorder.add_reply(line)
    if classification.known is False:
        recorder.facts["words"] = "unknown"
    if classification.owner:
        recorder.facts["owner"] = classification.owner
    if classification.out_of_date:
        recorder.facts["out_of_date"] = classification.out_of_date
    if classification.cause is Cause.MONITOR:
        # Not as exc_info: the text of a library's exception may contain what was sent.
        logger.error("probe of %s failed: internal error\n%s", target.name, redacted_traceback(error, target))
    return recorder.to_attempt(peer, cause=classification.cause, detail=classification.detail)


def _classify(
    error: Exception, target: Target, unanswered: Callable[[], Exception | None] = lambda: None
) -> tuple[Classification, Exception]:
    """Classify an error; an exception in the classification is our own fault, and then the error to report."""
    try:
        classification = classify_error(error, target)
        if classification.cause is Cause.TIMEOUT and (words := unanswered()) is not None:
            # The server's last words may say that we connect too often, or what its owner has to change.
            by_words = classify_error(words, target)
            classification = by_words if by_words.cause.outcome is Outcome.UNKNOWN else classification
        return classification, error
    except Exception as fault:
        was = f"{type(fault).__name__}: {fault}; was: {type(error).__name__}"
        return Classification(Cause.MONITOR, f"internal error in the classification: {was}"), fault


def failed_peers(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Return the peers of the attempts that failed."""
    return tuple(attempt.peer for attempt in attempts if attempt.cause is not None)


def as_fact(attempt: Attempt) -> dict[str, str]:
    """Return a non-deciding attempt in the form of the record's facts."""
    if attempt.cause is None:
        return {"peer": attempt.peer}
    words = {"peer": attempt.peer, "cause": attempt.cause.value, "detail": attempt.detail}
    return words | ({"failed_phase": attempt.failed_phase.value} if attempt.failed_phase else {})


MARGIN_SECONDS = 30.0
"""Seconds for steps with short bounds of their own."""


def max_seconds_of_attempts(steps: int, target: Target) -> float:
    """Return the longest duration in seconds of a probe of `steps` attempts and lookups.

    A probe that takes longer does not end by itself.
    """
    once = steps * (target.timeout + CLOSE_SECONDS) + OTHER_ADDRESS_SECONDS
    if target.login is not None and target.login.oauth2 is not None:
        # A rejected token is renewed, and the probe repeated.
        return 2 * (once + WAIT_SECONDS) + MARGIN_SECONDS
    return once + MARGIN_SECONDS
