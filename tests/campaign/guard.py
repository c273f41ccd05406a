"""The real guard over simulated controls: whether they are reached is decided by the truth about our line."""

from __future__ import annotations

import asyncio

from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control, Reachability
from mailwatch.guard.resolver import NONEXISTENT_NAME, LookupResult, ResolverCheck
from mailwatch.model import ControlState
from mailwatch.monitor.background import GUARD_OFFLINE_SECONDS, GUARD_SECONDS
from tests.campaign.virtual import Clocks
from tests.campaign.world import Span, World

CONTROL_TIMEOUT = 3.0
"""Seconds, as a fresh install has them."""
CONTROLS = (Control("203.0.113.1", 443), Control("203.0.113.2", 53), Control("2001:db8::1", 53))
NAME = "control.example"
ANSWERS_IN = 0.04
EDGE = 60.0
"""Seconds around each end of a trouble in which the regular rounds are truly asked; in between nothing changes."""


def guard_of(world: World, clocks: Clocks) -> Guard:
    """Build the guard of one life."""
    guard = Guard(CONTROLS, CONTROL_TIMEOUT, ())
    line = _Line(world, clocks)
    guard._line = line
    guard._resolver.__class__ = _Resolver
    guard._resolver._names = (NAME,)
    guard._resolver.line = line  # type: ignore[attr-defined]
    return guard


class _Line(Reachability):
    """A line that is as the world says."""

    def __init__(self, world: World, clocks: Clocks) -> None:
        super().__init__()
        self._world, self._clocks = world, clocks

    async def reach(self, control: Control, address: str) -> str:
        """Connect to nobody: what hangs is answered when the line comes back."""
        while (down := self._world.line.at(self._clocks.true)) is not None:
            if down.kind == "unreachable":
                return "unreachable"
            await asyncio.sleep(down.end - self._clocks.true)
        await asyncio.sleep(ANSWERS_IN)
        return ControlState.OK

    async def resolve(self, key: str) -> LookupResult:
        """Ask a resolver that hangs while it is down, or our line is."""
        while down := self._world.resolver.at(self._clocks.true) or self._world.line.at(self._clocks.true):
            await asyncio.sleep(down.end - self._clocks.true)
        await asyncio.sleep(ANSWERS_IN)
        return (
            LookupResult("unresolved")
            if key == NONEXISTENT_NAME
            else LookupResult(ControlState.OK, ("203.0.113.9",))
        )


class _Resolver(ResolverCheck):
    """A resolver without threads."""

    line: _Line

    async def _lookup_in_thread(self, key: str, name: str) -> LookupResult:
        future = self._lookups.get(key)
        if future is None or future.done():
            future = self._lookups[key] = asyncio.ensure_future(self.line.resolve(key))
        return await asyncio.shield(future)


async def regular_rounds(guard: Guard, world: World, clocks: Clocks) -> None:
    """Ask as the background task does, every quarter of a minute; far from any trouble it finds nothing new."""
    began = clocks.true
    await guard.check(dns=True)
    for span in _edges(world):
        if span.end <= clocks.true:
            continue
        # At the interval that began with the start.
        await _until(clocks, began + (max(span.start, clocks.true) - began) // GUARD_SECONDS * GUARD_SECONDS)
        while clocks.true < span.end:
            answer = await guard.check(dns=True)
            await asyncio.sleep(GUARD_SECONDS if answer.online else GUARD_OFFLINE_SECONDS)


def _edges(world: World) -> list[Span]:
    found = []
    for span in (*world.line.all, *world.resolver.all):
        found += [Span(edge - EDGE, edge + EDGE) for edge in (span.start, span.end)]
    return sorted(found, key=lambda span: span.start)


async def _until(clocks: Clocks, moment: float) -> None:
    while clocks.true < moment:
        await asyncio.sleep(moment - clocks.true)
