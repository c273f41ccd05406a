"""The probes against a real Dovecot and a real Postfix: what they reach, what they blame, what they leave."""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from mailwatch.model import Cause, Observation, Outcome, Phase, TlsMode
from mailwatch.probes import ProbeRequest, TlsContexts, observe
from mailwatch.settings import Login, Target
from mailwatch.times import now
from tests.helpers.targets import Targets
from tests.servers import ALICE, BOB, Certificate, Certificates, Dovecot, Postfix

IMPLICIT = [Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH]
STARTTLS = [Phase.RESOLVE, Phase.CONNECT, Phase.GREETING, Phase.TLS, Phase.AUTH]
ODD_USER = 'd "o\\dd user@example.org'
ODD_PASSWORD = 'p"a\\ss wörd €{3}'


async def probe(target: Target) -> Observation:
    """One probe with the login."""
    return await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), with_login=True))


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None]:
    return observation.outcome, observation.cause, observation.failed_phase


def assert_walked(observation: Observation, phases: list[Phase]) -> None:
    """Up, through just these phases in this order, each of which took time."""
    assert classification(observation) == (Outcome.UP, None, None), observation.detail
    timed = observation.attempts[-1].phases
    assert list(timed) == phases
    assert all(microseconds > 0 for microseconds in timed.values()), timed
    total = (observation.ended_at - observation.started_at + 1) * 1000
    assert sum(timed.values()) <= total


@pytest.mark.parametrize(("tls", "entry"), [(TlsMode.IMPLICIT, IMPLICIT), (TlsMode.STARTTLS, STARTTLS)])
async def test_imap_is_read_down_to_a_message(
    dovecot: Dovecot, targets: Targets, tls: TlsMode, entry: list[Phase]
) -> None:
    observation = await probe(targets.imap(dovecot, tls))
    assert_walked(observation, [*entry, Phase.MAILBOX, Phase.FETCH])
    facts = observation.attempts[-1].tls
    assert facts is not None
    assert facts.version.startswith("TLSv1.")
    assert facts.not_after is not None
    assert facts.not_after > now()


@pytest.mark.parametrize(("tls", "entry"), [(TlsMode.IMPLICIT, IMPLICIT), (TlsMode.STARTTLS, STARTTLS)])
async def test_smtp_is_spoken_up_to_the_recipient(
    dovecot: Dovecot, postfix: Postfix, targets: Targets, tls: TlsMode, entry: list[Phase]
) -> None:
    mark = postfix.mark()
    observation = await probe(targets.smtp(postfix, tls, password=dovecot.passwords[ALICE]))
    assert_walked(observation, [*entry, Phase.SUBMIT])
    assert "rcpt=1" in await asyncio.to_thread(postfix.log_of_sessions, mark)


async def test_an_imap_password_rejected_is_no_outage(own_dovecot: Dovecot, targets: Targets) -> None:
    mark = own_dovecot.log_size
    observation = await probe(targets.imap(own_dovecot, password="wrong-" + secrets.token_urlsafe()))
    assert classification(observation) == (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH)
    log = await asyncio.to_thread(own_dovecot.log_until, "auth failed", mark)
    assert log.count("Password mismatch") == 1


@pytest.mark.parametrize(("tls", "user"), [(TlsMode.IMPLICIT, ALICE), (TlsMode.STARTTLS, BOB)])
async def test_an_smtp_password_is_tried_once_a_probe(
    dovecot: Dovecot, postfix: Postfix, targets: Targets, tls: TlsMode, user: str
) -> None:
    """PLAIN and LOGIN are offered; to try both would be two rejections, and lock the account sooner."""
    mark = postfix.mark()
    target = targets.smtp(postfix, tls, user=user, password="wrong-" + secrets.token_urlsafe())
    assert classification(await probe(target)) == (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH)
    log = await asyncio.to_thread(postfix.log_of_sessions, mark)
    assert log.count("authentication failed") == 1
    log = await asyncio.to_thread(dovecot.log_until, f"passwd-file({user},", 0)
    assert log.count(f"passwd-file({user},127.0.0.1): Password mismatch") == 1


