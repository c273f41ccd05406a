"""Look at a round trip once, if both its ends may be logged in to."""

from __future__ import annotations

from dataclasses import replace

from mailwatch.models import Cause, Delivery, Millis, Observation, Target, now
from mailwatch.oauth.access import AccessTokens, Supply
from mailwatch.probes.connect import Lookup, TlsContexts
from mailwatch.probes.recorder import Watch
from mailwatch.probes.roundtrip.trip import Trip, Trips


async def look(
    target: Target,
    task: Delivery,
    *,
    scheduled_at: Millis,
    contexts: TlsContexts,
    trips: Trips,
    lookup: Lookup,
    watch: Watch | None = None,
    with_login: bool = True,
    tokens: AccessTokens | None = None,
) -> Observation:
    """Look once. Raises nothing but CancelledError. Without both logins nothing is sent."""
    at = now()
    missing = Supply(cause=Cause.CREDENTIALS, detail="a login was rejected before; it will be tried again")
    if with_login:
        task, missing = await _supplied(task, tokens)
    if missing.cause is not None:
        return Observation(
            target=target.name,
            scheduled_at=scheduled_at,
            started_at=at,
            ended_at=max(at, now()),
            outcome=missing.cause.outcome,
            cause=missing.cause,
            detail=f"nothing was sent: {missing.detail}",
        )
    trip = Trip(target, task, contexts, trips, lookup, watch)
    return await trip.go(scheduled_at)


async def _supplied(task: Delivery, tokens: AccessTokens | None) -> tuple[Delivery, Supply]:
    """Return the task with access tokens where its ends want them, or why there is none.

    One that was rejected is not renewed here: the looks at the end itself do that.
    """
    for name, end in (("via", task.via), ("to", task.to)):
        if end.login is not None and end.login.oauth2 is not None and tokens is not None:
            supply = await tokens.supply(end.login)
            if supply.token is None:
                return task, supply
            fresh = replace(end, login=replace(end.login, password=supply.token))
            task = replace(task, via=fresh) if name == "via" else replace(task, to=fresh)
    return task, Supply()
