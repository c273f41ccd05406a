"""Probes a domain as another mail server would: its exchangers in turn, up to RCPT TO. DATA is never sent."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, field, replace

from dns.asyncresolver import Resolver

from mailwatch.facts import ObservationFacts
from mailwatch.model import Attempt, Cause, Observation, Outcome, Phase, TlsMode
from mailwatch.probes.attempts import (
    CLOSE_SECONDS,
    MAX_OTHER_ADDRESSES,
    OTHER_ADDRESS_SECONDS,
    Probe,
    as_fact,
    failed_attempt,
    run_attempt,
)
from mailwatch.probes.connect import Address, CloseCallback, MonitorError, ProbeContext, TlsContexts
from mailwatch.probes.failures import ProbeError, SmtpReplyError
from mailwatch.probes.mx_lookup import (
    Exchanger,
    ExchangerAddresses,
    lookup_addresses,
    lookup_exchangers,
    system_resolver,
)
from mailwatch.probes.recorder import PhaseListener, Recorder
from mailwatch.probes.redact import redactor
from mailwatch.probes.request import ProbeRequest
from mailwatch.probes.smtp import SmtpClient, probe_submission, say_ehlo
from mailwatch.settings import MxTask, Target


async def probe(call: ProbeContext, *, within: float) -> CloseCallback:
    """Run the phases; the first failure raises. `within` is the limit for connecting, in seconds."""
    try:
        return await _run_phases(call, within)
    except SmtpReplyError as refused:
        call.recorder.facts["code"] = refused.code
        if refused.status:
            call.recorder.facts["status"] = refused.status
        raise


async def _run_phases(call: ProbeContext, within: float) -> CloseCallback:
    loop, phase = asyncio.get_running_loop(), call.recorder.phase
    asked = call.target.task
    if not isinstance(asked, MxTask):
        raise MonitorError("an mx target without a recipient")
    try:
        async with asyncio.timeout(within):
            client = await call.open(lambda: SmtpClient(loop))
    except TimeoutError as error:
        raise ProbeError(Cause.TIMEOUT, f"no connection within {within:g} s") from error
    with phase(Phase.GREETING):
        call.recorder.add_reply(str(await client.reply("greeting", 220)))
        offer = (await say_ehlo(client, call.target.helo_name)).extensions
    if call.target.tls is TlsMode.STARTTLS and "starttls" in offer:
        with phase(Phase.TLS):
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            offer = (await say_ehlo(client, call.target.helo_name)).extensions
    elif call.target.tls is TlsMode.STARTTLS:
        call.recorder.facts["starttls"] = "not offered"
    try:
        with phase(Phase.SUBMIT):
            await _ask_recipient(client, asked, offer)
    except SmtpReplyError:
        # A client that reconnects regularly and never sends QUIT soon counts as a robot.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CLOSE_SECONDS):
                await client.quit()
        raise
    return client.quit


async def _ask_recipient(client: SmtpClient, asked: MxTask, offer: dict[str, str]) -> None:
    if not (asked.sender + asked.recipient).isascii() and "smtputf8" not in offer:
        raise ProbeError(Cause.REJECTED, "no SMTPUTF8 is offered, which the recipient or sender needs (RFC 6531)")
    await probe_submission(client, asked.sender, asked.recipient)


MAX_EXCHANGERS = 5
MAX_ADDRESSES = 2
CONNECT_SECONDS = 10.0
"""Seconds for connecting at all attempts but the first: ten dead addresses must not delay a probe for long."""
_PHASE_ORDER = (Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS, Phase.SUBMIT)


@dataclass(slots=True)
class MxAttempts:
    """The attempts at a domain's exchangers. `other_attempts` did not decide."""

    exchangers: list[Exchanger] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    other_attempts: list[Attempt] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        """Whether another server would stop here: the recipient was accepted, or refused for good."""
        last = self.attempts[-1] if self.attempts else None
        if last is None or last.cause is None:
            return last is not None
        return last.failed_phase is Phase.SUBMIT and (last.facts or {}).get("code", 0) >= 500

    def deciding_last(self) -> list[Attempt]:
        """Return the attempts with the deciding one last: the one that was served.

        Otherwise the one that refused for good; else one that failed not by the domain's fault, since others may
        be served there; else, of the best exchanger's attempts, the one that got furthest.
        """
        last = self.attempts[-1]
        if not self.is_settled:
            best = [made for made in self.attempts if exchanger_of(made) == exchanger_of(self.attempts[0])]
            not_theirs = [made for made in self.attempts if made.cause and made.cause.outcome is Outcome.UNKNOWN]
            last = not_theirs[0] if not_theirs else max(best, key=_phase_index)
        return [*(made for made in self.attempts if made is not last), last]


async def try_exchangers(
    request: ProbeRequest,
) -> MxAttempts:
    """Try the exchangers of the domain until one accepts; with `every_address`, probe all others too."""
    target, listener, result = request.target, request.listener, MxAttempts()
    recorder = Recorder(redactor(None), listener)
    try:
        with recorder.phase(Phase.RESOLVE):
            asked = request.resolver or system_resolver()
            result.exchangers = await lookup_exchangers(target.host, asked, target.timeout)
    except Exception as error:
        result.attempts.append(failed_attempt(recorder, error, target))
        return result
    visitor = _ExchangerProber(target, request.contexts, asked, listener)
    for exchanger in result.exchangers[:MAX_EXCHANGERS]:
        await visitor.probe(exchanger, result, recorder)
        if result.is_settled:
            break
        recorder = Recorder(redactor(None), listener)
    if request.every_address:
        result.other_attempts = await visitor.probe_others(result)
    return result


