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


def attempt(gate: LoginBackoff, at: int, cause: Cause | None, which: Target | None = None) -> bool:
    """One probe that ends at once; whether it was made with the login."""
    which = which or target()
    allowed = gate.may_login(which, at)
    secret = which.login.password.get_secret_value() if which.login else ""
    gate.record(which, looked(at, cause, with_login=allowed, secret=secret), at)
    gate.release(which)
    return allowed


def test_each_rejection_delays_the_next_login_further() -> None:
    gate = LoginBackoff()
    tried = [minute for minute in range(60) if attempt(gate, minute * MINUTE, Cause.CREDENTIALS)]
    assert tried == [0, 5, 25]
    assert BACKOFF_MS == (5 * MINUTE, 20 * MINUTE, HOUR_MS)


@given(st.lists(st.tuples(st.integers(0, 10 * MINUTE), st.sampled_from([Kind.IMAP, Kind.SMTP])), max_size=200))
def test_no_hour_has_more_than_three_rejections_over_all_targets(looks: list[tuple[int, Kind]]) -> None:
    gate, at, rejected = LoginBackoff(), 0, []
    for wait, kind in looks:
        at += wait
        if attempt(gate, at, Cause.CREDENTIALS, target(kind)):
            rejected.append(at)
    for begin in rejected:
        assert sum(begin <= time < begin + HOUR_MS for time in rejected) <= 3


def test_a_login_that_works_forgets_the_rejections() -> None:
    gate = LoginBackoff()
    assert attempt(gate, 0, Cause.CREDENTIALS)
    assert not attempt(gate, MINUTE, None)
    assert attempt(gate, 6 * MINUTE, None)
    assert attempt(gate, 7 * MINUTE, None)


def test_a_login_that_works_forgets_the_rejections_although_the_mailbox_is_broken() -> None:
    gate = LoginBackoff()
    assert attempt(gate, 0, Cause.CREDENTIALS)
    assert gate.may_login(target(Kind.IMAP), 6 * MINUTE)
    gate.record(target(), replace(looked(6 * MINUTE, Cause.MAILBOX), failed_phase=Phase.MAILBOX), 6 * MINUTE)
    gate.release(target(Kind.IMAP))
    assert gate.may_login(target(Kind.IMAP), 7 * MINUTE)
    assert gate.may_login(target(Kind.SMTP), 7 * MINUTE)


def test_other_failures_do_not_hold_logins_back() -> None:
    gate = LoginBackoff()
    assert all(attempt(gate, at, Cause.TIMEOUT) for at in range(10))


def test_the_other_targets_of_a_suspect_account_wait_for_its_next_login() -> None:
    gate = LoginBackoff()
    attempt(gate, 0, Cause.CREDENTIALS)
    assert gate.may_login(target(Kind.IMAP), 6 * MINUTE)
    assert not gate.may_login(target(Kind.SMTP), 6 * MINUTE)
    gate.release(target(Kind.IMAP))
    assert gate.may_login(target(Kind.SMTP), 6 * MINUTE)


def test_back_off_survives_a_restart_and_a_clock_set_back() -> None:
    gate = LoginBackoff()
    looks = [looked(0, Cause.CREDENTIALS), looked(MINUTE, Cause.CREDENTIALS, with_login=False)]
    gate.restore(((target(), look) for look in looks), 2 * MINUTE)
    assert not gate.may_login(target(), 4 * MINUTE)
    assert not gate.may_login(target(), -3 * HOUR_MS)


@pytest.mark.parametrize("wrong", [-365 * 24 * HOUR_MS, 365 * 24 * HOUR_MS])
def test_the_age_of_a_rejection_in_this_boot_ignores_clock_steps(wrong: int) -> None:
    clock = ClockSpan(monotonic.origin().boot, 0, monotonic.milliseconds() - 6 * MINUTE)
    gate, at = LoginBackoff(), 10 * HOUR_MS
    gate.restore([(target(), replace(looked(at + wrong, Cause.CREDENTIALS), clock=clock))], at)
    assert not gate.may_login(target(), at - 2 * MINUTE)
    assert gate.may_login(target(), at)


def test_a_reload_does_not_count_a_rejection_twice() -> None:
    gate = LoginBackoff()
    attempt(gate, 0, Cause.CREDENTIALS)
    gate.restore([(target(), looked(0, Cause.CREDENTIALS, secret="secret"))], MINUTE)
    assert gate.may_login(target(), 6 * MINUTE)


