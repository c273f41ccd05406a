"""The running MailWatch: the parts that the start built (startup.py), and what a SIGHUP changes in them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
from mailwatch.config.errors import ConfigProblem
from mailwatch.config.recorded_targets import RELOAD
from mailwatch.config.types import split_endpoint
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.monitor.background import BackgroundTasks
from mailwatch.monitor.build import BuiltConfig, build_config, merge_reload
from mailwatch.monitor.enrolment import apply_config, end_targets, record_targets
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.restore import restore_evidence, restore_targets
from mailwatch.monitor.self_audit import DamageAlarm, LedgerSelfAudit
from mailwatch.monitor.self_check import SelfCheck
from mailwatch.monitor.timestamps import TimestampScheduler
from mailwatch.notify import Heartbeat, Notifier
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.settings import Target
from mailwatch.store import NewEntry, Reader, StoreError, StoreFullError, Writer
from mailwatch.store.replay import maintenance_payload, read_announcements
from mailwatch.times import now

logger = logging.getLogger(__name__)
FIRST_PROBES_SECONDS = 0.05
"""Seconds between the first probes at the start."""


@dataclass(slots=True, kw_only=True)
class Service:
    """All running parts. `path` is the config file, which a reload reads again; `config` is the one in force."""

    path: Path
    config: Config
    monitor: Pipeline
    reader: Reader
    writer: Writer
    notifier: Notifier
    auditing: LedgerSelfAudit
    alarm: DamageAlarm
    selfwatch: SelfCheck
    timestamping: TimestampScheduler
    built_config: BuiltConfig
    """The objects built from the config in force."""
    only_public_targets: Callable[[], bool]
    """Returns whether all targets on record are public."""
    app_for: Callable[[WebAccess], ASGIApp] | None = field(default=None, init=False)
    """Builds the web application for the given access rules."""
    open_app: Callable[[ASGIApp], None] = field(default=lambda _: None, init=False)
    """Makes an application answer from then on."""
    began: float | None = field(default=None, init=False)
    """When probing began, on time.monotonic()."""
    _heartbeat: Heartbeat = field(init=False)
    _housekeeping: BackgroundTasks = field(init=False)

    def __post_init__(self) -> None:
        self._heartbeat = Heartbeat(
            *_heartbeat_settings(self.config, self.built_config), lambda: not self.stale_reasons()
        )
        others = [self.timestamping.run, self.notifier.run, self.auditing.run]
        others += [self.selfwatch.run, self._heartbeat.run]
        self._housekeeping = BackgroundTasks(self.monitor, self.reader, time_servers(self.config), *others)

    async def restore(self, targets: Sequence[Target], findings: Sequence[str], progress: StartupProgress) -> None:
        """Record the start, and restore the targets from the ledger."""
        progress.update(StartupStep.WRITING)
        await self.record_node_event("start", findings=list(findings))
        progress.update(StartupStep.READING)
        await self._apply_announcements()
        await end_targets(self.monitor, self.reader, {target.name for target in targets})
        await record_targets(self.monitor, self.reader, targets)
        await restore_targets(self.monitor, self.reader, targets, progress)
        await asyncio.to_thread(restore_evidence, self.monitor.attribution.expiry.evidence, self.reader)
        self.monitor.metrics.config_reload(True, now() / 1000)

    @contextlib.asynccontextmanager
    async def running(self, give_up: Callable[[], None]) -> AsyncIterator[None]:
        """Probe, and run the background tasks, while the context lasts. If a loop fails, call `give_up`."""
        async with self._housekeeping.running(give_up):
            self.began = time.monotonic()
            self.monitor.schedule.start()
            self._probe_soon(self.monitor.targets)
            try:
                yield
            finally:
                self.monitor.schedule.stop()
                await self.monitor.schedule.finish(self.shutdown_seconds(5.0))

    def shutdown_seconds(self, seconds: float) -> float:
        """Return how many seconds to wait for records at the end: less if the disk takes none."""
        return min(seconds, 1.0) if self.writer.problems() else seconds

    def _probe_soon(self, names: Iterable[str]) -> None:
        for number, name in enumerate(names):
            # An interval of half an hour would be a long wait for the first probe; but do not probe all at once.
            self.monitor.schedule.advance_to(name, number * FIRST_PROBES_SECONDS)

    async def record_node_event(self, event: str, **more: object) -> None:
        """Record a start, reload or stop, with the rules and the maintenance in force from here on."""
        payload = {
            "event": event,
            "version": __version__,
            "python": platform.python_version(),
            "system": platform.platform(),
            "config": digest(self.config),
            "vantage_point": self.config.vantage_point.name,
            "place": self.config.vantage_point.place,
            "rules": rules_payload(self.monitor.rules),
            **maintenance_payload(build_maintenance(self.config, self.monitor.secret)),
            **more,
        }
        await self.writer.submit(NewEntry(kind="node", time=now(), target=None, payload=payload))

    async def _apply_announcements(self) -> None:
        """Load the announced maintenance from the ledger; seal a new announcement at once."""
        maintenance = self.monitor.maintenance
        before = maintenance.announced
        maintenance.announced = await asyncio.to_thread(read_announcements, self.reader)
        if maintenance.announced != before:
            await self.writer.checkpoint()

    async def reload(self) -> None:
        """Read the config again, and apply all keys but build.RESTART_ONLY_KEYS. One call at a time.

        A faulty config, or an unreadable secret, changes nothing; the log has each mistake.
        """
        try:
            given = await asyncio.to_thread(load, self.path)
            config, waiting = merge_reload(self.config, given)
            built = await asyncio.to_thread(build_config, config)
            notes = await asyncio.to_thread(_notes, config)
        except (ConfigError, OSError) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config was not reloaded:\n%s", error)
            return
        for key in waiting:
            logger.warning("%s changed: this takes effect at the next start", key)
        for note in notes:
            logger.warning("%s", note)
        try:
            await self._apply_settings(config, built)
            await self._apply_targets(built.targets)
        except (StoreError, StoreFullError) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config was only partly applied: %s", error)

    async def _apply_targets(self, wanted: Sequence[Target]) -> None:
        """Record a reload, and watch exactly these targets from now on."""
        self.only_public_targets()
        await self.record_node_event("reload")
        await self._apply_announcements()
        targets = {target.name: target for target in wanted}
        added = await apply_config(self.monitor, targets)
        await record_targets(self.monitor, self.reader, added, RELOAD)
        await restore_targets(self.monitor, self.reader, added)
        self._probe_soon(target.name for target in added)
        self.monitor.metrics.config_reload(True, now() / 1000)
        logger.info("config reloaded: monitoring %d target%s", len(targets), "s" * (len(targets) != 1))

    async def _apply_settings(self, config: Config, built: BuiltConfig) -> None:
        """Apply a changed config to all parts but the targets. Nothing here can fail."""
        before, self.config, self.built_config = (self.config, self.built_config), config, built
        self.monitor.runner.reconfigure(config.limits.max_concurrent)
        attribution, servers = self.monitor.attribution, time_servers(config)
        others = config.guard != before[0].guard or _guard_reads_files(config)
        attribution.reconfigure(
            *(build_guards(config) if others else (attribution.guard, attribution.port25)), servers
        )
        self._housekeeping.set_time_servers(servers)
        self.timestamping.set_authorities(built.authorities)
        self.monitor.metrics.channels([channel.name for channel in built.channels])
        await self.notifier.change(built.channels)
        self.alarm.channels = built.channels
        self._heartbeat.change(*_heartbeat_settings(config, built))
        if self.app_for is not None and built.access != before[1].access:
            # Sessions of an old password end here.
            self.open_app(self.app_for(built.access))

    def stale_reasons(self) -> list[str]:
        """Return why the heartbeat must stop: not ready, or no observation recorded for long."""
        runtimes = list(self.monitor.targets.values())
        newest = max((runtime.observed_at or 0.0 for runtime in runtimes), default=0.0)
        shortest = min((runtime.target.interval for runtime in runtimes), default=0.0)
        late = self.began is not None and time.monotonic() - max(newest, self.began) > shortest * 3 + 120
        return [*self.unready_reasons(), *(["no observation was recorded"] if runtimes and late else [])]

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail."""
        problems = self.writer.problems()
        if not self.monitor.schedule.running:
            problems.append("the schedule is not running")
        return [*problems, *self.selfwatch.reasons()]


def build_guards(config: Config) -> tuple[Guard | None, Port25 | None]:
    """Return the guard of our own line and the check of port 25, None where the config has them off."""
    return Guard.from_config(config.guard), Port25(config.guard.port25_controls) if config.guard else None


def _guard_reads_files(config: Config) -> bool:
    """Return whether the guard's trusted certificates may have changed without a change of the config."""
    return config.guard is not None and any(control.ca_file for control in config.guard.controls)


def time_servers(config: Config) -> list[tuple[str, int]]:
    """Return the time servers: host and port."""
    return [split_endpoint(server) for server in config.clock.servers]


def _heartbeat_settings(config: Config, built: BuiltConfig) -> tuple[SecretStr | None, float]:
    """Return the address to request while MailWatch is healthy, and the seconds between two requests."""
    return built.heartbeat, config.heartbeat.every if config.heartbeat else 0.0


def _notes(config: Config) -> list[ConfigProblem]:
    return [*web_warnings(config), *warnings(config), *channel_warnings(config)]
