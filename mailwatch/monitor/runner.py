"""Takes one look at a target: with its login or while that is held back, and learns what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from mailwatch import monotonic
from mailwatch.guard.login_backoff import LoginGate, end_looks, unanswered
from mailwatch.ledger.entry import secret_id
from mailwatch.metrics import Metrics
from mailwatch.model import Cause, ClockSpan, Kind, Observation, Outcome
from mailwatch.monitor.target_runtime import Watch
from mailwatch.probes import TlsContexts, Trips, observe
from mailwatch.probes.attempts import longest
from mailwatch.probes.connect import OurFault
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Login, Target
from mailwatch.times import Millis, now

logger = logging.getLogger(__name__)

ENDS_WITHIN = 2.0
"""Seconds that a probe has to end once it was cancelled; one that does not is left behind."""


class Looking:
    """Looks, `at_once` at the most. `secret` is the ledger's, for the keyed digests of passwords.

    `beside` is entered for as long as a look lasts, but for round trips. `clock_bound` gives by how many
    milliseconds the wall clock may be off now.
    """

    def __init__(
        self,
        *,
        secret: bytes,
        tokens: AccessTokens,
        metrics: Metrics,
        at_once: int,
        beside: Callable[[], contextlib.AbstractContextManager[None]],
        clock_bound: Callable[[], Millis | None] = lambda: None,
        observe: Callable[..., Awaitable[Observation]] = observe,
    ) -> None:
        self.logins = LoginGate()
        self.observe = observe
        self.clock_bound = clock_bound
        self._secret, self._tokens, self._metrics, self._beside = secret, tokens, metrics, beside
        self._limit, self._at_once = at_once, asyncio.Semaphore(at_once)
        self._contexts = TlsContexts()
        self.left_behind: set[asyncio.Task[Observation]] = set()
        """Probes that were ended by our own deadline, and go on all the same."""
        self._started = now() - _running()

    def change(self, at_once: int) -> None:
        """Take over a limit, and read the files of certificates anew. Probes under way end under the old ones."""
        if at_once != self._limit:
            self._limit, self._at_once = at_once, asyncio.Semaphore(at_once)
        self._contexts = TlsContexts()

    async def look(self, watch: Watch, target: Target, due: Millis) -> Observation:
        """Look at the target, due at that time; what it saw is not judged yet."""
        async with contextlib.AsyncExitStack() as held:
            for limit in (self._at_once, *self.logins.slots(target)):
                await held.enter_async_context(limit)
            self._metrics.lag((now() - due) / 1000)
            more: dict[str, Any] = {}
            if target.kind is Kind.ROUNDTRIP:
                # Once it has logged in it only waits, and must not keep others from looking.
                more["trips"] = Trips(self._secret, watch.outstanding, settled=held.aclose)
            for end in target.ends:
                if end.login and end.login.oauth2:
                    self.logins.renewed(end, self._secret_used(end.login))
            with_login = self.logins.allows(target, self.steady())
            # A round trip waits for minutes in any case: for it the regular rounds are enough.
            watched = contextlib.nullcontext() if target.kind is Kind.ROUNDTRIP else self._beside()
            began, offset = monotonic.milliseconds(), monotonic.offset()
            try:
                watch.began = watch.probing = time.monotonic()
                with watched:
                    observation = await self._bounded(
                        longest(target),
                        self.observe(
                            target,
                            scheduled_at=due,
                            contexts=self._contexts,
                            with_login=with_login,
                            every_address=watch.state.is_open,
                            tokens=self._tokens,
                            **more,
                        ),
                    )
            finally:
                watch.ended, watch.probing, watch.pending = time.monotonic(), None, True
                self.logins.release(target)
            interval = max(1, round(target.interval * 1000))
            clock = _clock(observation, began, widened(self.clock_bound(), monotonic.offset() - offset))
            observation = replace(observation, clock=clock, interval=interval)
        if target.kind is Kind.ROUNDTRIP:
            return self._learn_ends(target, observation)
        return self._learn(target, observation)

    async def _bounded(self, seconds: float, probe: Awaitable[Observation]) -> Observation:
        """Await a probe for so long at the most. Raises OurFault: it should have ended by deadlines of its own."""
        task = asyncio.ensure_future(probe)
        try:
            await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if task.done():
            return await task
        task.cancel()
        await asyncio.wait({task}, timeout=ENDS_WITHIN)
        if not task.done():
            self.left_behind.add(task)
            task.add_done_callback(self._came_back)
        raise OurFault(f"the probe did not end within {seconds:g} s, which is more than all of its timeouts")

    def _came_back(self, task: asyncio.Task[Observation]) -> None:
        self.left_behind.discard(task)
        if not task.cancelled():
            # What it saw came too late to be judged; asking for its exception keeps asyncio from logging it.
            task.exception()

    def _learn(self, target: Target, observation: Observation) -> Observation:
        """Tell the gate what came of the login, and say what follows from it."""
        if observation.with_login and target.login:
            observation = replace(observation, secret=self._secret_used(target.login))
            observation = self._heard(target, observation)
        self.logins.learn(target, observation, self.steady())
        if observation.with_login and observation.cause is Cause.CREDENTIALS and not unanswered(observation):
            logger.warning(
                "%s: the login was rejected: %s; it is tried again later", target.name, observation.detail
            )
            together = self.logins.failing_together(target)
            if together > 1:
                # One bad password is its owner's; good ones that fail together are the provider's broken login.
                words = f"rejected together with the login of {together - 1} other account(s) that worked before"
                return replace(observation, outcome=Outcome.DOWN, detail=f"{words}: {observation.detail}")
        if target.login and not observation.with_login and observation.outcome is Outcome.UP:
            # The greeting alone is less than was asked for: it is no proof that the mailbox can be used.
            return replace(
                observation,
                outcome=Outcome.UNKNOWN,
                cause=Cause.CREDENTIALS,
                detail="probed without a login, which was rejected or not answered; it will be tried again",
            )
        return observation

    def _heard(self, target: Target, observation: Observation) -> Observation:
        heard = self.logins.heard(target, observation, self._secret_used)
        if heard is not observation:
            logger.warning("%s: no answer came after the password was sent; it is tried again later", target.name)
        return heard

    def _learn_ends(self, target: Target, observation: Observation) -> Observation:
        """Record what came of the logins at both ends of a round trip, and return what follows from it."""
        observation = self._heard(target, observation)
        for end, seen in end_looks(target, observation):
            if end.login:
                seen = replace(seen, secret=self._secret_used(end.login))
            self.logins.learn(end, seen, self.steady())
            if seen.cause is Cause.CREDENTIALS:
                logger.warning("%s: the login at %s was rejected; it is tried again later", target.name, end.name)
        return observation

    def _secret_used(self, login: Login) -> str:
        return secret_used(self._secret, login, self._tokens)

    def steady(self) -> Millis:
        """Return the time by the clock as it was at the start: nobody sets this one."""
        return self._started + _running()


def secret_used(secret: bytes, login: Login, tokens: AccessTokens) -> str:
    """Name what the login proves itself with: its password, or what its owner granted, "" without either."""
    proof = tokens.identity(login) if login.oauth2 else login.password.get_secret_value()
    return secret_id(secret, login.username, proof) if proof else ""


def _clock(observation: Observation, began: Millis, bound: Millis | None) -> ClockSpan:
    """Return from when to when the attempts lasted, on the clock that nobody can set; since `began` without
    any.
    """
    spans = [attempt.clock for attempt in observation.attempts if attempt.clock is not None]
    starts = [span.start for span in spans if span.start is not None]
    if not starts:
        return monotonic.since(began, bound)
    return ClockSpan(spans[0].boot, min(starts), max(span.end for span in spans), bound)


def widened(bound: Millis | None, stepped: Millis) -> Millis | None:
    """Return the bound of times that were read before the clock was set by `stepped`; `bound` is that of now."""
    return bound if bound is None or abs(stepped) <= monotonic.STEP_MS else bound + abs(stepped)


def _running() -> Millis:
    return time.monotonic_ns() // 1_000_000
