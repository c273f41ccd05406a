"""The probes against Cyrus, Courier, Exim and OpenSMTPD, which speak otherwise than Dovecot and Postfix do."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mailwatch.model import Cause, Kind, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Target
from mailwatch.times import now
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.targets import Targets
from tests.servers import ALICE, BOB, HOST, Certificate, Certificates, Courier, Cyrus, Exim, OpenSmtpd

TLS = [TlsMode.IMPLICIT, TlsMode.STARTTLS]
MAILBOXES, SUBMISSIONS = ["cyrus", "courier"], ["exim", "opensmtpd"]
CREDENTIALS = (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH)
Mailboxes = Cyrus | Courier
Submission = Exim | OpenSmtpd


async def probe(target: Target) -> Observation:
    """One probe with the login."""
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), with_login=True))


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


def mailbox(
    targets: Targets,
    server: Mailboxes,
    kind: Kind,
    tls: TlsMode = TlsMode.IMPLICIT,
    *,
    user: str = ALICE,
    password: str = "",
) -> Target:
    return (targets.imap if kind is Kind.IMAP else targets.pop3)(server, tls, user=user, password=password)


def submission(
    targets: Targets, server: Submission, tls: TlsMode = TlsMode.IMPLICIT, password: str = ""
) -> Target:
    return targets.smtp(server, tls, password=password or server.passwords[ALICE])


def wrong() -> str:
    return "wrong-" + secrets.token_urlsafe()


@pytest.fixture
def mailboxes(request: pytest.FixtureRequest) -> Mailboxes:
    """The server that the parameter names."""
    server: Mailboxes = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def submissions(request: pytest.FixtureRequest) -> Submission:
    """The server that the parameter names."""
    server: Submission = request.getfixturevalue(request.param)
    return server


@pytest.mark.parametrize("mailboxes", MAILBOXES, indirect=True)
@pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])
@pytest.mark.parametrize("tls", TLS)
async def test_a_mailbox_is_read_down_to_a_message(
    mailboxes: Mailboxes, targets: Targets, kind: Kind, tls: TlsMode
) -> None:
    observation = await probe(mailbox(targets, mailboxes, kind, tls))
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    assert list(observation.attempts[-1].phases)[-3:] == [Phase.AUTH, Phase.MAILBOX, Phase.FETCH]
    assert observation.attempts[-1].tls is not None


@pytest.mark.parametrize("submissions", SUBMISSIONS, indirect=True)
@pytest.mark.parametrize("tls", TLS)
async def test_submission_is_spoken_up_to_the_recipient(
    submissions: Submission, targets: Targets, tls: TlsMode
) -> None:
    observation = await probe(submission(targets, submissions, tls))
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    assert list(observation.attempts[-1].phases)[-2:] == [Phase.AUTH, Phase.SUBMIT]
    assert observation.attempts[-1].tls is not None


@pytest.mark.parametrize("mailboxes", MAILBOXES, indirect=True)
@pytest.mark.parametrize(("kind", "tls"), [(Kind.IMAP, TlsMode.IMPLICIT), (Kind.POP3, TlsMode.STARTTLS)])
async def test_a_wrong_password_is_credentials_however_late_it_is_refused(
    mailboxes: Mailboxes, targets: Targets, kind: Kind, tls: TlsMode
) -> None:
    """Cyrus takes three seconds for it, Courier five."""
    observation = await probe(mailbox(targets, mailboxes, kind, tls, password=wrong()))
    assert classification(observation) == CREDENTIALS
    assert observation.attempts[-1].phases[Phase.AUTH] > 2_900_000


@pytest.mark.parametrize("submissions", SUBMISSIONS, indirect=True)
@pytest.mark.parametrize("tls", TLS)
async def test_a_wrong_password_at_submission_is_credentials(
    submissions: Submission, targets: Targets, tls: TlsMode
) -> None:
    assert classification(await probe(submission(targets, submissions, tls, wrong()))) == CREDENTIALS


@pytest.mark.parametrize("mailboxes", ["own_cyrus", "own_courier"], indirect=True)
async def test_an_untrusted_certificate_is_named(
    mailboxes: Mailboxes, certificates: Certificates, targets: Targets
) -> None:
    await refuses_certificate(mailboxes, certificates.untrusted, mailbox(targets, mailboxes, Kind.IMAP))


@pytest.mark.parametrize("tls", TLS)
async def test_an_expired_certificate_at_submission_is_named(
    own_exim: Exim, certificates: Certificates, targets: Targets, tls: TlsMode
) -> None:
    await refuses_certificate(own_exim, certificates.expired, submission(targets, own_exim, tls))


async def refuses_certificate(server: Mailboxes | Submission, certificate: Certificate, target: Target) -> None:
    server.use_certificate(certificate)
    server.restart()
    observation = await probe(target)
    assert classification(observation) == (Outcome.DOWN, Cause.TLS, Phase.TLS)
    assert Phase.AUTH not in observation.attempts[-1].phases


@pytest.mark.parametrize("mailboxes", ["own_cyrus", "own_courier"], indirect=True)
@pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])
async def test_a_mailbox_server_that_goes_away_is_refused_and_comes_back(
    mailboxes: Mailboxes, targets: Targets, kind: Kind
) -> None:
    target = mailbox(targets, mailboxes, kind)
    mailboxes.stop()
    assert classification(await probe(target)) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT)
    mailboxes.start()
    assert (await probe(target)).outcome is Outcome.UP


@pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])
async def test_a_missing_mailbox_of_cyrus_is_down_although_the_login_works(
    cyrus: Cyrus, targets: Targets, kind: Kind
) -> None:
    observation = await probe(mailbox(targets, cyrus, kind, user=BOB))
    assert observation.outcome is Outcome.DOWN


@pytest.mark.parametrize("tls", TLS)
async def test_a_limit_stated_by_exim_before_the_handshake_is_caused_by_us(
    own_exim: Exim, targets: Targets, tls: TlsMode
) -> None:
    """It says 421 in the clear, also on the port where TLS is implicit."""
    own_exim.set_max_connections(1)
    own_exim.restart()
    with held(own_exim.submission_port):
        observation = await probe(submission(targets, own_exim, tls))
    assert (observation.outcome, observation.cause) == (Outcome.UNKNOWN, Cause.THROTTLED), observation.detail
    assert "Too many concurrent SMTP connections" in observation.attempts[-1].replies[-1]


@contextlib.contextmanager
def held(port: int) -> Iterator[None]:
    """Someone else's connection, greeted and kept, and counted: the next one is refused.

    The server may still count a connection of its start, and refuse this one too: then it is made again.
    """
    deadline = time.monotonic() + 60
    while True:
        with socket.create_connection((HOST, port), timeout=PATIENCE) as other:
            if other.recv(3) == b"220":
                while not _is_refused(port):
                    assert time.monotonic() < deadline, "never refused"
                yield
                return
        assert time.monotonic() < deadline, "never greeted"


def _is_refused(port: int) -> bool:
    with socket.create_connection((HOST, port), timeout=PATIENCE) as another:
        return another.recv(3) == b"421"


async def watched(
    folder: Path, targets: Sequence[Target], between: Callable[[], None] | None = None
) -> list[Observation]:
    """What a monitor over a fresh ledger records of these probes, one after the other; `between` the first two."""
    harness = PipelineHarness(folder)
    await harness.writer.start()
    for name in {target.name for target in targets}:
        harness.add_target(next(target for target in targets if target.name == name))
    async with harness.ticking():
        for number, target in enumerate(targets):
            if number == 1 and between:
                await asyncio.to_thread(between)
            await harness.probe(target)
    facts = [entry.fact for entry in harness.reader.entries(kinds=["observation"])]
    await harness.close()
    return [fact for fact in facts if isinstance(fact, Observation)]


@pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])
async def test_a_refusal_that_courier_delays_beyond_our_timeout_is_no_outage_and_no_second_try(
    own_courier: Courier, targets: Targets, tmp_path: Path, kind: Kind
) -> None:
    """It takes five seconds over it: a shorter timeout gets no answer."""
    target = replace(mailbox(targets, own_courier, kind, password=wrong()), timeout=4.0)
    mark = own_courier.log_size
    observation = await watched(tmp_path, [target] * 4)
    assert [(one.outcome, one.cause) for one in observation] == [(Outcome.UNKNOWN, Cause.CREDENTIALS)] * 4
    assert [one.with_login for one in observation] == [True, False, False, False]
    assert "set a longer timeout" in observation[0].detail
    assert observation[0].attempts[-1].facts == {"password_sent": 1}
    log = await asyncio.to_thread(own_courier.log_until, "LOGIN FAILED", mark)
    assert log.count("LOGIN FAILED") == 1


@pytest.mark.parametrize("kind", [Kind.IMAP, Kind.POP3])
async def test_an_authdaemon_of_courier_that_hangs_is_its_own_fault(
    own_courier: Courier, targets: Targets, tmp_path: Path, kind: Kind
) -> None:
    """The password was accepted before: what comes late or never now is no refusal of it."""
    patient = mailbox(targets, own_courier, kind)
    target = replace(patient, timeout=4.0)
    observation = await watched(tmp_path, [patient, target, target], between=own_courier.hang_logins)
    assert [(one.outcome, one.cause) for one in observation] == [
        (Outcome.UP, None),
        (Outcome.DOWN, Cause.TIMEOUT),
        (Outcome.DOWN, Cause.TIMEOUT),
    ]
    assert {one.failed_phase for one in observation[1:]} == {Phase.AUTH}
