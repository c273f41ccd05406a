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
from mailwatch.fleet.dispatcher import Dispatcher
from mailwatch.fleet.eligibility import line_word, probing_words
from mailwatch.guard.clock import ClockMonitor
from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.hub.quorum import QuorumBoard
from mailwatch.hub.receiver import Receiver
from mailwatch.hub.successions import Successions
from mailwatch.ledger.cosignature import log_key
from mailwatch.metrics import Metrics
from mailwatch.model import Rules
from mailwatch.monitor.build import BuiltConfig, build_config
from mailwatch.monitor.carried import CheckpointCarrier
from mailwatch.monitor.follower import Follower, RefusingWriter, StandbyReadModel
from mailwatch.monitor.hub_push import HubPusher
from mailwatch.monitor.hub_record import HubRecord
from mailwatch.monitor.management import ServiceManagement
from mailwatch.monitor.member_packing import MemberPacking
from mailwatch.monitor.member_self_audit import MemberSelfAudit
from mailwatch.monitor.membership import Membership, WaitingLog
from mailwatch.monitor.packing import LedgerPacking
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.public_targets import only_public_targets
from mailwatch.monitor.read_model import MonitorReadModel
from mailwatch.monitor.self_audit import DamageAlarm, LedgerSelfAudit
from mailwatch.monitor.self_check import SelfCheck
from mailwatch.monitor.service import Service, build_guards, time_servers, witnessed_keys
from mailwatch.monitor.spooling import Spooler
from mailwatch.monitor.storage import StorageWatch
from mailwatch.monitor.timestamps import TimestampScheduler
from mailwatch.monitor.witnessing import WitnessScheduler
from mailwatch.notify import Notifier, notify_ledger_broken
from mailwatch.notify.channel_names import address_id
from mailwatch.probes import ProbeFunction, observe
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
from mailwatch.store.errors import DatabaseAwayError, EvictedError
from mailwatch.store.hub_register import HubRegister
from mailwatch.store.keys import Keys, load_keys
from mailwatch.store.lease import Lease, Takeover, evicted
from mailwatch.store.place import Place, configured_place
from mailwatch.store.probe_messages import Address
from mailwatch.store.sizes import SizeMeter
from mailwatch.store.spool import Spool
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.times import now
from mailwatch.web.app import create_app
from mailwatch.web.manage.app import ManageState
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key

logger = logging.getLogger(__name__)
RETRY_SECONDS = 2.0
"""Seconds until a full disk is tried again."""
MAX_WAIT_SECONDS = 5.0
"""Most seconds that the first probe waits for another node's clock. Both are within a second of the database's."""
CLOSE_SECONDS = 3.0
"""Seconds to write pending entries and the record of the stop: the disk must not keep us from stopping."""


