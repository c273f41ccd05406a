"""Are we online? A failure is a provider's only while this can be shown.

Only a completed connection to a control counts. A refusal does not, although it mostly comes from afar: a
firewall in our own house answers for others with the same packet.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from mailwatch.models import Cause, GuardAnswer, Millis, Observation, Outcome, now

logger = logging.getLogger(__name__)

NAMES = ("one.one.one.one", "dns.quad9.net", "dns.google")
"""Names of several operators that resolve wherever names resolve at all."""
SIGHTING_COUNTS_FOR: Millis = 30_000
ANSWER_COUNTS_FOR = 2.0
"""Seconds of the monotonic clock during which askers share a round."""

OK = "ok"
MONITOR = "monitor"
"""Why a control could not be asked by our own fault; it says nothing of the line."""
_REASONS = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "disconnected",
    errno.ETIMEDOUT: "timeout",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENETDOWN: "unreachable",
    errno.EACCES: "prohibited",
    errno.EPERM: "prohibited",
}


class Guard:
    """Asks `controls` (host, port) of several operators, all at once, each for `timeout` seconds.

    Whether names resolve is asked of `names` and of the host names among the controls.
    """

    def __init__(self, controls: Sequence[tuple[str, int]], timeout: float, names: Sequence[str] = NAMES) -> None:
        self._controls = tuple(dict.fromkeys(controls))
        self._names = tuple(dict.fromkeys([*(host for host, _ in controls if not _is_address(host)), *names]))
        self._timeout = timeout
        self._line = _Rounds(self._ask_controls)
        self._resolver = _Rounds(self._ask_names)
        self._seen: dict[str, Millis] = {}
        self._lookups: dict[str, asyncio.Future[_Found]] = {}

    def saw_up(self, provider: str, at: Millis, peer: str = "") -> None:
        """Note that a target of `provider` was up; a `peer` ("address:port") near us proves nothing."""
        if not peer or _is_outside(peer.rpartition(":")[0].strip("[]")):
            self._seen[provider] = max(at, self._seen.get(provider, at))

    async def ask(
        self, provider: str | None = None, *, dns: bool = False, since: Millis | None = None
    ) -> GuardAnswer:
        """Return whether we were online; with `dns`, whether we could resolve names too.

        `since` is when the failing look began. No older proof counts then; and a round since then in
        which all were silent outweighs a good one now, for the line may have come back in between.
        """
        asked = [self._line.ask(since), *([self._resolver.ask(since)] if dns else [])]
        line, *names = await asyncio.gather(*asked)
        oldest = max(line.asked_at - SIGHTING_COUNTS_FOR, since or 0)
        sightings = {f"target:{n}": OK for n, at in self._seen.items() if n != provider and at >= oldest}
        answers = [line.controls | sightings, *(shown.controls for shown in names)]
        verdicts = [_verdict(controls) for controls in answers]
        return GuardAnswer(
            asked_at=line.asked_at,
            online=False if False in verdicts else None if None in verdicts else True,
            controls={name: reason for controls in answers for name, reason in controls.items()},
        )

    async def _ask_controls(self) -> dict[str, str]:
        return await _first_ok({f"{host}:{port}": self._reach(host, port) for host, port in self._controls})

    async def _ask_names(self) -> dict[str, str]:
        return await _first_ok({f"dns:{name}": self._resolves(name) for name in self._names})

    async def _reach(self, host: str, port: int) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                found = _Found(OK, (host,)) if _is_address(host) else await self._look_up(host)
                if found.reason == OK:
                    await _connect(found.addresses, port)
        except TimeoutError as error:
            # ETIMEDOUT of the kernel is a TimeoutError too.
            return _REASONS.get(error.errno or errno.ETIMEDOUT, MONITOR)
        except OSError as error:
            return _REASONS.get(error.errno or 0, MONITOR)
        return found.reason

    async def _resolves(self, name: str) -> str:
        try:
            async with asyncio.timeout(self._timeout):
                return (await self._look_up(name)).reason
        except TimeoutError:
            return "timeout"

    async def _look_up(self, name: str) -> _Found:
        """Resolve a name; a lookup of it that is still under way is joined.

        In a daemon thread: the system's resolver cannot be cancelled, and must neither keep the program
        from ending nor take the threads that the probes' own lookups need.
        """
        future = self._lookups.get(name)
        if future is None or future.done():
            future = self._lookups[name] = asyncio.get_running_loop().create_future()
            try:
                threading.Thread(target=_look_up, args=(name, future), name="guard", daemon=True).start()
            except RuntimeError:  # no further thread to be had
                future.set_result(_Found(MONITOR))
        return await asyncio.shield(future)


def judge(observation: Observation, answer: GuardAnswer) -> Observation:
    """Return the observation with the answer; a failure while we were not surely online is unknown."""
    if observation.outcome is not Outcome.DOWN or answer.online:
        return replace(observation, guard=answer)
    if answer.online is None:
        cause, why = Cause.MONITOR, "we could not tell whether our own line was up"
    elif any(reason == OK for name, reason in answer.controls.items() if not name.startswith("dns:")):
        cause, why = Cause.OFFLINE, "names did not resolve here, not even the control names"
    else:
        cause, why = Cause.OFFLINE, "our own line was down"
    return replace(
        observation,
        outcome=Outcome.UNKNOWN,
        cause=cause,
        detail=f"{why} (was: {observation.cause})",
        guard=answer,
    )


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one round showed."""

    asked_at: Millis
    ended_at: Millis
    controls: dict[str, str]


