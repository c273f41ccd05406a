"""Round trips through a real Postfix and a real Dovecot: what arrives, what does not, what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mailwatch.facts import ObservationFacts
from mailwatch.ledger.payloads import fact_payload, observation_from
from mailwatch.model import Cause, Observation, Outcome, Phase
from mailwatch.probes import Outstanding, ProbeRequest, TlsContexts, observe
from mailwatch.probes.oauth.tokens import AccessTokens
from mailwatch.probes.roundtrip import arrival
from mailwatch.probes.roundtrip.message import MessageSigner, MessageToken, compose, new_token
from mailwatch.settings import RoundtripTask
from mailwatch.times import now
from tests.helpers.mail_route import SECRET, MailService, mail_service, wait_until
from tests.helpers.oauth import granted_login
from tests.helpers.targets import Targets
from tests.servers import (
    ALICE,
    BOB,
    AuthorizationServer,
    Certificates,
)


@pytest.fixture
def post(certificates: Certificates, targets: Targets) -> Iterator[MailService]:
    """A mail service of the test's own."""
    with mail_service(certificates, targets) as made:
        yield made


@pytest.fixture
def polled(certificates: Certificates, targets: Targets) -> Iterator[MailService]:
    """One whose Dovecot announces no news (IDLE), of no folder's use and can expunge no single message."""
    settings = {"imap_capability": "IMAP4rev1 LITERAL+"}
    with mail_service(certificates, targets, settings=settings) as made:
        yield made


def facts_of(observation: Observation) -> ObservationFacts:
    assert observation.facts is not None
    return observation.facts


def classification(observation: Observation) -> tuple[Outcome, Cause | None, Phase | None, str]:
    return observation.outcome, observation.cause, observation.failed_phase, str(facts_of(observation)["stage"])


SERVED = (Outcome.UP, None, None, "served")
UNDELIVERED = (Outcome.DOWN, Cause.UNDELIVERED, Phase.DELIVER)


async def test_a_message_arrives_and_is_cleaned_up(post: MailService) -> None:
    before = post.messages_of()
    observation = await post.probe()
    facts = facts_of(observation)
    assert classification(observation) == SERVED, (observation.detail, facts)
    assert facts["folder"] == "inbox"
    assert facts["message"]["queue_id"] in facts["message"]["reply"]
    assert 0 < facts["latency_ms"] < 15_000
    submitted, delivered = facts["hops"]
    assert submitted["id"] == facts["message"]["queue_id"]
    assert (submitted["by"], submitted["with"], delivered["with"]) == ("localhost", "ESMTPSA", "LMTP")
    assert f"Message-ID: <mailwatch.{facts['message']['token']}@example.org>" in facts["headers"]
    assert facts["dkim"] == [{"result": "none"}]
    via, to = observation.attempts
    assert (via.facts, list(via.phases)[-1]) == ({"end": "via"}, Phase.SUBMIT)
    assert (to.facts, list(to.phases)[-2:]) == ({"end": "to"}, [Phase.MAILBOX, Phase.DELIVER])
    assert sorted(post.messages_of().values()) == sorted(before.values())
    assert "left" not in facts
    assert not post.outstanding.sent


async def test_where_idle_is_lacking_the_server_is_asked(
    polled: MailService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrival, "POLL_SECONDS", 0.2)
    before = polled.messages_of()
    observation = await polled.probe()
    assert classification(observation) == SERVED, observation.detail
    assert sorted(polled.messages_of().values()) == sorted(before.values())


async def test_the_junk_folder_counts_as_delivered(certificates: Certificates, targets: Targets) -> None:
    settings = {"lmtp_save_to_detail_mailbox": "yes", "recipient_delimiter": "+"}
    with mail_service(certificates, targets, settings=settings) as post:
        before = post.messages_of()
        observation = await post.probe(recipient="a+Junk@example.org", deadline=4.0)
        assert classification(observation) == SERVED, observation.detail
        assert (facts_of(observation)["folder"], facts_of(observation)["mailbox"]) == ("junk", "Junk")
        assert post.messages_of() == before


