"""Send a message to a mailbox and wait until it is there: what a mail service is for, end to end.

message.py      what is sent, and how it is known again
submission.py   handing it in by SMTP
mailbox.py      the folders where it may arrive, by IMAP
arrival.py      waiting for it
belated.py      messages of earlier looks
evidence.py, received.py, signature.py, bounce.py   what the arrived copy tells, or the report that none will come
outstanding.py  which messages are still on their way
trip.py, look.py    one look, from the one end to the other

Look at a round trip once, if both its ends may be logged in to.
"""

from __future__ import annotations

from dataclasses import replace

from mailwatch.model import Cause, Observation
from mailwatch.probes.connect import Lookup, TlsContexts
from mailwatch.probes.oauth.tokens import AccessTokens, Supply
from mailwatch.probes.recorder import Watch
from mailwatch.probes.roundtrip.trip import Trip, Trips
from mailwatch.settings import Delivery, Target
from mailwatch.times import Millis, now


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