def with_exchanger_names(observation: Observation, result: MxAttempts) -> Observation:
    """Add the exchanger to each peer; unless all are up, add the list of exchangers."""
    facts: ObservationFacts = {}
    detail = observation.detail
    if observation.cause is not None and result.exchangers:
        where = exchanger_of(observation.attempts[-1])
        detail = detail if where in detail else f"{detail} (at {where})"
        facts["exchangers"] = [
            f"{exchanger.preference or 0} {exchanger.name}" for exchanger in result.exchangers[:16]
        ]
    if result.other_attempts:
        facts["others"] = [{"exchanger": exchanger_of(other)} | as_fact(other) for other in result.other_attempts]
    lost = [*result.attempts, *result.other_attempts] if observation.outcome is Outcome.UP else []
    partial = tuple(_peer_name(made) for made in lost if made.cause is not None)
    return replace(observation, detail=detail, partial=partial, facts=facts or None)


def exchanger_of(attempt: Attempt) -> str:
    """Return the name of the exchanger that was tried, "" if none was found."""
    return str((attempt.facts or {}).get("exchanger", ""))


def _peer_name(attempt: Attempt) -> str:
    return " ".join(filter(None, (exchanger_of(attempt), attempt.peer)))


def _probe(within: float) -> Probe:
    return functools.partial(probe, within=within)


def _phase_index(attempt: Attempt) -> int:
    return _PHASE_ORDER.index(attempt.failed_phase) if attempt.failed_phase in _PHASE_ORDER else -1


@dataclass(frozen=True, slots=True)
class _ExchangerProber:
    """Probes exchangers of one target."""

    target: Target
    contexts: TlsContexts
    resolver: Resolver
    listener: PhaseListener | None

    async def probe(self, exchanger: Exchanger, result: MxAttempts, recorder: Recorder) -> None:
        """Try the exchanger's addresses until the result is settled."""
        try:
            found = await self._find(exchanger, recorder)
        except Exception as error:
            result.attempts.append(failed_attempt(recorder, error, self.target))
            return
        result.addresses += found.addresses
        for address in found.addresses[:MAX_ADDRESSES]:
            within = CONNECT_SECONDS if result.attempts else self.target.timeout
            result.attempts += await self._ask(self.target, address, recorder, within)
            if result.is_settled:
                return
            recorder = self._next_recorder(recorder)

    async def probe_others(self, result: MxAttempts) -> list[Attempt]:
        """Probe all addresses that were not tried yet, all at once."""
        tried = {(exchanger_of(made), made.peer) for made in result.attempts}
        gone = {name for name, peer in tried if not peer}
        target = replace(self.target, timeout=min(self.target.timeout, OTHER_ADDRESS_SECONDS))
        brief = replace(self, target=target, listener=None)
        rest = [exchanger for exchanger in result.exchangers[:MAX_OTHER_ADDRESSES] if exchanger.name not in gone]
        made = await asyncio.gather(*(brief.attempts_at(exchanger, tried) for exchanger in rest))
        return [each for several in made for each in several]

    async def attempts_at(self, exchanger: Exchanger, tried: set[tuple[str, str]]) -> list[Attempt]:
        """Probe the exchanger's addresses that were not tried yet."""
        recorder = Recorder(redactor(None), None)
        try:
            found = await self._find(exchanger, recorder)
        except Exception as error:
            return [failed_attempt(recorder, error, self.target)]
        new = [address for address in found.addresses if (exchanger.name, address.peer) not in tried]
        asking = (
            self._ask(self.target, address, self._next_recorder(recorder), self.target.timeout)
            for address in new[:MAX_ADDRESSES]
        )
        return [several[-1] for several in await asyncio.gather(*asking)]

    async def _find(self, exchanger: Exchanger, recorder: Recorder) -> ExchangerAddresses:
        recorder.facts["exchanger"] = exchanger.name
        if exchanger.preference is not None:
            recorder.facts["preference"] = exchanger.preference
        with recorder.phase(Phase.RESOLVE):
            found = await lookup_addresses(exchanger, self.target.port, self.resolver, self.target.timeout)
        if found.alias_of:
            recorder.facts["alias_of"] = found.alias_of
        return found

    async def _ask(self, target: Target, address: Address, recorder: Recorder, within: float) -> list[Attempt]:
        """Make one connection; if encryption fails, make another one in clear text."""
        target = replace(target, host=recorder.facts["exchanger"])
        made = await run_attempt(ProbeContext(target, address, None, recorder, self.contexts), _probe(within))
        if made.failed_phase is not Phase.TLS:
            return [made]
        clear = self._next_recorder(recorder)
        clear.facts["starttls"] = "failed"
        clear.note = "asked unencrypted, because STARTTLS failed"
        call = ProbeContext(replace(target, tls=TlsMode.NONE), address, None, clear, self.contexts)
        return [made, await run_attempt(call, _probe(within))]

    def _next_recorder(self, recorder: Recorder) -> Recorder:
        """Return a new recorder for the same exchanger."""
        fresh = Recorder(redactor(None), self.listener)
        fresh.facts = recorder.facts.copy()
        for key in recorder.facts.keys() - {"exchanger", "preference", "alias_of"}:
            fresh.facts.pop(key)  # type: ignore[misc]  # a key of the facts
        return fresh
