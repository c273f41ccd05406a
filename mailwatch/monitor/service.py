"""The running MailWatch: the parts that the start built (startup.py), and what a SIGHUP changes in them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
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
    default_path,
    digest,
    load,
    warnings,
    web_warnings,
)
from mailwatch.config.errors import ConfigProblem
from mailwatch.config.recorded_targets import RELOAD
from mailwatch.config.types import split_endpoint
from mailwatch.errors import OperationError
from mailwatch.fleet.dispatcher import Dispatcher
from mailwatch.guard.connectivity import Guard
from mailwatch.guard.port25 import Port25
from mailwatch.hub.receiver import Receiver
from mailwatch.ledger.cosignature import VerifierKey, parse_verifier_key
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.monitor.address_record import AddressRecorder
from mailwatch.monitor.background import BackgroundTasks
from mailwatch.monitor.backups import BackupSchedule
from mailwatch.monitor.build import BuiltConfig, build_config, merge_reload
from mailwatch.monitor.enrolment import apply_config, end_targets, record_targets
from mailwatch.monitor.hub_push import HubPusher
from mailwatch.monitor.hub_record import HubRecord
from mailwatch.monitor.packing import LedgerPacking
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.restore import restore_evidence, restore_targets
from mailwatch.monitor.self_audit import DamageAlarm, LedgerSelfAudit
from mailwatch.monitor.self_check import SelfCheck
from mailwatch.monitor.state_keeper import StateKeeper
from mailwatch.monitor.storage import StorageWatch
from mailwatch.monitor.timestamps import TimestampScheduler
from mailwatch.monitor.witnessing import WitnessScheduler
from mailwatch.notify import Heartbeat, Notifier
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.settings import Target
from mailwatch.store import NewEntry, Reader, StoreError, StoreFullError, Writer
from mailwatch.store.announcements import maintenance_payload, read_announcements
from mailwatch.store.lease import Node, Takeover
from mailwatch.times import now
from mailwatch.witness.cosigner import Cosigner

logger = logging.getLogger(__name__)
FIRST_PROBES_SECONDS = 0.05
"""Seconds between the first probes at the start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadResult:
    """The result of a reload: why it failed, "" if it did not, and the changed keys that wait for a start."""

    error: str = ""
    waiting: tuple[str, ...] = ()