async def test_a_queue_that_is_held_is_recorded_and_the_message_found_when_it_is_released(
    post: MailService,
) -> None:
    before = post.messages_of()
    await asyncio.to_thread(post.postfix.hold, True)
    observation = await post.probe(deadline=2.0)
    assert classification(observation) == (*UNDELIVERED, "queued"), observation.detail
    token = facts_of(observation)["message"]["token"]
    assert post.outstanding.sent.keys() == {token}
    # Not even a place changed: what was new to the owner still is, where nothing was to be deleted.
    assert post.messages_of() == before
    await asyncio.to_thread(post.postfix.hold, False)
    await wait_until(lambda: len(post.messages_of()) > len(before))
    observation = await post.probe()
    assert classification(observation) == SERVED
    (late,) = facts_of(observation)["late"]
    assert late["token"] == token
    assert late["delay_ms"] >= 1000
    assert late["seen_at"] - late["sent_at"] >= 2000
    assert [hop["with"] for hop in late["hops"]] == ["ESMTPSA", "LMTP"]
    assert not post.outstanding.sent
    # Its arrival is on record now, and not before.
    assert len(post.messages_of()) == len(before) + 1
    observation = await post.probe()
    assert facts_of(observation)["cleaned"] == [token]
    assert sorted(post.messages_of().values()) == sorted(before.values())


async def test_other_mail_that_comes_while_ours_does_not_makes_it_missing(post: MailService) -> None:
    probing = asyncio.create_task(post.probe(recipient=BOB, deadline=3.0))
    await wait_until(lambda: len(post.messages_of(BOB)) == 3)
    (post.dovecot.maildir(ALICE) / "new" / "another").write_bytes(b"Subject: another\r\n\r\nhello\r\n")
    assert classification(await probing) == (*UNDELIVERED, "missing")


async def test_a_message_is_found_after_a_restart_from_the_ledger_alone(post: MailService) -> None:
    await asyncio.to_thread(post.postfix.hold, True)
    observation = await post.probe(deadline=1.0)
    await asyncio.to_thread(post.postfix.hold, False)
    await wait_until(lambda: len(post.messages_of()) == 3)
    post.outstanding = Outstanding.restore([observation_from(fact_payload(each)) for each in post.observations])
    observation = await post.probe()
    assert [late["token"] for late in facts_of(observation)["late"]] == [
        facts_of(post.observations[0])["message"]["token"]
    ]


async def test_a_message_that_no_record_knows_is_known_by_its_seal(post: MailService) -> None:
    before = post.messages_of()
    await asyncio.to_thread(post.postfix.hold, True)
    observation = await post.probe(deadline=1.0)
    await asyncio.to_thread(post.postfix.hold, False)
    await wait_until(lambda: len(post.messages_of()) == len(before) + 1)
    post.outstanding = Outstanding()
    again = await post.probe()
    (stray,) = facts_of(again)["stray"]
    assert stray["token"] == facts_of(observation)["message"]["token"]
    assert "late" not in facts_of(again)
    assert sorted(post.messages_of().values()) == sorted(before.values())


