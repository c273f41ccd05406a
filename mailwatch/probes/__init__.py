"""The only code that talks to mail services: probes a target once and returns the observation."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import TYPE_CHECKING

from mailwatch.model import Attempt, Kind, Observation, Outcome
from mailwatch.probes import imap, pop3, smtp
from mailwatch.probes.attempts import Probe, as_fact, failed_peers, probe_other_addresses, try_addresses
from mailwatch.probes.connect import (
    Address,
    CloseCallback,
    Lookup,
    MonitorError,
    ProbeContext,
    TlsContexts,
    resolve,
)
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation
from mailwatch.probes.oauth.tokens import AccessTokens, probe_with_oauth
from mailwatch.probes.recorder import PhaseListener
from mailwatch.probes.roundtrip import probe_roundtrip
from mailwatch.probes.roundtrip.message import Outstanding
from mailwatch.probes.roundtrip.trip import RoundtripContext
from mailwatch.settings import RoundtripTask, Target
from mailwatch.times import Millis

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

__all__ = ["Outstanding", "RoundtripContext", "TlsContexts", "observe"]


async def _webmail(call: ProbeContext) -> CloseCallback:
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
    listener: PhaseListener | None = None,
    lookup: Lookup = resolve,
    every_address: bool = False,
    roundtrip: RoundtripContext | None = None,
    tokens: AccessTokens | None = None,
    resolver: Resolver | None = None,
) -> Observation:
    """Probe `target` once. Raises nothing but CancelledError: a failed probe is an observation too.

    The name is resolved once; the next address is tried only after one that does not connect. With
    `every_address` the others are probed too, as far as the greeting: what they answer decides nothing, and is
    recorded in `facts` and `partial`. `listener` is called live with each phase. `tokens` supplies a login by
    OAuth 2;
    without them it is our own fault that it fails. `resolver` is asked for the exchangers of an mx target,
    instead of the system's. `roundtrip` is for round trips; without it their messages are not followed up.
    """
    begun = ProbeStart()
    try:
        return await _observed(
            target,
            scheduled_at,
            contexts,
            with_login,
            listener,
            lookup,
            every_address,
            roundtrip,
            tokens,
            resolver,
        )
    except Exception as error:
        return internal_error_observation(target, scheduled_at, begun, error)


async def _observed(
    target: Target,
    scheduled_at: Millis,
    contexts: TlsContexts,
    with_login: bool,
    listener: PhaseListener | None,
    lookup: Lookup,
    every_address: bool,
    roundtrip: RoundtripContext | None,
    tokens: AccessTokens | None,
    resolver: Resolver | None,
) -> Observation:
    if target.kind is Kind.MX:
        # Imported when first used: dnspython takes a tenth of a second, and commands should start at once.
        from mailwatch.probes import mx

        result = await mx.try_exchangers(
            target, contexts, listener=listener, resolver=resolver, every_address=every_address
        )
        observation = _conclude(target, scheduled_at, result.deciding_last(), tuple(result.addresses))
        return mx.with_exchanger_names(observation, result)
    if target.kind is Kind.ROUNDTRIP and isinstance(target.task, RoundtripTask):
        return await probe_roundtrip(
            target,
            target.task,
            scheduled_at=scheduled_at,
            contexts=contexts,
            context=roundtrip or RoundtripContext(secrets.token_bytes(32)),
            lookup=lookup,
            listener=listener,
            with_login=with_login,
            tokens=tokens,
        )

    async def probe_target(at: Target) -> Observation:
        return await _probe_addresses(at, scheduled_at, contexts, listener, lookup, every_address)

    login = target.login
    if login is not None and not with_login:
        return await probe_target(replace(target, login=None))
    if login is not None and login.oauth2 is not None and tokens is not None:
        return await probe_with_oauth(target, login, tokens, probe_target)
    return await probe_target(target)


async def _probe_addresses(
    target: Target,
    scheduled_at: Millis,
    contexts: TlsContexts,
    listener: PhaseListener | None,
    lookup: Lookup,
    every_address: bool,
) -> Observation:
    probe = _PROBES.get(target.kind, _not_built)
    attempts, addresses = await try_addresses(target, probe, lookup, contexts, listener=listener)
    observation = _conclude(target, scheduled_at, attempts, addresses)
    if every_address and len(addresses) > len(attempts):
        rest = await probe_other_addresses(target, probe, addresses[len(attempts) :], contexts)
        observation = replace(observation, facts={"others": [as_fact(attempt) for attempt in rest]})
        if observation.outcome is Outcome.UP:
            observation = replace(observation, partial=observation.partial + failed_peers(rest))
    return observation


def _conclude(
    target: Target, scheduled_at: Millis, attempts: list[Attempt], addresses: tuple[Address, ...]
) -> Observation:
    """Conclude from the last attempt, the only one that can have been served."""
    deciding = attempts[-1]
    return Observation(
        target=target.name,
        scheduled_at=scheduled_at,
        started_at=min(attempt.started_at for attempt in attempts),
        ended_at=max(attempt.ended_at for attempt in attempts),
        outcome=deciding.cause.outcome if deciding.cause else Outcome.UP,
        cause=deciding.cause,
        failed_phase=deciding.failed_phase,
        detail=deciding.detail,
        attempts=tuple(attempts),
        addresses=tuple(address.host for address in addresses),
        partial=() if deciding.cause else failed_peers(attempts),
        with_login=target.login is not None,
    )


async def _not_built(call: ProbeContext) -> CloseCallback:
    raise MonitorError(f"no probe is built for {call.target.kind}")
