"""Checks whether the resolver works and gives true answers.

It asks for names of several operators, whose addresses are known, and for one that cannot exist (RFC 6761, section
6.4: no name under "invalid" exists). All lookups use the system's resolver as configured, as the probes do.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from mailwatch.guard.controls import OPERATORS
from mailwatch.guard.shared_check import CheckResult
from mailwatch.model import ControlState, ResolverState
from mailwatch.net import parse_address

logger = logging.getLogger(__name__)

NONEXISTENT_NAME = "*.invalid"
"""The label of the nonexistent name among the controls; the name differs each time."""
MAX_SPOOFED = 16


@dataclass(frozen=True, slots=True)
class LookupResult:
    """The result of a lookup."""

    reason: str
    addresses: tuple[str, ...] = ()


class ResolverCheck:
    """Checks the system's resolver; each lookup may take `timeout` seconds. `names` should resolve."""

    def __init__(self, names: Sequence[str], timeout: float) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._timeout = timeout
        self._lookups: dict[str, asyncio.Future[LookupResult]] = {}

    async def check(self) -> CheckResult:
        """Look up all names at once, and wait for all: one wrong answer outweighs two right ones."""
        # The final dot keeps the resolver from appending a search domain of ours.
        lookups = [self._lookup_within(NONEXISTENT_NAME, f"{secrets.token_hex(8)}.invalid.")]
        lookups += [self._lookup_within(name, name) for name in self._names]
        nonsense, *found = await asyncio.gather(*lookups)
        lie = set(nonsense.addresses)
        reasons = {NONEXISTENT_NAME: ResolverState.LIES if nonsense.reason == ControlState.OK else nonsense.reason}
        for name, answer in zip(self._names, found, strict=True):
            reasons[name] = reason_found = _reason_of_answer(name, answer, nonsense.addresses)
            lie |= set(answer.addresses) if reason_found == ResolverState.POISONED else set()
        state = _state(reasons)
        good = None if state == ControlState.MONITOR else state in (ControlState.OK, ResolverState.LIES)
        controls = {f"dns:{name}": reason for name, reason in reasons.items()}
        return CheckResult(controls, good, state, tuple(sorted(lie))[:MAX_SPOOFED])

    async def lookup(self, name: str) -> LookupResult:
        """Resolve a name, joining a lookup of it that is under way. Has no deadline."""
        return await self._lookup_in_thread(name, name)

    async def _lookup_within(self, key: str, name: str) -> LookupResult:
        try:
            async with asyncio.timeout(self._timeout):
                return await self._lookup_in_thread(key, name)
        except TimeoutError:
            return LookupResult("timeout")

    async def _lookup_in_thread(self, key: str, name: str) -> LookupResult:
        """Resolve in a daemon thread.

        The system's resolver cannot be cancelled. It must neither delay the end of the program nor take the
        threads that the probes' own lookups need.
        """
        future = self._lookups.get(key)
        if future is None or future.done():
            future = self._lookups[key] = asyncio.get_running_loop().create_future()
            try:
                threading.Thread(target=_lookup, args=(name, future), name="guard", daemon=True).start()
            except RuntimeError:  # no further thread is available
                future.set_result(LookupResult(ControlState.MONITOR))
        return await asyncio.shield(future)


def _reason_of_answer(name: str, answer: LookupResult, spoofed: Sequence[str]) -> str:
    """Return "ok", or what is wrong with the answer for a control's name."""
    if answer.reason != ControlState.OK:
        return answer.reason
    known = OPERATORS.get(name)
    if not set(answer.addresses).isdisjoint(spoofed):
        return ResolverState.POISONED
    if known is None or not known.isdisjoint(answer.addresses):
        return ControlState.OK
    # A filter that blocks public resolvers on purpose (family filter, Pi-hole) gives no address, not a false one.
    return (
        ResolverState.BLOCKED
        if all(_is_nowhere(address) for address in answer.addresses)
        else ResolverState.POISONED
    )


def _state(reasons: dict[str, str]) -> str:
    control_reasons = [reason for name, reason in reasons.items() if name != NONEXISTENT_NAME]
    if ResolverState.POISONED in control_reasons:
        return ResolverState.POISONED
    if reasons[NONEXISTENT_NAME] == ResolverState.LIES:
        return ResolverState.LIES
    if ControlState.OK in control_reasons:
        return ControlState.OK
    return (
        ControlState.MONITOR
        if ControlState.MONITOR in control_reasons or not control_reasons
        else ResolverState.SILENT
    )


def _is_nowhere(address: str) -> bool:
    parsed = parse_address(address)
    return parsed is not None and (parsed.is_unspecified or parsed.is_loopback)


def _lookup(name: str, future: asyncio.Future[LookupResult]) -> None:
    """Resolve a name, in a thread of its own."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        answer = LookupResult(ControlState.OK, tuple(sorted({str(entry[4][0]) for entry in found})))
    except socket.gaierror as error:
        answer = LookupResult(
            ControlState.MONITOR if error.errno in (socket.EAI_MEMORY, socket.EAI_SYSTEM) else "unresolved"
        )
    except Exception:
        logger.exception("the lookup of a control name failed: internal error")
        answer = LookupResult(ControlState.MONITOR)
    with suppress(RuntimeError):  # the loop ended before the resolver did
        future.get_loop().call_soon_threadsafe(_set_result, future, answer)


def _set_result(future: asyncio.Future[LookupResult], answer: LookupResult) -> None:
    if not future.done():
        future.set_result(answer)
