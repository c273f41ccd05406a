"""Rejected logins: how often they may be tried again, and whether they are the owner's fault or the provider's."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from mailwatch import monotonic
from mailwatch.models import Cause, Millis, Observation, Phase, Target

HOUR: Millis = 3_600_000
WAITS: tuple[Millis, ...] = (5 * 60_000, 20 * 60_000, HOUR)
"""After the first, second and third rejection within an hour."""
TOGETHER: Millis = 10 * 60_000
"""Accounts that begin to be rejected within this time begin together."""
AFTER_LOGIN = frozenset({Phase.MAILBOX, Phase.FETCH, Phase.SUBMIT})
"""A look that fails in one of these has logged in."""


@dataclass(slots=True)
class LoginGate:
    """At most three rejected logins an hour for an account, over all its targets and over restarts."""

    waits: tuple[Millis, ...] = WAITS
    _rejected: dict[tuple[str, str], list[Millis]] = field(default_factory=dict)
    _asking: set[tuple[str, str]] = field(default_factory=set)
    _accepted: dict[tuple[str, str], str] = field(default_factory=dict)
    _since: dict[tuple[str, str], Millis] = field(default_factory=dict)
    _tried: dict[tuple[str, str], str] = field(default_factory=dict)
    _slots: dict[tuple[str, str], asyncio.Semaphore] = field(default_factory=dict)

    def slots(self, target: Target) -> list[asyncio.Semaphore]:
        """At most three logins of an account under way: were all rejected, it would still be three.

        To be taken in this order, which is the same for all.
        """
        accounts = sorted({_account(end) or (target.name, "") for end in target.ends})
        return [self._slots.setdefault(account, asyncio.Semaphore(3)) for account in accounts]

    def allows(self, target: Target, at: Millis) -> bool:
        """Whether the target may log in now; False also for targets that have no login.

        `at` is on a clock that nobody sets: an hour is an hour. While one target of a suspect account tries its
        login, the others wait for what comes of it. A round trip may when both its accounts may.
        """
        accounts = {_account(end) for end in target.ends}
        if None in accounts or not all(self._may(account, at) for account in accounts if account):
            return False
        self._asking.update(account for account in accounts if account and self._rejected.get(account))
        return True

    def _may(self, account: tuple[str, str], at: Millis) -> bool:
        times = self._rejected.get(account)
        if not times:
            return True
        recent = [time for time in times if time > at - HOUR]
        if recent and at < recent[-1] + self.waits[min(len(recent), len(self.waits)) - 1]:
            return False
        return account not in self._asking

    def renewed(self, target: Target, secret: str) -> None:
        """Forget rejections of another secret than the one that would be used now (a digest, "" without one).

        For access that its owner granted anew: a provider counts no wrong tokens towards locking an account.
        """
        account = _account(target)
        if account in self._rejected and secret and self._tried.get(account, "") not in ("", secret):
            del self._rejected[account]
            self._since.pop(account, None)

    def release(self, target: Target) -> None:
        """The look that `allows` let through has ended, however it ended."""
        self._asking.difference_update(account for end in target.ends if (account := _account(end)))

    def learn(self, target: Target, observation: Observation, at: Millis) -> None:
        """Take in what came of a look that ended `at`, live or read back from the ledger."""
        account = _account(target)
        if account is None or not observation.with_login:
            return
        self._tried[account] = observation.secret
        if observation.cause is Cause.CREDENTIALS:
            times = self._rejected.setdefault(account, [])
            times.append(at)
            del times[:-3]
            self._since.setdefault(account, at)
        elif observation.cause is None or observation.failed_phase in AFTER_LOGIN:
            self._rejected.pop(account, None)
            self._since.pop(account, None)
            self._accepted[account] = observation.secret

    def failing_together(self, target: Target) -> int:
        """How many accounts of the provider, this one among them, began to be rejected together.

        Only those count whose very password was accepted before, which the record's keyed digest tells: it is
        not the owners who mistyped. 0 when this account is not one of them.
        """
        account = _account(target)
        if account is None or account not in self._since or not self._rejected_good(account):
            return 0
        began = self._since[account]
        return sum(
            other[0] == account[0] and self._rejected_good(other) and abs(since - began) <= TOGETHER
            for other, since in self._since.items()
        )

    def _rejected_good(self, account: tuple[str, str]) -> bool:
        return bool(self._accepted.get(account)) and self._accepted[account] == self._tried.get(account)

    def recall(self, looks: Iterable[tuple[Target, Observation]], at: Millis) -> None:
        """Start-up `at`: learn again what the ledger knows, in its order over all targets of an account.

        By the clock that nobody can set where they are of this boot. Of another one, what seems to be yet to come
        was written before the wall clock was set back: it counts as just now. What this gate saw itself it knows
        better.
        """
        seen = set(self._tried)
        for target, observation in looks:
            if _account(target) not in seen:
                self.learn(target, observation, min(_ended(observation, at), at))


def _ended(observation: Observation, at: Millis) -> Millis:
    """Return when a probe ended, on the clock that shows `at` now."""
    clock = observation.clock
    if clock is None or clock.boot != monotonic.origin().boot:
        return observation.ended_at
    return at - (monotonic.milliseconds() - clock.end)


def end_looks(target: Target, observation: Observation) -> Iterator[tuple[Target, Observation]]:
    """Give what a look at a round trip says of the login at each of its ends, as a look at that end would."""
    for end, name in zip(target.ends, ("via", "to"), strict=False):
        for attempt in observation.attempts:
            if attempt.facts and attempt.facts.get("end") == name and Phase.AUTH in attempt.phases:
                rejected = attempt.failed_phase is Phase.AUTH
                if not rejected or attempt.cause is Cause.CREDENTIALS:
                    cause = attempt.cause if rejected else None
                    yield end, replace(observation, cause=cause, ended_at=attempt.ended_at, with_login=True)


def _account(target: Target) -> tuple[str, str] | None:
    if target.login is None:
        return None
    return target.provider or target.host, target.login.username
