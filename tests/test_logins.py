"""An account is never locked by its own watchman: at most three rejected logins an hour, come what may."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch import monotonic
from mailwatch.logins import HOUR, WAITS, LoginGate
from mailwatch.models import Cause, ClockSpan, Kind, Login, Observation, Outcome, Phase, Target, now
from mailwatch.takeup import take_up
from tests.hall import Hall

MINUTE = 60_000
LOGIN = Login(username="a@example.org", password=SecretStr("secret"))


def target(kind: Kind = Kind.IMAP, login: Login | None = LOGIN) -> Target:
    return Target(name=kind.value, kind=kind, host=f"{kind}.example.org", port=1, provider="lab", login=login)


def looked(at: int, cause: Cause | None, *, with_login: bool = True, secret: str = "d") -> Observation:
    outcome = Outcome.UP if cause is None else cause.outcome
    return Observation(
        target="t",
        scheduled_at=at,
        started_at=at,
        ended_at=at,
        outcome=outcome,
        cause=cause,
        with_login=with_login,
        secret=secret if with_login else "",
    )


def attempt(gate: LoginGate, at: int, cause: Cause | None, which: Target | None = None) -> bool:
    """One look that ends at once; whether it was made with the login."""
    which = which or target()
    allowed = gate.allows(which, at)
    secret = which.login.password.get_secret_value() if which.login else ""
    gate.learn(which, looked(at, cause, with_login=allowed, secret=secret), at)
    gate.release(which)
    return allowed


def test_each_rejection_puts_the_next_try_further_off() -> None:
    gate = LoginGate()
    tried = [minute for minute in range(60) if attempt(gate, minute * MINUTE, Cause.CREDENTIALS)]
    assert tried == [0, 5, 25]
    assert WAITS == (5 * MINUTE, 20 * MINUTE, HOUR)


@given(st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.sampled_from([Kind.IMAP, Kind.SMTP])), max_size=200))
def test_no_hour_has_more_than_three_rejections_over_all_targets(looks: list[tuple[int, Kind]]) -> None:
    gate, at, rejected = LoginGate(), 0, []
    for wait, kind in looks:
        at += wait
        if attempt(gate, at, Cause.CREDENTIALS, target(kind)):
            rejected.append(at)
    for begin in rejected:
        assert sum(begin <= time < begin + HOUR for time in rejected) <= 3


def test_a_login_that_works_forgets_the_rejections() -> None:
    gate = LoginGate()
    assert attempt(gate, 0, Cause.CREDENTIALS)
    assert not attempt(gate, MINUTE, None)
    assert attempt(gate, 6 * MINUTE, None)
    assert attempt(gate, 7 * MINUTE, None)


def test_a_login_that_works_forgets_the_rejections_although_the_mailbox_is_broken() -> None:
    gate = LoginGate()
    assert attempt(gate, 0, Cause.CREDENTIALS)
    assert gate.allows(target(Kind.IMAP), 6 * MINUTE)
    gate.learn(target(), replace(looked(6 * MINUTE, Cause.MAILBOX), failed_phase=Phase.MAILBOX), 6 * MINUTE)
    gate.release(target(Kind.IMAP))
    assert gate.allows(target(Kind.IMAP), 7 * MINUTE)
    assert gate.allows(target(Kind.SMTP), 7 * MINUTE)


def test_other_failures_do_not_hold_logins_back() -> None:
    gate = LoginGate()
    assert all(attempt(gate, at, Cause.TIMEOUT) for at in range(10))


def test_the_other_targets_of_a_suspect_account_wait_for_the_one_that_tries() -> None:
    gate = LoginGate()
    attempt(gate, 0, Cause.CREDENTIALS)
    assert gate.allows(target(Kind.IMAP), 6 * MINUTE)
    assert not gate.allows(target(Kind.SMTP), 6 * MINUTE)
    gate.release(target(Kind.IMAP))
    assert gate.allows(target(Kind.SMTP), 6 * MINUTE)


def test_a_restart_remembers_and_a_clock_set_back_does_not_open_the_gate() -> None:
    gate = LoginGate()
    looks = [looked(0, Cause.CREDENTIALS), looked(MINUTE, Cause.CREDENTIALS, with_login=False)]
    gate.recall(((target(), look) for look in looks), 2 * MINUTE)
    assert not gate.allows(target(), 4 * MINUTE)
    assert not gate.allows(target(), -3 * HOUR)


@pytest.mark.parametrize("wrong", [-365 * 24 * HOUR, 365 * 24 * HOUR])
def test_what_was_rejected_in_this_boot_is_as_old_as_it_is_however_the_clock_was_set(wrong: int) -> None:
    clock = ClockSpan(monotonic.origin().boot, 0, monotonic.milliseconds() - 6 * MINUTE)
    gate, at = LoginGate(), 10 * HOUR
    gate.recall([(target(), replace(looked(at + wrong, Cause.CREDENTIALS), clock=clock))], at)
    assert not gate.allows(target(), at - 2 * MINUTE)
    assert gate.allows(target(), at)


def test_a_reload_does_not_count_a_rejection_twice() -> None:
    gate = LoginGate()
    attempt(gate, 0, Cause.CREDENTIALS)
    gate.recall([(target(), looked(0, Cause.CREDENTIALS, secret="secret"))], MINUTE)
    assert gate.allows(target(), 6 * MINUTE)


def test_a_target_without_a_login_is_never_asked_for_one() -> None:
    assert not LoginGate().allows(target(login=None), 0)


def named(user: str, *, password: str = "secret", provider: str = "lab") -> Target:
    login = Login(username=user, password=SecretStr(password))
    return Target(name=user, kind=Kind.IMAP, host="imap", port=1, provider=provider, login=login)


def test_good_passwords_that_fail_together_are_told_from_one_alone() -> None:
    gate = LoginGate()
    for user in "abc":
        attempt(gate, 0, None, named(user))
    attempt(gate, HOUR, Cause.CREDENTIALS, named("a"))
    assert gate.failing_together(named("a")) == 1
    attempt(gate, HOUR + 2 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.failing_together(named("a")) == 2
    assert gate.failing_together(named("b")) == 2
    assert gate.failing_together(named("c")) == 0
    # As soon as one gets in again, the other's rejection is its own.
    attempt(gate, HOUR + 8 * MINUTE, None, named("a"))
    assert gate.failing_together(named("b")) == 1


def test_a_password_that_never_worked_proves_nothing() -> None:
    gate = LoginGate()
    attempt(gate, 0, None, named("a"))
    attempt(gate, MINUTE, Cause.CREDENTIALS, named("a"))
    attempt(gate, MINUTE, Cause.CREDENTIALS, named("never good"))
    assert gate.failing_together(named("a")) == 1
    assert gate.failing_together(named("never good")) == 0


def test_a_changed_password_another_provider_and_another_time_prove_nothing() -> None:
    gate = LoginGate()
    for who in (named("a"), named("b"), named("c", provider="other")):
        attempt(gate, 0, None, who)
    attempt(gate, HOUR, Cause.CREDENTIALS, named("c", provider="other"))
    attempt(gate, HOUR, Cause.CREDENTIALS, named("a", password="changed"))
    attempt(gate, HOUR + MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.failing_together(named("a")) == 0
    assert gate.failing_together(named("b")) == 1


def test_those_that_begin_to_fail_at_another_time_do_not_fail_together() -> None:
    gate = LoginGate()
    for user in "ab":
        attempt(gate, 0, None, named(user))
    attempt(gate, HOUR, Cause.CREDENTIALS, named("a"))
    attempt(gate, HOUR + 11 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.failing_together(named("a")) == 1
    assert gate.failing_together(named("b")) == 1


def test_two_targets_of_one_account_are_one_account() -> None:
    gate = LoginGate()
    attempt(gate, 0, None, target(Kind.IMAP))
    attempt(gate, MINUTE, Cause.CREDENTIALS, target(Kind.IMAP))
    assert not attempt(gate, MINUTE, Cause.CREDENTIALS, target(Kind.SMTP))
    assert gate.failing_together(target(Kind.SMTP)) == 1


def test_without_a_password_nothing_is_known_to_be_the_same() -> None:
    gate = LoginGate()
    for user in "ab":
        attempt(gate, 0, None, named(user, password=""))
        attempt(gate, MINUTE, Cause.CREDENTIALS, named(user, password=""))
    assert gate.failing_together(named("a")) == 0


def test_a_restart_remembers_which_password_was_accepted() -> None:
    gate = LoginGate()
    for user in "ab":
        gate.recall([(named(user), looked(0, None, secret="old"))], HOUR)
        gate.learn(named(user), looked(HOUR, Cause.CREDENTIALS, secret="new" if user == "a" else "old"), HOUR)
    assert gate.failing_together(named("a")) == 0
    assert gate.failing_together(named("b")) == 1


async def taken_up(
    folder: Path, targets: list[Target], looks: list[tuple[Target, int, Cause | None]]
) -> LoginGate:
    """A start over a ledger with these looks, each so many minutes ago."""
    hall = Hall(folder)
    await hall.writer.start()
    for which, minutes, cause in looks:
        at = now() - minutes * MINUTE
        await hall.monitor.write("observation", at, which.name, replace(looked(at, cause), target=which.name))
    await take_up(hall.monitor, hall.reader, targets)
    await hall.close()
    return hall.monitor.looking.logins


async def test_a_restart_learns_the_looks_of_an_accounts_targets_in_the_order_in_which_they_were_taken(
    tmp_path: Path,
) -> None:
    imap, smtp = target(Kind.IMAP), target(Kind.SMTP)
    gate = await taken_up(
        tmp_path, [imap, smtp], [(smtp, 30, None), (imap, 29, None), (imap, 1, Cause.CREDENTIALS)]
    )
    assert not gate.allows(imap, now())
    assert not gate.allows(smtp, now())


async def test_a_restart_does_not_let_old_rejections_begin_together(tmp_path: Path) -> None:
    ours, theirs = (replace(named(user), name=user) for user in ("a", "b"))
    bad = Cause.CREDENTIALS
    looks = [(ours, 200, None), (theirs, 199, None), (ours, 150, bad), (theirs, 90, bad), (ours, 35, bad)]
    gate = await taken_up(tmp_path, [ours, theirs], [*looks, (theirs, 30, bad)])
    assert gate.failing_together(ours) == 1
