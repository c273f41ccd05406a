"""Runs one probe of a target, without its login while logins are suspended, and records the login's result."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from mailwatch import monotonic
from mailwatch.fleet.dispatcher import Dispatcher, ProbeLostError, RemoteObservation
from mailwatch.guard.login_backoff import LoginBackoff, endpoint_observations, unanswered
from mailwatch.kinds import KINDS
from mailwatch.ledger.entry import secret_id
from mailwatch.metrics import Metrics
from mailwatch.model import Cause, Observation, Outcome
from mailwatch.monitor.bounded_probes import BoundedProbes, attempts_span, widened_bound
from mailwatch.monitor.carried import CheckpointCarrier
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.probes import (
    ProbeFunction,
    ProbeRequest,
    RoundtripContext,
    SignedArrival,
    TlsContexts,
    max_probe_seconds,
    observe,
)
from mailwatch.probes.certificates import CertificateText
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Login, Target
from mailwatch.store.probe_messages import Address
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

REMOTE_TRIES = 2
"""How many other nodes are asked for a probe before it is made here."""


class ProbeRunner:
    """Runs at most `at_once` probes at a time. `secret` is the ledger's, for the keyed digests of passwords.

    `while_probing` is a context entered during each probe, except round trips. `clock_bound` returns by how many
    milliseconds the wall clock may be off now.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        tokens: AccessTokens,
        metrics: Metrics,
        at_once: int,
        while_probing: Callable[[], contextlib.AbstractContextManager[None]],
        clock_bound: Callable[[], Millis | None] = lambda: None,
        observe: ProbeFunction = observe,
    ) -> None:
        self.login_backoff = LoginBackoff()
        self.observe = observe
        self.clock_bound = clock_bound
        self.carrier: CheckpointCarrier | None = None
        """Has round trips carry checkpoints; None where there is no ledger to sign."""
        self.fleet: Dispatcher | None = None
        """Shares out probes to other nodes; None where this one makes them all."""
        self.check_may_probe: Callable[[], None] = lambda: None
        """Raises EvictedError if this process may start no probe now."""
        self._secret, self._tokens, self._metrics, self._while_probing = secret, tokens, metrics, while_probing
        self._limit, self._at_once = at_once, asyncio.Semaphore(at_once)
        self._contexts = TlsContexts()
        self._bounded = BoundedProbes()
        self._started = now() - _running()

    def reconfigure(self, at_once: int) -> None:
        """Set the limit, and reload the certificate files. Probes under way keep the old ones."""
        if at_once != self._limit:
            self._limit, self._at_once = at_once, asyncio.Semaphore(at_once)
        self._contexts = TlsContexts()

    def certificate(self, fingerprint: str) -> CertificateText | None:
        """Return what a certificate says that a probe met since the start or the last reload; None for another."""
        return self._contexts.certificate(fingerprint)

    def made_in_last_minute(self) -> int:
        """Return how many probes this process made in the last minute."""
        return self._bounded.made_in_last_minute()

    @property
    def abandoned(self) -> set[asyncio.Task[Observation]]:
        """Probes that exceeded our own deadline and have not ended although cancelled."""
        return self._bounded.abandoned

    async def run(self, runtime: TargetRuntime, target: Target, scheduled_at: Millis) -> Observation:
        """Probe the target and return the observation.

        A failure is not attributed yet, unless another node made it (`node`), which has attributed it.
        """
        lost_logins = 0
        for _ in range(REMOTE_TRIES):
            to = None if self.fleet is None else self.fleet.node_for(target)
            if self.fleet is None or to is None:
                break
            try:
                return await self._run_elsewhere(self.fleet, to, runtime, target, scheduled_at, lost_logins)
            except ProbeLostError as error:
                logger.debug("%s: the probe at node %s was lost: %s", target.name, to.node[:4], error)
                lost_logins += error.with_login
                self.check_may_probe()
        return await self._run_here(runtime, target, scheduled_at, lost_logins)

    async def _run_elsewhere(
        self,
        fleet: Dispatcher,
        to: Address,
        runtime: TargetRuntime,
        target: Target,
        scheduled_at: Millis,
        lost_logins: int,
    ) -> Observation:
        """Have another node probe the target, and return its attributed observation. Raises ProbeLostError."""
        async with contextlib.AsyncExitStack() as held:
            for limit in self.login_backoff.limits(target):
                await held.enter_async_context(limit)
            with_login = self.login_backoff.may_login(target, self.steady_now())
            try:
                runtime.is_elsewhere = True
                runtime.probe_began = runtime.probing_since = time.monotonic()
                found = await fleet.probe(
                    to,
                    target,
                    scheduled_at=scheduled_at,
                    with_login=with_login,
                    every_address=runtime.state.is_open,
                    diagnose=runtime.state.first_bad is None,
                    max_seconds=max_probe_seconds(target),
                )
            finally:
                runtime.probe_ended, runtime.probing_since, runtime.unrecorded = time.monotonic(), None, True
                runtime.is_elsewhere = False
                self.login_backoff.release(target)
        for fingerprint, text in found.certificates.items():
            self._contexts.learn_certificate(fingerprint, text)
        self._metrics.lag((found.probed.started_at - scheduled_at) / 1000)
        interval = max(1, round(target.interval * 1000))
        recorded = self._record_login(target, replace(found.probed, interval=interval), lost_logins)
        return replace(_with_attribution(recorded, found), node=found.node)

    async def _run_here(
        self, runtime: TargetRuntime, target: Target, scheduled_at: Millis, lost_logins: int
    ) -> Observation:
        async with contextlib.AsyncExitStack() as held:
            for limit in (self._at_once, *self.login_backoff.limits(target)):
                await held.enter_async_context(limit)
            self._metrics.lag((now() - scheduled_at) / 1000)
            roundtrip, awaits_delivery = None, KINDS[target.kind].awaits_delivery
            arrivals: list[SignedArrival] = []
            if awaits_delivery:
                # After its login a round trip only waits, and must not keep other probes from starting.
                roundtrip = RoundtripContext(
                    self._secret,
                    runtime.outstanding,
                    logged_in=held.aclose,
                    checkpoint=await self.carrier.note() if self.carrier else "",
                    arrived=arrivals.append,
                )
            for end in target.endpoints:
                if end.login and end.login.oauth2:
                    self.login_backoff.credentials_changed(end, self._secret_used(end.login))
            with_login = self.login_backoff.may_login(target, self.steady_now())
            # A round trip waits for minutes in any case: the guard's regular rounds are enough.
            watched = contextlib.nullcontext() if awaits_delivery else self._while_probing()
            request = ProbeRequest(
                target,
                scheduled_at=scheduled_at,
                contexts=self._contexts,
                with_login=with_login,
                every_address=runtime.state.is_open,
                tokens=self._tokens,
                roundtrip=roundtrip,
            )
            began, offset = monotonic.milliseconds(), monotonic.offset()
            try:
                runtime.probe_began = runtime.probing_since = time.monotonic()
                with watched:
                    observation = await self._bounded.run(max_probe_seconds(target), self.observe(request))
            finally:
                runtime.probe_ended, runtime.probing_since, runtime.unrecorded = time.monotonic(), None, True
                self.login_backoff.release(target)
            clock = attempts_span(
                observation, began, widened_bound(self.clock_bound(), monotonic.offset() - offset)
            )
            observation = replace(observation, clock=clock, interval=max(1, round(target.interval * 1000)))
        if self.carrier and arrivals:
            await self.carrier.keep(target.provider, arrivals)
        if awaits_delivery:
            return self._record_endpoint_logins(target, observation)
        return self._record_login(target, observation, lost_logins)

    def _record_login(self, target: Target, observation: Observation, lost: int = 0) -> Observation:
        """Record the result of the login, and return the resulting observation.

        `lost`: how many logins before it ended at a node that was lost: they may have been rejected as well.
        """
        if observation.with_login and target.login:
            observation = replace(observation, secret=self._secret_used(target.login))
            observation = self._judge_silence(target, observation)
        rejected = observation.with_login and observation.cause is Cause.CREDENTIALS
        for _ in range(1 + (lost if rejected else 0)):
            self.login_backoff.record(target, observation, self.steady_now())
        if rejected and not unanswered(observation):
            logger.warning("%s: login rejected: %s; MailWatch tries again later", target.name, observation.detail)
            together = self.login_backoff.correlated_rejections(target)
            if together > 1:
                # One bad password is its owner's fault; good ones rejected together are the provider's broken
                # login.
                words = f"rejected together with the logins of {together - 1} other account(s) that worked before"
                return replace(observation, outcome=Outcome.DOWN, detail=f"{words}: {observation.detail}")
        if target.login and not observation.with_login and observation.outcome is Outcome.UP:
            # The greeting alone does not prove that the mailbox can be used.
            return replace(
                observation,
                outcome=Outcome.UNKNOWN,
                cause=Cause.CREDENTIALS,
                detail="checked without a login, which was rejected or not answered; MailWatch tries again later",
            )
        return observation

    def _judge_silence(self, target: Target, observation: Observation) -> Observation:
        result = self.login_backoff.judge_silence(target, observation, self._secret_used)
        if result is not observation:
            logger.warning("%s: no answer after the password was sent; MailWatch tries again later", target.name)
        return result

    def _record_endpoint_logins(self, target: Target, observation: Observation) -> Observation:
        """Record the results of the logins at both ends of a round trip; return the resulting observation."""
        observation = self._judge_silence(target, observation)
        for end, endpoint_observation in endpoint_observations(target, observation):
            if end.login:
                endpoint_observation = replace(endpoint_observation, secret=self._secret_used(end.login))
            self.login_backoff.record(end, endpoint_observation, self.steady_now())
            if endpoint_observation.cause is Cause.CREDENTIALS:
                logger.warning("%s: login at %s rejected; MailWatch tries again later", target.name, end.name)
        return observation

    def _secret_used(self, login: Login) -> str:
        return secret_used(self._secret, login, self._tokens)

    def steady_now(self) -> Millis:
        """Return the Unix time in milliseconds, unaffected by steps of the wall clock since the start."""
        return self._started + _running()


def secret_used(secret: bytes, login: Login, tokens: AccessTokens) -> str:
    """Return the keyed digest of the login's password or OAuth grant, "" without either."""
    proof = tokens.identity(login) if login.oauth2 else login.password.get_secret_value()
    return secret_id(secret, login.username, proof) if proof else ""


def _with_attribution(recorded: Observation, found: RemoteObservation) -> Observation:
    """Return what is recorded of a login, with the attribution of the node that probed."""
    judged = found.attributed
    if judged is None or recorded.outcome is not Outcome.DOWN:
        # The rules of logins have made it unknown, as they do with our own.
        return recorded
    if judged.outcome is Outcome.DOWN and recorded.detail != found.probed.detail:
        # Rejected together with others: these words stay.
        return replace(recorded, guard=judged.guard, facts=judged.facts)
    return replace(judged, secret=recorded.secret, interval=recorded.interval)


def _running() -> Millis:
    return time.monotonic_ns() // 1_000_000
