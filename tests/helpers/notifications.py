"""A ledger, a process and a channel for tests of notifications."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mailwatch.analysis.elapsed import Durations
from mailwatch.analysis.outage import Outage
from mailwatch.analysis.outage_record import OutageSubject
from mailwatch.model import (
    Cause,
    EventType,
    Gap,
    GapReason,
    Kind,
    Observation,
    Outcome,
    TargetChange,
    TargetEvent,
    TargetSettings,
    TlsMode,
)
from mailwatch.notify import Notifier
from mailwatch.settings import Channel
from mailwatch.store import NewEntry, Outbox, Reader, Store
from mailwatch.times import now
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.records import payload_of
from tests.helpers.webhook import Webhook
from tests.servers import free_port


def unreachable_target(name: str = "lab") -> dict[str, Any]:
    return {
        "name": name,
        "kind": "imap",
        "provider": "lab",
        "host": "127.0.0.1",
        "port": free_port(),
        "tls": "none",
        "interval": "1s",
        "timeout": "1s",
    }


def notifying_process(
    folder: Path, webhook_url: str, *, names: tuple[str, ...] = ("lab",), **more: Any
) -> MailWatchProcess:
    (folder / "secret-url").write_text(webhook_url + "\n")
    (folder / "secret-url").chmod(0o600)
    channel = {"url_file": "secret-url", "group": "2s", **more.pop("channel", {})}
    detection = {"recheck": ["50ms"], "open_after": 2}
    return MailWatchProcess(
        folder, [unreachable_target(name) for name in names], detection=detection, notify=[channel], **more
    )


ONE_BY_ONE = frozenset(EventType) - {EventType.INCIDENT}
"""Each outage by itself."""


def channel(webhook: Webhook, **more: Any) -> Channel:
    return Channel(**{"name": "json-1", "url": SecretStr(webhook.url), "group": 0.05, "on": ONE_BY_ONE, **more})


class Record:
    """A ledger, and the alarm that reports on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store.open(folder)
        self.reader = Reader.open(folder)
        self.counted: list[tuple[str, str]] = []
        self.watched: dict[str, OutageSubject] = {}
        self.paused: set[str] = set()
        self.closing = contextlib.ExitStack()
        for opened in (self.store, self.reader):
            self.closing.callback(opened.close)

    def outbox(self) -> Outbox:
        made = Outbox(self.folder)
        self.closing.callback(made.close)
        return made

    def sent(self, number: int) -> Callable[[], bool]:
        """Whether so many messages more were taken, and noted, than so far."""
        so_far = len([outcome for _, outcome in self.counted if outcome == "sent"])
        return lambda: len([outcome for _, outcome in self.counted if outcome == "sent"]) >= so_far + number

    def notifier(self, *channels: Channel, latest: tuple[Observation, ...] = (), held: str = "") -> Notifier:
        made = Notifier(
            channels,
            self.folder,
            self.reader,
            latest=lambda: latest,
            count=lambda name, outcome: self.counted.append((name, outcome)),
            in_maintenance=lambda target, at: target == held and at == 1_790_000_000_000,
            watched=lambda: {name: one for name, one in self.watched.items() if name not in self.paused},
            paused=lambda: self.paused,
        )
        self.closing.callback(made.close)
        made.restore_cursor()
        return made

    def outage(
        self,
        target: str,
        *,
        closed: bool = False,
        at: int | None = None,
        proven: bool = False,
        unwatched: bool = False,
        bad: int = 1_790_000_000_000,
        provider: str = "lab",
        account: str = "",
        kind: Kind = Kind.IMAP,
        cause: str = "timeout",
        number: int = 0,
    ) -> None:
        at = now() if at is None else at
        outage = Outage(
            id=f"id-{target}{number or ''}",
            target=target,
            last_good=bad - 60_000,
            first_bad=bad,
            last_bad=bad + 120_000,
            first_good=bad + 180_000 if closed else None,
            down=3,
            up=0,
            unknown=0,
            largest_gap=0,
            unobserved=0,
            causes={cause: 3},
            phases={},
            replies=(),
            first_index=0,
            last_index=self.store.size,
            first_detail="",
            durations=Durations(120_000, 240_000, 180_000, 60_000) if closed else Durations(120_000, None),
            proven_afterwards=proven,
            unwatched=unwatched,
        )
        payload = payload_of(outage, provider, kind, "here") | ({"account": account} if account else {})
        self.store.append_batch([NewEntry(kind="outage", time=at, target=target, payload=payload)])

    def observe(self, target: str, outcome: Outcome, cause: Cause | None = None) -> None:
        observation = Observation(
            target=target,
            scheduled_at=now(),
            started_at=now(),
            ended_at=now(),
            outcome=outcome,
            cause=cause,
            with_login=True,
        )
        self.store.append_batch([NewEntry(kind="observation", time=now(), target=target, payload=observation)])

    def change(self, target: str, reason: str, at: int | None = None) -> None:
        at = now() if at is None else at
        settings = TargetSettings(
            kind=Kind.IMAP,
            provider="lab",
            host="h",
            port=993,
            tls=TlsMode.IMPLICIT,
            interval=60_000,
            timeout=10_000,
            catalogue=False,
            own_ca=False,
        )
        change = TargetChange(target=target, at=at, event=TargetEvent.CONTINUE, settings=settings, reason=reason)
        self.store.append_batch([NewEntry(kind="watch", time=at, target=target, payload=change)])

    def gap(self, target: str, start: int, end: int) -> None:
        gap = Gap(target=target, start=start, end=end, reason=GapReason.MISSED)
        self.store.append_batch([NewEntry(kind="gap", time=end, target=target, payload=gap)])

    def guard(self, online: bool, asked: int, checked: int | None = None) -> None:
        payload = {"asked_at": asked, "online": online, "controls": {}}
        if checked is not None:
            payload["checked_at"] = checked
        self.store.append_batch([NewEntry(kind="guard", time=now(), target=None, payload=payload)])


async def notify_until(notifier: Notifier, until: Callable[[], bool]) -> None:
    """Run the notifier until something holds."""
    task = asyncio.create_task(notifier.run())
    try:
        async with asyncio.timeout(PATIENCE):
            while not until():
                assert not task.done(), task
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