async def test_a_rejected_password_is_in_no_record(
    dovecot: Dovecot, postfix: Postfix, targets: Targets, caplog: pytest.LogCaptureFixture
) -> None:
    canary = "canary-" + secrets.token_urlsafe()
    caplog.set_level("DEBUG")
    imap = await probe(targets.imap(dovecot, user="nobody@example.org", password=canary))
    smtp = await probe(targets.smtp(postfix, user="nobody@example.org", password=canary))
    assert (imap.cause, smtp.cause) == (Cause.CREDENTIALS, Cause.CREDENTIALS)
    assert canary not in repr((imap, smtp)) + caplog.text


@pytest.mark.parametrize("tls", [TlsMode.IMPLICIT, TlsMode.STARTTLS])
@pytest.mark.parametrize(
    ("bad", "word"),
    [("expired", "expired"), ("wrong_host", "localhost"), ("untrusted", "self-signed|issuer|trust")],
)
async def test_a_bad_certificate_is_named(
    own_dovecot: Dovecot, certificates: Certificates, targets: Targets, tls: TlsMode, bad: str, word: str
) -> None:
    certificate: Certificate = getattr(certificates, bad)
    own_dovecot.use_certificate(certificate)
    observation = await probe(targets.imap(own_dovecot, tls))
    assert classification(observation) == (Outcome.DOWN, Cause.TLS, Phase.TLS)
    assert Phase.AUTH not in observation.attempts[-1].phases
    assert any(part in observation.detail for part in word.split("|")), observation.detail


async def test_an_unknown_authority_is_tls_for_smtp_too(
    dovecot: Dovecot, postfix: Postfix, certificates: Certificates, targets: Targets
) -> None:
    target = targets.smtp(postfix, TlsMode.STARTTLS, password=dovecot.passwords[ALICE])
    observation = await probe(replace(target, ca_file=certificates.unknown_ca_file))
    assert classification(observation) == (Outcome.DOWN, Cause.TLS, Phase.TLS)


async def test_a_stopped_server_refuses_and_a_started_one_is_up_again(
    own_dovecot: Dovecot, targets: Targets
) -> None:
    target = targets.imap(own_dovecot)
    own_dovecot.stop()
    assert classification(await probe(target)) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT)
    own_dovecot.start()
    assert (await probe(target)).outcome is Outcome.UP


async def test_a_broken_mailbox_is_down_although_the_login_works(own_dovecot: Dovecot, targets: Targets) -> None:
    own_dovecot.break_mailbox(BOB)
    broken = await probe(targets.imap(own_dovecot, user=BOB))
    assert classification(broken) == (Outcome.DOWN, Cause.MAILBOX, Phase.MAILBOX)
    assert Phase.AUTH in broken.attempts[-1].phases
    own_dovecot.repair_mailbox(BOB)
    assert (await probe(targets.imap(own_dovecot, user=BOB))).outcome is Outcome.UP


async def test_too_many_connections_are_caused_by_us(own_dovecot: Dovecot, targets: Targets) -> None:
    """Dovecot lets the user in and then says NO [LIMIT]: its words blame us, not the service."""
    own_dovecot.set_max_connections(1)
    target = targets.imap(own_dovecot)
    with own_dovecot.session(ALICE):
        assert classification(await probe(target)) == (Outcome.UNKNOWN, Cause.THROTTLED, Phase.AUTH)


async def test_a_server_that_delays_its_rejection_gets_its_time(own_dovecot: Dovecot, targets: Targets) -> None:
    """Delays slow guessing down; to hang up early would make our wrong password the server's silence."""
    own_dovecot.set(auth_failure_delay="2 secs")  # It rounds down, to one at least.
    observation = await probe(targets.imap(own_dovecot, password="wrong-" + secrets.token_urlsafe()))
    assert classification(observation) == (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH)
    assert observation.attempts[-1].phases[Phase.AUTH] > 900_000


async def test_a_delay_longer_than_the_timeout_is_silence_at_the_login(
    own_dovecot: Dovecot, targets: Targets
) -> None:
    own_dovecot.set(auth_failure_delay="30 secs")
    target = replace(targets.imap(own_dovecot, password="wrong-" + secrets.token_urlsafe()), timeout=1.0)
    assert classification(await probe(target)) == (Outcome.DOWN, Cause.TIMEOUT, Phase.AUTH)


