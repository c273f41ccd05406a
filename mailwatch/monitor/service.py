"""The running MailWatch: what was put together at the start (startup.py), and what a SIGHUP changes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from starlette.types import ASGIApp

from mailwatch import __version__
from mailwatch.config import (
    Config,
    ConfigError,
    WebAccess,
    build_maintenance,
    channel_warnings,
    digest,
    load,
    warnings,
    web_warnings,
)
from mailwatch.config.errors import Mistake
from mailwatch.config.recorded_targets import RELOAD
from mailwatch.config.types import split_endpoint
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.ledger.payloads import written_rules
from mailwatch.monitor.background import Housekeeping
from mailwatch.monitor.build import Built, build, taken_over
from mailwatch.monitor.damage_alarm import Alarm
from mailwatch.monitor.enrolment import enrol, reenrol, retire
from mailwatch.monitor.pipeline import Monitor
from mailwatch.monitor.restore import recall, take_up
from mailwatch.monitor.self_audit import Auditing
from mailwatch.monitor.self_check import SelfWatch
from mailwatch.monitor.timestamps import Timestamping
from mailwatch.notify import Heartbeat, Notifier
from mailwatch.progress import Progress, Step
from mailwatch.settings import Target
from mailwatch.store import Draft, Reader, StoreError, StoreFull, Writer
from mailwatch.store.replay import notices, written_maintenance
from mailwatch.times import now

logger = logging.getLogger(__name__)
FIRST_LOOKS = 0.05
"""Seconds between the first looks at the start."""


@dataclass(slots=True, kw_only=True)
class Service:
    """All that runs. `path` is the config file, read again at a reload; `config` is the one in force."""

    path: Path
    config: Config
    monitor: Monitor
    reader: Reader
    writer: Writer
    notifier: Notifier
    auditing: Auditing
    alarm: Alarm
    selfwatch: SelfWatch
    timestamping: Timestamping
    built: Built
    """What the config in force names."""
    open_to_all: Callable[[], bool]
    """Whether all on record is nobody's."""
    app_for: Callable[[WebAccess], ASGIApp] | None = field(default=None, init=False)
    """Makes what answers, for who may see what."""
    open_app: Callable[[ASGIApp], None] = field(default=lambda _: None, init=False)
    """Has it answer from then on."""
    began: float | None = field(default=None, init=False)
    """On time.monotonic()."""
    _heartbeat: Heartbeat = field(init=False)
    _housekeeping: Housekeeping = field(init=False)

    def __post_init__(self) -> None:
        self._heartbeat = Heartbeat(*_pulse(self.config, self.built), lambda: not self.ill())
        others = [self.timestamping.run, self.notifier.run, self.auditing.run]
        others += [self.selfwatch.run, self._heartbeat.run]
        self._housekeeping = Housekeeping(self.monitor, self.reader, time_servers(self.config), *others)

    async def take_over(self, targets: Sequence[Target], findings: Sequence[str], progress: Progress) -> None:
        """Put the start on record, and take up the targets where the record left them."""
        progress.at(Step.WRITING)
        await self.node("start", findings=list(findings))
        progress.at(Step.READING)
        await self._announced()
        await retire(self.monitor, self.reader, {target.name for target in targets})
        await enrol(self.monitor, self.reader, targets)
        await take_up(self.monitor, self.reader, targets, progress)
        await asyncio.to_thread(recall, self.monitor.judging.expiry.evidence, self.reader)
        self.monitor.metrics.config_reload(True, now() / 1000)

    @contextlib.asynccontextmanager
    async def running(self, give_up: Callable[[], None]) -> AsyncIterator[None]:
        """Look, and keep house, while the context lasts. `give_up` is called when a loop fails."""
        async with self._housekeeping.running(give_up):
            self.began = time.monotonic()
            self.monitor.schedule.start()
            self._hurry(self.monitor.watches)
            try:
                yield
            finally:
                self.monitor.schedule.stop()
                await self.monitor.schedule.finish(self.patience(5.0))

    def patience(self, seconds: float) -> float:
        """Return how long to wait at the end for what goes on record; less for a disk that takes nothing."""
        return min(seconds, 1.0) if self.writer.problems() else seconds

    def _hurry(self, names: Iterable[str]) -> None:
        for number, name in enumerate(names):
            # Nobody likes to wait half an hour for the first look; but not all at once.
            self.monitor.schedule.sooner(name, number * FIRST_LOOKS)

    async def node(self, event: str, **more: Any) -> None:
        """Put a start, reload or stop on record, with the rules and the maintenance that hold from here on."""
        payload = {
            "event": event,
            "version": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "config": digest(self.config),
            "vantage_point": self.config.vantage_point.name,
            "place": self.config.vantage_point.place,
            "rules": written_rules(self.monitor.rules),
            **written_maintenance(build_maintenance(self.config, self.monitor.secret)),
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
        """Read the config again, and take over all of it but what waits for the next start (building.AT_START).

        A faulty one, or a secret that cannot be read, changes nothing; the log has each mistake. One at a time.
        """
        try:
            given = await asyncio.to_thread(load, self.path)
            config, waiting = taken_over(self.config, given)
            built = await asyncio.to_thread(build, config)
            notes = await asyncio.to_thread(_notes, config)
        except (ConfigError, OSError) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config is kept as it was:\n%s", error)
            return
        for key in waiting:
            logger.warning("%s changed: it takes effect at the next start", key)
        for note in notes:
            logger.warning("%s", note)
        try:
            await self._change(config, built)
            await self._take_in(built.targets)
        except (StoreError, StoreFull) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config was not wholly taken in: %s", error)

    async def _take_in(self, wanted: Sequence[Target]) -> None:
        """Put a reload on record, and watch these targets from now on."""
        self.open_to_all()
        await self.node("reload")
        await self._announced()
        targets = {target.name: target for target in wanted}
        added = await reenrol(self.monitor, targets)
        await enrol(self.monitor, self.reader, added, RELOAD)
        await take_up(self.monitor, self.reader, added)
        self._hurry(target.name for target in added)
        self.monitor.metrics.config_reload(True, now() / 1000)
        logger.info("config reloaded: watching %d target%s", len(targets), "s" * (len(targets) != 1))

    async def _change(self, config: Config, built: Built) -> None:
        """Have all but the targets go on under a changed config. Nothing of it can fail."""
        before, self.config, self.built = (self.config, self.built), config, built
        self.monitor.looking.change(config.limits.max_concurrent)
        judging, servers = self.monitor.judging, time_servers(config)
        others = config.guard != before[0].guard or _guard_reads_files(config)
        judging.use(*(guard_of(config) if others else (judging.guard, judging.port25)), servers)
        self._housekeeping.ask(servers)
        self.timestamping.change(built.authorities)
        self.monitor.metrics.channels([channel.name for channel in built.channels])
        await self.notifier.change(built.channels)
        self.alarm.channels = built.channels
        self._heartbeat.change(*_pulse(config, built))
        if self.app_for is not None and built.access != before[1].access:
            # Who was logged in by an old password is not any more.
            self.open_app(self.app_for(built.access))

    def ill(self) -> list[str]:
        """Say why the heartbeat must stop: not ready, or no look was put on record for long."""
        watches = list(self.monitor.watches.values())
        newest = max((watch.seen_at or 0.0 for watch in watches), default=0.0)
        shortest = min((watch.target.interval for watch in watches), default=0.0)
        late = self.began is not None and time.monotonic() - max(newest, self.began) > shortest * 3 + 120
        return [*self.unready(), *(["no look was put on record"] if watches and late else [])]

    def unready(self) -> list[str]:
        """Say why /readyz must fail."""
        problems = self.writer.problems()
        if not self.monitor.schedule.running:
            problems.append("the schedule is not running")
        return [*problems, *self.selfwatch.reasons()]


def guard_of(config: Config) -> tuple[Guard | None, Port25 | None]:
    """Return who is asked whether our own line works."""
    return Guard.of(config.guard), Port25(config.guard.port25_controls) if config.guard else None


def _guard_reads_files(config: Config) -> bool:
    """Whether what it trusts may have changed though the config has not."""
    return config.guard is not None and any(control.ca_file for control in config.guard.controls)


def time_servers(config: Config) -> list[tuple[str, int]]:
    """Return who is asked for the time: host and port."""
    return [split_endpoint(server) for server in config.clock.servers]


def _pulse(config: Config, built: Built) -> tuple[SecretStr | None, float]:
    """Return the address to ask for while all is well, and each how many seconds."""
    return built.heartbeat, config.heartbeat.every if config.heartbeat else 0.0


def _notes(config: Config) -> list[Mistake]:
    return [*web_warnings(config), *warnings(config), *channel_warnings(config)]
