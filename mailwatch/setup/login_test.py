"""Tests the login at each server of a mailbox, as events, as `mailwatch run` will log in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr

from mailwatch.config.catalogue import server as catalogue_server
from mailwatch.config.schema_guard import ClockSection, GuardSection
from mailwatch.config.types import split_endpoint
from mailwatch.guard.attribution import attribute, resolver_matters
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.expiry import ExpiryAttribution
from mailwatch.guard.login_backoff import LoginBackoff, unanswered
from mailwatch.model import Cause, Kind, Observation, Outcome, Phase
from mailwatch.net import is_loopback, is_outside, parse_address, peer_host
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.probes.certificates import UNTRUSTED_ISSUER
from mailwatch.probes.internal_errors import ProbeStart, internal_error_observation
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.settings import Login, OAuth2, Target
from mailwatch.setup.servers import MailboxServers

TEST_SECONDS = 20.0
"""Seconds that each server has."""
MAX_TRIES = 3
"""Most passwords to try: providers lock accounts after a few more."""


class Progress(StrEnum):
    """How far a phase is."""

    BEGIN = "begin"
    END = "end"


@dataclass(frozen=True, slots=True)
class PhaseEvent:
    """A phase begins or ends at a server. `milliseconds`: spent in the phase so far."""

    target: Target
    phase: Phase
    progress: Progress
    milliseconds: float


@dataclass(frozen=True, slots=True)
class ServerResult:
    """The test of one server is over. `reason` is why it is not up, "" if it is."""

    target: Target
    observation: Observation

    @property
    def works(self) -> bool:
        """Whether the login works there."""
        return self.observation.outcome is Outcome.UP

    @property
    def reason(self) -> str:
        """Why the login does not work, "" if it does."""
        return "" if self.works else f"{self.observation.cause}: {self.observation.detail}"


LoginEvent = PhaseEvent | ServerResult


class Verdict(StrEnum):
    """What the tests show as a whole."""

    WORKS = "works"
    REJECTED = "rejected"
    """A server rejected user name and password."""
    UNTRUSTED = "untrusted"
    """A server's certificate is not trusted, so that it got no password."""
    OFFLINE = "offline"
    """Our own line is down, or DNS does not work here: nothing is known of the servers."""
    OPEN = "open"
    """The password was neither accepted nor rejected, for another reason."""


@dataclass(frozen=True, slots=True)
class LoginReport:
    """The result of all tests: the kinds that work, and those left out with the reason."""

    verdict: Verdict
    results: tuple[ServerResult, ...]

    @property
    def works(self) -> tuple[Kind, ...]:
        """The kinds whose login works."""
        return tuple(result.target.kind for result in self.results if result.works)

    @property
    def skipped(self) -> Mapping[Kind, str]:
        """The kinds whose login does not work, with the reason."""
        return {result.target.kind: result.reason for result in self.results if not result.works}

    @property
    def deciding(self) -> ServerResult | None:
        """The result that decided: the first failure that shows the verdict, else the first failure."""
        failed = [result for result in self.results if not result.works]
        shows = _SHOWN_BY.get(self.verdict)
        shown = (one for one in failed if shows is None or shows(one.observation))
        return next(shown, next(iter(failed), None))


def is_rejection(observation: Observation) -> bool:
    """Return whether a server rejected the password in so many words."""
    return observation.cause is Cause.CREDENTIALS and not unanswered(observation)


def is_untrusted(observation: Observation) -> bool:
    """Return whether the server's certificate has an issuer that is not trusted."""
    return observation.cause is Cause.TLS and observation.detail.startswith(UNTRUSTED_ISSUER)


_SHOWN_BY: dict[Verdict, Callable[[Observation], bool]] = {
    Verdict.REJECTED: is_rejection,
    Verdict.UNTRUSTED: is_untrusted,
    Verdict.OFFLINE: lambda observation: observation.cause is Cause.OFFLINE,
}
"""The observation that shows a verdict, the most certain first."""


def report(results: Sequence[ServerResult]) -> LoginReport:
    """Judge the results of all servers tested."""
    if any(result.works for result in results):
        return LoginReport(Verdict.WORKS, tuple(results))
    for verdict, shows in _SHOWN_BY.items():
        if any(shows(result.observation) for result in results):
            return LoginReport(verdict, tuple(results))
    return LoginReport(Verdict.OPEN, tuple(results))


