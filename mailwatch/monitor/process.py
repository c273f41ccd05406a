"""`mailwatch run`: the life of the process, which handles signals and answers /healthz from the start."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from mailwatch import monotonic
from mailwatch.config import Config, ConfigError, load
from mailwatch.config.access import Networks
from mailwatch.config.compared import compared_parts
from mailwatch.config.types import split_endpoint
from mailwatch.errors import OperationError
from mailwatch.hub.app import HubApp
from mailwatch.hub.receiver import Receiver
from mailwatch.metrics import Metrics
from mailwatch.monitor import watchdog
from mailwatch.monitor.build import build_config, merge_reload
from mailwatch.monitor.late_modules import load_late_modules
from mailwatch.monitor.management import ServiceManagement
from mailwatch.monitor.membership import Membership
from mailwatch.monitor.prober import Prober
from mailwatch.monitor.service import Service
from mailwatch.monitor.signals import exit_within, install_handlers
from mailwatch.monitor.startup import Startup, record_stop
from mailwatch.monitor.watchdog import HEARTBEAT_SECONDS, MAX_MISSED, watch_loop
from mailwatch.probes import ProbeFunction, observe
from mailwatch.progress import StartupProgress
from mailwatch.store import StoreError, lock_holder
from mailwatch.store.errors import EvictedError
from mailwatch.store.keys import load_keys
from mailwatch.store.lease import Takeover
from mailwatch.store.place import configured_place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.web.server import ListenError, MetricsOnly, serving
from mailwatch.web.starting import StartingApp
from mailwatch.witness.app import WitnessApp
from mailwatch.witness.cosigner import Cosigner

logger = logging.getLogger(__name__)
T = TypeVar("T")
LOG_SECONDS = 5.0
"""Seconds between two log lines about a long start."""


class DaemonError(OperationError):
    """The process ended because of a failure."""


class Daemon:
    """One process of MailWatch: start, run, reload on request, end.

    `named`: the user named the config file `path`. `pages` takes the numbers of targets and of concurrent probes,
    and returns the file handles the pages may use.
    """

    def __init__(
        self,
        path: Path,
        config: Config,
        pages: Callable[[int, int], int],
        *,
        named: bool,
        observe: ProbeFunction = observe,
    ) -> None:
        self.path, self.named, self._pages = path, named, pages
        self.config = config
        self.ending = asyncio.Event()
        self._reload_wanted = asyncio.Event()
        self._service: Service | None = None
        self._start: Startup | None = None
        self._prober: Prober | None = None
        self._observe = observe
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
        progress = StartupProgress()
        front = StartingApp(progress, lambda: self._unready(progress))
        async with self._serving(front):
            place = configured_place(self.config)
            if isinstance(place, PostgresPlace):
                await self._run_as_node(place, front, progress)
            else:
                await self._run_term(front, progress)
        if lost := self._unwritten_ledger():
            raise DaemonError(lost)
        if self._failed:
            raise DaemonError("stopped by an internal error; see the log")

    def _unready(self, progress: StartupProgress) -> list[str]:
        return [f"starting: {progress}"] if self._start is None else self._start.unready_reasons()

    async def _run_as_node(self, place: PostgresPlace, front: StartingApp, progress: StartupProgress) -> None:
        """Stand by until this node takes over, and run until it is stopped, or has lost its lease: then again."""
        async with _background(_log_progress(lambda: self._unready(progress))):
            member = await self._unless_ended(Membership.join(place, progress, compared_parts(self.config)))
        if member is None:
            logger.info("stopped before the start was complete")
            return
        member.current_config = self._current_config
        async with member.running(self.fail):
            while not self.ending.is_set():
                async with contextlib.AsyncExitStack() as pages:
                    takeover = await self._stand_by(member, front, progress, pages)
                    if takeover is None:
                        return
                    monotonic.begin_term(takeover.takeovers)
                    logger.info("this node, %s, is active%s", member.lease.name, _how(takeover))
                    with contextlib.suppress(EvictedError):
                        await self._run_term(front, progress, member, takeover, pages.aclose)
                front.close()
                if self._service is not None:
                    self.config = self._service.config

    def _current_config(self) -> Config:
        return self.config if self._service is None else self._service.config

    async def _stand_by(
        self, member: Membership, front: StartingApp, progress: StartupProgress, pages: contextlib.AsyncExitStack
    ) -> Takeover | None:
        """Wait until this node takes over; return None if the daemon is stopped first. `pages` ends its pages."""
        taking = asyncio.create_task(member.take())
        searched = asyncio.create_task(member.searched())
        ended = asyncio.create_task(self.ending.wait())
        try:
            await asyncio.wait((taking, searched, ended), return_when=asyncio.FIRST_COMPLETED)
            if not taking.done() and not ended.done():
                active = member.active_node()
                logger.info(
                    "this node, %s, stands by%s", member.lease.name, f"; {active.name} is active" if active else ""
                )
                watchdog.ready("standing by")
                async with _background(self._probe_for_others(member)):
                    await pages.enter_async_context(_background(self._follow(member, front, progress)))
                    await asyncio.wait((taking, ended), return_when=asyncio.FIRST_COMPLETED)
            return await taking if taking.done() else None
        finally:
            for one in (taking, searched, ended):
                one.cancel()
            await asyncio.wait((taking, searched, ended))

    async def _probe_for_others(self, member: Membership) -> None:
        """Probe for the active node, until cancelled."""
        config = self.config
        built = await asyncio.to_thread(build_config, config)
        keys = await asyncio.to_thread(load_keys, config.data_dir)
        self._prober = Prober(member, config, built.targets, keys.secret, self._observe)
        try:
            await self._prober.run()
        except Exception:
            logger.exception("this node does not probe any more; MailWatch stops")
            self.fail()
        finally:
            self._prober = None

    async def _follow(self, member: Membership, front: StartingApp, progress: StartupProgress) -> None:
        """Answer requests with what the active node records, until cancelled; read the config again on request."""
        while True:
            async with contextlib.AsyncExitStack() as undo:
                start = Startup(
                    self.path, self.config, Metrics(CollectorRegistry()), undo, progress, named=self.named,
                    membership=member,
                )  # fmt: skip
                try:
                    self._service, app, follower = await start.follow(member)
                except StoreError as error:
                    logger.warning("the pages of this node wait for the record: %s", error)
                    await asyncio.sleep(LOG_SECONDS)
                    continue
                await undo.enter_async_context(self._service.following(self.fail, follower.run))
                front.open(app)
                await self._reload_wanted.wait()
                self._reload_wanted.clear()
                await self._reload_standing_by()

    async def _reload_standing_by(self) -> None:
        """Read the config again; a faulty one changes nothing."""
        try:
            given = await asyncio.to_thread(load, self.path)
            config, waiting = merge_reload(self.config, given)
            built = await asyncio.to_thread(build_config, config)
        except (ConfigError, OSError) as error:
            logger.error("the config was not reloaded:\n%s", error)
            return
        for key in waiting:
            logger.warning("%s changed: this takes effect at the next start", key)
        self.config = config
        if self._prober is not None:
            self._prober.configure(config, built.targets)

    async def _run_term(
        self,
        front: StartingApp,
        progress: StartupProgress,
        member: Membership | None = None,
        takeover: Takeover | None = None,
        opened: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        """Start, and run until the daemon is stopped, or another node has ended this one's lease.

        `opened` is called once the pages are those of the running service. Raises the errors of Startup.run.
        """
        async with contextlib.AsyncExitStack() as undo:
            start = Startup(
                self.path, self.config, Metrics(CollectorRegistry()), undo, progress, named=self.named,
                membership=member, observe=self._observe,
            )  # fmt: skip
            self._start = start
            async with _background(_log_progress(start.unready_reasons)):
                started = await self._unless_ended(start.run(takeover))
            if started is None:
                if start.writer and (damage := start.writer.damage()):
                    raise DaemonError(damage)
                logger.info("stopped before the start was complete")
                return
            self._service = started
            await self._run(self._service, front, undo, member, opened)

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
            if web.metrics_listen:
                host, port = split_endpoint(web.metrics_listen)
                metrics = serving(MetricsOnly(front), host, port, key="web.metrics_listen")
                await served.enter_async_context(metrics)
            if self.config.witness:
                witness = serving(WitnessApp(self._cosigner), *self.config.witness.endpoint, key="witness.listen")
                await served.enter_async_context(witness)
            if self.config.hub_server:
                app = HubApp(self._receiver, WitnessApp(self._cosigner))
                hub = serving(app, *self.config.hub_server.endpoint, key="hub_server.listen")
                await served.enter_async_context(hub)
            yield

    def _cosigner(self) -> Cosigner | None:
        return None if self._service is None else self._service.cosigner

    def _receiver(self) -> Receiver | None:
        return None if self._service is None else self._service.receiver

    def _proxies(self) -> Networks:
        return () if self._service is None else self._service.built_config.access.proxies

    def _handles(self) -> int:
        if self._service is None:
            at_once = self.config.limits.max_concurrent
            return self._pages(at_once, at_once)
        return self._pages(len(self._service.monitor.targets), self._service.config.limits.max_concurrent)

    async def _run(
        self,
        service: Service,
        front: StartingApp,
        undo: contextlib.AsyncExitStack,
        member: Membership | None,
        opened: Callable[[], Awaitable[None]] | None,
    ) -> None:
        undo.push_async_callback(record_stop, service)
        service.open_app = front.open
        async with contextlib.AsyncExitStack() as running:
            await running.enter_async_context(service.running(self.fail))
            # Not before the first probe: the pages take a second on a busy machine.
            front.open(await asyncio.to_thread(service.make_app))
            await running.enter_async_context(_background(self._reloads(service)))
            if opened is not None:
                await opened()
            logger.info("%s; web on http://%s/", _status(service), self.config.web.listen)
            await ServiceManagement(service).log_code()
            watchdog.ready(_status(service))
            async with _background(load_late_modules()):
                await _first_of(self.ending, *([] if member is None else [member.ended]))

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


async def _log_progress(reasons: Callable[[], list[str]]) -> None:
    """Log the progress of a long start: every few seconds, or each minute if it does not advance."""
    logged, silent = "", 0
    while True:
        watchdog.starting("; ".join(reasons()), 12 * LOG_SECONDS)
        await asyncio.sleep(LOG_SECONDS)
        now = "; ".join(reasons())
        silent += 1
        if now != logged or silent * LOG_SECONDS >= 60:
            logger.info("%s", now)
            logged, silent = now, 0


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    tasks = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()


def _how(takeover: Takeover) -> str:
    """Return the words for the log on how a node took over."""
    if not takeover.from_another:
        return ""
    return f": node {takeover.former} {'has left' if takeover.reason == 'left' else 'did not renew its lease'}"


@contextlib.asynccontextmanager
async def _background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` as a task while the context lasts."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


async def run(
    path: Path,
    config: Config,
    pages: Callable[[int, int], int],
    *,
    named: bool,
    observe: ProbeFunction = observe,
) -> None:
    """Run a daemon, which probes by `observe`. SIGTERM and SIGINT stop it, SIGHUP reloads its config."""
    daemon = Daemon(path, config, pages, named=named, observe=observe)
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
