"""A Dovecot and a Postfix that deliver mail to each other's users."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mailwatch.model import Kind, Observation
from mailwatch.probes import Outstanding, ProbeRequest, RoundtripContext, TlsContexts, observe
from mailwatch.settings import RoundtripTask, Target
from mailwatch.times import now
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need
from tests.helpers.targets import Targets
from tests.servers import ALICE, DOVECOT, POSTFIX, Certificates, Dovecot, Postfix, server_folder

SECRET = b"s" * 32
LMTP = Path("/usr/lib/dovecot/lmtp")


@dataclass(slots=True)
class MailService:
    """A mail service that delivers, and one round trip over it."""

    dovecot: Dovecot
    postfix: Postfix
    targets: Targets
    outstanding: Outstanding = field(default_factory=Outstanding)
    observations: list[Observation] = field(default_factory=list)

    def roundtrip_target(self, **more: Any) -> Target:
        """Alice writes to herself."""
        password = self.dovecot.passwords[ALICE]
        task = RoundtripTask(
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

    async def probe(self, **more: Any) -> Observation:
        """One probe, taken into account by the next."""
        trips = RoundtripContext(SECRET, self.outstanding)
        observation = await observe(
            ProbeRequest(
                self.roundtrip_target(**more), scheduled_at=now(), contexts=TlsContexts(), roundtrip=trips
            )
        )
        self.outstanding = self.outstanding.after(observation)
        self.observations.append(observation)
        return observation

    def messages_of(self, user: str = ALICE) -> dict[str, bytes]:
        """All messages of a user, by their place."""
        home = self.dovecot.maildir(user)
        return {
            str(path.relative_to(home)): path.read_bytes()
            for path in home.rglob("*")
            if path.parent.name in ("new", "cur") and path.is_file()
        }


@contextlib.contextmanager
def mail_service(certificates: Certificates, targets: Targets, **settings: Any) -> Iterator[MailService]:
    need(DOVECOT)
    need(LMTP)
    need(POSTFIX, root=True)
    with (
        server_folder() as one,
        Dovecot(one, certificates, lmtp=True, **settings).running() as dovecot,
        server_folder() as other,
        Postfix(other, certificates, dovecot.auth_socket, lmtp_port=dovecot.lmtp_port).running() as postfix,
    ):
        yield MailService(dovecot, postfix, targets)


async def wait_until(holds: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.05)
