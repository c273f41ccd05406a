"""The only door to a mail service: look at a target once and say what was seen."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable

from mailwatch.models import Attempt, Cause, Kind, Millis, Observation, Outcome, Phase, Target
from mailwatch.probes import imap, pop3, smtp
from mailwatch.probes.connect import Address, Call, Goodbye, OurFault, TlsContexts, resolve
from mailwatch.probes.failures import judge
from mailwatch.probes.recorder import Recorder, Watch
from mailwatch.probes.redact import Redactor
from mailwatch.probes.redact import redactor as redactor_of

__all__ = ["TlsContexts", "observe"]

logger = logging.getLogger(__name__)

MAX_ATTEMPTS = 4
GOODBYE = 1.0
"""Seconds that a server has to answer LOGOUT or QUIT."""

Lookup = Callable[[str, int, float], Awaitable[tuple[Address, ...]]]
"""From host, port and timeout in seconds to addresses."""

_TRY_NEXT = frozenset({Cause.REFUSED, Cause.UNREACHABLE, Cause.TIMEOUT})


async def observe(
    target: Target,
    *,
    scheduled_at: Millis,
    contexts: TlsContexts,
    with_login: bool = True,
    watch: Watch | None = None,
    lookup: Lookup = resolve,
) -> Observation:
    """Look at `target` once. Raises nothing but CancelledError: a failed look is an observation too.

    The name is resolved once; the next address is tried only after one that does not connect.
    `watch` is told live where the look is.
    """
    login = target.login if with_login else None
    redactor = redactor_of(login)
    recorder = Recorder(redactor, watch)
    attempts: list[Attempt] = []
    addresses: tuple[Address, ...] = ()
    try:
        with recorder.phase(Phase.RESOLVE):
            addresses = await lookup(target.host, target.port, target.timeout)
    except Exception as error:
        attempts.append(_failed(recorder, redactor, error, target))
    for address in addresses[:MAX_ATTEMPTS]:
        attempts.append(await _attempt(Call(target, address, login, recorder, contexts), redactor))
        if attempts[-1].failed_phase is not Phase.CONNECT or attempts[-1].cause not in _TRY_NEXT:
            break
        recorder = Recorder(redactor, watch)
    return _told(target, scheduled_at, attempts, addresses, login is not None)


def _told(
    target: Target, due: Millis, attempts: list[Attempt], addresses: tuple[Address, ...], with_login: bool
) -> Observation:
    last = attempts[-1]
    return Observation(
        target=target.name,
        scheduled_at=due,
        started_at=attempts[0].started_at,
        ended_at=last.ended_at,
        outcome=last.cause.outcome if last.cause else Outcome.UP,
        cause=last.cause,
        failed_phase=last.failed_phase,
        detail=last.detail,
        attempts=tuple(attempts),
        addresses=tuple(address.host for address in addresses),
        partial=() if last.cause else tuple(attempt.peer for attempt in attempts[:-1]),
        with_login=with_login,
    )


async def _attempt(call: Call, redactor: Redactor) -> Attempt:
    """Make one connection, within one deadline."""
    target, recorder = call.target, call.recorder
    loop = asyncio.get_running_loop()
    deadline = loop.time() + target.timeout
    try:
        async with asyncio.timeout_at(deadline):
            goodbye = await _probe(call)
        attempt = recorder.attempt(call.address.peer)
        with contextlib.suppress(Exception):
            async with asyncio.timeout_at(min(deadline, loop.time() + GOODBYE)):
                await goodbye()
    except Exception as error:
        attempt = _failed(recorder, redactor, error, target, call.address.peer)
    finally:
        call.close()
    # The socket is closed in the loop's next turn; an observation that is returned has left nothing open.
    await asyncio.sleep(0)
    return attempt


async def _probe(call: Call) -> Goodbye:
    match call.target.kind:
        case Kind.IMAP:
            return await imap.probe(call)
        case Kind.POP3:
            return await pop3.probe(call)
        case Kind.SMTP:
            return await smtp.probe(call)
    raise OurFault(f"no probe is built for {call.target.kind}")


def _failed(recorder: Recorder, redactor: Redactor, error: Exception, target: Target, peer: str = "") -> Attempt:
    verdict = judge(error, target)
    if verdict.words:
        recorder.heard(verdict.words)
    if verdict.cause is Cause.MONITOR:
        # Not as exc_info: the text of a foreign exception may hold what was sent.
        trace = "".join(traceback.format_exception(error))
        logger.error("the look at %s failed by our own fault\n%s", target.name, redactor.hide(trace))
    return recorder.attempt(peer, cause=verdict.cause, detail=verdict.detail)
