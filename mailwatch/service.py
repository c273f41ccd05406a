"""The running MailWatch: what was put together at the start (startup.py), and what a SIGHUP changes of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from mailwatch import __version__
from mailwatch.auditing import Auditing
from mailwatch.config import Config, ConfigError, build_maintenance, build_targets, digest, load
from mailwatch.config.fields import split_endpoint
from mailwatch.enrolment import enrol, reenrol, retire
from mailwatch.expiry import recall
from mailwatch.housekeeping import Housekeeping
from mailwatch.models import Target, now
from mailwatch.monitor import Monitor
from mailwatch.notify import Notifier, heartbeat
from mailwatch.outages import written_rules
from mailwatch.progress import Progress, Step
from mailwatch.replay import notices, written_maintenance
from mailwatch.selfwatch import SelfWatch
from mailwatch.store import Draft, Reader, Writer
from mailwatch.takeup import take_up
from mailwatch.timestamping import Timestamping
from mailwatch.watched import RELOAD

logger = logging.getLogger(__name__)
FIRST_LOOKS = 0.05
"""Seconds between the first looks at the start."""
FIXED = (
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
"""Sections that take effect at a start only."""


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
    selfwatch: SelfWatch
    timestamping: Timestamping
    heartbeat: SecretStr | None
    """The address to ask while all is well."""
    open_to_all: Callable[[], bool]
    """Whether all on record is nobody's."""
    began: float | None = field(default=None, init=False)
    """On time.monotonic()."""

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
        servers = [split_endpoint(server) for server in self.config.clock.servers]
        others = [self.timestamping.run, self.notifier.run, self.auditing.run, self.selfwatch.run]
        if self.heartbeat and (section := self.config.heartbeat):
            others.append(partial(heartbeat, self.heartbeat, section.every, lambda: not self.ill()))
        async with Housekeeping(self.monitor, self.reader, servers, *others).running(give_up):
            self.began = time.monotonic()
            self.monitor.schedule.start()
            self._hurry(self.monitor.watches)
            try:
                yield
            finally:
                self.monitor.schedule.stop()
                await self.monitor.schedule.finish(5.0)

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
        """Read the config again; a faulty one changes nothing and is told line by line. One at a time."""
        try:
            config = await asyncio.to_thread(load, self.path)
            targets = {target.name: target for target in await asyncio.to_thread(build_targets, config)}
        except (ConfigError, OSError) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config is kept as it was:\n%s", error)
            return
        for section in FIXED:
            if getattr(config, section) != getattr(self.config, section):
                logger.warning("%s changed: it takes effect at the next start", section)
        self.config = config
        self.open_to_all()
        await self.node("reload")
        await self._announced()
        added = await reenrol(self.monitor, targets)
        await enrol(self.monitor, self.reader, added, RELOAD)
        await take_up(self.monitor, self.reader, added)
        self._hurry(target.name for target in added)
        self.monitor.metrics.config_reload(True, now() / 1000)
        logger.info("config reloaded: watching %d targets", len(targets))

    def ill(self) -> list[str]:
        """Say why the heartbeat must stop: not ready, or no look was put on record for long."""
        watches = list(self.monitor.watches.values())
        newest = max((watch.seen_at or 0.0 for watch in watches), default=0.0)
        shortest = min((watch.target.interval for watch in watches), default=0.0)
        late = self.began is not None and time.monotonic() - max(newest, self.began) > shortest * 3 + 120
        return [*self.unready(), *(["no look was put on record"] if watches and late else [])]

    def unready(self) -> list[str]:
        """Say why /readyz must fail."""
        problems = unwritten(self.writer)
        if not self.monitor.schedule.running:
            problems.append("the schedule is not running")
        return [*problems, *self.selfwatch.reasons()]


def unwritten(writer: Writer) -> list[str]:
    """Say why the ledger is behind."""
    if writer.healthy:
        return []
    return [f"the ledger cannot be written; {writer.pending} entries wait in memory"]
