"""`mailwatch run`: the life of the process, which handles signals and answers /healthz from the start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from mailwatch.config import Config
from mailwatch.config.access import Networks
from mailwatch.errors import OperationError
from mailwatch.metrics import Metrics
from mailwatch.monitor import watchdog
from mailwatch.monitor.service import Service
from mailwatch.monitor.signals import exit_within, install_handlers
from mailwatch.monitor.startup import Startup, record_stop
from mailwatch.monitor.watchdog import HEARTBEAT_SECONDS, MAX_MISSED, watch_loop
from mailwatch.store import lock_holder
from mailwatch.web.server import ListenError, serving
from mailwatch.web.starting import StartingApp

logger = logging.getLogger(__name__)
T = TypeVar("T")
LOG_SECONDS = 5.0
"""Seconds between two log lines about a long start."""


class DaemonError(OperationError):
    """The process ended because of a failure."""


class Daemon:
    """One process of MailWatch: start, run, reload on request, end.

    `pages` takes the numbers of targets and of concurrent probes, and returns the file handles the pages may use.
    """

    def __init__(self, path: Path, config: Config, pages: Callable[[int, int], int]) -> None:
        self.path, self._pages = path, pages
        self.config = config
        self.ending = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._service: Service | None = None
        self._failed = False

    def stop(self) -> None:
        """Stop as soon as possible, within ten seconds at the latest. May be called at any time."""
        if not self.ending.is_set():
            self.ending.set()
            watchdog.stopping()
            exit_within(lambda: 1 if self._failed or self._unwritten_ledger() else 0)

    def reload(self) -> None:
        """Reload the config, after the start if that is not over. May be called at any time."""
        self._reload_wanted.set()

    def fail(self) -> None:
        """Stop because a part failed."""
        self._failed = True
        self.stop()

    def _unwritten_ledger(self) -> str:
        """Return which part of the ledger would be lost or is damaged, "" if none."""
        return "" if self._service is None else self._service.writer.unwritten()

    async def run(self) -> None:
        """Run until `stop` is called. Raises the errors of Startup.run, and DaemonError."""
        async with contextlib.AsyncExitStack() as undo:
            start = Startup(self.path, self.config, Metrics(CollectorRegistry()), undo)
            front = StartingApp(start.progress, start.unready_reasons)
            async with self._serving(front):
                async with _background(_log_progress(start)):
                    started = await self._unless_ended(start.run())
                if started is None:
                    if start.writer and (damage := start.writer.damage()):
                        raise DaemonError(damage)
                    logger.info("stopped before the start was complete")
                    return
                self._service, app = started
                await self._run(self._service, front, app, undo)
        if lost := self._unwritten_ledger():
            raise DaemonError(lost)
        if self._failed:
            raise DaemonError("stopped by an internal error; see the log")

    @contextlib.asynccontextmanager
    async def _serving(self, front: StartingApp) -> AsyncIterator[None]:
        web = self.config.web
        async with contextlib.AsyncExitStack() as served:
            try:
                await served.enter_async_context(serving(front, web.host, web.port, self._proxies, self._handles))
            except ListenError:
                # If MailWatch was started twice, the holder of the lock is the more useful error.
                if error := await asyncio.to_thread(lock_holder, self.config.data_dir):
                    raise error from None
                raise
            yield

    def _proxies(self) -> Networks:
        return () if self._service is None else self._service.built_config.access.proxies

    def _handles(self) -> int:
        if self._service is None:
            at_once = self.config.limits.max_concurrent
            return self._pages(at_once, at_once)
        return self._pages(len(self._service.monitor.targets), self._service.config.limits.max_concurrent)

    async def _run(
        self, service: Service, front: StartingApp, app: ASGIApp, undo: contextlib.AsyncExitStack
    ) -> None:
        undo.push_async_callback(record_stop, service)
        service.open_app = front.open
        async with service.running(self.fail), _background(self._reloads(service)):
            front.open(app)
            logger.info("%s; web on http://%s/", _status(service), self.config.web.listen)
            watchdog.ready(_status(service))
            await self.ending.wait()

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Await `work`; return None if the daemon is stopped first. Threads of the work are then left running."""
        task = asyncio.create_task(work)
        ended = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        except BaseException:
            self.fail()
            raise
        finally:
            for one in (task, ended):
                one.cancel()
            await asyncio.wait((task, ended))

    async def _reloads(self, service: Service) -> None:
        """Reload on request, one reload at a time."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            watchdog.reloading()
            try:
                await service.reload()
            except Exception:
                service.monitor.metrics.internal_error()
                logger.exception("the reload failed: internal error")
            watchdog.ready(_status(service))


async def _log_progress(start: Startup) -> None:
    """Log the progress of a long start: every few seconds, or each minute if it does not advance."""
    logged, silent = "", 0
    while True:
        watchdog.starting("; ".join(start.unready_reasons()), 12 * LOG_SECONDS)
        await asyncio.sleep(LOG_SECONDS)
        now = "; ".join(start.unready_reasons())
        silent += 1
        if now != logged or silent * LOG_SECONDS >= 60:
            logger.info("%s", now)
            logged, silent = now, 0


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` as a task while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def run(path: Path, config: Config, pages: Callable[[int, int], int]) -> None:
    """Run a daemon. SIGTERM and SIGINT stop it, SIGHUP reloads its config."""
    daemon = Daemon(path, config, pages)
    watchdog_limit = watchdog.watchdog_seconds()
    every = min(HEARTBEAT_SECONDS, watchdog_limit / 3) if watchdog_limit else HEARTBEAT_SECONDS
    install_handlers(asyncio.get_running_loop(), daemon.stop, daemon.reload)
    async with watch_loop(
        watchdog.keep_alive if watchdog_limit else lambda: None,
        every,
        round(HEARTBEAT_SECONDS / every * MAX_MISSED),
    ):
        await daemon.run()


def _status(service: Service) -> str:
    count = len(service.monitor.targets)
    return f"monitoring {count} target{'s' * (count != 1)}"