@dataclass(slots=True)
class Startup:
    """One start. `named`: the user named the config file `path`. `progress` is how far it has come."""

    path: Path
    config: Config
    metrics: Metrics
    undo: contextlib.AsyncExitStack
    progress: StartupProgress = field(default_factory=StartupProgress)
    writer: Writer | None = None
    named: bool = True
    place: Place = field(init=False)
    """Where the ledger is."""
    membership: Membership | None = None
    """This process among the nodes of its ledger, None where it is the only one by design."""
    observe: ProbeFunction = observe
    """Makes a probe."""
    clock: ClockMonitor = field(default_factory=ClockMonitor, init=False)
    """Reads the clocks before all else: a step of the wall clock while the store is opened is on record too."""

    def __post_init__(self) -> None:
        self.place = configured_place(self.config) if self.membership is None else self.membership.place
        if self.membership is not None:
            self.metrics.node = self.membership.record

    def unready_reasons(self) -> list[str]:
        """Return why /readyz must fail: how far the start has come, and what it waits for."""
        return [f"starting: {self.progress}", *(self.writer.problems() if self.writer else [])]

    async def run(self, takeover: Takeover | None = None) -> Service:
        """Start. Return the service, which makes its web application when that is wanted.

        `takeover`: how this node came to hold the targets, None where there are no nodes.
        """
        built = await asyncio.to_thread(build_config, self.config)
        store = await self._store(built.channels)
        writer = Writer(store, on_commit=lambda seconds, _entries: self.metrics.committed(seconds))
        # No entry of a start has another one to wait for.
        writer.is_hurried = True
        await writer.start()
        self.undo.push_async_callback(_within, CLOSE_SECONDS, writer.close)
        service = await self._service(built, store.keys, store.health, writer)
        service.make_cosigner = partial(self._cosigner, health=store.health)
        service.cosigner = await asyncio.to_thread(service.make_cosigner, self.config)
        service.hub_pusher.cosigner = service.cosigner
        if self.config.hub_server is not None and service.cosigner is not None:
            service.receiver = self._hub(service, service.cosigner, store.keys, store.health)
        if self.membership is not None:
            service.monitor.may_probe = self.membership.may_probe
            service.node_problems = self.membership.active_problems
            service.node_notes = self.membership.config_notes
            service.monitor.is_handover = _is_handover(takeover)
            service.fleet = self._fleet(service, keys=store.keys, member=self.membership)
        await self._start_notifier(service.notifier)
        await service.restore(built.targets, store.findings, self.progress, takeover)
        if self.place.is_shared:
            await self._spool(service)
        if takeover is not None and takeover.from_another:
            await _pass_record(service.monitor)
        read_model = MonitorReadModel(service)
        # Made now: later, the first visitor would wait for the disk.
        await asyncio.to_thread(read_model.share_key)
        manage = ManageState(ServiceManagement(service))

        def app_for(access: WebAccess) -> ASGIApp:
            return create_app(read_model, access, service.monitor.secret, service.only_public_targets, manage)

        service.app_for = app_for
        writer.is_hurried = False
        return service

    async def _spool(self, service: Service) -> None:
        """Let observations wait on this machine's disk while the database is away.

        What waits there from before is recorded while it probes, before what it finds: that may take minutes.
        """
        monitor = service.monitor
        spool = Spool(self.config.data_dir, self.config.limits.spool)
        monitor.spooler = Spooler(spool, monitor, monitor.recorder, service.writer, service.reader)
        monitor.recorder.has_spool = True
        monitor.metrics.spool = monitor.spooler.record
        self.undo.push_async_callback(monitor.spooler.close)
        await monitor.spooler.open()

    async def _store(self, channels: Sequence[Channel]) -> Store:
        """Open the store as soon as the disk has space."""
        health, waiting = StoreHealth(), WaitingLog()
        while True:
            try:
                opening = partial(Store.open, self.place, self.progress, health=health)
                store = await asyncio.to_thread(opening)
            except StoreDamagedError as error:
                await notify_ledger_broken(channels, self.config.data_dir, str(error))
                raise
            except DiskFullError:
                self.progress.update(StartupStep.FULL)
                await asyncio.sleep(RETRY_SECONDS)
            except DatabaseAwayError as error:
                waiting.say(str(error))
                self.progress.update(StartupStep.AWAY)
                await asyncio.sleep(RETRY_SECONDS)
            else:
                break
        for finding in store.findings:
            logger.warning("ledger: %s", finding)
        return store

    async def follow(self, membership: Membership) -> tuple[Service, ASGIApp, Follower]:
        """Build the parts for the pages of a node that stands by: they show what the active node records.

        Raises ConfigError, StoreError, OSError.
        """
        built = await asyncio.to_thread(build_config, self.config)
        keys, health = await asyncio.to_thread(load_keys, self.config.data_dir), StoreHealth()
        service = await self._service(built, keys, health, RefusingWriter())
        follower = Follower(service, keys)
        await follower.restore(built.targets)
        read_model = StandbyReadModel(service, membership)
        app = create_app(read_model, built.access, keys.secret, service.only_public_targets)
        return service, app, follower

    async def _service(self, built: BuiltConfig, keys: Keys, health: StoreHealth, writer: Writer) -> Service:
        """Build the parts and connect them."""
        config, metrics = self.config, self.metrics
        alarm = DamageAlarm(built.channels, config.data_dir, metrics)
        self.undo.push_async_callback(alarm.finish, CLOSE_SECONDS)
        health.alarm = alarm.trigger
        reader = Reader.open(self.place, health)
        self.undo.callback(reader.close)
        self.writer = writer
        monitor = self._pipeline(writer, keys.secret)
        monitor.runner.carrier = CheckpointCarrier(monitor.recorder, reader, keys.public)
        metrics.audited(True)  # else Store.open had raised
        metrics.web_url = config.web.url or ""
        metrics.channels([channel.name for channel in built.channels])
        meter = SizeMeter(self.place, health)
        self.undo.callback(meter.close)
        storage = StorageWatch(meter, metrics, config.retention, self.place)
        notifier = Notifier(
            built.channels,
            self.place,
            reader,
            latest=lambda: [w.latest for w in list(monitor.targets.values()) if w.latest and not w.target.paused],
            count=metrics.notified,
            in_maintenance=monitor.maintenance.includes,
            watched=monitor.watched_subjects,
            paused=monitor.paused_targets,
            storage=lambda: storage.latest,
            identify=partial(address_id, keys.secret),
            health=health,
        )
        self.undo.callback(notifier.close)
        service = Service(
            path=self.path,
            named=self.named,
            config=config,
            monitor=monitor,
            reader=reader,
            writer=writer,
            notifier=notifier,
            auditing=LedgerSelfAudit(reader, keys, metrics, notifier.notify, writer.keep_soon),
            alarm=alarm,
            selfwatch=SelfCheck(monitor, notifier.notify_directly),
            storage=storage,
            packing=LedgerPacking(reader, writer, metrics, storage, Tokens(self.place)),
            timestamping=TimestampScheduler(monitor, reader, Tokens(self.place), built.authorities),
            witnessing=WitnessScheduler(monitor, reader, keys, built.witnesses, notifier.notify_directly),
            hub_pusher=HubPusher(monitor, reader, keys, built.hub, notifier.notify_directly),
            hub_record=HubRecord(monitor.recorder, metrics),
            cosigner=None,
            built_config=built,
            only_public_targets=only_public_targets(monitor, reader),
        )
        if (membership := self.membership) is not None:
            service.nodes = lambda: membership.nodes
        return service

    def _cosigner(self, config: Config, health: StoreHealth) -> Cosigner | None:
        """Return the witness for the ledgers of others; None without `witness:`, a hub, or one of one's own."""
        if config.witness is None and config.hub is None and config.hub_server is None:
            return None
        private = load_witness_key(config.data_dir)
        register = WitnessRegister(self.place, health)
        self.undo.callback(register.close)
        cosigner = Cosigner(private, register, witnessed_keys(config))
        if config.witness is not None:
            logger.info("witness on http://%s/ with the key %s", config.witness.listen, cosigner.key)
        return cosigner

    def _hub(self, service: Service, cosigner: Cosigner, keys: Keys, health: StoreHealth) -> Receiver:
        """Return the hub, and have what it takes recorded."""
        register = HubRegister(self.place, health)
        self.undo.callback(register.close)
        ledgers = MemberLedgers(self.place)
        self.undo.callback(ledgers.close)
        receiver = Receiver(
            keys, service.reader, register, ledgers, cosigner,
            on_push=service.hub_record.on_push, on_cosigned=service.hub_record.on_cosigned,
            on_agreed=service.hub_record.on_agreed,
        )  # fmt: skip
        cosigner.others = receiver.member_key
        successions = Successions(self.place)
        service.hub_record.members = lambda: successions.counted(register.members())
        packing = MemberPacking(self.place, register, ledgers)
        self.undo.callback(packing.close)
        service.packing.include(packing)
        service.auditing.members = MemberSelfAudit(
            self.place, service.reader, register, ledgers, service.writer.keep_soon
        )
        if (quorum := self.config.detection.quorum) is not None:
            service.hub_record.board = QuorumBoard(self.place, service.reader, keys.origin, quorum)
        if (section := self.config.hub_server) is not None:
            logger.info("hub on http://%s/ with the key %s", section.listen, log_key(keys.origin, keys.public))
        return receiver

    def _fleet(self, service: Service, keys: Keys, member: Membership) -> Dispatcher:
        """Return what shares out the probes to the other nodes."""
        monitor, lease = service.monitor, member.lease
        fleet = Dispatcher(
            member.place,
            Address(lease.node, lease.epoch),
            nodes=lambda: member.nodes,
            secret=keys.secret,
            at_once=self.config.limits.max_concurrent,
            clock_bound=monitor.attribution.clock_bound.milliseconds,
            on_tick=partial(_say_probing, monitor, lease),
        )
        member.fleet = fleet.record
        self.undo.callback(setattr, member, "fleet", None)
        monitor.runner.check_may_probe = partial(_check_may_probe, member)
        fleet.set_targets(service.built_config.targets)
        monitor.runner.fleet = fleet
        return fleet

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
            clock=self.clock,
            secret=secret,
            at_once=config.limits.max_concurrent,
            time_servers=time_servers(config),
            observe=self.observe,
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