@dataclass(slots=True)
class _Rounds:
    """Rounds of one question, shared by all who ask within two seconds; the last silent one is remembered."""

    _ask: Callable[[], Coroutine[None, None, dict[str, str]]]
    _latest: asyncio.Task[_Shown] | None = None
    _began: float = 0.0
    _asked_at: Millis = 0
    _silence: _Shown | None = None

    async def ask(self, since: Millis | None) -> _Shown:
        """Return the silent round since then, if there was one; else one begun lately, not before it."""
        if since is not None and self._silence is not None and self._silence.ended_at >= since:
            return self._silence
        old = time.monotonic() - self._began > ANSWER_COUNTS_FOR or self._asked_at < (since or 0)
        if self._latest is None or old or self._latest.cancelled():
            self._began, self._asked_at = time.monotonic(), now()
            self._latest = asyncio.ensure_future(self._round(self._asked_at))
        # Shielded: an asker that is cancelled does not take the answer from the others.
        return await asyncio.shield(self._latest)

    async def _round(self, asked_at: Millis) -> _Shown:
        shown = _Shown(asked_at, controls=await self._ask(), ended_at=now())
        if _verdict(shown.controls) is False:
            self._silence = shown
        return shown


@dataclass(frozen=True, slots=True)
class _Found:
    """What a lookup came to."""

    reason: str
    addresses: tuple[str, ...] = ()


async def _first_ok(asking: dict[str, Coroutine[None, None, str]]) -> dict[str, str]:
    """Run all at once until one is OK; what is not known by then is "not awaited"."""
    tasks = {name: asyncio.ensure_future(coroutine) for name, coroutine in asking.items()}
    pending = set(tasks.values())
    try:
        while pending and not any(_reason(task) == OK for task in tasks.values() if task.done()):
            _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
    return {name: _reason(task) for name, task in tasks.items()}


def _reason(task: asyncio.Task[str]) -> str:
    if task.cancelled():
        return "not awaited"
    if (error := task.exception()) is not None:
        logger.error("a control was not asked by our own fault", exc_info=error)
        return MONITOR
    return task.result()


def _verdict(controls: dict[str, str]) -> bool | None:
    reasons = controls.values()
    if OK in reasons:
        return True
    return None if MONITOR in reasons or not reasons else False


async def _connect(addresses: Iterable[str], port: int) -> None:
    """Connect to the first address that accepts. Raises the last one's OSError."""
    failure: OSError | None = None
    for address in addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.setblocking(False)
                await asyncio.get_running_loop().sock_connect(connection, (address, port))
                return
        except OSError as error:
            failure = error
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


def _look_up(name: str, future: asyncio.Future[_Found]) -> None:
    """Resolve a name; runs in a thread of its own."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        # IPv4 first: where IPv6 is half set up, its addresses are silent.
        addresses = sorted({str(entry[4][0]) for entry in found}, key=lambda address: ":" in address)
        answer = _Found(OK, tuple(addresses))
    except socket.gaierror as error:
        answer = _Found(MONITOR if error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM) else "unresolved")
    except Exception:
        logger.exception("a control name was not looked up by our own fault")
        answer = _Found(MONITOR)
    with suppress(RuntimeError):  # the loop ended before the resolver did
        future.get_loop().call_soon_threadsafe(_settle, future, answer)


def _settle(future: asyncio.Future[_Found], answer: _Found) -> None:
    if not future.done():
        future.set_result(answer)


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        return bool(ipaddress.ip_address(host))
    return False


def _is_outside(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_global
    return False
