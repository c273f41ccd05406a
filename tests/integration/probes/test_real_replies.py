"""What Cyrus, Courier, Exim and OpenSMTPD say when something breaks, and what MailWatch makes of it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Target
from mailwatch.times import now
from tests.helpers.targets import Targets
from tests.servers import ALICE, BOB, Courier, Cyrus, Exim, OpenSmtpd, session_members

MAILBOX_KINDS = pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])


def mailbox(
    targets: Targets, server: Cyrus | Courier, kind: Kind, user: str = ALICE, password: str = ""
) -> Target:
    return (targets.imap if kind is Kind.IMAP else targets.pop3)(server, user=user, password=password)


def submission(targets: Targets, server: Exim | OpenSmtpd) -> Target:
    return targets.smtp(server, TlsMode.STARTTLS, password=server.passwords[ALICE])


async def probe(target: Target, watch: Callable[[Phase, str, int], None] | None = None) -> Observation:
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), listener=watch))


async def says(target: Target, cause: Cause, words: str, phase: Phase | None = None) -> None:
    """The server says just these words, and they mean this cause."""
    observation = await probe(target)
    assert any(words in reply for reply in observation.attempts[-1].replies), observation.attempts[-1].replies
    assert (observation.outcome, observation.cause) == (cause.outcome, cause), observation.detail
    assert phase in (None, observation.failed_phase)


# A mailbox that is not there, or broken


async def test_cyrus_accepts_a_login_without_a_mailbox(cyrus: Cyrus, targets: Targets) -> None:
    target = mailbox(targets, cyrus, Kind.IMAP, BOB)
    await says(target, Cause.MAILBOX, "NO Mailbox does not exist", Phase.MAILBOX)


async def test_cyrus_cannot_read_a_mailbox_that_is_gone_from_the_disk(own_cyrus: Cyrus, targets: Targets) -> None:
    own_cyrus.lose_mailboxes()
    observation = await probe(mailbox(targets, own_cyrus, Kind.IMAP))
    assert observation.attempts[-1].replies[-1] == "NO System I/O error"
    assert (observation.outcome, observation.failed_phase) == (Outcome.DOWN, Phase.MAILBOX)


@MAILBOX_KINDS
async def test_a_stopped_authdaemon_of_courier_is_unavailable(
    own_courier: Courier, targets: Targets, kind: Kind
) -> None:
    own_courier.kill_logins()
    target = mailbox(targets, own_courier, kind)
    await says(target, Cause.UNAVAILABLE, "Temporary problem, please try again later", Phase.AUTH)


@MAILBOX_KINDS
async def test_a_home_that_is_gone_is_a_passing_problem_of_courier(
    own_courier: Courier, targets: Targets, kind: Kind
) -> None:
    own_courier.lose_home(BOB)
    target = mailbox(targets, own_courier, kind, BOB)
    await says(target, Cause.UNAVAILABLE, "Temporary problem, please try again later", Phase.AUTH)


# Accounts


@MAILBOX_KINDS
async def test_courier_rejects_a_disabled_account(own_courier: Courier, targets: Targets, kind: Kind) -> None:
    own_courier.publish(disabled=ALICE)
    await says(mailbox(targets, own_courier, kind), Cause.CREDENTIALS, "Login failed.", Phase.AUTH)


async def test_cyrus_refuses_to_authorize_a_disabled_account(own_cyrus: Cyrus, targets: Targets) -> None:
    own_cyrus.disable(ALICE)
    target = mailbox(targets, own_cyrus, Kind.IMAP)
    await says(target, Cause.CREDENTIALS, "Login failed: authorization failure", Phase.AUTH)


async def test_opensmtpd_rejects_a_locked_password(own_opensmtpd: OpenSmtpd, targets: Targets) -> None:
    own_opensmtpd.disable(ALICE)
    own_opensmtpd.restart()
    await says(submission(targets, own_opensmtpd), Cause.CREDENTIALS, "535 Authentication failed", Phase.AUTH)


# The service


async def test_exim_cannot_read_its_passwords(own_exim: Exim, targets: Targets) -> None:
    own_exim.lose_users()
    target = submission(targets, own_exim)
    await says(target, Cause.UNAVAILABLE, "435 Unable to authenticate at present", Phase.AUTH)


@MAILBOX_KINDS
async def test_cyrus_counts_the_logins_of_a_user(own_cyrus: Cyrus, targets: Targets, kind: Kind) -> None:
    own_cyrus.set_max_logins(1)
    own_cyrus.restart()
    with own_cyrus.session(ALICE):
        await says(mailbox(targets, own_cyrus, kind), Cause.THROTTLED, "Too many open connections", Phase.AUTH)


@MAILBOX_KINDS
async def test_courier_drops_connections_above_its_limit_silently(
    own_courier: Courier, targets: Targets, kind: Kind
) -> None:
    """Nothing distinguishes it from a server that broke."""
    own_courier.set_max_connections(1)
    own_courier.restart()
    target = mailbox(targets, own_courier, kind)
    _, writer = await asyncio.open_connection(target.host, target.port)
    observation = await probe(target)
    writer.close()
    assert (observation.outcome, observation.cause, observation.failed_phase) == (
        Outcome.DOWN,
        Cause.DISCONNECTED,
        Phase.TLS,
    )


@pytest.mark.parametrize("name", ["own_cyrus", "own_courier", "own_exim", "own_opensmtpd"])
async def test_a_server_that_is_killed_in_the_middle_of_a_probe_is_disconnected_there(
    request: pytest.FixtureRequest, targets: Targets, name: str
) -> None:
    server: Cyrus | Courier | Exim | OpenSmtpd = request.getfixturevalue(name)
    if isinstance(server, Cyrus | Courier):
        target = mailbox(targets, server, Kind.IMAP)
    else:
        target = targets.smtp(server, password=server.passwords[ALICE])

    def kill(phase: Phase, what: str, _: int) -> None:
        if (phase, what) == (Phase.AUTH, "begin"):
            for pid in session_members(server.pid):
                os.kill(pid, signal.SIGKILL)

    observation = await probe(target, kill)
    assert (observation.outcome, observation.cause, observation.failed_phase) == (
        Outcome.DOWN,
        Cause.DISCONNECTED,
        Phase.AUTH,
    ), observation.detail


# What waits for the table of replies


async def test_pop3_of_cyrus_has_no_mailbox_to_open(cyrus: Cyrus, targets: Targets) -> None:
    target = mailbox(targets, cyrus, Kind.POP3, BOB)
    await says(target, Cause.MAILBOX, "-ERR [SYS/TEMP] Unable to open maildrop: Mailbox does not exist")


async def test_pop3_of_cyrus_cannot_read_its_disk(own_cyrus: Cyrus, targets: Targets) -> None:
    own_cyrus.lose_mailboxes()
    target = mailbox(targets, own_cyrus, Kind.POP3)
    await says(target, Cause.MAILBOX, "-ERR [SYS/PERM] Unable to open maildrop: System I/O error")


def no_maildir(maildir: Path) -> None:
    shutil.rmtree(maildir)


def no_access(maildir: Path) -> None:
    maildir.chmod(0)


def no_folder(maildir: Path) -> None:
    shutil.rmtree(maildir)
    maildir.write_text("")


def no_cur(maildir: Path) -> None:
    shutil.rmtree(maildir / "cur")


def no_tmp(maildir: Path) -> None:
    shutil.rmtree(maildir / "tmp")


@pytest.mark.parametrize(
    ("kind", "breaks", "words"),
    [
        (Kind.POP3, no_maildir, "-ERR chdir Maildir failed"),
        (Kind.POP3, no_access, "-ERR chdir Maildir failed"),
        (Kind.POP3, no_folder, "-ERR chdir Maildir failed"),
        (Kind.POP3, no_cur, "-ERR Maildir invalid (no 'cur' directory)"),
        (Kind.IMAP, no_maildir, "BYE [ALERT] Fatal error: No such file or directory"),
        (Kind.IMAP, no_access, "BYE [ALERT] Fatal error: Permission denied"),
        (Kind.IMAP, no_folder, "BYE [ALERT] Fatal error: Not a directory"),
        (Kind.IMAP, no_tmp, "BYE [ALERT] Fatal error: No such file or directory"),
    ],
)
async def test_a_broken_maildir_of_courier_is_the_mailbox_and_not_the_credentials(
    own_courier: Courier, targets: Targets, kind: Kind, breaks: Callable[[Path], None], words: str
) -> None:
    breaks(own_courier.root / own_courier.maildir(BOB))
    await says(mailbox(targets, own_courier, kind, BOB), Cause.MAILBOX, words)


async def test_a_generic_failure_of_sasl_is_the_service_and_not_the_password(
    own_cyrus: Cyrus, targets: Targets
) -> None:
    """Its POP3 server says "[AUTH] Invalid login" of the same: nothing distinguishes it from a wrong password."""
    own_cyrus.lose_passwords()
    await says(
        mailbox(targets, own_cyrus, Kind.IMAP), Cause.UNAVAILABLE, "Login failed: generic failure", Phase.AUTH
    )


async def test_pop3_of_cyrus_says_that_an_account_is_disabled(own_cyrus: Cyrus, targets: Targets) -> None:
    own_cyrus.disable(ALICE)
    await says(
        mailbox(targets, own_cyrus, Kind.POP3), Cause.CREDENTIALS, "-ERR [SYS/TEMP] This account is disabled"
    )


@pytest.mark.parametrize("words", ["5.7.1 This account is disabled", "503 5.7.13 not for you"])
async def test_exim_refuses_the_sender_whose_account_is_disabled(
    own_exim: Exim, targets: Targets, words: str
) -> None:
    """The enhanced status counts before the basic code."""
    own_exim.disable(ALICE, words)
    await says(submission(targets, own_exim), Cause.CREDENTIALS, words, Phase.SUBMIT)
