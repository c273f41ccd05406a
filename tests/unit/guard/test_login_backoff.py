"""An account is never locked by its own watchman: at most three rejected logins an hour, come what may."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from mailwatch import monotonic
from mailwatch.facts import AttemptFacts
from mailwatch.guard.login_backoff import BACKOFF_MS, LoginBackoff
from mailwatch.model import Attempt, Cause, ClockSpan, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.monitor.restore import restore_targets
from mailwatch.settings import Login, Target
from mailwatch.times import HOUR_MS, now
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.scripted_server import CLOSE, RESET, SILENCE, Step, scripted_server

MINUTE = 60_000
LOGIN = Login(username="a@example.org", password=SecretStr("secret"))


def target(kind: Kind = Kind.IMAP, login: Login | None = LOGIN) -> Target:
    return Target(name=kind.value, kind=kind, host=f"{kind}.example.org", port=1, provider="lab", login=login)


def observed(at: int, cause: Cause | None, *, with_login: bool = True, secret: str = "d") -> Observation:
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


def attempt(backoff: LoginBackoff, at: int, cause: Cause | None, which: Target | None = None) -> bool:
    """One probe that ends at once; whether it was made with the login."""
    which = which or target()
    allowed = backoff.may_login(which, at)
    secret = which.login.password.get_secret_value() if which.login else ""
    backoff.record(which, observed(at, cause, with_login=allowed, secret=secret), at)
    backoff.release(which)
    return allowed


def test_each_rejection_delays_the_next_login_further() -> None:
    backoff = LoginBackoff()
    tried = [minute for minute in range(60) if attempt(backoff, minute * MINUTE, Cause.CREDENTIALS)]
    assert tried == [0, 5, 25]
    assert BACKOFF_MS == (5 * MINUTE, 20 * MINUTE, HOUR_MS)


@given(st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.sampled_from([Kind.IMAP, Kind.SMTP])), max_size=200))
def test_no_hour_has_more_than_three_rejections_over_all_targets(observations: list[tuple[int, Kind]]) -> None:
    backoff, at, rejected = LoginBackoff(), 0, []
    for wait, kind in observations:
        at += wait
        if attempt(backoff, at, Cause.CREDENTIALS, target(kind)):
            rejected.append(at)
    for begin in rejected:
        assert sum(begin <= time < begin + HOUR_MS for time in rejected) <= 3


def test_a_login_that_works_forgets_the_rejections() -> None:
    backoff = LoginBackoff()
    assert attempt(backoff, 0, Cause.CREDENTIALS)
    assert not attempt(backoff, MINUTE, None)
    assert attempt(backoff, 6 * MINUTE, None)
    assert attempt(backoff, 7 * MINUTE, None)


def test_a_login_that_works_forgets_the_rejections_although_the_mailbox_is_broken() -> None:
    backoff = LoginBackoff()
    assert attempt(backoff, 0, Cause.CREDENTIALS)
    assert backoff.may_login(target(Kind.IMAP), 6 * MINUTE)
    backoff.record(target(), replace(observed(6 * MINUTE, Cause.MAILBOX), failed_phase=Phase.MAILBOX), 6 * MINUTE)
    backoff.release(target(Kind.IMAP))
    assert backoff.may_login(target(Kind.IMAP), 7 * MINUTE)
    assert backoff.may_login(target(Kind.SMTP), 7 * MINUTE)


def test_other_failures_do_not_hold_logins_back() -> None:
    backoff = LoginBackoff()
    assert all(attempt(backoff, at, Cause.TIMEOUT) for at in range(10))


def test_the_other_targets_of_a_suspect_account_wait_for_its_next_login() -> None:
    backoff = LoginBackoff()
    attempt(backoff, 0, Cause.CREDENTIALS)
    assert backoff.may_login(target(Kind.IMAP), 6 * MINUTE)
    assert not backoff.may_login(target(Kind.SMTP), 6 * MINUTE)
    backoff.release(target(Kind.IMAP))
    assert backoff.may_login(target(Kind.SMTP), 6 * MINUTE)


def test_back_off_survives_a_restart_and_a_clock_set_back() -> None:
    backoff = LoginBackoff()
    observations = [observed(0, Cause.CREDENTIALS), observed(MINUTE, Cause.CREDENTIALS, with_login=False)]
    backoff.restore(((target(), observation) for observation in observations), 2 * MINUTE)
    assert not backoff.may_login(target(), 4 * MINUTE)
    assert not backoff.may_login(target(), -3 * HOUR_MS)


@pytest.mark.parametrize("wrong", [-365 * 24 * HOUR_MS, 365 * 24 * HOUR_MS])
def test_the_age_of_a_rejection_in_this_boot_ignores_clock_steps(wrong: int) -> None:
    clock = ClockSpan(monotonic.origin().boot, 0, monotonic.milliseconds() - 6 * MINUTE)
    backoff, at = LoginBackoff(), 10 * HOUR_MS
    backoff.restore([(target(), replace(observed(at + wrong, Cause.CREDENTIALS), clock=clock))], at)
    assert not backoff.may_login(target(), at - 2 * MINUTE)
    assert backoff.may_login(target(), at)


def test_a_reload_does_not_count_a_rejection_twice() -> None:
    backoff = LoginBackoff()
    attempt(backoff, 0, Cause.CREDENTIALS)
    backoff.restore([(target(), observed(0, Cause.CREDENTIALS, secret="secret"))], MINUTE)
    assert backoff.may_login(target(), 6 * MINUTE)


def test_a_target_without_a_login_is_never_asked_for_one() -> None:
    assert not LoginBackoff().may_login(target(login=None), 0)


def named(user: str, *, password: str = "secret", provider: str = "lab") -> Target:
    login = Login(username=user, password=SecretStr(password))
    return Target(name=user, kind=Kind.IMAP, host="imap", port=1, provider=provider, login=login)


def test_good_passwords_that_fail_together_are_distinguished_from_one_alone() -> None:
    backoff = LoginBackoff()
    for user in "abc":
        attempt(backoff, 0, None, named(user))
    attempt(backoff, HOUR_MS, Cause.CREDENTIALS, named("a"))
    assert backoff.correlated_rejections(named("a")) == 1
    attempt(backoff, HOUR_MS + 2 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert backoff.correlated_rejections(named("a")) == 2
    assert backoff.correlated_rejections(named("b")) == 2
    assert backoff.correlated_rejections(named("c")) == 0
    # As soon as one gets in again, the other's rejection is its own.
    attempt(backoff, HOUR_MS + 8 * MINUTE, None, named("a"))
    assert backoff.correlated_rejections(named("b")) == 1


def test_a_password_that_never_worked_proves_nothing() -> None:
    backoff = LoginBackoff()
    attempt(backoff, 0, None, named("a"))
    attempt(backoff, MINUTE, Cause.CREDENTIALS, named("a"))
    attempt(backoff, MINUTE, Cause.CREDENTIALS, named("never good"))
    assert backoff.correlated_rejections(named("a")) == 1
    assert backoff.correlated_rejections(named("never good")) == 0


def test_a_changed_password_another_provider_and_another_time_prove_nothing() -> None:
    backoff = LoginBackoff()
    for who in (named("a"), named("b"), named("c", provider="other")):
        attempt(backoff, 0, None, who)
    attempt(backoff, HOUR_MS, Cause.CREDENTIALS, named("c", provider="other"))
    attempt(backoff, HOUR_MS, Cause.CREDENTIALS, named("a", password="changed"))
    attempt(backoff, HOUR_MS + MINUTE, Cause.CREDENTIALS, named("b"))
    assert backoff.correlated_rejections(named("a")) == 0
    assert backoff.correlated_rejections(named("b")) == 1


def test_accounts_that_begin_to_fail_at_different_times_do_not_count_together() -> None:
    backoff = LoginBackoff()
    for user in "ab":
        attempt(backoff, 0, None, named(user))
    attempt(backoff, HOUR_MS, Cause.CREDENTIALS, named("a"))
    attempt(backoff, HOUR_MS + 11 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert backoff.correlated_rejections(named("a")) == 1
    assert backoff.correlated_rejections(named("b")) == 1


def test_two_targets_of_one_account_are_one_account() -> None:
    backoff = LoginBackoff()
    attempt(backoff, 0, None, target(Kind.IMAP))
    attempt(backoff, MINUTE, Cause.CREDENTIALS, target(Kind.IMAP))
    assert not attempt(backoff, MINUTE, Cause.CREDENTIALS, target(Kind.SMTP))
    assert backoff.correlated_rejections(target(Kind.SMTP)) == 1


def test_without_a_password_nothing_is_known_to_be_the_same() -> None:
    backoff = LoginBackoff()
    for user in "ab":
        attempt(backoff, 0, None, named(user, password=""))
        attempt(backoff, MINUTE, Cause.CREDENTIALS, named(user, password=""))
    assert backoff.correlated_rejections(named("a")) == 0


def test_a_restart_remembers_which_password_was_accepted() -> None:
    backoff = LoginBackoff()
    for user in "ab":
        backoff.restore([(named(user), observed(0, None, secret="old"))], HOUR_MS)
        backoff.record(
            named(user), observed(HOUR_MS, Cause.CREDENTIALS, secret="new" if user == "a" else "old"), HOUR_MS
        )
    assert backoff.correlated_rejections(named("a")) == 0
    assert backoff.correlated_rejections(named("b")) == 1


async def taken_up(
    folder: Path, targets: list[Target], observations: list[tuple[Target, int, Cause | None]]
) -> LoginBackoff:
    """A start over a ledger with these probes, each so many minutes ago."""
    harness = PipelineHarness(folder)
    await harness.writer.start()
    for which, minutes, cause in observations:
        at = now() - minutes * MINUTE
        await harness.pipeline.recorder.append(
            "observation", at, which.name, replace(observed(at, cause), target=which.name)
        )
    await restore_targets(harness.pipeline, harness.reader, targets)
    await harness.close()
    return harness.pipeline.runner.login_backoff


async def test_a_restart_reads_the_observations_of_an_accounts_targets_in_their_order(
    tmp_path: Path,
) -> None:
    imap, smtp = target(Kind.IMAP), target(Kind.SMTP)
    backoff = await taken_up(
        tmp_path, [imap, smtp], [(smtp, 30, None), (imap, 29, None), (imap, 1, Cause.CREDENTIALS)]
    )
    assert not backoff.may_login(imap, now())
    assert not backoff.may_login(smtp, now())


async def test_a_restart_does_not_let_old_rejections_begin_together(tmp_path: Path) -> None:
    ours, theirs = (replace(named(user), name=user) for user in ("a", "b"))
    bad = Cause.CREDENTIALS
    observations = [(ours, 200, None), (theirs, 199, None), (ours, 150, bad), (theirs, 90, bad), (ours, 35, bad)]
    backoff = await taken_up(tmp_path, [ours, theirs], [*observations, (theirs, 30, bad)])
    assert backoff.correlated_rejections(ours) == 1


def silent(at: int, cause: Cause = Cause.CREDENTIALS, *, secret: str = "d") -> Observation:
    """A probe that sent the password and got no answer: by default one that proves nothing."""
    made = Attempt(
        started_at=at,
        ended_at=at,
        phases={Phase.AUTH: 1},
        cause=Cause.TIMEOUT,
        failed_phase=Phase.AUTH,
        facts={"password_sent": 1},
    )
    return replace(observed(at, cause, secret=secret), failed_phase=Phase.AUTH, attempts=(made,))


def test_a_password_that_got_no_answer_counts_as_one_that_was_rejected() -> None:
    backoff, sent = LoginBackoff(), []
    for minute in range(60):
        if backoff.may_login(target(), minute * MINUTE):
            sent.append(minute)
            backoff.record(target(), silent(minute * MINUTE), minute * MINUTE)
        backoff.release(target())
    assert sent == [0, 5, 25]
    assert not backoff.may_login(target(Kind.SMTP), 59 * MINUTE)


def test_silence_of_a_server_that_accepted_the_password_holds_no_login_back() -> None:
    backoff = LoginBackoff()
    for at in range(10):
        assert backoff.may_login(target(), at)
        backoff.record(target(), silent(at, Cause.TIMEOUT), at)
        backoff.release(target())


def test_silence_at_one_server_holds_back_no_other_that_takes_the_same_password() -> None:
    backoff = LoginBackoff()
    backoff.record(target(Kind.IMAP), observed(0, None), 0)
    backoff.record(target(Kind.SMTP), silent(MINUTE), MINUTE)
    assert not backoff.may_login(target(Kind.SMTP), 2 * MINUTE)
    assert backoff.may_login(target(Kind.IMAP), 2 * MINUTE)
    backoff.record(target(Kind.SMTP), observed(7 * MINUTE, None), 7 * MINUTE)
    assert backoff.may_login(target(Kind.SMTP), 7 * MINUTE)


def test_accepted_means_the_same_password_at_the_same_server() -> None:
    backoff = LoginBackoff()
    backoff.record(target(Kind.IMAP), observed(0, None), 0)
    backoff.record(target(Kind.SMTP), replace(observed(0, Cause.REJECTED), failed_phase=Phase.SUBMIT), 0)
    assert backoff.accepted_by_server(target(Kind.IMAP), "d")
    assert backoff.accepted_by_server(target(Kind.SMTP), "d")
    assert not backoff.accepted_by_server(target(Kind.IMAP), "another")
    assert not backoff.accepted_by_server(target(Kind.POP3), "d")
    assert not backoff.accepted_by_server(replace(target(Kind.IMAP), port=2), "d")
    backoff.record(target(Kind.POP3), observed(0, None, secret=""), 0)
    assert not backoff.accepted_by_server(target(Kind.POP3), "")


def test_silence_is_no_rejection_that_accounts_share() -> None:
    backoff = LoginBackoff()
    for user in "ab":
        backoff.record(named(user), observed(0, None), 0)
        backoff.record(named(user), silent(HOUR_MS), HOUR_MS)
    assert backoff.correlated_rejections(named("a")) == 0


async def test_a_restart_remembers_what_was_accepted_and_what_got_no_answer(tmp_path: Path) -> None:
    imap, smtp = target(Kind.IMAP), replace(target(Kind.SMTP), provider="another")
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    for which, seen in ((imap, observed(now() - 500 * MINUTE, None)), (smtp, silent(now() - MINUTE))):
        await harness.pipeline.recorder.append(
            "observation", seen.ended_at, which.name, replace(seen, target=which.name)
        )
    await restore_targets(harness.pipeline, harness.reader, [imap, smtp])
    await harness.close()
    backoff = harness.pipeline.runner.login_backoff
    assert backoff.accepted_by_server(imap, "d")
    assert backoff.may_login(imap, now())
    assert not backoff.may_login(smtp, now())


IN: list[Step] = [b"* OK [CAPABILITY IMAP4rev1] hi\r\n", "LOGIN "]
OUT: list[Step] = ["LOGOUT", b"* BYE\r\nTAG OK\r\n"]
ACCEPTED: list[Step] = [*IN, b"TAG OK in\r\n", "EXAMINE", b"* 0 EXISTS\r\nTAG OK\r\n", *OUT]
GREETS: list[Step] = [IN[0], *OUT]


@pytest.mark.parametrize("end", [SILENCE, CLOSE, RESET])
async def test_silence_to_a_never_accepted_password_is_unknown_and_backs_off(tmp_path: Path, end: Step) -> None:
    received: list[bytes] = []
    async with scripted_server([*IN, end], then=GREETS, received=received) as port:
        observation = await probed(tmp_path, replace(named("a"), host="127.0.0.1", port=port), 3)
    assert [(one["outcome"], one["cause"]) for one in observation] == [("unknown", "credentials")] * 3
    assert "longer timeout" in observation[0]["detail"]
    assert observation[0]["attempts"][-1]["facts"] == {"password_sent": 1}
    assert observation[0]["attempts"][-1]["cause"] in ("timeout", "disconnected")
    assert [one["login"] for one in observation] == [True, False, False]
    assert sum(b"LOGIN" in line for line in received) == 1


@pytest.mark.parametrize("end", [SILENCE, CLOSE])
async def test_silence_to_an_accepted_password_is_the_servers_failure(tmp_path: Path, end: Step) -> None:
    async with scripted_server(ACCEPTED, then=[*IN, end]) as port:
        observation = await probed(tmp_path, replace(named("a"), host="127.0.0.1", port=port), 4)
    assert [one["outcome"] for one in observation] == ["up", "down", "down", "down"]
    assert all(one["login"] and one["failed_phase"] == "auth" for one in observation[1:])


async def test_silence_before_the_password_is_the_servers_failure(tmp_path: Path) -> None:
    """AUTH LOGIN asks for the name first: nothing that could be rejected has been sent by then."""
    hello: list[Step] = [b"220 hi\r\n", "EHLO", b"250-hi\r\n250 AUTH LOGIN\r\n", "AUTH LOGIN"]
    smtp = replace(target(Kind.SMTP), host="127.0.0.1")
    asks_for_both: list[Step] = [*hello, b"334 VXNlcm5hbWU6\r\n", ".", b"334 UGFzc3dvcmQ6\r\n", ".", SILENCE]
    async with scripted_server([*hello, SILENCE]) as before, scripted_server(asks_for_both) as after:
        (first,), (second,) = await asyncio.gather(
            probed(tmp_path / "1", replace(smtp, port=before), 1),
            probed(tmp_path / "2", replace(smtp, port=after), 1),
        )
    assert (first["outcome"], first["cause"]) == ("down", "timeout")
    assert (second["outcome"], second["cause"]) == ("unknown", "credentials")


async def probed(folder: Path, which: Target, times: int) -> list[dict[str, Any]]:
    """What a monitor over a fresh ledger puts on record of so many probes."""
    folder.mkdir(exist_ok=True)
    harness = PipelineHarness(folder)
    await harness.writer.start()
    which = replace(which, tls=TlsMode.NONE, timeout=1.5)
    harness.add_target(which)
    async with harness.ticking():
        for _ in range(times):
            await harness.probe(which)
    recorded = harness.recorded("observation")
    await harness.close()
    return recorded


@pytest.mark.parametrize("facts", [None, {"owner": "account-state"}])
def test_two_accounts_that_are_disabled_are_no_broken_login(facts: AttemptFacts | None) -> None:
    """What is refused is the account and not its password: it holds back the login, and accuses nobody."""
    backoff = LoginBackoff()
    targets = [target(login=Login(username=name, password=SecretStr("secret"))) for name in ("a", "b")]
    for each in targets:
        backoff.record(each, observed(0, None), 0)
    for each in targets:
        refused = Attempt(started_at=1, ended_at=1, cause=Cause.CREDENTIALS, failed_phase=Phase.AUTH, facts=facts)
        observation = replace(observed(1, Cause.CREDENTIALS), failed_phase=Phase.AUTH, attempts=(refused,))
        backoff.record(each, observation, 1)
    assert backoff.correlated_rejections(targets[0]) == (2 if facts is None else 0)
    assert not backoff.may_login(targets[0], 2)


def test_a_setting_that_shuts_the_mailbox_after_the_login_is_no_rejected_password() -> None:
    backoff = LoginBackoff()
    backoff.record(target(), replace(observed(0, Cause.CREDENTIALS), failed_phase=Phase.MAILBOX), 0)
    assert backoff.may_login(target(), 1)


@pytest.mark.parametrize(
    ("more", "verdict"), [([], ("down", "timeout")), ([b"+OK\r\n", "PASS "], ("unknown", "credentials"))]
)
async def test_pop3_sends_its_password_with_pass_and_not_before(
    tmp_path: Path, more: list[Step], verdict: tuple[str, str]
) -> None:
    script: list[Step] = [b"+OK hi\r\n", "CAPA", b"+OK\r\nUSER\r\n.\r\n", "USER ", *more, SILENCE]
    async with scripted_server(script) as port:
        pop3 = replace(named("a"), kind=Kind.POP3, host="127.0.0.1", port=port)
        (observation,) = await probed(tmp_path, pop3, 1)
    assert (observation["outcome"], observation["cause"]) == verdict
