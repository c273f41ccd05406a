"""Starts MailWatch from its config, step by step; each step can be cancelled at any time.

Slow steps run in threads, and whatever must be closed goes on the stack `undo` as soon as it is open. The start
waits while the disk is full. It raises ConfigError, StoreError or OSError for what cannot pass.
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
from mailwatch.guard.clock import ClockMonitor
from mailwatch.metrics import Metrics
from mailwatch.model import Rules
from mailwatch.monitor.build import BuiltConfig, build_config
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.read_model import MonitorReadModel, only_public_targets
from mailwatch.monitor.self_audit import DamageAlarm, LedgerSelfAudit
from mailwatch.monitor.self_check import SelfCheck
from mailwatch.monitor.service import Service, build_guards, time_servers
from mailwatch.monitor.timestamps import TimestampScheduler
from mailwatch.notify import Notifier, notify_ledger_broken
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.settings import Channel, VantagePoint
from mailwatch.store import (
    DiskFullError,
    Reader,
    Store,
    StoreDamagedError,
    StoreHealth,
    StoreUnavailableError,
    Tokens,
    Writer,
)
from mailwatch.web.app import create_app

logger = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
"""Seconds until a full disk is tried again."""
CLOSE_SECONDS = 3.0
"""Seconds to write pending entries and the record of the stop: the disk must not keep us from stopping."""


@dataclass(slots=True)
class Startup:
    """One start. `progress` is how far it has come."""

    path: Path
    config: Config
    metrics: Metrics
    undo: contextlib.AsyncExitStack
    progress: StartupProgress = field(default_factory=StartupProgress)
    writer: Writer | None = None

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail: how far the start has come, and what it waits for."""
        return [f"starting: {self.progress}", *(self.writer.problems() if self.writer else [])]

    async def run(self) -> tuple[Service, ASGIApp]:
        """Start. Return the running service and its web application."""
        built = await asyncio.to_thread(build_config, self.config)
        store = await self._store(built.channels)
        service = await self._service(built, store)
        await self._start_notifier(service.notifier)
        await service.restore(built.targets, store.findings, self.progress)
        read_model = MonitorReadModel(service)

        def app_for(access: WebAccess) -> ASGIApp:
            return create_app(read_model, access, service.monitor.secret, service.only_public_targets)

        service.app_for = app_for
        return service, app_for(built.access)

    async def _store(self, channels: Sequence[Channel]) -> Store:
        """Open the store as soon as the disk has space."""
        health = StoreHealth()
        while True:
            try:
                opening = partial(Store.open, self.config.data_dir, self.progress, health=health)
                store = await asyncio.to_thread(opening)
            except StoreDamagedError as error:
                await notify_ledger_broken(channels, self.config.data_dir, str(error))
                raise
            except DiskFullError:
                self.progress.update(StartupStep.FULL)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        for finding in store.findings:
            logger.warning("ledger: %s", finding)
        return store

    async def _service(self, built: BuiltConfig, store: Store) -> Service:
        """Build the parts and connect them."""
        config, metrics = self.config, self.metrics
        alarm = DamageAlarm(built.channels, config.data_dir, metrics)
        self.undo.push_async_callback(alarm.finish, CLOSE_SECONDS)
        store.health.alarm = alarm.trigger
        reader = Reader.open(config.data_dir, store.health)
        self.undo.callback(reader.close)
        writer = Writer(store, on_commit=lambda seconds, _entries: metrics.committed(seconds))
        await writer.start()
        self.undo.push_async_callback(_within, CLOSE_SECONDS, writer.close)
        self.writer = writer
        monitor = self._pipeline(writer, store.keys.secret)
        metrics.audited(True)  # else Store.open had raised
        metrics.channels([channel.name for channel in built.channels])
        notifier = Notifier(
            built.channels,
            config.data_dir,
            reader,
            latest=lambda: [w.latest for w in list(monitor.targets.values()) if w.latest],
            count=metrics.notified,
            in_maintenance=monitor.maintenance.includes,
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
            auditing=LedgerSelfAudit(reader, store.keys, metrics, notifier.notify),
            alarm=alarm,
            selfwatch=SelfCheck(monitor, notifier.notify_directly),
            timestamping=TimestampScheduler(monitor, reader, Tokens(config.data_dir), built.authorities),
            built_config=built,
            only_public_targets=only_public_targets(monitor, reader),
        )

    def _pipeline(self, writer: Writer, secret: bytes) -> Pipeline:
        config = self.config
        here, detection, (guard, port25) = config.vantage_point, config.detection, build_guards(config)
        monitor = Pipeline(
            vantage_point=VantagePoint(name=here.name, place=here.place),
            rules=Rules(detection.open_after, detection.close_after, detection.recheck),
            writer=writer,
            metrics=self.metrics,
            guard=guard,
            port25=port25,
            clock=ClockMonitor(),
            secret=secret,
            at_once=config.limits.max_concurrent,
            time_servers=time_servers(config),
        )
        self.undo.push_async_callback(monitor.tokens.finish, CLOSE_SECONDS)
        return monitor

    async def _start_notifier(self, notifier: Notifier) -> None:
        """Restore the outbox's cursor as soon as the disk is writable."""
        self.progress.update(StartupStep.WRITING)
        while True:
            try:
                return await asyncio.to_thread(notifier.restore_cursor)
            except StoreUnavailableError as error:
                logger.error("the outbox cannot be written: %s; MailWatch tries again", error)
                await asyncio.sleep(RETRY_SECONDS)


async def record_stop(service: Service) -> None:
    """Record the stop, if the disk takes it in time."""
    await _within(service.shutdown_seconds(CLOSE_SECONDS), lambda: service.record_node_event("stop"))


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work()
