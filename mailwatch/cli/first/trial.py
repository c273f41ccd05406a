"""Tries the login, as `mailwatch run` will do it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from mailwatch.cli.pulse import Pulse, live
from mailwatch.config.fields import split_endpoint
from mailwatch.config.shape import ClockSection, GuardSection
from mailwatch.expiry import Expiry
from mailwatch.guard import Guard
from mailwatch.logins import LoginGate
from mailwatch.models import Cause, Kind, Observation, Target
from mailwatch.probes import TlsContexts, observe
from mailwatch.probes.faults import Begun, our_fault

SECONDS = 20.0


async def look(targets: Sequence[Target], console: Console) -> dict[Kind, Observation]:
    """Look at each, and give what was seen of those that were looked at.

    One after the other until a server has said what it thinks of the password; a rejected one is shown to no
    other, so that one slip of the fingers is one rejection, and nor is one that got no answer: it may be a slow
    rejection, as for `mailwatch run`. Then the rest at once.
    """
    contexts = TlsContexts()
    # As a config without these sections has them.
    expiry = Expiry(Guard.of(GuardSection()), [split_endpoint(server) for server in ClockSection().servers])
    begun: list[Pulse] = []

    async def one(target: Target) -> Observation:
        begun.append(pulse := Pulse(target))
        start, seen = Begun(), None
        try:
            seen = await observe(
                replace(target, timeout=SECONDS), scheduled_at=start.at, contexts=contexts, watch=pulse.watch
            )
            # No ledger is there yet: nothing was accepted before.
            pulse.seen = await expiry.judge(LoginGate().heard(target, seen, lambda _: ""))
        except Exception as error:
            # One server's answer is never taken away by another's.
            pulse.seen = our_fault(target, start.at, start, error, seen)
        return pulse.seen

    async def each() -> None:
        for number, target in enumerate(targets):
            seen = await one(target)
            if seen.cause is Cause.CREDENTIALS:
                return
            if seen.cause is None:
                await asyncio.gather(*(one(other) for other in targets[number + 1 :]))
                return

    await live(each(), begun, console)
    return {pulse.target.kind: pulse.seen for pulse in begun if pulse.seen}
