"""Round trips through a real Postfix and a real Dovecot: what arrives, what does not, what is left alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch.models import Delivery, Kind, Observation, Outcome, Phase, Target, now
from mailwatch.probes import Outstanding, TlsContexts, Trips, observe
from tests.conftest import Targets, _need
from tests.servers import ALICE, DOVECOT, POSTFIX, Certificates, Dovecot, Postfix, server_folder

SECRET = b"s" * 32
LMTP = Path("/usr/lib/dovecot/lmtp")


@dataclass(slots=True)
class Post:
    """A mail service that delivers, and one round trip over it."""

    dovecot: Dovecot
    postfix: Postfix
    targets: Targets
    outstanding: Outstanding = field(default_factory=Outstanding)
    looks: list[Observation] = field(default_factory=list)

    def trip(self, **more: Any) -> Target:
        """Alice writes to herself."""
        password = self.dovecot.passwords[ALICE]
        task = Delivery(
            via=self.targets.smtp(self.postfix, password=password),
            to=self.targets.imap(self.dovecot),
            sender=ALICE,
            recipient=ALICE,
            deadline=15.0,
        )
        return Target(
            name="trip",
            kind=Kind.ROUNDTRIP,
            host="localhost",
            port=task.via.port,
            provider="lab",
            timeout=10.0,
            task=replace(task, **more),
        )

    async def look(self, **more: Any) -> Observation:
        """One look, taken into account by the next."""
        trips = Trips(SECRET, self.outstanding)
        seen = await observe(self.trip(**more), scheduled_at=now(), contexts=TlsContexts(), trips=trips)
        self.outstanding = self.outstanding.after(seen)
        self.looks.append(seen)
        return seen

    def mail(self, user: str = ALICE) -> dict[str, bytes]:
        """All messages of a user, by their place."""
        home = self.dovecot.maildir(user)
        return {
            str(path.relative_to(home)): path.read_bytes()
            for path in home.rglob("*")
            if path.parent.name in ("new", "cur") and path.is_file()
        }


@contextlib.contextmanager
def _post(certificates: Certificates, targets: Targets, **settings: Any) -> Iterator[Post]:
    _need(DOVECOT)
    _need(LMTP)
    _need(POSTFIX, root=True)
    with (
        server_folder() as one,
        Dovecot(one, certificates, lmtp=True, **settings).running() as dovecot,
        server_folder() as other,
        Postfix(other, certificates, dovecot.auth_socket, lmtp_port=dovecot.lmtp_port).running() as postfix,
    ):
        yield Post(dovecot, postfix, targets)


@pytest.fixture
def post(certificates: Certificates, targets: Targets) -> Iterator[Post]:
    """A mail service of the test's own."""
    with _post(certificates, targets) as made:
        yield made


def facts_of(seen: Observation) -> dict[str, Any]:
    assert seen.facts is not None
    return seen.facts


async def test_a_message_arrives_and_is_cleaned_up(post: Post) -> None:
    before = post.mail()
    seen = await post.look()
    facts = facts_of(seen)
    assert (seen.outcome, seen.cause) == (Outcome.UP, None), (seen.detail, facts)
    assert facts["stage"] == "served"
    assert facts["folder"] == "inbox"
    assert facts["message"]["queue_id"] in facts["message"]["reply"]
    assert 0 < facts["latency_ms"] < 15_000
    assert [hop["by"] for hop in facts["hops"]][-1:] != []
    assert f"mailwatch.{facts['message']['token']}" in facts["headers"]
    assert facts["dkim"] == [{"result": "none"}]
    assert {Phase.SUBMIT} <= seen.attempts[0].phases.keys()
    assert list(seen.attempts[1].phases)[-2:] == [Phase.MAILBOX, Phase.DELIVER]
    assert sorted(post.mail().values()) == sorted(before.values())
    assert "left" not in facts