def _say_probing(monitor: Pipeline, lease: Lease) -> None:
    """Tell the other nodes of our line, and how many probes we make."""
    attribution = monitor.attribution
    line = line_word(attribution.guard is not None, attribution.offline_since is None)
    lease.probing = probing_words(line, monitor.runner.made_in_last_minute())


def _check_may_probe(member: Membership) -> None:
    """Raise EvictedError if another node may have taken over by the time a probe ends."""
    if not member.may_probe():
        raise evicted(member.lease.name)


def _is_handover(takeover: Takeover | None) -> bool:
    """Return whether the targets came from another node while this one ran already."""
    return takeover is not None and takeover.from_another and not takeover.unattended


async def _pass_record(monitor: Pipeline) -> None:
    """Wait until our clock is past the end of the last observation: another node's clock may be ahead of ours."""
    last = max((runtime.observed_until or 0 for runtime in monitor.targets.values()), default=0)
    if (ahead := last - now()) < 0:
        return
    await asyncio.sleep(min((ahead + 1) / 1000, MAX_WAIT_SECONDS))
    if (ahead := last - now()) >= 0:
        logger.warning("clock: the record ends %.1f s after our present time", ahead / 1000)


async def record_stop(service: Service) -> None:
    """Record the stop, if the disk takes it in time, and no other node has taken over."""
    with contextlib.suppress(EvictedError):
        await _within(service.shutdown_seconds(CLOSE_SECONDS), lambda: service.record_node_event("stop"))


async def _within(seconds: float, work: Callable[[], Awaitable[None]]) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await work()
