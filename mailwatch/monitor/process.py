"""`mailwatch run`: the life of the process. Signals are heeded and health is answered from the first moment."""

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
from mailwatch.errors import Refused
from mailwatch.metrics import Metrics
from mailwatch.monitor import watchdog
from mailwatch.monitor.service import Service
from mailwatch.monitor.signals import end_within, heed
from mailwatch.monitor.startup import Startup, stopped
from mailwatch.monitor.watchdog import EVERY, MISSED, watched
from mailwatch.store import locked
from mailwatch.web.server import CannotListen, serving
from mailwatch.web.starting import Front

logger = logging.getLogger(__name__)
T = TypeVar("T")
TOLD_EVERY = 5.0
"""Seconds between two lines about a start that takes long."""


class Failed(Refused):
    """It ended, but not as it should."""


class Daemon:
    """One process of MailWatch: start, run, reload on request, end.

    `pages` gives how many file handles the pages may hold beside so many targets, so many of them probed at once.
    """

    def __init__(self, path: Path, config: Config, pages: Callable[[int, int], int]) -> None:
        self.path, self._pages = path, pages
        self.config = config
        self.ending = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._service: Service | None = None
        self._failed = False

    def end(self) -> None:
        """End as soon as possible, and in any case within ten seconds. May be called at any time."""
        if not self.ending.is_set():
            self.ending.set()
            watchdog.stopping()
            end_within(lambda: 1 if self._failed or self._lost() else 0)

    def reload(self) -> None:
        """Reload the config, after the start if that is not over. May be called at any time."""
        self._reload_wanted.set()

    def give_up(self) -> None:
        """End, since a part failed."""
        self._failed = True
        self.end()

    def _lost(self) -> str:
        """Say what of the ledger would be lost, or is damaged; "" if nothing."""
        return "" if self._service is None else self._service.writer.lost()

    async def run(self) -> None:
        """Run until `end` is called. Raises what the start raises, and Failed."""
        async with contextlib.AsyncExitStack() as undo:
            start = Startup(self.path, self.config, Metrics(CollectorRegistry()), undo)
            front = Front(start.progress, start.unready)
            async with self._served(front):
                async with _background(_tell(start)):
                    started = await self._unless_ended(start.run())
                if started is None:
                    if start.writer and (damage := start.writer.damage()):
                        raise Failed(damage)
                    logger.info("ended before the start was over")
                    return
                self._service, app = started
                await self._run(self._service, front, app, undo)
        if lost := self._lost():
            raise Failed(lost)
        if self._failed:
            raise Failed("ended by a fault of our own; the log tells more")

    @contextlib.asynccontextmanager
    async def _served(self, front: Front) -> AsyncIterator[None]:
        web = self.config.web
        async with contextlib.AsyncExitStack() as served:
            try:
                await served.enter_async_context(serving(front, web.host, web.port, self._proxies, self._handles))
            except CannotListen:
                # Of one that was started twice this is the better news.
                if error := await asyncio.to_thread(locked, self.config.data_dir):
                    raise error from None
                raise
            yield

    def _proxies(self) -> Networks:
        return () if self._service is None else self._service.built.access.proxies

    def _handles(self) -> int:
        if self._service is None:
            at_once = self.config.limits.max_concurrent
            return self._pages(at_once, at_once)
        return self._pages(len(self._service.monitor.watches), self._service.config.limits.max_concurrent)

    async def _run(self, service: Service, front: Front, app: ASGIApp, undo: contextlib.AsyncExitStack) -> None:
        undo.push_async_callback(stopped, service)
        service.open_app = front.open
        async with service.running(self.give_up), _background(self._reloads(service)):
            front.open(app)
            logger.info("%s; web on http://%s/", _status(service), self.config.web.listen)
            watchdog.ready(_status(service))
            await self.ending.wait()

    async def _unless_ended(self, work: Coroutine[Any, Any, T]) -> T | None:
        """Do some work; None when the end came before it was done. What it does in threads is left then."""
        task = asyncio.create_task(work)
        ended = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            return await task if task.done() else None
        except BaseException:
            self.give_up()
            raise
        finally:
            for one in (task, ended):
                one.cancel()
            await asyncio.wait((task, ended))

    async def _reloads(self, service: Service) -> None:
        """Reload when it is wanted, one after the other."""
        while True:
            await self._reload_wanted.wait()
            self._reload_wanted.clear()
            watchdog.reloading()
            try:
                await service.reload()
            except Exception:
                service.monitor.metrics.error()
                logger.exception("the reload failed by our own fault")
            watchdog.ready(_status(service))


async def _tell(start: Startup) -> None:
    """Say in the log how far a long start has come: every few seconds, or each minute where it stands still."""
    told, silent = "", 0
    while True:
        watchdog.starting("; ".join(start.unready()), 12 * TOLD_EVERY)
        await asyncio.sleep(TOLD_EVERY)
        now = "; ".join(start.unready())
        silent += 1
        if now != told or silent * TOLD_EVERY >= 60:
            logger.info("%s", now)
            told, silent = now, 0


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Do some work beside, while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def run(path: Path, config: Config, pages: Callable[[int, int], int]) -> None:
    """Run a daemon with the signals of the process: SIGTERM and SIGINT end it, SIGHUP reloads."""
    daemon = Daemon(path, config, pages)
    patience = watchdog.patience()
    every = min(EVERY, patience / 3) if patience else EVERY
    heed(asyncio.get_running_loop(), daemon.end, daemon.reload)
    async with watched(watchdog.alive if patience else lambda: None, every, round(EVERY / every * MISSED)):
        await daemon.run()


def _status(service: Service) -> str:
    count = len(service.monitor.watches)
    return f"watching {count} target{'s' * (count != 1)}"
