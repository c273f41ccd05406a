"""One connection to one address, and a walk along the addresses of a name as a mail program takes it.

How long a probe may take in all, each attempt at its slowest: what takes longer does not end by itself.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from mailwatch.model import Attempt, Cause, Kind, Outcome, Phase
from mailwatch.probes.connect import Address, Call, Goodbye, Lookup, OurFault, TlsContexts, alternating
from mailwatch.probes.failures import Verdict, judge
from mailwatch.probes.internal_errors import trace_of
from mailwatch.probes.oauth.tokens import PATIENCE
from mailwatch.probes.recorder import Recorder, Watch
from mailwatch.probes.redact import redactor
from mailwatch.settings import Delivery, Target

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
MAX_OTHERS = 8
OTHERS_TIMEOUT = 10.0
GOODBYE = 1.0
"""Seconds that a server has to answer LOGOUT or QUIT."""

Probe = Callable[[Call], Awaitable[Goodbye]]
"""Walks the phases of one connection; the first failure raises. Returns how to say goodbye."""

STALLED = 1.0
"""Seconds: a deadline that strikes later than this found us asleep, and what had come by then was not read."""

TRY_NEXT = frozenset({Cause.REFUSED, Cause.UNREACHABLE, Cause.TIMEOUT})


async def walk(
    target: Target,
    probe: Probe,
    lookup: Lookup,
    contexts: TlsContexts,
    *,
    watch: Watch | None = None,
    patience: float | None = None,
) -> tuple[list[Attempt], tuple[Address, ...]]:
    """Resolve the target's host and try its addresses; return the attempts and all addresses found.

    The next address is tried only after one that does not connect, IPv4 and IPv6 in turn. A probe that
    bounds its phases itself may take `patience` seconds in all, instead of the target's timeout.
    """
    hide = redactor(target.login)
    recorder = Recorder(hide, watch)
    try:
        with recorder.phase(Phase.RESOLVE):
            addresses = alternating(await lookup(target.host, target.port, target.timeout))
    except Exception as error:
        return [failed(recorder, error, target)], ()
    attempts: list[Attempt] = []
    for address in addresses[: 2 * MAX_ATTEMPTS]:
        # A line without IPv6 fails at once over it, which must not use up what is left for IPv4.
        if sum(made.cause is not Cause.UNREACHABLE for made in attempts) == MAX_ATTEMPTS:
            break
        call = Call(target, address, target.login, recorder, contexts, lookup=lookup)
        attempts.append(await attempt(call, probe, patience))
        # A webmail page that did connect may have led to a host that does not.
        connected = attempts[-1].failed_phase is not Phase.CONNECT or call.transport is not None
        if connected or attempts[-1].cause not in TRY_NEXT:
            break
        recorder = Recorder(hide, watch)
    return attempts, addresses


async def others(
    target: Target, probe: Probe, addresses: Sequence[Address], contexts: TlsContexts
) -> list[Attempt]:
    """Look at further addresses of the name, all at once and without a login: each would cost one."""
    bare = replace(target, login=None, timeout=min(target.timeout, OTHERS_TIMEOUT))
    hide = redactor(target.login)
    calls = [Call(bare, address, None, Recorder(hide, None), contexts) for address in addresses[:MAX_OTHERS]]
    return await asyncio.gather(*(attempt(call, probe) for call in calls))


async def attempt(call: Call, probe: Probe, patience: float | None = None) -> Attempt:
    """Make one connection, within one deadline: `patience`, else the target's timeout."""
    target, recorder = call.target, call.recorder
    loop = asyncio.get_running_loop()
    seconds = patience or target.timeout
    # The loop's own time is that of its last turn, which may be what came late.
    deadline, due = loop.time() + seconds, time.monotonic() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            goodbye = await probe(call)
        made = recorder.attempt(call.address.peer)
        await _take_leave(goodbye, min(deadline, loop.time() + GOODBYE), target)
    except Exception as error:
        late = time.monotonic() - due
        if isinstance(error, TimeoutError) and late > STALLED:
            error = OurFault(f"our own process stood still for {late:.1f} s; was: timeout")
        made = failed(recorder, error, target, call.address.peer)
    finally:
        call.close()
    # The socket is closed in the loop's next turn; an observation that is returned has left nothing open.
    await asyncio.sleep(0)
    return made