@pytest.mark.parametrize("kind", ["post", "polled"])
async def test_messages_of_others_are_not_touched(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even those that their owner marked as deleted: a plain EXPUNGE would take them too."""
    post: MailService = request.getfixturevalue(kind)
    monkeypatch.setattr(arrival, "POLL_SECONDS", 0.2)
    other_signer = MessageSigner(b"another" * 8, "trip")
    mark = new_token(now())
    forged = compose(mark, other_signer.sign(mark), ALICE, ALICE)
    (post.dovecot.maildir(ALICE) / "new" / "forged").write_bytes(forged)
    with post.dovecot.session(ALICE) as owner:
        owner.select("INBOX")
        owner.store("1", "+FLAGS", "(\\Deleted \\Flagged)")
    before = post.messages_of()
    observation = await post.probe()
    assert classification(observation) == SERVED
    after = post.messages_of()
    if kind == "post":
        assert after == before
    else:
        assert "other messages are marked as deleted" in facts_of(observation)["left"]
        assert {name: body for name, body in after.items() if name in before} == before
        assert len(after) == len(before) + 1
        with post.dovecot.session(ALICE) as owner:
            owner.select("INBOX")
            assert owner.search(None, "DELETED")[1] == [b"1"]
            owner.store("1", "-FLAGS", "(\\Deleted)")
        observation = await post.probe()
        assert "left" not in facts_of(observation)
        assert "stray" not in facts_of(observation)
        assert sorted(post.messages_of().values()) == sorted(before.values())


async def test_a_bounce_is_a_rejection_and_is_cleaned_up(post: MailService) -> None:
    before = post.messages_of()
    observation = await post.probe(recipient="nobody@example.org")
    assert classification(observation) == (Outcome.DOWN, Cause.REJECTED, Phase.DELIVER, "rejected"), (
        observation.detail
    )
    assert facts_of(observation)["bounce"]["status"] == "5.1.1"
    assert "User doesn't exist" in facts_of(observation)["bounce"]["diagnostic"]
    assert not post.outstanding.sent
    assert len(post.messages_of()) == len(before) + 1
    assert classification(await post.probe()) == SERVED
    assert sorted(post.messages_of().values()) == sorted(before.values())


async def test_a_full_mailbox_is_named(post: MailService) -> None:
    post.dovecot.fill(BOB)
    observation = await post.probe(recipient=BOB)
    assert (observation.cause, facts_of(observation)["bounce"]["status"]) == (Cause.REJECTED, "5.2.2"), (
        observation.detail
    )


async def test_a_login_that_is_down_leaves_the_message_on_its_way(post: MailService) -> None:
    """The third phase of a long outage: mail is taken, and nobody can read it."""
    wrong = post.targets.imap(post.dovecot, password="wrong-password")
    observation = await post.probe(to=wrong)
    assert classification(observation) == (Outcome.UNKNOWN, Cause.CREDENTIALS, Phase.AUTH, "login")
    token = facts_of(observation)["message"]["token"]
    await wait_until(lambda: len(post.messages_of()) == 3)
    observation = await post.probe()
    assert [late["token"] for late in facts_of(observation)["late"]] == [token]


async def test_a_submission_that_is_down_sends_nothing(post: MailService) -> None:
    post.postfix.stop()
    observation = await post.probe()
    assert classification(observation) == (Outcome.DOWN, Cause.REFUSED, Phase.CONNECT, "unsubmitted")
    assert observation.deciding_attempt is not None
    assert observation.deciding_attempt.facts == {"end": "via"}
    assert not post.outstanding.sent


async def test_copies_in_the_sent_folder_are_cleaned_up_too(post: MailService) -> None:
    mark = new_token(now())
    ours = compose(mark, MessageSigner(SECRET, "trip").sign(mark), ALICE, ALICE)
    with post.dovecot.session(ALICE) as owner:
        owner.create("Sent")
        for text in (ours, b"Subject: to my mother\r\n\r\nhello\r\n"):
            owner.append("Sent", "", "", text)
    before = post.messages_of()
    observation = await post.probe()
    assert classification(observation) == SERVED
    assert "stray" not in facts_of(observation)
    others = [body for body in before.values() if b"X-MailWatch-Token" not in body]
    assert len(others) == len(before) - 1
    assert sorted(post.messages_of().values()) == sorted(others)


async def test_a_message_missing_for_a_week_is_recorded_as_lost_once(post: MailService) -> None:
    week = 8 * 24 * 3_600_000
    gone, here = MessageToken("f" * 32, now() - week), MessageToken("e" * 32, now() - week)
    text = compose(here, MessageSigner(SECRET, "trip").sign(here), ALICE, ALICE)
    (post.dovecot.maildir(ALICE) / "new" / "here").write_bytes(text)
    post.outstanding = Outstanding({mark.token: mark for mark in (gone, here)})
    observation = await post.probe()
    assert facts_of(observation)["lost"] == [{"token": gone.token, "sent_at": gone.sent_at}]
    (late,) = facts_of(observation)["late"]
    assert (late["token"], late["delay_ms"] >= week - 60_000) == (here.token, True)
    assert "lost" not in facts_of(await post.probe())


async def test_both_ends_may_log_in_with_tokens(
    certificates: Certificates, targets: Targets, tmp_path: Path
) -> None:
    with AuthorizationServer(ALICE).running() as authority:
        url = f"{authority.url}/introspect"
        with mail_service(certificates, targets, introspection_url=url) as post:
            login = granted_login(authority, tmp_path, ALICE)
            task = post.roundtrip_target().task
            assert isinstance(task, RoundtripTask)
            ends = {"via": replace(task.via, login=login), "to": replace(task.to, login=login)}
            trip, tokens = post.roundtrip_target(**ends), AccessTokens()
            observation = await observe(
                ProbeRequest(trip, scheduled_at=now(), contexts=TlsContexts(), tokens=tokens)
            )
            assert classification(observation) == SERVED, observation.detail
            assert {"end": "to", "sasl": "OAUTHBEARER"} in [attempt.facts for attempt in observation.attempts]
            # Without a grant there is no token, and nothing is sent.
            assert login.oauth2 is not None
            login.oauth2.grant_file.unlink()
            observation = await observe(
                ProbeRequest(trip, scheduled_at=now(), contexts=TlsContexts(), tokens=AccessTokens())
            )
            assert (observation.outcome, observation.cause, observation.attempts) == (
                Outcome.UNKNOWN,
                Cause.CREDENTIALS,
                (),
            )
            assert observation.detail.startswith("nothing was sent: ")