@dataclass(slots=True, kw_only=True)
class Service:
    """All running parts. `path` is the config file, which a reload reads again; `config` is the one in force.

    `named`: the user named the file; else a reload reads the one that a start would find by now.
    """

    path: Path
    named: bool
    config: Config
    monitor: Pipeline
    reader: Reader
    writer: Writer
    notifier: Notifier
    auditing: LedgerSelfAudit
    alarm: DamageAlarm
    selfwatch: SelfCheck
    storage: StorageWatch
    packing: LedgerPacking
    timestamping: TimestampScheduler
    witnessing: WitnessScheduler
    hub_pusher: HubPusher
    hub_record: HubRecord
    cosigner: Cosigner | None
    """The witness for the ledgers of others, None without `witness:` and hubs."""
    receiver: Receiver | None = field(default=None, init=False)
    """The hub, None without `hub_server:`."""
    fleet: Dispatcher | None = field(default=None, init=False)
    """Shares out the probes to other nodes; None where there can be none."""
    make_cosigner: Callable[[Config], Cosigner | None] = field(default=lambda _: None, init=False)
    """Makes the witness that a config needs. Not asynchronous. Raises WitnessKeyError, StoreError, OSError."""
    built_config: BuiltConfig
    """The objects built from the config in force."""
    only_public_targets: Callable[[], bool]
    """Returns whether all targets on record are public."""
    app_for: Callable[[WebAccess], ASGIApp] | None = field(default=None, init=False)
    """Builds the web application for the given access rules."""
    open_app: Callable[[ASGIApp], None] = field(default=lambda _: None, init=False)
    """Makes an application answer from then on."""
    nodes: Callable[[], Sequence[Node]] = field(default=lambda: (), init=False)
    """Returns the nodes that share the ledger; none with SQLite."""
    node_problems: Callable[[], list[str]] = field(default=lambda: [], init=False)
    """Returns why this node may not probe now, where several share the ledger."""
    node_notes: Callable[[], list[str]] = field(default=lambda: [], init=False)
    """Returns which other nodes have another config."""
    began: float | None = field(default=None, init=False)
    """When probing began, on time.monotonic()."""
    backups: BackupSchedule = field(init=False)
    addresses: AddressRecorder = field(init=False)
    _heartbeat: Heartbeat = field(init=False)
    _housekeeping: BackgroundTasks = field(init=False)
    _reloading: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    def __post_init__(self) -> None:
        self._heartbeat = Heartbeat(
            *_heartbeat_settings(self.config, self.built_config),
            lambda: not (self.unready_reasons() or self.stale_reasons()),
        )
        self.backups = BackupSchedule(
            lambda: self.path, self.config.data_dir, self.config.backup, self.monitor.metrics, self.notifier.notify
        )
        self.addresses = AddressRecorder(self.monitor, self.config.guard)
        self.packing.pruning.connect(
            self.record_node_event,
            self.monitor.writer.checkpoint,
            lambda: [*(state.size for state in list(self.witnessing.states.values())), *self.hub_pusher.needed()],
        )
        others = [self.timestamping.run, self.witnessing.run, self.notifier.run, self.auditing.run]
        others += [self.hub_pusher.run, self.hub_record.run]
        others += [
            self.storage.run,
            self.packing.run,
            self.selfwatch.run,
            self._heartbeat.run,
            self.backups.run,
            self.addresses.run,
        ]
        others += [StateKeeper(self.monitor, self.reader).run]
        self._housekeeping = BackgroundTasks(self.monitor, self.reader, time_servers(self.config), *others)

    def make_app(self) -> ASGIApp:
        """Return the web application. It may take a second to make."""
        assert self.app_for is not None
        return self.app_for(self.built_config.access)

    async def restore(
        self,
        targets: Sequence[Target],
        findings: Sequence[str],
        progress: StartupProgress,
        takeover: Takeover | None = None,
    ) -> None:
        """Record the start, and how this node took over if it did; restore the targets from the ledger."""
        progress.update(StartupStep.WRITING)
        await self.record_node_event("start", findings=list(findings), **takeover_payload(takeover))
        progress.update(StartupStep.READING)
        await self.writer.index_outages()
        await self._apply_announcements()
        await end_targets(self.monitor, self.reader, {target.name for target in targets})
        await record_targets(self.monitor, self.reader, targets)
        await restore_targets(self.monitor, self.reader, targets, progress)
        await asyncio.to_thread(restore_evidence, self.monitor.attribution.expiry.evidence, self.reader)
        self.monitor.metrics.config_reload(True, now() / 1000)

    @contextlib.asynccontextmanager
    async def running(self, give_up: Callable[[], None]) -> AsyncIterator[None]:
        """Probe, and run the background tasks, while the context lasts. If a loop fails, call `give_up`."""
        async with self._housekeeping.running(
            give_up,
            *(() if self.monitor.spooler is None else (self.monitor.spooler.run,)),
            *(() if self.fleet is None else (self.fleet.run,)),
        ):
            self.began = time.monotonic()
            self.monitor.schedule.start()
            self._probe_soon(self.monitor.targets)
            try:
                yield
            finally:
                self.monitor.schedule.stop()
                self.monitor.recorder.changes.flush()
                await self.monitor.schedule.finish(self.shutdown_seconds(5.0))

    @contextlib.asynccontextmanager
    async def following(
        self, give_up: Callable[[], None], follow: Callable[[], Coroutine[None, None, None]]
    ) -> AsyncIterator[None]:
        """Read the record for the pages, and probe nothing, while the context lasts. `follow` reads on."""
        async with self._housekeeping.reading(give_up, self.storage.run, follow):
            yield

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

    async def reload(self) -> ReloadResult:
        """Read the config again, and apply all keys but build.RESTART_ONLY_KEYS. One after the other.

        A faulty config, or an unreadable secret, changes nothing; the log has each mistake.
        """
        async with self._reloading:
            return await self._reload()

    async def _reload(self) -> ReloadResult:
        try:
            path = self.path if self.named else await asyncio.to_thread(lambda: default_path().absolute())
            given = await asyncio.to_thread(load, path)
            config, waiting = merge_reload(self.config, given)
            built = await asyncio.to_thread(build_config, config)
            notes = await asyncio.to_thread(_notes, config)
            if self.cosigner is None:
                self.cosigner = await asyncio.to_thread(self.make_cosigner, config)
                self.hub_pusher.cosigner = self.cosigner
        except (ConfigError, OperationError, OSError) as error:
            self.monitor.metrics.config_reload(False, now() / 1000)
            logger.error("the config was not reloaded:\n%s", error)
            return ReloadResult(error=str(error))
        if path != self.path:
            logger.info("the config is %s from now on", path)
            self.path = path
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
            return ReloadResult(error=str(error), waiting=tuple(waiting))
        return ReloadResult(waiting=tuple(waiting))

    async def _apply_targets(self, wanted: Sequence[Target]) -> None:
        """Record a reload, and watch exactly these targets from now on."""
        self.only_public_targets()
        if self.monitor.spooler is not None:
            # What waits for the database was observed under the config before.
            await self.monitor.spooler.drained()
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
        if self.fleet is not None:
            self.fleet.at_once = config.limits.max_concurrent
            self.fleet.set_targets(built.targets)
        if self.monitor.spooler is not None:
            self.monitor.spooler.set_limit(config.limits.spool)
        attribution, servers = self.monitor.attribution, time_servers(config)
        others = config.guard != before[0].guard or _guard_reads_files(config)
        attribution.reconfigure(
            *(build_guards(config) if others else (attribution.guard, attribution.port25)), servers
        )
        self._housekeeping.set_time_servers(servers)
        self.addresses.set_section(config.guard)
        self.timestamping.set_authorities(built.authorities)
        self.witnessing.set_witnesses(built.witnesses)
        self.hub_pusher.set_hub(built.hub)
        if self.cosigner is not None:
            self.cosigner.allow(witnessed_keys(config))
        self.monitor.metrics.web_url = config.web.url or ""
        self.backups.set_section(config.backup)
        self.packing.set_retention(config.retention)
        self.monitor.metrics.channels([channel.name for channel in built.channels])
        await self.notifier.change(built.channels)
        self.alarm.channels = built.channels
        self._heartbeat.change(*_heartbeat_settings(config, built))
        if self.app_for is not None and built.access != before[1].access:
            # Sessions of an old password end here.
            self.open_app(self.app_for(built.access))

    def stale_reasons(self) -> list[str]:
        """Return why the states may be old: checks or their recording fail, or none was recorded for long."""
        runtimes = [runtime for runtime in list(self.monitor.targets.values()) if not runtime.target.paused]
        newest = max((runtime.observed_at or 0.0 for runtime in runtimes), default=0.0)
        shortest = min((runtime.target.interval for runtime in runtimes), default=0.0)
        late = self.began is not None and time.monotonic() - max(newest, self.began) > shortest * 3 + 120
        return [*self._recording_problems(), *(["no observation was recorded"] if runtimes and late else [])]

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail."""
        # Messages that do not arrive say nothing about what was recorded.
        return [*self._recording_problems(), *self.notifier.unreachable_reasons()]

    def _recording_problems(self) -> list[str]:
        problems = self.writer.problems()
        if self.monitor.spooler is not None:
            problems += self.monitor.spooler.problems()
        if not self.monitor.schedule.running:
            problems.append("the schedule is not running")
        return [*problems, *self.node_problems(), *self.selfwatch.reasons()]


def takeover_payload(takeover: Takeover | None) -> dict[str, object]:
    """Return what the entry of a start says of the node; nothing where the ledger never had another one."""
    if takeover is None or not takeover.takeovers:
        return {}
    found = {"id": takeover.node, "epoch": takeover.epoch, "former": takeover.former, "reason": takeover.reason}
    return {"node": found}


def build_guards(config: Config) -> tuple[Guard | None, Port25 | None]:
    """Return the guard of our own line and the check of port 25, None where the config has them off."""
    return Guard.from_config(config.guard), Port25(config.guard.port25_controls) if config.guard else None


def _guard_reads_files(config: Config) -> bool:
    """Return whether the guard's trusted certificates may have changed without a change of the config."""
    return config.guard is not None and any(control.ca_file for control in config.guard.controls)


def time_servers(config: Config) -> list[tuple[str, int]]:
    """Return the time servers: host and port."""
    return [split_endpoint(server) for server in config.clock.servers]


def witnessed_keys(config: Config) -> list[VerifierKey]:
    """Return the keys of the ledgers of others that are cosigned: those of `witness:`, and the hub's."""
    logs = [*(config.witness.logs if config.witness else ()), *([config.hub.key] if config.hub else ())]
    return [parse_verifier_key(log) for log in logs]


def _heartbeat_settings(config: Config, built: BuiltConfig) -> tuple[SecretStr | None, float]:
    """Return the address to request while MailWatch is healthy, and the seconds between two requests."""
    return built.heartbeat, config.heartbeat.every if config.heartbeat else 0.0


def _notes(config: Config) -> list[ConfigProblem]:
    return [*web_warnings(config), *warnings(config), *channel_warnings(config)]
