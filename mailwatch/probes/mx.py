"""Look at a domain as another mail server does: its exchangers in turn, up to RCPT TO. Nothing is ever sent.

One connection to one exchanger, as another mail server makes it; but DATA is never said.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from dataclasses import dataclass, field, replace
from typing import Any

from dns.asyncresolver import Resolver

from mailwatch.model import Attempt, Cause, Observation, Outcome, Phase, TlsMode
from mailwatch.probes.attempts import GOODBYE, MAX_OTHERS, OTHERS_TIMEOUT, Probe, attempt, failed, told
from mailwatch.probes.connect import Address, Call, Goodbye, OurFault, TlsContexts
from mailwatch.probes.failures import Failed, SmtpRefused
from mailwatch.probes.mx_lookup import Exchanger, Found, addresses, exchangers, system_resolver
from mailwatch.probes.recorder import Recorder, Watch
from mailwatch.probes.redact import redactor
from mailwatch.probes.smtp import SmtpClient, ehlo, submit
from mailwatch.settings import Exchange, Target


async def probe(call: Call, *, within: float) -> Goodbye:
    """Walk the phases; the first failure raises. `within` are the seconds for connecting."""
    try:
        return await _walk_phases(call, within)
    except SmtpRefused as refused:
        call.recorder.facts["code"] = refused.code
        if refused.status:
            call.recorder.facts["status"] = refused.status
        raise


async def _walk_phases(call: Call, within: float) -> Goodbye:
    loop, phase = asyncio.get_running_loop(), call.recorder.phase
    asked = call.target.task
    if not isinstance(asked, Exchange):
        raise OurFault("an mx target without a recipient")
    try:
        async with asyncio.timeout(within):
            client = await call.open(lambda: SmtpClient(loop))
    except TimeoutError as error:
        raise Failed(Cause.TIMEOUT, f"no connection within {within:g} s") from error
    with phase(Phase.GREETING):
        call.recorder.heard(str(await client.reply("greeting", 220)))
        offer = (await ehlo(client, call.target.helo_name)).extensions
    if call.target.tls is TlsMode.STARTTLS and "starttls" in offer:
        with phase(Phase.TLS):
            await client.starttls(call.upgrade)
        with phase(Phase.GREETING):
            offer = (await ehlo(client, call.target.helo_name)).extensions
    elif call.target.tls is TlsMode.STARTTLS:
        call.recorder.facts["starttls"] = "not offered"
    try:
        with phase(Phase.SUBMIT):
            await _ask_for(client, asked, offer)
    except SmtpRefused:
        # Who comes again and again and never takes leave is soon taken for a robot.
        with contextlib.suppress(Exception):
            async with asyncio.timeout(GOODBYE):
                await client.quit()
        raise
    return client.quit


async def _ask_for(client: SmtpClient, asked: Exchange, offer: dict[str, str]) -> None:
    if not (asked.sender + asked.recipient).isascii() and "smtputf8" not in offer:
        raise Failed(Cause.REJECTED, "no SMTPUTF8 is offered, which the recipient or sender needs (RFC 6531)")
    await submit(client, asked.sender, asked.recipient)


MAX_EXCHANGERS = 5
MAX_ADDRESSES = 2
CONNECT_SECONDS = 10.0
"""What connecting may take at all attempts but the first: ten dead addresses must not hold up a look for long."""
_LADDER = (Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS, Phase.SUBMIT)


@dataclass(slots=True)
class Walk:
    """What a look along the exchangers left behind. `others` decided nothing."""

    exchangers: list[Exchanger] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    addresses: list[Address] = field(default_factory=list)
    others: list[Attempt] = field(default_factory=list)

    @property
    def is_settled(self) -> bool:
        """Whether another server would stop here: the recipient was accepted, or refused for good."""
        last = self.attempts[-1] if self.attempts else None
        if last is None or last.cause is None:
            return last is not None
        return last.failed_phase is Phase.SUBMIT and (last.facts or {}).get("code", 0) >= 500

    def decided(self) -> list[Attempt]:
        """Return the attempts with the deciding one last: the one that served.

        Else the one that refused for good; else one that failed by no fault of the domain's, for others may be
        served there; else, of the best exchanger's, the one that got furthest.
        """
        last = self.attempts[-1]
        if not self.is_settled:
            best = [made for made in self.attempts if exchanger_of(made) == exchanger_of(self.attempts[0])]
            ours = [made for made in self.attempts if made.cause and made.cause.outcome is Outcome.UNKNOWN]
            last = ours[0] if ours else max(best, key=_height)
        return [*(made for made in self.attempts if made is not last), last]


async def walk(
    target: Target,
    contexts: TlsContexts,
    *,
    watch: Watch | None = None,
    resolver: Resolver | None = None,
    every_address: bool = False,
) -> Walk:
    """Try the exchangers of the domain until one accepts; with `every_address` look at all others too."""
    walked = Walk()
    recorder = Recorder(redactor(None), watch)
    try:
        with recorder.phase(Phase.RESOLVE):
            asked = resolver or system_resolver()
            walked.exchangers = await exchangers(target.host, asked, target.timeout)
    except Exception as error:
        walked.attempts.append(failed(recorder, error, target))
        return walked
    visitor = _Visitor(target, contexts, asked, watch)
    for exchanger in walked.exchangers[:MAX_EXCHANGERS]:
        await visitor.visit(exchanger, walked, recorder)
        if walked.is_settled:
            break
        recorder = Recorder(redactor(None), watch)
    if every_address:
        walked.others = await visitor.others(walked)
    return walked


def with_names(seen: Observation, walked: Walk) -> Observation:
    """Tell of each place which exchanger it was; and which there are, unless all is well."""
    facts: dict[str, Any] = {}
    detail = seen.detail
    if seen.cause is not None and walked.exchangers:
        where = exchanger_of(seen.attempts[-1])
        detail = detail if where in detail else f"{detail} (at {where})"
        facts["exchangers"] = [
            f"{exchanger.preference or 0} {exchanger.name}" for exchanger in walked.exchangers[:16]
        ]
    if walked.others:
        facts["others"] = [{"exchanger": exchanger_of(other)} | told(other) for other in walked.others]
    lost = [*walked.attempts, *walked.others] if seen.outcome is Outcome.UP else []
    partial = tuple(_place(made) for made in lost if made.cause is not None)
    return replace(seen, detail=detail, partial=partial, facts=facts or None)


def exchanger_of(made: Attempt) -> str:
    """Return the name of the exchanger that was tried, "" when none was found."""
    return str((made.facts or {}).get("exchanger", ""))


def _place(made: Attempt) -> str:
    return " ".join(filter(None, (exchanger_of(made), made.peer)))


def _probe(within: float) -> Probe:
    return functools.partial(probe, within=within)


def _height(made: Attempt) -> int:
    return _LADDER.index(made.failed_phase) if made.failed_phase in _LADDER else -1


@dataclass(frozen=True, slots=True)
class _Visitor:
    """Knows the way to an exchanger."""

    target: Target
    contexts: TlsContexts
    resolver: Resolver
    watch: Watch | None

    async def visit(self, exchanger: Exchanger, walked: Walk, recorder: Recorder) -> None:
        """Try the exchanger's addresses until the question is settled."""
        try:
            found = await self._find(exchanger, recorder)
        except Exception as error:
            walked.attempts.append(failed(recorder, error, self.target))
            return
        walked.addresses += found.addresses
        for address in found.addresses[:MAX_ADDRESSES]:
            within = CONNECT_SECONDS if walked.attempts else self.target.timeout
            walked.attempts += await self._ask(self.target, address, recorder, within)
            if walked.is_settled:
                return
            recorder = self._again(recorder)

    async def others(self, walked: Walk) -> list[Attempt]:
        """Ask what was not tried yet, all at once."""
        tried = {(exchanger_of(made), made.peer) for made in walked.attempts}
        gone = {name for name, peer in tried if not peer}
        target = replace(self.target, timeout=min(self.target.timeout, OTHERS_TIMEOUT))
        brief = replace(self, target=target, watch=None)
        rest = [exchanger for exchanger in walked.exchangers[:MAX_OTHERS] if exchanger.name not in gone]
        made = await asyncio.gather(*(brief._rest(exchanger, tried) for exchanger in rest))
        return [each for several in made for each in several]

    async def _rest(self, exchanger: Exchanger, tried: set[tuple[str, str]]) -> list[Attempt]:
        recorder = Recorder(redactor(None), None)
        try:
            found = await self._find(exchanger, recorder)
        except Exception as error:
            return [failed(recorder, error, self.target)]
        new = [address for address in found.addresses if (exchanger.name, address.peer) not in tried]
        asking = (
            self._ask(self.target, address, self._again(recorder), self.target.timeout)
            for address in new[:MAX_ADDRESSES]
        )
        return [several[-1] for several in await asyncio.gather(*asking)]

    async def _find(self, exchanger: Exchanger, recorder: Recorder) -> Found:
        recorder.facts["exchanger"] = exchanger.name
        if exchanger.preference is not None:
            recorder.facts["preference"] = exchanger.preference
        with recorder.phase(Phase.RESOLVE):
            found = await addresses(exchanger, self.target.port, self.resolver, self.target.timeout)
        if found.alias_of:
            recorder.facts["alias_of"] = found.alias_of
        return found

    async def _ask(self, target: Target, address: Address, recorder: Recorder, within: float) -> list[Attempt]:
        """Make one connection; and where encryption does not come about another one in the clear."""
        target = replace(target, host=recorder.facts["exchanger"])
        made = await attempt(Call(target, address, None, recorder, self.contexts), _probe(within))
        if made.failed_phase is not Phase.TLS:
            return [made]
        clear = self._again(recorder)
        clear.facts["starttls"] = "failed"
        clear.note = "asked in the clear, since STARTTLS failed"
        call = Call(replace(target, tls=TlsMode.NONE), address, None, clear, self.contexts)
        return [made, await attempt(call, _probe(within))]

    def _again(self, recorder: Recorder) -> Recorder:
        """Return a new recorder for the same exchanger."""
        fresh = Recorder(redactor(None), self.watch)
        kept = ("exchanger", "preference", "alias_of")
        fresh.facts = {key: value for key, value in recorder.facts.items() if key in kept}
        return fresh
