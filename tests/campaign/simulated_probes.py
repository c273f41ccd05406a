"""A simulated probe: walks the phases in virtual time; each is decided by the truth of its moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from mailwatch.model import Cause, Observation, Outcome, Phase, TlsFacts
from mailwatch.probes import ProbeRequest
from mailwatch.probes.recorder import Recorder
from mailwatch.probes.redact import redactor
from mailwatch.settings import Target
from tests.campaign.replies import says
from tests.campaign.virtual import Clocks
from tests.campaign.world import HOUR, Service, Span, World, cause_of

FOREVER = 1e7
FAILED_OTHERWISE = 99
LOSS_APART_SECONDS = 12 * HOUR
"""Seconds between a lost probe and a fault of the provider."""
RESOLVER_TIMEOUT, RESOLVER_ATTEMPTS = 5.0, 2
SURVIVED_SUSPEND_SECONDS = 0.5
"""Seconds of sleep that a connection outlives, and that MailWatch does not notice."""
CERTIFICATE = TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", fingerprint="00" * 32, not_after=None)
_CONNECTED = (Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX, Phase.FETCH)
_MEETS = {
    "dns": (Phase.RESOLVE,),
    "refused": (Phase.CONNECT, *_CONNECTED),
    "unreachable": (Phase.CONNECT, *_CONNECTED),
    "timeout": (Phase.CONNECT, *_CONNECTED),
    "slow": (Phase.CONNECT, *_CONNECTED),
    "disconnected": _CONNECTED,
    "tls": (Phase.TLS,),
    "protocol": (Phase.GREETING,),
    "unavailable": (Phase.GREETING, Phase.AUTH),
    "mailbox": (Phase.MAILBOX,),
    "login": (Phase.AUTH,),
}


class _Failed(Exception):
    def __init__(self, cause: Cause, detail: str = "", words: str = "") -> None:
        super().__init__(detail)
        self.cause, self.detail, self.words = cause, detail, words


@dataclass(slots=True)
class TrueProbe:
    """A probe as it truly was, in true time. `target` is the service it met, `called` its name in the config.

    `raw` is what the probe made of it, before the monitor judged. `met` are the provider's faults that it ran
    into; `why` is what made it fail last: provider, line, resolver, lost, throttled, password, asleep.
    """

    target: str
    start: float
    end: float
    raw: Outcome
    cause: Cause | None
    with_login: bool
    password: str
    faults_met: list[Span]
    why: str
    name_in_config: str = ""


class SimulatedProbes:
    """Stands in for `probes.observe`; keeps the truth of every probe under the number in its facts."""

    def __init__(self, world: World, clocks: Clocks) -> None:
        self._world, self._clocks = world, clocks
        self._hosts = {service.target.host: service for service in world.services.values()}
        self.probes: list[TrueProbe] = []
        self.on_end: Callable[[], None] | None = None
        self._losses: dict[str, int] = {}

    async def observe(self, request: ProbeRequest) -> Observation:
        """Probe a target once."""
        target, with_login = request.target, request.with_login
        service = self._hosts[target.host]
        recorder = Recorder(redactor(target.login), None)
        start, logged_in = self._clocks.true, target.login is not None and with_login
        walk = _SimulatedConnection(self._world, self._clocks, service, target, logged_in, self._is_lost(service))
        cause, detail = None, ""
        try:
            async with asyncio.timeout(target.timeout):
                for phase in service.phases:
                    if logged_in or phase not in (Phase.AUTH, Phase.MAILBOX, Phase.FETCH):
                        with recorder.phase(phase):
                            await walk.step(phase)
                        if phase is Phase.TLS:
                            recorder.tls = CERTIFICATE
        except _Failed as failed:
            cause, detail = failed.cause, failed.detail
            if failed.words:
                recorder.add_reply(failed.words)
        except TimeoutError:
            cause, detail = Cause.TIMEOUT, f"no answer within {target.timeout:.0f} s"
        made = recorder.to_attempt(walk.peer, cause=cause, detail=detail)
        raw = cause.outcome if cause else Outcome.UP
        why = walk.why if cause else ""
        # Losses are scattered: each is preceded by a probe that failed for no other reason.
        key = service.key
        self._losses[key] = 0 if cause is None else self._losses.get(key, 0) + 1
        if why not in ("", "lost"):
            self._losses[key] = FAILED_OTHERWISE
        password = walk.password if logged_in else ""
        end = self._clocks.true
        taken = TrueProbe(
            key, start, end, raw, cause, logged_in, password, walk.faults_met, why, name_in_config=target.name
        )
        self.probes.append(taken)
        if self.on_end is not None:
            self.on_end()
        return Observation(
            target=target.name,
            scheduled_at=request.scheduled_at,
            started_at=made.started_at,
            ended_at=made.ended_at,
            outcome=raw,
            cause=cause,
            failed_phase=made.failed_phase,
            detail=made.detail,
            attempts=(made,),
            addresses=(service.address,),
            with_login=logged_in,
            facts={"probe": len(self.probes) - 1},  # type: ignore[arg-type]
        )

    def _is_lost(self, service: Service) -> bool:
        """In lossy times probes are lost, but never as many in a row as open an outage, nor beside its probes.

        More of them could not be distinguished from the provider's failures (docs/explanation/campaign.md).
        """
        now = self._clocks.true
        if service.lossy.at(now) is None or self._world.chance.random() > 0.2:
            return False
        if service.faults.touching(now - LOSS_APART_SECONDS, now + LOSS_APART_SECONDS):
            return False
        return self._losses.get(service.target.name, 0) < self._world.rules.open_after - 1


def limit_phase(limit: Span, phases: Sequence[Phase]) -> Phase:
    """Return where a limit turns us away: at the greeting, or some of them at the login."""
    return Phase.AUTH if limit.breaks_connections and Phase.AUTH in phases else Phase.GREETING


class _SimulatedConnection:
    """One connection."""

    def __init__(
        self, world: World, clocks: Clocks, service: Service, target: Target, logged_in: bool, lost: bool
    ) -> None:
        self._world, self._clocks, self._service, self._target = world, clocks, service, target
        self._asleep = clocks.true - clocks.running
        slow = service.slow.at(clocks.true) is not None
        # Slow, but within the deadline in any case.
        self._latency = 0.5 * target.timeout / len(service.phases) if slow else 0.08
        self._phases = [
            p for p in service.phases if logged_in or p not in (Phase.AUTH, Phase.MAILBOX, Phase.FETCH)
        ]
        self._lose_at = world.chance.choice(service.phases[1:]) if lost else None
        self.faults_met: list[Span] = []
        self.why = ""
        self.peer = ""
        self.password = target.login.password.get_secret_value() if target.login else ""

    async def step(self, phase: Phase) -> None:
        """Walk one phase. Raises _Failed; hangs where nothing answers."""
        chance = self._world.chance
        await self._line(phase)
        await self._provider(phase)
        await asyncio.sleep(self._latency * chance.uniform(0.2, 1.0))
        slept = self._clocks.true - self._clocks.running - self._asleep
        if phase in _CONNECTED and slept > SURVIVED_SUSPEND_SECONDS and chance.random() < 0.7:
            self.why = "asleep"
            raise _Failed(Cause.DISCONNECTED, "the connection did not outlive our sleep")
        if phase is self._lose_at:
            self.why = "lost"
            await asyncio.sleep(FOREVER)
        await self._line(phase)
        await self._provider(phase)
        limit = self._service.throttled.at(self._clocks.true)
        if limit is not None and phase is limit_phase(limit, self._phases):
            self.why = "throttled"
            self._say(Cause.THROTTLED, phase, limit.start)
        if phase is Phase.AUTH and not self._is_right():
            self.why = "password"
            self._say(Cause.CREDENTIALS, phase, 0.0)

    def _say(self, cause: Cause, phase: Phase, seed: float) -> NoReturn:
        """Answer in words that mean this. Raises what MailWatch makes of them."""
        verdict = says(cause, self._target, phase, seed)
        if verdict is None:
            raise _Failed(cause, cause.value)
        raise _Failed(verdict.cause, verdict.detail, verdict.server_text)

    def _is_right(self) -> bool:
        account = self._service.account
        return account is not None and account.demanded(self._clocks.true) == self.password

    async def _line(self, phase: Phase) -> None:
        if phase is Phase.RESOLVE:
            await self._resolve()
        self.peer = "" if phase is Phase.RESOLVE else f"{self._service.address}:{self._target.port}"
        down = self._world.line.at(self._clocks.true)
        if down is None:
            return
        self.why = "line"
        if down.kind == "unreachable" and phase is Phase.CONNECT:
            raise _Failed(Cause.UNREACHABLE, "no route to host")
        await self._hang(down, down.breaks_connections and phase in _CONNECTED)

    async def _resolve(self) -> None:
        """The system's resolver asks twice, five seconds apart."""
        for _ in range(RESOLVER_ATTEMPTS):
            moment = self._clocks.true
            down = self._world.resolver.at(moment) or self._world.line.at(moment)
            if down is None:
                return
            self.why = "resolver" if self._world.resolver.at(moment) else "line"
            await asyncio.sleep(RESOLVER_TIMEOUT)
        raise _Failed(Cause.DNS, "the resolver does not answer")

    async def _provider(self, phase: Phase) -> None:
        fault = self._service.faults.at(self._clocks.true)
        if fault is None or phase not in _MEETS[fault.kind]:
            return
        self.why = "provider"
        self.faults_met.append(fault)
        await asyncio.sleep(0.03)
        if fault.kind == "timeout" or (fault.kind == "unreachable" and phase in _CONNECTED):
            await self._hang(fault, fault.breaks_connections)
        elif fault.kind == "slow":
            await asyncio.sleep(self._target.timeout * 1.5)
        elif fault.kind == "refused" and phase in _CONNECTED:
            raise _Failed(Cause.DISCONNECTED, "reset by the server that goes down")
        elif fault.kind == "login":
            self._say(Cause.CREDENTIALS, phase, fault.start)
        else:
            self._say(cause_of(fault.kind), phase, fault.start)

    async def _hang(self, trouble: Span, connection_broke: bool) -> None:
        """Wait for an answer until the trouble ends, or for good where the connection died of it."""
        while self._clocks.true < trouble.end:
            await asyncio.sleep(trouble.end - self._clocks.true)
        if connection_broke:
            await asyncio.sleep(FOREVER)
        await asyncio.sleep(self._world.chance.uniform(0, 1))
