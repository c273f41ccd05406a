"""`mailwatch run`: puts the rooms together, keeps them running until SIGTERM, reloads on SIGHUP."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import signal
import time
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mailwatch import __version__, records
from mailwatch.auditing import Auditing
from mailwatch.clock import ClockWatch
from mailwatch.config import (
    Config,
    ConfigError,
    build_authorities,
    build_channels,
    build_heartbeat,
    build_maintenance,
    build_targets,
    digest,
    load,
    web_access,
)
from mailwatch.config.fields import split_endpoint
from mailwatch.enrolment import enrol, reenrol, retire
from mailwatch.guard import Guard
from mailwatch.housekeeping import Housekeeping
from mailwatch.incidents import incident_json
from mailwatch.metrics import Metrics
from mailwatch.models import Millis, VantagePoint, now
from mailwatch.monitor import Monitor
from mailwatch.notify import Notifier, heartbeat, tell_broken
from mailwatch.outages import Rules, written_rules
from mailwatch.outlook import nobodys, outlook
from mailwatch.port25 import Port25
from mailwatch.replay import notices, written_maintenance
from mailwatch.store import Draft, Reader, Store, StoreBroken, Tokens, Writer
from mailwatch.takeup import take_up
from mailwatch.timestamping import Timestamping
from mailwatch.watched import RELOAD, SEE_API, NoSuchTarget
from mailwatch.web.app import create_app
from mailwatch.web.serve import serving
from mailwatch.web.sources import Sources

logger = logging.getLogger(__name__)
FIRST_LOOKS = 0.05
"""Seconds between the first looks at the start."""


class Daemon:
    """One running MailWatch. `path` is read again on SIGHUP."""

    def __init__(self, path: Path, config: Config) -> None:
        self.path = path
        self.config = config
        self.metrics = Metrics(CollectorRegistry())
        self.stopping = asyncio.Event()
        self._reloading = asyncio.Lock()
        self._began: float | None = None
        """On time.monotonic()."""

    async def run(self) -> None:
        """Run until `stopping` is set.

        Raises what start-up raises: ConfigError, Locked, KeysMissing, StoreBroken, OSError.
        """
        config = self.config
        targets = await asyncio.to_thread(build_targets, config)
        authorities = await asyncio.to_thread(build_authorities, config)
        channels = await asyncio.to_thread(build_channels, config)
        self._heartbeat = await asyncio.to_thread(build_heartbeat, config)
        access = await asyncio.to_thread(web_access, config)
        try:
            store = await asyncio.to_thread(Store.open, config.data_dir)
        except StoreBroken as error:
            await tell_broken(channels, config.data_dir, str(error))
            raise
        for finding in store.findings:
            logger.warning("ledger: %s", finding)
        reader = Reader.open(config.data_dir)
        writer = Writer(store, on_commit=lambda seconds, _entries: self.metrics.committed(seconds))
        await writer.start()
        self.monitor = Monitor(
            vantage_point=VantagePoint(name=config.vantage_point.name, place=config.vantage_point.place),
            rules=_rules(config),
            writer=writer,
            metrics=self.metrics,
            guard=Guard.of(config.guard),
            port25=Port25(config.guard.port25_controls) if config.guard else None,
            clock=ClockWatch(),
            secret=store.keys.secret,
            at_once=config.limits.max_concurrent,
        )
        self._timestamping = Timestamping(self.monitor, reader, Tokens(config.data_dir), authorities)
        self.reader, self.writer = reader, writer
        self._secret = store.keys.secret
        self.metrics.audited(True)  # Store.open raises else.
        self.metrics.channels([channel.name for channel in channels])
        self._notifier = Notifier(
            channels,
            config.data_dir,
            reader,
            latest=lambda: [w.latest for w in list(self.monitor.watches.values()) if w.latest],
            counted=self.metrics.notified,
            held=lambda target, at: bool(self.monitor.excluded(target, at, at + 1)),
        )
        self._auditing = Auditing(reader, store.keys, self.metrics, self._notifier.tell)
        try:
            await asyncio.to_thread(self._notifier.begin)
            await self._node("start", findings=store.findings)
            await self._announced()
            await retire(self.monitor, self.reader, {target.name for target in targets})
            await enrol(self.monitor, self.reader, targets)
            await take_up(self.monitor, self.reader, targets)
            self.metrics.config_reload(True, now() / 1000)
            views = outlook(self.monitor, reader, self.path, config, self._auditing)
            self._open_to_all = nobodys(self.monitor, reader)
            app = create_app(self._sources(), views, access, store.keys.secret, self._open_to_all)
            async with serving(app, config.web.host, config.web.port), self._housekeeping():
                self._begin()
                logger.info("watching %d targets; web on http://%s/", len(self.monitor.watches), config.web.listen)
                await self.stopping.wait()
                self.monitor.schedule.stop()
                await self.monitor.schedule.finish(5.0)
        finally:
            await self.monitor.tokens.finish(3.0)
            # A disk that takes nothing must not keep us from ending.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(3):
                    await self._node("stop")
            await writer.close()
            self._notifier.close()
            reader.close()

    def _begin(self) -> None:
        self._began = time.monotonic()
        self.monitor.schedule.start()
        self._hurry(self.monitor.watches)

    def _hurry(self, names: Iterable[str]) -> None:
        for number, name in enumerate(names):
            # Nobody likes to wait half an hour for the first look; but not all at once.
            self.monitor.schedule.sooner(name, number * FIRST_LOOKS)

    def _housekeeping(self) -> contextlib.AbstractAsyncContextManager[None]:
        servers = [split_endpoint(server) for server in self.config.clock.servers]
        others = [self._timestamping.run, self._notifier.run, self._auditing.run]
        if self._heartbeat and (section := self.config.heartbeat):
            others.append(partial(heartbeat, self._heartbeat, section.every, lambda: not self._ill()))
        return Housekeeping(self.monitor, self.reader, servers, *others).running(self.stopping)

    async def _node(self, event: str, **more: Any) -> None:
        payload = {
            "event": event,
            "version": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "config": digest(self.config),
            "vantage_point": self.config.vantage_point.name,
            "place": self.config.vantage_point.place,
            "rules": written_rules(self.monitor.rules),
            **written_maintenance(build_maintenance(self.config, self._secret)),
            **more,
        }
        await self.writer.submit(Draft(kind="node", time=now(), target=None, payload=payload))

    async def _announced(self) -> None:
        """Take maintenance as it is on record; an announcement is sealed at once."""
        before = self.monitor.maintenance
        self.monitor.maintenance = await asyncio.to_thread(notices, self.reader)
        if self.monitor.maintenance != before:
            await self.writer.checkpoint()

    async def reload(self) -> None:
        """Read the config again; a faulty one changes nothing and is told line by line."""
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        try:
            config = await asyncio.to_thread(load, self.path)
            targets = {target.name: target for target in await asyncio.to_thread(build_targets, config)}
        except (ConfigError, OSError) as error:
            self.metrics.config_reload(False, now() / 1000)
            logger.error("the config is kept as it was:\n%s", error)
            return
        fixed = (
            "data_dir",
            "web",
            "database",
            "vantage_point",
            "limits",
            "guard",
            "detection",
            "clock",
            "timestamps",
            "notify",
            "heartbeat",
        )
        for field in fixed:
            if getattr(config, field) != getattr(self.config, field):
                logger.warning("%s changed: it takes effect at the next start", field)
        self.config = config
        self._open_to_all()
        await self._node("reload")
        await self._announced()
        added = await reenrol(self.monitor, targets)
        await enrol(self.monitor, self.reader, added, RELOAD)
        await take_up(self.monitor, self.reader, added)
        self._hurry(target.name for target in added)
        self.metrics.config_reload(True, now() / 1000)
        logger.info("config reloaded: watching %d targets", len(targets))

    def _sources(self) -> Sources:
        def targets() -> list[dict[str, Any]]:
            return [self.monitor.status(watch) for watch in list(self.monitor.watches.values())]

        def known() -> dict[str, tuple[str, str]]:
            watches = list(self.monitor.watches.values())
            return {w.target.name: (w.target.provider, w.target.kind.value) for w in watches}

        def unknown(name: str) -> str:
            try:
                records.wanted_targets(self.reader, name, list(self.monitor.watches), see=SEE_API)
            except NoSuchTarget as error:
                return str(error)
            return ""

        def availability(target: str | None, start: Millis, end: Millis) -> list[dict[str, Any]]:
            watched = list(self.monitor.watches)
            wanted = records.wanted_targets(self.reader, target, watched, see=SEE_API)
            return records.availability(self.reader, wanted, start, end)

        def incident(wanted: str) -> dict[str, Any] | None:
            for item in records.incidents(self.reader, live=self.monitor.open_outages()):
                if item.id == wanted:
                    return incident_json(records.in_full(self.reader, item))
            return None

        return Sources(
            targets=targets,
            unknown=unknown,
            outages=lambda only_open, start, end: records.outages(
                self.reader, only_open=only_open, start=start, end=end, live=self.monitor.open_outages()
            ),
            incidents=lambda only_open, start, end: [
                incident_json(incident)
                for incident in records.incidents(
                    self.reader, only_open=only_open, start=start, end=end, live=self.monitor.open_outages()
                )
            ],
            incident=incident,
            observations=lambda looks: records.observations(self.reader, known(), **asdict(looks)),
            availability=availability,
            offline=lambda start, end: records.offline(self.reader, start=start, end=end),
            unready=self._unready,
            ill=self._ill,
            metrics=self.metrics.exposition,
        )

    def _ill(self) -> list[str]:
        """Say why the heartbeat must stop: not ready, or no look was put on record for long."""
        watches = list(self.monitor.watches.values())
        newest = max((watch.seen_at or 0.0 for watch in watches), default=0.0)
        shortest = min((watch.target.interval for watch in watches), default=0.0)
        late = self._began is not None and time.monotonic() - max(newest, self._began) > shortest * 3 + 120
        return [*self._unready(), *(["no look was put on record"] if watches and late else [])]

    def _unready(self) -> list[str]:
        problems = []
        if not self.writer.healthy:
            problems.append(f"the ledger cannot be written; {self.writer.pending} entries wait in memory")
        if not self.monitor.schedule.running:
            problems.append("the schedule is not running")
        return problems


def _rules(config: Config) -> Rules:
    detection = config.detection
    return Rules(detection.open_after, detection.close_after, detection.recheck)


async def run(path: Path, config: Config) -> None:
    """Run a daemon with the signals of the process: SIGTERM and SIGINT end it, SIGHUP reloads."""
    daemon = Daemon(path, config)
    loop = asyncio.get_running_loop()
    reloads: set[asyncio.Task[None]] = set()

    def reload() -> None:
        task = loop.create_task(daemon.reload())
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, daemon.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, reload)
    await daemon.run()