def login_targets(
    address: str,
    servers: MailboxServers,
    username: str,
    password: SecretStr,
    ca_file: Path | None = None,
    client: OAuth2 | None = None,
) -> list[Target]:
    """Return the targets to test. Where the catalogue knows the form of the user name, it wins over `username`.

    `client`: for a login by OAuth 2, instead of the password.
    """
    made = []
    for candidate in servers.candidates:
        known = catalogue_server(servers.provider.key, candidate.kind) if servers.provider else None
        login = Login(
            username=known.username_for(address) if known else username, password=password, oauth2=client
        )
        made.append(
            Target(
                name=f"{address}/{candidate.kind}",
                kind=candidate.kind,
                host=candidate.host,
                port=candidate.port,
                tls=candidate.tls,
                ca_file=ca_file,
                login=login,
            )
        )
    return made


async def try_logins(
    targets: Sequence[Target],
    guard: Guard | None = None,
    *,
    seconds: float = TEST_SECONDS,
    tokens: AccessTokens | None = None,
) -> AsyncGenerator[LoginEvent, None]:
    """Probe the targets, and yield each phase as it passes, and the result of each server.

    One after the other until a server accepts the password, then the rest at once. A rejected password goes to no
    other server, so that one typing error is one rejection. Nor does a password without an answer: that may be a
    slow rejection, as for `mailwatch run`. A caller that closes the generator, or is cancelled, ends the tests.

    `guard` (default: that of a config without `guard:`) decides whether a failure is our own line's. Each server
    has `seconds`. `tokens` has those of logins by OAuth 2.
    """
    events: asyncio.Queue[LoginEvent | None] = asyncio.Queue()
    running = asyncio.create_task(_LoginTest(events, guard, seconds, tokens).run(targets))
    running.add_done_callback(lambda _: events.put_nowait(None))
    try:
        while (event := await events.get()) is not None:
            yield event
        await running
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


class _LoginTest:
    def __init__(
        self,
        events: asyncio.Queue[LoginEvent | None],
        guard: Guard | None,
        seconds: float,
        tokens: AccessTokens | None,
    ) -> None:
        self._events, self._seconds, self._tokens = events, seconds, tokens
        self._contexts = TlsContexts()
        # With the defaults of a config without these sections.
        self._guard = guard or Guard.from_config(GuardSection())
        self._expiry = ExpiryAttribution(
            self._guard, [split_endpoint(server) for server in ClockSection().servers]
        )

    async def run(self, targets: Sequence[Target]) -> None:
        for number, target in enumerate(targets):
            observation = await self._test(target)
            if observation.cause is Cause.CREDENTIALS:
                return
            if observation.cause is None:
                await asyncio.gather(*(self._test(other) for other in targets[number + 1 :]))
                return

    async def _test(self, target: Target) -> Observation:
        start, observation = ProbeStart(), None

        def listen(phase: Phase, event: str, microseconds: int) -> None:
            self._events.put_nowait(PhaseEvent(target, phase, Progress(event), microseconds / 1000))

        try:
            request = ProbeRequest(
                replace(target, timeout=self._seconds),
                scheduled_at=start.at,
                contexts=self._contexts,
                listener=listen,
                tokens=self._tokens,
            )
            observation = await observe(request)
            # There is no ledger yet: no password is known to have been accepted.
            judged = LoginBackoff().judge_silence(target, observation, lambda _: "")
            judged = await self._of_our_line(target, await self._expiry.attribute(judged))
        except Exception as error:
            # An error at one server must not lose the results of the others.
            judged = internal_error_observation(target, start.at, start, error, observation)
        self._events.put_nowait(ServerResult(target, judged))
        return judged

    async def _of_our_line(self, target: Target, observation: Observation) -> Observation:
        """Return a failure as unknown if our own line was down, or if DNS does not work here."""
        if observation.outcome is not Outcome.DOWN or self._guard is None or _is_near(target, observation):
            return observation
        dns = resolver_matters(observation, target.host)
        answer = await self._guard.check(target.host, dns=dns, since=observation.started_at)
        return attribute(observation, answer)


def _is_near(target: Target, observation: Observation) -> bool:
    """Return whether the server is in our own network, where the line to the internet does not matter."""
    attempt = observation.deciding_attempt
    host = peer_host(attempt.peer) if attempt is not None and attempt.peer else target.host
    return is_loopback(host) or (parse_address(host) is not None and not is_outside(host))