def test_a_target_without_a_login_is_never_asked_for_one() -> None:
    assert not LoginBackoff().may_login(target(login=None), 0)


def named(user: str, *, password: str = "secret", provider: str = "lab") -> Target:
    login = Login(username=user, password=SecretStr(password))
    return Target(name=user, kind=Kind.IMAP, host="imap", port=1, provider=provider, login=login)


def test_good_passwords_that_fail_together_are_distinguished_from_one_alone() -> None:
    gate = LoginBackoff()
    for user in "abc":
        attempt(gate, 0, None, named(user))
    attempt(gate, HOUR_MS, Cause.CREDENTIALS, named("a"))
    assert gate.correlated_rejections(named("a")) == 1
    attempt(gate, HOUR_MS + 2 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.correlated_rejections(named("a")) == 2
    assert gate.correlated_rejections(named("b")) == 2
    assert gate.correlated_rejections(named("c")) == 0
    # As soon as one gets in again, the other's rejection is its own.
    attempt(gate, HOUR_MS + 8 * MINUTE, None, named("a"))
    assert gate.correlated_rejections(named("b")) == 1


def test_a_password_that_never_worked_proves_nothing() -> None:
    gate = LoginBackoff()
    attempt(gate, 0, None, named("a"))
    attempt(gate, MINUTE, Cause.CREDENTIALS, named("a"))
    attempt(gate, MINUTE, Cause.CREDENTIALS, named("never good"))
    assert gate.correlated_rejections(named("a")) == 1
    assert gate.correlated_rejections(named("never good")) == 0


def test_a_changed_password_another_provider_and_another_time_prove_nothing() -> None:
    gate = LoginBackoff()
    for who in (named("a"), named("b"), named("c", provider="other")):
        attempt(gate, 0, None, who)
    attempt(gate, HOUR_MS, Cause.CREDENTIALS, named("c", provider="other"))
    attempt(gate, HOUR_MS, Cause.CREDENTIALS, named("a", password="changed"))
    attempt(gate, HOUR_MS + MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.correlated_rejections(named("a")) == 0
    assert gate.correlated_rejections(named("b")) == 1


def test_accounts_that_begin_to_fail_at_different_times_do_not_count_together() -> None:
    gate = LoginBackoff()
    for user in "ab":
        attempt(gate, 0, None, named(user))
    attempt(gate, HOUR_MS, Cause.CREDENTIALS, named("a"))
    attempt(gate, HOUR_MS + 11 * MINUTE, Cause.CREDENTIALS, named("b"))
    assert gate.correlated_rejections(named("a")) == 1
    assert gate.correlated_rejections(named("b")) == 1


def test_two_targets_of_one_account_are_one_account() -> None:
    gate = LoginBackoff()
    attempt(gate, 0, None, target(Kind.IMAP))
    attempt(gate, MINUTE, Cause.CREDENTIALS, target(Kind.IMAP))
    assert not attempt(gate, MINUTE, Cause.CREDENTIALS, target(Kind.SMTP))
    assert gate.correlated_rejections(target(Kind.SMTP)) == 1


def test_without_a_password_nothing_is_known_to_be_the_same() -> None:
    gate = LoginBackoff()
    for user in "ab":
        attempt(gate, 0, None, named(user, password=""))
        attempt(gate, MINUTE, Cause.CREDENTIALS, named(user, password=""))
    assert gate.correlated_rejections(named("a")) == 0


def test_a_restart_remembers_which_password_was_accepted() -> None:
    gate = LoginBackoff()
    for user in "ab":
        gate.restore([(named(user), looked(0, None, secret="old"))], HOUR_MS)
        gate.record(
            named(user), looked(HOUR_MS, Cause.CREDENTIALS, secret="new" if user == "a" else "old"), HOUR_MS
        )
    assert gate.correlated_rejections(named("a")) == 0
    assert gate.correlated_rejections(named("b")) == 1


async def taken_up(
    folder: Path, targets: list[Target], looks: list[tuple[Target, int, Cause | None]]
) -> LoginBackoff:
    """A start over a ledger with these probes, each so many minutes ago."""
    harness = PipelineHarness(folder)
    await harness.writer.start()
    for which, minutes, cause in looks:
        at = now() - minutes * MINUTE
        await harness.pipeline.recorder.append(
            "observation", at, which.name, replace(looked(at, cause), target=which.name)
        )
    await restore_targets(harness.pipeline, harness.reader, targets)
    await harness.close()
    return harness.pipeline.runner.login_backoff


async def test_a_restart_reads_the_observations_of_an_accounts_targets_in_their_order(
    tmp_path: Path,
) -> None:
    imap, smtp = target(Kind.IMAP), target(Kind.SMTP)
    gate = await taken_up(
        tmp_path, [imap, smtp], [(smtp, 30, None), (imap, 29, None), (imap, 1, Cause.CREDENTIALS)]
    )
    assert not gate.may_login(imap, now())
    assert not gate.may_login(smtp, now())


async def test_a_restart_does_not_let_old_rejections_begin_together(tmp_path: Path) -> None:
    ours, theirs = (replace(named(user), name=user) for user in ("a", "b"))
    bad = Cause.CREDENTIALS
    looks = [(ours, 200, None), (theirs, 199, None), (ours, 150, bad), (theirs, 90, bad), (ours, 35, bad)]
    gate = await taken_up(tmp_path, [ours, theirs], [*looks, (theirs, 30, bad)])
    assert gate.correlated_rejections(ours) == 1


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
    return replace(looked(at, cause, secret=secret), failed_phase=Phase.AUTH, attempts=(made,))


def test_a_password_that_got_no_answer_counts_as_one_that_was_rejected() -> None:
    gate, sent = LoginBackoff(), []
    for minute in range(60):
        if gate.may_login(target(), minute * MINUTE):
            sent.append(minute)
            gate.record(target(), silent(minute * MINUTE), minute * MINUTE)
        gate.release(target())
    assert sent == [0, 5, 25]
    assert not gate.may_login(target(Kind.SMTP), 59 * MINUTE)


def test_silence_of_a_server_that_accepted_the_password_holds_no_login_back() -> None:
    gate = LoginBackoff()
    for at in range(10):
        assert gate.may_login(target(), at)
        gate.record(target(), silent(at, Cause.TIMEOUT), at)
        gate.release(target())


def test_silence_at_one_server_holds_back_no_other_that_takes_the_same_password() -> None:
    gate = LoginBackoff()
    gate.record(target(Kind.IMAP), looked(0, None), 0)
    gate.record(target(Kind.SMTP), silent(MINUTE), MINUTE)
    assert not gate.may_login(target(Kind.SMTP), 2 * MINUTE)
    assert gate.may_login(target(Kind.IMAP), 2 * MINUTE)
    gate.record(target(Kind.SMTP), looked(7 * MINUTE, None), 7 * MINUTE)
    assert gate.may_login(target(Kind.SMTP), 7 * MINUTE)


def test_accepted_means_the_same_password_at_the_same_server() -> None:
    gate = LoginBackoff()
    gate.record(target(Kind.IMAP), looked(0, None), 0)
    gate.record(target(Kind.SMTP), replace(looked(0, Cause.REJECTED), failed_phase=Phase.SUBMIT), 0)
    assert gate.accepted_by_server(target(Kind.IMAP), "d")
    assert gate.accepted_by_server(target(Kind.SMTP), "d")
    assert not gate.accepted_by_server(target(Kind.IMAP), "another")
    assert not gate.accepted_by_server(target(Kind.POP3), "d")
    assert not gate.accepted_by_server(replace(target(Kind.IMAP), port=2), "d")
    gate.record(target(Kind.POP3), looked(0, None, secret=""), 0)
    assert not gate.accepted_by_server(target(Kind.POP3), "")


def test_silence_is_no_rejection_that_accounts_share() -> None:
    gate = LoginBackoff()
    for user in "ab":
        gate.record(named(user), looked(0, None), 0)
        gate.record(named(user), silent(HOUR_MS), HOUR_MS)
    assert gate.correlated_rejections(named("a")) == 0


async def test_a_restart_remembers_what_was_accepted_and_what_got_no_answer(tmp_path: Path) -> None:
    imap, smtp = target(Kind.IMAP), replace(target(Kind.SMTP), provider="another")
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    for which, seen in ((imap, looked(now() - 500 * MINUTE, None)), (smtp, silent(now() - MINUTE))):
        await harness.pipeline.recorder.append(
            "observation", seen.ended_at, which.name, replace(seen, target=which.name)
        )
    await restore_targets(harness.pipeline, harness.reader, [imap, smtp])
    await harness.close()
    gate = harness.pipeline.runner.login_backoff
    assert gate.accepted_by_server(imap, "d")
    assert gate.may_login(imap, now())
    assert not gate.may_login(smtp, now())


IN: list[Step] = [b"* OK [CAPABILITY IMAP4rev1] hi\r\n", "LOGIN "]
OUT: list[Step] = ["LOGOUT", b"* BYE\r\nTAG OK\r\n"]
ACCEPTED: list[Step] = [*IN, b"TAG OK in\r\n", "EXAMINE", b"* 0 EXISTS\r\nTAG OK\r\n", *OUT]
GREETS: list[Step] = [IN[0], *OUT]


@pytest.mark.parametrize("end", [SILENCE, CLOSE, RESET])
async def test_silence_to_a_never_accepted_password_is_unknown_and_backs_off(tmp_path: Path, end: Step) -> None:
    heard: list[bytes] = []
    async with scripted_server([*IN, end], then=GREETS, received=heard) as port:
        seen = await probed(tmp_path, replace(named("a"), host="127.0.0.1", port=port), 3)
    assert [(one["outcome"], one["cause"]) for one in seen] == [("unknown", "credentials")] * 3
    assert "longer timeout" in seen[0]["detail"]
    assert seen[0]["attempts"][-1]["facts"] == {"password_sent": 1}
    assert seen[0]["attempts"][-1]["cause"] in ("timeout", "disconnected")
    assert [one["login"] for one in seen] == [True, False, False]
    assert sum(b"LOGIN" in line for line in heard) == 1


@pytest.mark.parametrize("end", [SILENCE, CLOSE])
async def test_silence_to_an_accepted_password_is_the_servers_failure(tmp_path: Path, end: Step) -> None:
    async with scripted_server(ACCEPTED, then=[*IN, end]) as port:
        seen = await probed(tmp_path, replace(named("a"), host="127.0.0.1", port=port), 4)
    assert [one["outcome"] for one in seen] == ["up", "down", "down", "down"]
    assert all(one["login"] and one["failed_phase"] == "auth" for one in seen[1:])


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
    await harness.close()
    return harness.recorded("observation")


@pytest.mark.parametrize("facts", [None, {"owner": "account-state"}])
def test_two_accounts_that_are_disabled_are_no_broken_login(facts: AttemptFacts | None) -> None:
    """What is refused is the account and not its password: it holds back the login, and accuses nobody."""
    gate = LoginBackoff()
    targets = [target(login=Login(username=name, password=SecretStr("secret"))) for name in ("a", "b")]
    for each in targets:
        gate.record(each, looked(0, None), 0)
    for each in targets:
        refused = Attempt(started_at=1, ended_at=1, cause=Cause.CREDENTIALS, failed_phase=Phase.AUTH, facts=facts)
        seen = replace(looked(1, Cause.CREDENTIALS), failed_phase=Phase.AUTH, attempts=(refused,))
        gate.record(each, seen, 1)
    assert gate.correlated_rejections(targets[0]) == (2 if facts is None else 0)
    assert not gate.may_login(targets[0], 2)


def test_a_setting_that_shuts_the_mailbox_after_the_login_is_no_rejected_password() -> None:
    gate = LoginBackoff()
    gate.record(target(), replace(looked(0, Cause.CREDENTIALS), failed_phase=Phase.MAILBOX), 0)
    assert gate.may_login(target(), 1)


@pytest.mark.parametrize(
    ("more", "verdict"), [([], ("down", "timeout")), ([b"+OK\r\n", "PASS "], ("unknown", "credentials"))]
)
async def test_pop3_sends_its_password_with_pass_and_not_before(
    tmp_path: Path, more: list[Step], verdict: tuple[str, str]
) -> None:
    script: list[Step] = [b"+OK hi\r\n", "CAPA", b"+OK\r\nUSER\r\n.\r\n", "USER ", *more, SILENCE]
    async with scripted_server(script) as port:
        pop3 = replace(named("a"), kind=Kind.POP3, host="127.0.0.1", port=port)
        (seen,) = await probed(tmp_path, pop3, 1)
    assert (seen["outcome"], seen["cause"]) == verdict
