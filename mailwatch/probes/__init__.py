"""The only code that connects to mail services: probes a target once and returns the observation.

`PROBES` has the probe of each kind; the other properties of a kind are in `mailwatch.kinds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from mailwatch.model import Attempt, Kind, Observation, Outcome
from mailwatch.probes import imap, pop3, smtp
from mailwatch.probes.attempts import (
    MAX_ATTEMPTS,
    Probe,
    as_fact,
    failed_peers,
    max_seconds_of_attempts,
    probe_other_addresses,
    try_addresses,
)
from mailwatch.probes.connect import Address, CloseCallback, ProbeContext, TlsContexts
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation
from mailwatch.probes.oauth.tokens import probe_with_oauth
from mailwatch.probes.request import ProbeFunction, ProbeRequest
from mailwatch.probes.roundtrip import max_roundtrip_seconds, probe_roundtrip
from mailwatch.probes.roundtrip.message import Outstanding
from mailwatch.probes.roundtrip.trip import RoundtripContext, SignedArrival
from mailwatch.settings import Target

__all__ = [
    "PROBES",
    "Outstanding",
    "ProbeFunction",
    "ProbeRequest",
    "RoundtripContext",
    "SignedArrival",
    "TlsContexts",
    "max_probe_seconds",
    "observe",
]


async def observe(request: ProbeRequest) -> Observation:
    """Probe a target once. Raises only CancelledError: a failed probe is an observation too."""
    begun = ProbeStart()
    try:
        return await PROBES[request.target.kind].run(request)
    except Exception as error:
        return internal_error_observation(request.target, request.scheduled_at, begun, error)


def max_probe_seconds(target: Target) -> float:
    """Return the longest time in seconds that a probe of `target` can take, however slow its server is."""
    return PROBES[target.kind].max_seconds(target)


async def _probe_server(probe: Probe, request: ProbeRequest) -> Observation:
    """Probe one server by its name, with the target's login unless logins are suspended.

    The name is resolved once; the next address is tried only if the previous one does not connect.
    """
    target, login = request.target, request.target.login
    if login is not None and not request.with_login:
        return await _probe_addresses(probe, replace(request, target=replace(target, login=None)))
    if login is not None and login.oauth2 is not None and request.tokens is not None:
        return await probe_with_oauth(request, login, request.tokens, partial(_probe_addresses, probe))
    return await _probe_addresses(probe, request)


async def _probe_addresses(probe: Probe, request: ProbeRequest) -> Observation:
    attempts, addresses = await try_addresses(request, probe)
    observation = _conclude(request, attempts, addresses)
    if request.every_address and len(addresses) > len(attempts):
        rest = await probe_other_addresses(request, probe, addresses[len(attempts) :])
        observation = replace(observation, facts={"others": [as_fact(attempt) for attempt in rest]})
        if observation.outcome is Outcome.UP:
            observation = replace(observation, partial=observation.partial + failed_peers(rest))
    return observation


async def _probe_exchangers(request: ProbeRequest) -> Observation:
    # Imported on first use: dnspython takes a tenth of a second, and commands should start at once.
    from mailwatch.probes import mx

    result = await mx.try_exchangers(request)
    observation = _conclude(request, result.deciding_last(), tuple(result.addresses))
    return mx.with_exchanger_names(observation, result)


async def _webmail(call: ProbeContext) -> CloseCallback:
    # Imported on first use: httpx takes a tenth of a second, and commands should start at once.
    from mailwatch.probes import webmail

    return await webmail.probe(call)


def _conclude(request: ProbeRequest, attempts: list[Attempt], addresses: tuple[Address, ...]) -> Observation:
    """Build the observation from the last attempt, the only one that may have been served."""
    deciding = attempts[-1]
    return Observation(
        target=request.target.name,
        scheduled_at=request.scheduled_at,
        started_at=min(attempt.started_at for attempt in attempts),
        ended_at=max(attempt.ended_at for attempt in attempts),
        outcome=deciding.cause.outcome if deciding.cause else Outcome.UP,
        cause=deciding.cause,
        failed_phase=deciding.failed_phase,
        detail=deciding.detail,
        attempts=tuple(attempts),
        addresses=tuple(address.host for address in addresses),
        partial=() if deciding.cause else failed_peers(attempts),
        with_login=request.target.login is not None,
    )


@dataclass(frozen=True, slots=True)
class KindOfProbe:
    """How a kind of target is probed, and the longest duration in seconds, with each attempt at its slowest."""

    run: ProbeFunction
    max_seconds: Callable[[Target], float]


_ADDRESS_STEPS = 1 + MAX_ATTEMPTS
"""One lookup of the name, then an attempt for each address."""
_MX_STEPS = 1 + 5 * (1 + 2)
"""One lookup of the exchangers, then for each of five a lookup of its addresses and two connections."""


def _server(probe: Probe) -> KindOfProbe:
    return KindOfProbe(partial(_probe_server, probe), partial(max_seconds_of_attempts, _ADDRESS_STEPS))


PROBES: dict[Kind, KindOfProbe] = {
    Kind.IMAP: _server(imap.probe),
    Kind.POP3: _server(pop3.probe),
    Kind.SMTP: _server(smtp.probe),
    Kind.MX: KindOfProbe(_probe_exchangers, partial(max_seconds_of_attempts, _MX_STEPS)),
    Kind.WEBMAIL: _server(_webmail),
    Kind.ROUNDTRIP: KindOfProbe(probe_roundtrip, max_roundtrip_seconds),
}
