"""From the config to a running MailWatch, step by step; each step can be left at any time.

What takes long is done in threads, and what must be closed again goes on the stack `undo` as soon as it is there.
A disk that is full is waited for. What cannot pass is raised:
ConfigError, StoreError or OSError.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from starlette.types import ASGIApp

from mailwatch.config import Config, WebAccess
from mailwatch.guard.clock import ClockWatch
from mailwatch.metrics import Metrics
from mailwatch.model import Rules
from mailwatch.monitor.build import Built, build
from mailwatch.monitor.damage_alarm import Alarm
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.read_model import answers, nobodys, outlook
from mailwatch.monitor.self_audit import Auditing
from mailwatch.monitor.self_check import SelfWatch
from mailwatch.monitor.service import Service, guard_of, time_servers
from mailwatch.monitor.timestamps import Timestamping
from mailwatch.notify import Notifier, tell_broken
from mailwatch.progress import Progress, Step
from mailwatch.settings import Channel, VantagePoint
from mailwatch.store import DiskFull, Health, Reader, Store, StoreBroken, StoreUnavailable, Tokens, Writer
from mailwatch.web.app import create_app

logger = logging.getLogger(__name__)
AGAIN_AFTER = 2.0
"""Seconds until a disk that was full is tried again."""
CLOSED_WITHIN = 3.0
"""Seconds for a disk to take what waits, and for the record of the end: it must not keep us from ending."""


@dataclass(slots=True)
class Startup:
    """One start. What it has come to is in `progress`, and `unready` says it."""

    path: Path
    config: Config
    metrics: Metrics
    undo: contextlib.AsyncExitStack
    progress: Progress = field(default_factory=Progress)
    writer: Writer | None = None

    def unready(self) -> list[str]:
        """Say why /readyz must fail: how far the start has come, and what it waits for."""
        return [f"starting: {self.progress}", *(self.writer.problems() if self.writer else [])]

    async def run(self) -> tuple[Service, ASGIApp]:
        """Start. Return what runs from then on, and what answers for it."""
        built = await asyncio.to_thread(build, self.config)
        store = await self._store(built.channels)
        service = await self._service(built, store)
        await self._begin_to_notify(service.notifier)
        await service.take_over(built.targets, store.findings, self.progress)
        views = outlook(service.monitor, service.reader, self.path, self.config, service.auditing)
        sources = answers(service.monitor, service.reader, unready=service.unready, ill=service.ill)

        def app_for(access: WebAccess) -> ASGIApp:
            return create_app(sources, views, access, service.monitor.secret, service.open_to_all)

        service.app_for = app_for
        return service, app_for(built.access)

    async def _store(self, channels: Sequence[Channel]) -> Store:
        """Open the store, once there is room for it."""
        health = Health()
        while True:
            try:
                opening = partial(Store.open, self.config.data_dir, self.progress, health=health)
                store = await asyncio.to_thread(opening)
            except StoreBroken as error:
                await tell_broken(channels, self.config.data_dir, str(error))
                raise
            except DiskFull:
                self.progress.at(Step.FULL)
                await asyncio.sleep(AGAIN_AFTER)
            else:
                break
        for finding in store.findings:
            logger.warning("ledger: %s", finding)
        return store

    async def _service(self, built: Built, store: Store) -> Service:
        """Put the parts together."""
        config, metrics = self.config, self.metrics
        alarm = Alarm(built.channels, config.data_dir, metrics)
        self.undo.push_async_callback(alarm.finish, CLOSED_WITHIN)
        store.health.alarm = alarm.ring
        reader = Reader.open(config.data_dir, store.health)
        self.undo.callback(reader.close)
        writer = Writer(store, on_commit=lambda seconds, _entries: metrics.committed(seconds))
        await writer.start()
        self.undo.push_async_callback(_within, CLOSED_WITHIN, writer.close)
        self.writer = writer
        detection, (guard, port25) = config.detection, guard_of(config)
        monitor = Monitor(
            vantage_point=VantagePoint(name=config.vantage_point.name, place=config.vantage_point.place),
            rules=Rules(detection.open_after, detection.close_after, detection.recheck),
            writer=writer,
            metrics=metrics,
            guard=guard,
            port25=port25,
            clock=ClockWatch(),
            secret=store.keys.secret,
            at_once=config.limits.max_concurrent,
            time_servers=time_servers(config),
        )
        self.undo.push_async_callback(monitor.tokens.finish, CLOSED_WITHIN)
        metrics.audited(True)  # Store.open raises else.
        metrics.channels([channel.name for channel in built.channels])
        notifier = Notifier(
            built.channels,
            config.data_dir,
            reader,
            latest=lambda: [w.latest for w in list(monitor.watches.values()) if w.latest],
            counted=metrics.notified,
            held=lambda target, at: bool(monitor.excluded(target, at, at + 1)),
            health=store.health,
        )
        self.undo.callback(notifier.close)
        return Service(
            path=self.path,
            config=config,
            monitor=monitor,
            reader=reader,
            writer=writer,
            notifier=notifier,
            auditing=Auditing(reader, store.keys, metrics, notifier.tell),
            alarm=alarm,
            selfwatch=SelfWatch(monitor, notifier.report),
            timestamping=Timestamping(monitor, reader, Tokens(config.data_dir), built.authorities),
            built=built,
            open_to_all=nobodys(monitor, reader),
        )

    async def _begin_to_notify(self, notifier: Notifier) -> None:
        """Take up the outbox, once the disk takes it."""
        self.progress.at(Step.WRITING)
        while True:
            try:
                return await asyncio.to_thread(notifier.begin)
            except StoreUnavailable as error:
                logger.error("the outbox cannot be written: %s; it is tried again", error)
                await asyncio.sleep(AGAIN_AFTER)


async def stopped(service: Service) -> None:
    """Put the end on record, if the disk takes it."""
    await _within(service.patience(CLOSED_WITHIN), lambda: service.node("stop"))


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work()
