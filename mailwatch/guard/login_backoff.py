"""Limits the retries of rejected logins, and decides whether a rejection is the owner's fault or the provider's.

A password that got no answer counts as rejected while the server has never accepted it: some servers (Courier, by
five seconds) delay the refusal of a wrong password beyond a short timeout, and each try counts there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from mailwatch import monotonic
from mailwatch.model import Attempt, Cause, Kind, Observation, Outcome, Phase
from mailwatch.settings import Login, Target
from mailwatch.times import HOUR_MS, Millis

BACKOFF_MS: tuple[Millis, ...] = (5 * 60_000, 20 * 60_000, HOUR_MS)
"""Milliseconds to wait after the first, second and third rejection within an hour."""
CORRELATION_WINDOW_MS: Millis = 10 * 60_000
"""Milliseconds within which the first rejections of several accounts count as simultaneous."""
PHASES_AFTER_LOGIN = frozenset({Phase.MAILBOX, Phase.FETCH, Phase.SUBMIT})
"""Phases after the login: a probe that fails in one of them has logged in."""
AccountKey = tuple[str, ...]
"""An account (provider, user name), or an account at one server (host and port in addition)."""
_UNANSWERED_DETAIL = (
    "{} after the password was sent, which this server has never accepted; it may reject a wrong password"
    " more slowly: check the password, or set a longer timeout"
)


@dataclass(slots=True)
class LoginBackoff:
    """Allows at most three rejected logins an hour for an account, over all its targets and over restarts."""

    backoff: tuple[Millis, ...] = BACKOFF_MS
    _rejected: dict[AccountKey, list[Millis]] = field(default_factory=dict)
    _attempting: set[AccountKey] = field(default_factory=set)
    _accepted: dict[AccountKey, str] = field(default_factory=dict)
    _since: dict[AccountKey, Millis] = field(default_factory=dict)
    _tried: dict[AccountKey, str] = field(default_factory=dict)
    _limits: dict[AccountKey, asyncio.Semaphore] = field(default_factory=dict)

    def limits(self, target: Target) -> list[asyncio.Semaphore]:
        """Return the semaphores that limit an account to three logins at a time: if all fail, there are only
        three.

        Acquire them in this order, which is the same for all targets.
        """
        accounts = sorted({_account_key(end) or (target.name, "") for end in target.endpoints})
        return [self._limits.setdefault(account, asyncio.Semaphore(3)) for account in accounts]

    def may_login(self, target: Target, at: Millis) -> bool:
        """Return whether the target may log in now; False also for targets without a login.

        `at` is on the steady clock: an hour is an hour. While one target of a suspect account tries its login, the
        others wait for its result. A round trip may log in when both its accounts may.
        """
        keys = _all_keys(target)
        if any(end.login is None for end in target.endpoints) or not all(
            self._account_may_login(key, at) for key in keys
        ):
            return False
        self._attempting.update(key for key in keys if self._rejected.get(key))
        return True

    def _account_may_login(self, key: AccountKey, at: Millis) -> bool:
        times = self._rejected.get(key)
        if not times:
            return True
        recent = [time for time in times if time > at - HOUR_MS]
        if recent and at < recent[-1] + self.backoff[min(len(recent), len(self.backoff)) - 1]:
            return False
        return key not in self._attempting

    def credentials_changed(self, target: Target, secret: str) -> None:
        """Forget rejections of another secret than the current one (`secret` is its digest, "" without one).

        For access that its owner granted anew: a provider does not count wrong tokens towards locking an account.
        """
        account = _account_key(target)
        if account in self._rejected and secret and self._tried.get(account, "") not in ("", secret):
            del self._rejected[account]
            self._since.pop(account, None)

    def release(self, target: Target) -> None:
        """Record that the probe that `may_login` allowed has ended, with any result."""
        self._attempting.difference_update(_all_keys(target))

    def record(self, target: Target, observation: Observation, at: Millis) -> None:
        """Record the result of a probe that ended `at`, live or restored from the ledger."""
        account = _account_key(target)
        if account is None or not observation.with_login:
            return
        self._tried[account] = observation.secret
        silent = observation.cause is Cause.CREDENTIALS and unanswered(observation)
        if silent:
            # If another server of the provider accepts the password, it is good: only this server waits.
            good = self._accepts(account, observation.secret)
            self._count_rejection(_server_key(target, account) if good else account, at)
        elif observation.cause is Cause.CREDENTIALS and observation.failed_phase not in PHASES_AFTER_LOGIN:
            self._count_rejection(account, at)
            if not _is_owner_setting(observation):
                self._since.setdefault(account, at)
        elif observation.cause is None or observation.failed_phase in PHASES_AFTER_LOGIN:
            self._since.pop(account, None)
            for key in (account, _server_key(target, account)):
                self._rejected.pop(key, None)
                self._accepted[key] = observation.secret

    def _count_rejection(self, key: AccountKey, at: Millis) -> None:
        times = self._rejected.setdefault(key, [])
        times.append(at)
        del times[:-3]

    def _accepts(self, key: AccountKey, secret: str) -> bool:
        return bool(secret) and self._accepted.get(key) == secret

    def accepted_by_server(self, target: Target, secret: str) -> bool:
        """Return whether this same server has accepted this same secret (its keyed digest) before."""
        account = _account_key(target)
        return account is not None and self._accepts(_server_key(target, account), secret)

    def judge_silence(
        self, target: Target, observation: Observation, secret_of: Callable[[Login], str]
    ) -> Observation:
        """Return silence as unknown after a password that this server never accepted: it may be a slow refusal.

        A password that it accepted before is right, so then the silence is the server's failure. `secret_of`
        returns the keyed digest of a login's secret, "" without one.
        """
        end = unanswered_endpoint(target, observation)
        if end is None or end.login is None or self.accepted_by_server(end, secret_of(end.login)):
            return observation
        detail = _UNANSWERED_DETAIL.format(observation.detail)
        return replace(observation, outcome=Outcome.UNKNOWN, cause=Cause.CREDENTIALS, detail=detail)

    def correlated_rejections(self, target: Target) -> int:
        """Return how many accounts of the provider, this one included, began to be rejected together.

        Only accounts count whose same password was accepted before, by the keyed digest on record: their owners
        did not mistype it. 0 when this account is not one of them.
        """
        account = _account_key(target)
        if account is None or account not in self._since or not self._rejected_after_acceptance(account):
            return 0
        began = self._since[account]
        return sum(
            other[0] == account[0]
            and self._rejected_after_acceptance(other)
            and abs(since - began) <= CORRELATION_WINDOW_MS
            for other, since in self._since.items()
        )

    def _rejected_after_acceptance(self, account: AccountKey) -> bool:
        return bool(self._accepted.get(account)) and self._accepted[account] == self._tried.get(account)

    def restore(self, observations: Iterable[tuple[Target, Observation]], at: Millis) -> None:
        """Restore the state from the ledger at the start `at`, in ledger order over all targets of an account.

        Observations of this boot use the steady clock. One of another boot that seems to lie in the future was
        written before the wall clock was set back: it counts as just now. Accounts already tried since the start
        are skipped.
        """
        seen = set(self._tried)
        for target, observation in observations:
            if _account_key(target) not in seen:
                self.record(target, observation, min(_ended_at(observation, at), at))


def _ended_at(observation: Observation, at: Millis) -> Millis:
    """Return when a probe ended, on the clock that shows `at` now."""
    clock = observation.clock
    if clock is None or clock.boot != monotonic.origin().boot:
        return observation.ended_at
    return at - (monotonic.milliseconds() - clock.end)


def _is_owner_setting(observation: Observation) -> bool:
    """Return whether the account or a setting of its owner was refused, not the password.

    Two accounts disabled together are no broken login.
    """
    deciding = observation.deciding_attempt
    return deciding is not None and "owner" in (deciding.facts or {})


def unanswered(observation: Observation) -> bool:
    """Return whether a password was sent and got no answer: silence, or a disconnect."""
    last = observation.attempts[-1] if observation.attempts else None
    return last is not None and _is_unanswered(last)


def unanswered_endpoint(target: Target, observation: Observation) -> Target | None:
    """Return the server that did not answer a password: the target, or one end of a round trip."""
    if target.login is None and target.kind is not Kind.ROUNDTRIP:
        return None
    if not unanswered(observation):
        return None
    if target.kind is not Kind.ROUNDTRIP:
        return target
    last = observation.attempts[-1]
    if last.cause is not observation.cause:
        return None
    names = zip(target.endpoints, ("via", "to"), strict=True)
    return next((end for end, name in names if (last.facts or {}).get("end") == name), None)


def _is_unanswered(attempt: Attempt) -> bool:
    sent = bool(attempt.facts and attempt.facts.get("password_sent"))
    return sent and attempt.failed_phase is Phase.AUTH and attempt.cause in (Cause.TIMEOUT, Cause.DISCONNECTED)


def endpoint_observations(target: Target, observation: Observation) -> Iterator[tuple[Target, Observation]]:
    """Split the observation of a round trip into one for the login at each end."""
    for end, name in zip(target.endpoints, ("via", "to"), strict=False):
        for attempt in observation.attempts:
            if attempt.facts and attempt.facts.get("end") == name and Phase.AUTH in attempt.phases:
                rejected = attempt.failed_phase is Phase.AUTH
                silent = _is_unanswered(attempt) and observation.cause is Cause.CREDENTIALS
                if not rejected or silent or attempt.cause is Cause.CREDENTIALS:
                    cause = Cause.CREDENTIALS if rejected else None
                    endpoint_observation = replace(
                        observation, cause=cause, ended_at=attempt.ended_at, with_login=True
                    )
                    yield end, replace(endpoint_observation, attempts=(attempt,))


def _account_key(target: Target) -> AccountKey | None:
    if target.login is None:
        return None
    return target.provider or target.host, target.login.username


def _server_key(target: Target, account: AccountKey) -> AccountKey:
    return (*account, target.host, str(target.port))


def _all_keys(target: Target) -> set[AccountKey]:
    accounts = [(end, account) for end in target.endpoints if (account := _account_key(end))]
    return {key for end, account in accounts for key in (account, _server_key(end, account))}
