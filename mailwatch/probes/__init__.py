"""The only door to a mail service: look at a target once and say what was seen."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from mailwatch.model import Attempt, Kind, Observation, Outcome
from mailwatch.probes import imap, pop3, smtp
from mailwatch.probes.attempts import Probe, others, told, unserved, walk
from mailwatch.probes.connect import Address, Call, Goodbye, Lookup, OurFault, TlsContexts, resolve
from mailwatch.probes.internal_errors import Begun, our_fault
from mailwatch.probes.oauth.tokens import AccessTokens, look_granted
from mailwatch.probes.recorder import Watch
from mailwatch.probes.roundtrip import look as look_at_round_trip
from mailwatch.probes.roundtrip.message import Outstanding
from mailwatch.probes.roundtrip.trip import Trips
from mailwatch.settings import Delivery, Target
from mailwatch.times import Millis

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

__all__ = ["Outstanding", "TlsContexts", "Trips", "observe"]


async def _webmail(call: Call) -> Goodbye:
    # Imported when first used: httpx takes a tenth of a second, and commands should start at once.
    from mailwatch.probes import webmail

    return await webmail.probe(call)


_PROBES: dict[Kind, Probe] = {
    Kind.IMAP: imap.probe,
    Kind.POP3: pop3.probe,
    Kind.SMTP: smtp.probe,
    Kind.WEBMAIL: _webmail,
}


async def observe(
    target: Target,
    *,
    scheduled_at: Millis,
    contexts: TlsContexts,
    with_login: bool = True,
    watch: Watch | None = None,
    lookup: Lookup = resolve,
    every_address: bool = False,
    trips: Trips | None = None,
    tokens: AccessTokens | None = None,
    resolver: Resolver | None = None,
) -> Observation:
    """Look at `target` once. Raises nothing but CancelledError: a failed look is an observation too.

    The name is resolved once; the next address is tried only after one that does not connect. With
    `every_address` the others are looked at too, as far as the greeting: what they say decides nothing, and is
    told in `facts` and `partial`. `watch` is told live where the look is. `tokens` supplies a login by OAuth 2;
    without them it is our own fault that it fails. `resolver` is asked for the exchangers of an mx target,
    instead of the system's. `trips` is for round trips; without it their messages are nobody's later on.
    """
    begun = Begun()
    try:
        return await _observed(
            target, scheduled_at, contexts, with_login, watch, lookup, every_address, trips, tokens, resolver
        )
    except Exception as error:
        return our_fault(target, scheduled_at, begun, error)


async def _observed(
    target: Target,
    scheduled_at: Millis,
    contexts: TlsContexts,
    with_login: bool,
    watch: Watch | None,
    lookup: Lookup,
    every_address: bool,
    trips: Trips | None,
    tokens: AccessTokens | None,
    resolver: Resolver | None,
) -> Observation:
    if target.kind is Kind.MX:
        # Imported when first used: dnspython takes a tenth of a second, and commands should start at once.
        from mailwatch.probes import mx

        walked = await mx.walk(target, contexts, watch=watch, resolver=resolver, every_address=every_address)
        seen = _told(target, scheduled_at, walked.decided(), tuple(walked.addresses))
        return mx.with_names(seen, walked)
    if target.kind is Kind.ROUNDTRIP and isinstance(target.task, Delivery):
        return await look_at_round_trip(
            target,
            target.task,
            scheduled_at=scheduled_at,
            contexts=contexts,
            trips=trips or Trips(secrets.token_bytes(32)),
            lookup=lookup,
            watch=watch,
            with_login=with_login,
            tokens=tokens,
        )

    async def look(at: Target) -> Observation:
        return await _look(at, scheduled_at, contexts, watch, lookup, every_address)

    login = target.login
    if login is not None and not with_login:
        return await look(replace(target, login=None))
    if login is not None and login.oauth2 is not None and tokens is not None:
        return await look_granted(target, login, tokens, look)
    return await look(target)


async def _look(
    target: Target, due: Millis, contexts: TlsContexts, watch: Watch | None, lookup: Lookup, every_address: bool
) -> Observation:
    probe = _PROBES.get(target.kind, _unbuilt)
    attempts, addresses = await walk(target, probe, lookup, contexts, watch=watch)
    seen = _told(target, due, attempts, addresses)
    if every_address and len(addresses) > len(attempts):
        rest = await others(target, probe, addresses[len(attempts) :], contexts)
        seen = replace(seen, facts={"others": [told(attempt) for attempt in rest]})
        if seen.outcome is Outcome.UP:
            seen = replace(seen, partial=seen.partial + unserved(rest))
    return seen


def _told(target: Target, due: Millis, attempts: list[Attempt], addresses: tuple[Address, ...]) -> Observation:
    """Judge the whole look by its last attempt, the only one that can have been served."""
    deciding = attempts[-1]
    return Observation(
        target=target.name,
        scheduled_at=due,
        started_at=min(attempt.started_at for attempt in attempts),
        ended_at=max(attempt.ended_at for attempt in attempts),
        outcome=deciding.cause.outcome if deciding.cause else Outcome.UP,
        cause=deciding.cause,
        failed_phase=deciding.failed_phase,
        detail=deciding.detail,
        attempts=tuple(attempts),
        addresses=tuple(address.host for address in addresses),
        partial=() if deciding.cause else unserved(attempts),
        with_login=target.login is not None,
    )


async def _unbuilt(call: Call) -> Goodbye:
    raise OurFault(f"no probe is built for {call.target.kind}")