async def test_a_full_mailbox_can_still_be_read(own_dovecot: Dovecot, targets: Targets) -> None:
    """Over its quota a mailbox takes no more mail, which is for the round trip to see; reading works."""
    quota = "plugin {\n  quota = maildir:User quota\n  quota_rule = *:storage=1B\n}\n"
    own_dovecot.set(quota, mail_plugins="quota imap_quota")
    with own_dovecot.session(ALICE) as owner:
        reply, words = owner.append("INBOX", "", "", b"Subject: one more\r\n\r\n")
        assert (reply, b"OVERQUOTA" in words[0]) == ("NO", True)
    assert (await probe(targets.imap(own_dovecot))).outcome is Outcome.UP


async def test_a_password_changed_at_the_server_is_credentials_until_restored(
    own_dovecot: Dovecot, targets: Targets
) -> None:
    target = targets.imap(own_dovecot)
    # Its first letter is what a command would take for an option.
    own_dovecot.set_password(ALICE, "-another-" + secrets.token_urlsafe())
    assert (await probe(target)).cause is Cause.CREDENTIALS
    assert (await probe(targets.imap(own_dovecot))).outcome is Outcome.UP


def snapshot(maildir: Path) -> dict[str, tuple[int, bytes]]:
    """Each message's folder, name (which holds its flags), time and content."""
    return {
        str(path.relative_to(maildir)): (path.stat().st_mtime_ns, path.read_bytes())
        for folder in ("new", "cur", "tmp")
        for path in (maildir / folder).iterdir()
    }


async def test_reading_leaves_the_mailbox_as_it_was(own_dovecot: Dovecot, targets: Targets) -> None:
    """What was new to the owner still is: not seen, and recent (RFC 3501 section 6.3.2, EXAMINE)."""
    before = snapshot(own_dovecot.maildir(ALICE))
    assert len(before) == 2
    for tls in (TlsMode.IMPLICIT, TlsMode.STARTTLS):
        assert Phase.FETCH in (await probe(targets.imap(own_dovecot, tls))).attempts[-1].phases
    assert snapshot(own_dovecot.maildir(ALICE)) == before
    with own_dovecot.session(ALICE) as owner:
        owner.select("INBOX")
        assert owner.response("RECENT")[1] == [b"2"]
        assert owner.search(None, "UNSEEN")[1] == [b"1 2"]


async def test_an_empty_mailbox_is_up_without_a_fetch(own_dovecot: Dovecot, targets: Targets) -> None:
    for message in (own_dovecot.maildir(BOB) / "new").iterdir():
        message.unlink()
    assert_walked(await probe(targets.imap(own_dovecot, user=BOB)), [*IMPLICIT, Phase.MAILBOX])


async def test_no_message_is_sent(dovecot: Dovecot, postfix: Postfix, targets: Targets) -> None:
    mark = postfix.mark()
    for tls in (TlsMode.IMPLICIT, TlsMode.STARTTLS):
        target = targets.smtp(postfix, tls, password=dovecot.passwords[ALICE])
        assert (await probe(target)).outcome is Outcome.UP
    log = await asyncio.to_thread(postfix.log_of_sessions, mark)
    assert log.count("rcpt=1") == 2
    assert "data=" not in log
    assert postfix.queue() == []


@pytest.mark.parametrize(
    ("user", "password"), [(ODD_USER, "plain"), ("c@example.org", ODD_PASSWORD), (ODD_USER, ODD_PASSWORD)]
)
async def test_any_character_is_allowed_in_a_name_and_a_password(
    own_dovecot: Dovecot, targets: Targets, user: str, password: str
) -> None:
    own_dovecot.add_user(user, password)
    assert (await probe(targets.imap(own_dovecot, user=user))).outcome is Outcome.UP


async def test_any_character_is_allowed_in_an_smtp_password(
    dovecot: Dovecot, postfix: Postfix, targets: Targets
) -> None:
    dovecot.add_user("odd@example.org", ODD_PASSWORD)
    target = targets.smtp(postfix, user="odd@example.org", password=ODD_PASSWORD)
    assert (await probe(target)).outcome is Outcome.UP


async def test_without_the_login_the_greeting_is_enough(dovecot: Dovecot, targets: Targets) -> None:
    target = replace(targets.imap(dovecot), login=Login(username=ALICE, password=SecretStr("never sent")))
    observation = await observe(ProbeRequest(target, scheduled_at=now(), contexts=TlsContexts(), with_login=False))
    assert_walked(observation, IMPLICIT[:-1])
    assert observation.with_login is False
