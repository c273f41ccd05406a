"""The probes that a node makes for the active one while it stands by: its own line, its own guard, no record.

It judges nothing and counts no login: the active node allows each login, and records what came of it. What is of
this machine is attributed here: its line, its clock, its stalls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mailwatch import monotonic
from mailwatch.config import Config
from mailwatch.fleet.eligibility import line_word, probing_words
from mailwatch.fleet.exchange import Exchange, Item, Received
from mailwatch.fleet.messages import DIFFERS, Job, MessageError, Result, job_from, result_item, target_digest
from mailwatch.guard.attribution import FaultAttribution
from mailwatch.guard.clock import ClockMonitor
from mailwatch.kinds import KINDS
from mailwatch.model import Cause, GapReason, Observation, Outcome
from mailwatch.monitor.background import ONLINE_TEXTS
from mailwatch.monitor.bounded_probes import BoundedProbes, attempts_span
from mailwatch.monitor.membership import Membership
from mailwatch.monitor.service import build_guards, time_servers
from mailwatch.probes import ProbeFunction, ProbeRequest, TlsContexts, max_probe_seconds, observe
from mailwatch.probes.certificates import CertificateText
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation, redacted_traceback
from mailwatch.settings import Target
from mailwatch.store.probe_messages import Address

logger = logging.getLogger(__name__)

CLOCK_SECONDS = 1.0
LINE_SECONDS, LINE_DOWN_SECONDS = 60.0, 5.0
"""Seconds between two checks of our line, and while it is down."""
FINISH_SECONDS = 5.0
"""Seconds for the probes under way when this node stops."""
STALL_SECONDS = 1.0
RESEND_SECONDS, MAX_SENDINGS = 1.0, 6
"""Seconds until a result is sent again that could not be sent, and how often it is sent at most."""
CERTIFICATE_SECONDS = 3600.0
"""Seconds after which it is sent again what a certificate says."""
MAX_WAITING = 10_000
"""Jobs that may wait for a free place; each waits for seconds, or is given back."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A job, and who asked for it. `received` is on time.monotonic(), as if it had taken no time to come."""

    job: Job
    by: Address
    series: str
    sent: float