async def _take_leave(goodbye: Goodbye, deadline: float, target: Target) -> None:
    """Say goodbye; what goes wrong there decides nothing, but a fault of our own is logged."""
    try:
        async with asyncio.timeout_at(deadline):
            await goodbye()
    except Exception as error:
        verdict, fault = _judged(error, target)
        if verdict.cause is Cause.MONITOR:
            logger.error("the goodbye to %s failed by our own fault\n%s", target.name, trace_of(fault, target))


def failed(recorder: Recorder, error: Exception, target: Target, peer: str = "") -> Attempt:
    """Close the record of an attempt that `error` ended."""
    verdict, error = _judged(error, target, recorder.unanswered)
    for line in verdict.lines or (verdict.words,):
        if line:
            recorder.heard(line)
    if verdict.known is False:
        recorder.facts["words"] = "unknown"
    if verdict.owner:
        recorder.facts["owner"] = verdict.owner
    if verdict.out_of_date:
        recorder.facts["out_of_date"] = verdict.out_of_date
    if verdict.cause is Cause.MONITOR:
        # Not as exc_info: the text of a foreign exception may hold what was sent.
        logger.error("the look at %s failed by our own fault\n%s", target.name, trace_of(error, target))
    return recorder.attempt(peer, cause=verdict.cause, detail=verdict.detail)


def _judged(
    error: Exception, target: Target, unanswered: Callable[[], Exception | None] = lambda: None
) -> tuple[Verdict, Exception]:
    """Judge an error; a judge that fails itself is our own fault, and that error is the one to tell of."""
    try:
        verdict = judge(error, target)
        if verdict.cause is Cause.TIMEOUT and (words := unanswered()) is not None:
            # What it said before it fell silent may be that we come too often, or what its owner has to change.
            said = judge(words, target)
            verdict = said if said.cause.outcome is Outcome.UNKNOWN else verdict
        return verdict, error
    except Exception as fault:
        was = f"{type(fault).__name__}: {fault}; was: {type(error).__name__}"
        return Verdict(Cause.MONITOR, f"our own fault in judging: {was}"), fault


def unserved(attempts: Sequence[Attempt]) -> tuple[str, ...]:
    """Return the peers of the attempts that failed."""
    return tuple(attempt.peer for attempt in attempts if attempt.cause is not None)


def told(attempt: Attempt) -> dict[str, str]:
    """Return an attempt that decided nothing as the record's facts have it."""
    if attempt.cause is None:
        return {"peer": attempt.peer}
    words = {"peer": attempt.peer, "cause": attempt.cause.value, "detail": attempt.detail}
    return words | ({"failed_phase": attempt.failed_phase.value} if attempt.failed_phase else {})


_MX_STEPS = 1 + 5 * (1 + 2)
"""The exchangers' names, then of each of five the addresses, and two connections."""
_ROUNDTRIP_STEPS = 60
"""Two logins, the handing in, and each command of waiting for the message and of clearing up."""
MARGIN = 30.0
"""Seconds for what has a short bound of its own."""


def longest(target: Target) -> float:
    """Return the seconds after which no probe of `target` is under way any more, however slow its server is."""
    if isinstance(target.task, Delivery):
        return _ROUNDTRIP_STEPS * target.timeout + 3 * target.task.deadline + MARGIN
    steps = _MX_STEPS if target.kind is Kind.MX else 1 + MAX_ATTEMPTS
    once = steps * (target.timeout + GOODBYE) + OTHERS_TIMEOUT
    if target.login is not None and target.login.oauth2 is not None:
        # A token that is rejected is renewed, and the probe made again.
        return 2 * (once + PATIENCE) + MARGIN
    return once + MARGIN
