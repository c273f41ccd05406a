"""What a failure looks like from here at its first moment: the name's DNS answers and the way to the host.

It decides nothing. It goes into the record of the first bad look, where it answers later questions.
"""

from __future__ import annotations

import asyncio
from typing import Any

from mailwatch.diagnosis.names import ask_names
from mailwatch.diagnosis.route import trace
from mailwatch.models import Kind, Observation, Target

SECONDS = 3.0
"""What the whole may take: the record of the look waits for it."""
AT_ONCE = 4


class Diagnosis:
    """Makes diagnoses, few at a time: when everything fails at once, most looks go without one."""

    def __init__(self) -> None:
        self._free = AT_ONCE

    async def of(self, target: Target, observation: Observation) -> dict[str, Any]:
        """Return what is found within three seconds, fit for canonical JSON; what failed is told, never raised."""
        if not self._free:
            return {"skipped": "other diagnoses were under way"}
        self._free -= 1
        kinds = ("MX", "A", "AAAA") if target.kind is Kind.MX else ("A", "AAAA")
        try:
            names, route = await asyncio.gather(
                _bounded(ask_names(_host(target, observation), SECONDS - 0.5, kinds=kinds)),
                _bounded(_route(observation)),
            )
        finally:
            self._free += 1
        return {"dns": names, "route": route}


def _host(target: Target, observation: Observation) -> str:
    """Return the host that failed: a round trip has two."""
    failed = (observation.deciding and observation.deciding.facts) or {}
    return target.ends[-1].host if failed.get("end") == "to" else target.host


async def _route(observation: Observation) -> Any:
    peer = observation.attempts[-1].peer if observation.attempts else ""
    return await trace(peer, SECONDS - 0.5) if peer else {"skipped": "no address was tried"}


async def _bounded(finding: Any) -> Any:
    try:
        async with asyncio.timeout(SECONDS):
            return await finding
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {error}"[:200]}