class Prober:
    """Makes the probes that the active node asks for. Lives in the event loop.

    `secret` is the ledger's. `observe` makes a probe.
    """

    def __init__(
        self,
        member: Membership,
        config: Config,
        targets: Sequence[Target],
        secret: bytes,
        observe: ProbeFunction = observe,
    ) -> None:
        self._member, self._secret, self._observe = member, secret, observe
        guard, port25 = build_guards(config)
        self.attribution = FaultAttribution(guard, port25, time_servers(config))
        self._targets = {target.name: target for target in targets}
        self._digests = {target.name: target_digest(target, secret) for target in targets}
        self._at_once = asyncio.Semaphore(config.limits.max_concurrent)
        self._contexts, self._bounded, self._clock = TlsContexts(), BoundedProbes(), ClockMonitor()
        self._epoch = 0
        self._exchange: Exchange | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving = False
        self._series: dict[Address, str] = {}
        self._sendings = Counter[int]()
        """How often the result of a job, by its number, could not be sent."""
        self._sent_certificates: dict[str, float] = {}
        """When each certificate was sent last, by its fingerprint, on time.monotonic()."""
        self._line: bool | None = None

    def configure(self, config: Config, targets: Sequence[Target]) -> None:
        """Probe by another config from now on. Probes under way keep the old one."""
        self.attribution.reconfigure(*build_guards(config), time_servers(config))
        self._targets = {target.name: target for target in targets}
        self._digests = {target.name: target_digest(target, self._secret) for target in targets}
        self._at_once = asyncio.Semaphore(config.limits.max_concurrent)
        self._contexts = TlsContexts()

    async def run(self) -> None:
        """Probe for the active node until cancelled; then finish what is under way, within FINISH_SECONDS."""
        work = [asyncio.create_task(self._watch_clock()), asyncio.create_task(self._watch_line())]
        try:
            while True:
                async with self._exchanging():
                    # An epoch that others ended is over, with its jobs; the next one has an address of its own.
                    while self._member.lease.epoch == self._epoch:
                        self._say_probing()
                        await asyncio.sleep(CLOCK_SECONDS)
        finally:
            for task in work:
                task.cancel()

    @contextlib.asynccontextmanager
    async def _exchanging(self) -> AsyncIterator[None]:
        self._epoch = self._member.lease.epoch
        own = Address(self._member.lease.node, self._epoch)
        self._exchange = Exchange(
            self._member.place, own, on_message=self._on_message, on_undelivered=self._on_undelivered
        )
        try:
            async with self._exchange.running():
                try:
                    yield
                finally:
                    await self._finish()
        finally:
            self._exchange = None

    async def _finish(self) -> None:
        """Give back what has not begun, and wait for the probes under way."""
        self._leaving = True
        self._member.lease.probing = {}
        seconds = 0.0 if self._member.is_active or self._lease_is_over() else FINISH_SECONDS
        try:
            if self._tasks:
                _, late = await asyncio.wait(self._tasks, timeout=seconds)
                for task in late:
                    task.cancel()
                await asyncio.gather(*late, return_exceptions=True)
        finally:
            self._leaving = False

    def _lease_is_over(self) -> bool:
        return self._member.lease.epoch != self._epoch or self._member.lease.start_seconds_left() <= 0

    def _say_probing(self) -> None:
        """Tell the others that this node probes, of its line, and how many probes it made in the last minute."""
        if self.attribution.guard is not None and self._line is None and not self._member.lease.probing:
            # Not before the first check of the line.
            return
        line = line_word(self.attribution.guard is not None, self._line)
        self._member.lease.probing = probing_words(line, self._bounded.made_in_last_minute())

    def _on_undelivered(self, to: Address, items: Sequence[Item]) -> None:
        """Send results again in a second, a few times: the database may have been restarted."""
        again = []
        for item in items:
            number = item.get("job")
            if isinstance(number, int):
                self._sendings[number] += 1
                if self._sendings[number] < MAX_SENDINGS:
                    again.append(item)
        if again:
            asyncio.get_running_loop().call_later(RESEND_SECONDS, self._resend, self._exchange, to, again)
        else:
            self._sendings.clear()

    def _resend(self, exchange: Exchange | None, to: Address, items: Sequence[Item]) -> None:
        for item in items:
            if (
                exchange is not None
                and exchange is self._exchange
                and (series := self._series.get(to)) is not None
            ):
                exchange.send(to, series, item)

    def _on_message(self, received: Received) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        if not received.from_active:
            exchange.drop("it is of a node that is not active")
            return
        # The latest one: there is one active node at a time.
        self._series = {received.sender: received.message.series}
        for item in received.message.items:
            if "hello" in item:
                exchange.send(received.sender, received.message.series, {"hello": True})
                continue
            try:
                job = job_from(item)
            except MessageError as error:
                exchange.drop(str(error))
                continue
            came = time.monotonic() - (monotonic.milliseconds() - received.taken) / 1000
            asked = _Asked(job, received.sender, received.message.series, came - received.age)
            if len(self._tasks) >= MAX_WAITING:
                self._refuse(asked, "too many jobs wait there")
                continue
            task = asyncio.create_task(self._do(asked))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # No observation: the active node probes the target again.
            logger.error("a probe for the active node failed: internal error", exc_info=error)

    async def _do(self, asked: _Asked) -> None:
        """Probe, and send the result; or say why not."""
        job = asked.job
        target = self._targets.get(job.target)
        if target is None or self._digests[job.target] != job.digest or KINDS[target.kind].awaits_delivery:
            self._refuse(asked, DIFFERS)
            return
        async with self._at_once:
            if why := self._why_not_now(asked):
                self._refuse(asked, why)
                return
            began, offset = time.monotonic(), monotonic.offset()
            observation = await self._probe(target, job)
        attributed = await self._attribute(target, job, observation, began)
        self._answer(asked, target, observation, attributed, offset)

    def _why_not_now(self, asked: _Asked) -> str:
        if self._leaving:
            return "that node stops"
        if (time.monotonic() - asked.sent) * 1000 > asked.job.within:
            return "it would have begun too late there"
        if self._lease_is_over():
            return "that node could not renew its lease"
        return ""

    async def _probe(self, target: Target, job: Job) -> Observation:
        request = ProbeRequest(
            target,
            scheduled_at=job.scheduled_at,
            contexts=self._contexts,
            with_login=job.with_login,
            every_address=job.every_address,
        )
        start, began = ProbeStart(), monotonic.milliseconds()
        try:
            with self.attribution.check_line_meanwhile():
                observation = await self._bounded.run(max_probe_seconds(target), self._observe(request))
        except Exception as error:
            # The interval in force is the active node's to say.
            return replace(internal_error_observation(target, job.scheduled_at, start, error), interval=None)
        return replace(observation, clock=attempts_span(observation, began, None))

    async def _attribute(
        self, target: Target, job: Job, observation: Observation, began: float
    ) -> Observation | None:
        """Return what is not up as attributed by this machine; None for what is up.

        A rejected login is attributed as if it were down: the active node may judge it so, with others.
        """
        self._check_clock()
        rejected = observation.cause is Cause.CREDENTIALS
        judged = replace(observation, outcome=Outcome.DOWN) if rejected else observation
        try:
            attributed = await self.attribution.attribute(target, judged, began)
            if job.diagnose and not rejected:
                attributed = await self.attribution.with_diagnosis(target, attributed)
        except Exception as error:
            logger.error("%s: internal error\n%s", target.name, redacted_traceback(error, target))
            attributed = replace(
                observation,
                outcome=Outcome.UNKNOWN,
                cause=Cause.MONITOR,
                detail=f"internal error: {type(error).__name__}; was: {observation.cause}",
            )
        return None if observation.outcome is Outcome.UP else attributed

    def _answer(
        self,
        asked: _Asked,
        target: Target,
        observation: Observation,
        attributed: Observation | None,
        offset: int,
    ) -> None:
        result = Result(
            number=asked.job.number,
            observation=observation,
            attributed=attributed,
            offset=offset,
            certificates=self._new_certificates(observation),
        )
        try:
            item = result_item(result)
        except Exception as error:
            logger.error("%s: its observation cannot be sent\n%s", target.name, redacted_traceback(error, target))
            self._refuse(asked, f"internal error: {type(error).__name__}")
            return
        self._send(asked, item)

    def _new_certificates(self, observation: Observation) -> dict[str, CertificateText]:
        """Return what certificates say that was not sent within the last hour: the active node may have forgotten
        it.
        """
        now, found = time.monotonic(), dict[str, CertificateText]()
        for attempt in observation.attempts:
            fingerprint = attempt.tls.fingerprint if attempt.tls is not None else ""
            sent = self._sent_certificates.get(fingerprint, -CERTIFICATE_SECONDS)
            text = self._contexts.certificate(fingerprint)
            if text is not None and now - sent >= CERTIFICATE_SECONDS:
                found[fingerprint] = text
                self._sent_certificates[fingerprint] = now
        return found

    def _refuse(self, asked: _Asked, why: str) -> None:
        self._send(asked, result_item(Result(number=asked.job.number, refusal=why)))

    def _send(self, asked: _Asked, item: Item | Mapping[str, object]) -> None:
        if self._exchange is not None:
            self._exchange.send(asked.by, asked.series, item)

    def _check_clock(self) -> None:
        """Note suspends and steps since the last call."""
        events = self._clock.tick()
        if self._clock.late > STALL_SECONDS:
            self.attribution.note_stall(self._clock.late)
        for event in events:
            reason = GapReason.CLOCK_STEP if event.kind == "step" else GapReason.SUSPENDED
            self.attribution.note_disruption(event.since, event.until, reason)

    async def _watch_clock(self) -> None:
        while True:
            self._check_clock()
            await asyncio.sleep(CLOCK_SECONDS)

    async def _watch_line(self) -> None:
        """Check our own line, regularly and when a failure was attributed to it."""
        attribution = self.attribution
        while True:
            attribution.line_check_wanted.clear()
            if attribution.guard is None:
                self._line = None
                await attribution.line_check_wanted.wait()
                continue
            answer = await attribution.guard.check(dns=True)
            attribution.note_line(answer)
            if answer.online is not self._line:
                self._line = answer.online
                logger.warning("guard: %s", ONLINE_TEXTS[answer.online])
            if self._line is not True:
                await asyncio.sleep(LINE_DOWN_SECONDS)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINE_SECONDS):
                    await attribution.line_check_wanted.wait()
