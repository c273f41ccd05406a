"""A check whose result concurrent callers share; it remembers its last failed round.

The result for one control is one word (`reason_of`); together they give yes, no or unknown (`combine`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import ssl
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field, replace

from mailwatch.model import ControlState
from mailwatch.monotonic import offset, to_wall_clock
from mailwatch.times import Millis, now

_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: ControlState.DISCONNECTED,
    errno.ECONNABORTED: ControlState.DISCONNECTED,
    errno.EPIPE: ControlState.DISCONNECTED,
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EADDRNOTAVAIL: "unreachable",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
}
_EXPIRED, _NOT_YET_VALID = 10, 9


def reason_of(error: OSError) -> str:
    """Return why a control was not reached; an unlisted error is our own fault."""
    match error:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError():
            return ControlState.DISCONNECTED
        case ssl.SSLCertVerificationError() if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            # Name and issuer are right: our clock is wrong, or it is unknown which side is.
            return ControlState.MONITOR
        case ssl.SSLError():
            return ControlState.INTERCEPTED
        case TimeoutError():
            # The kernel's ETIMEDOUT is a TimeoutError too, like our own timeout.
            return _REASONS.get(error.errno or errno.ETIMEDOUT, ControlState.MONITOR)
        case ConnectionError() if error.errno is None:
            return ControlState.DISCONNECTED
    return _REASONS.get(error.errno or 0, ControlState.MONITOR)


def combine(reasons: Iterable[str]) -> bool | None:
    """Return whether any reason is "ok"; None if none is and some control could not be asked."""
    all_reasons = list(reasons)
    if ControlState.OK in all_reasons:
        return True
    return None if ControlState.MONITOR in all_reasons or not all_reasons else False


logger = logging.getLogger(__name__)

SHARED_SECONDS = 2.0
"""Seconds during which callers share a round."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check. `good` is None if unknown; `spoofed` are addresses that a resolver made up."""

    controls: dict[str, str]
    good: bool | None
    resolver: str = ""
    spoofed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TimedResult:
    """The result of one round. `offset` is the wall clock's offset at its end (monotonic.py)."""

    asked_at: Millis
    ended_at: Millis
    result: CheckResult
    offset: Millis

    def on_wall_clock(self) -> TimedResult:
        """Return the result with its times converted to the current wall clock."""
        stepped = to_wall_clock(self.ended_at, self.offset) - self.ended_at
        return replace(self, asked_at=self.asked_at + stepped, ended_at=self.ended_at + stepped)


@dataclass(slots=True)
class SharedCheck:
    """The rounds of one check. `answered`: any round was good since the start."""

    check: Callable[[], Coroutine[None, None, CheckResult]]
    answered: bool = False
    began: float = 0.0
    last_failure: TimedResult | None = None
    latest: asyncio.Task[TimedResult] | None = None
    _asked_at: Millis = field(default=0)

    async def ask(self, since: Millis | None) -> TimedResult:
        """Return a failed round that ended after `since`, else a recent round begun after `since`."""
        # A failed round before the clock was set back must not seem later than all that follow.
        silence = self.last_failure.on_wall_clock() if self.last_failure is not None else None
        if since is not None and silence is not None and silence.ended_at >= since:
            return silence
        old = time.monotonic() - self.began > SHARED_SECONDS or self._asked_at < (since or 0)
        if self.latest is None or old or self.latest.cancelled():
            self.began, self._asked_at = time.monotonic(), now()
            self.latest = asyncio.ensure_future(self._run(self._asked_at))
        # Shielded: a cancelled caller must not take the answer from the others.
        return await asyncio.shield(self.latest)

    async def _run(self, asked_at: Millis) -> TimedResult:
        result = TimedResult(asked_at, result=await self.check(), ended_at=now(), offset=offset())
        if result.result.good is False:
            self.last_failure = result
        self.answered = self.answered or result.result.good is True
        return result


async def first_ok(
    asking: dict[str, Coroutine[None, None, str]], decides: Callable[[str], bool] = lambda _: True
) -> dict[str, str]:
    """Run all at once until one that `decides` returns "ok"; the unfinished ones are "not awaited"."""
    tasks = {name: asyncio.ensure_future(coroutine) for name, coroutine in asking.items()}
    pending = set(tasks.values())
    try:
        while pending and not any(
            _reason(task) == ControlState.OK and decides(name) for name, task in tasks.items() if task.done()
        ):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {name: _reason(task) for name, task in tasks.items()}


def _reason(task: asyncio.Task[str]) -> str:
    if task.cancelled():
        return ControlState.NOT_AWAITED
    if (error := task.exception()) is not None:
        logger.error("the request to a control failed: internal error", exc_info=error)
        return ControlState.MONITOR
    return task.result()
