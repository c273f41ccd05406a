"""Runs the real monitor, schedule, writer, store and judgement through a world."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

import mailwatch.monitor.background
from mailwatch.config.recorded_targets import RELOAD, START
from mailwatch.facts import DiagnosisFacts
from mailwatch.guard.diagnosis import Diagnosis
from mailwatch.ledger.settings_payloads import rules_payload
from mailwatch.metrics import Metrics
from mailwatch.monitor.background import BackgroundTasks
from mailwatch.monitor.enrolment import apply_config, end_targets, record_targets, renew_records
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.restore import restore_targets
from mailwatch.settings import Login, Target, VantagePoint
from mailwatch.store import NewEntry, Reader, Store, Writer
from mailwatch.times import now
from tests.campaign.guard import guard_of, regular_rounds
from tests.campaign.ledger_check import check_ledger
from tests.campaign.simulated_probes import SimulatedProbes
from tests.campaign.survey import SYNCHRONISED_WITHIN, Survey
from tests.campaign.virtual import Clocks, Ticks, VirtualLoop, patched
from tests.campaign.world import MAX_CLOCK_ERROR_SECONDS, Entry, MachineEvent, Service, Span, World

CHECKPOINT_EVERY = 4 * 3600.0


@dataclass(slots=True)
class History:
    """What became of our machine, in true time."""

    off: list[Span] = field(default_factory=list)
    disturbed: list[Span] = field(default_factory=list)
    kills: int = 0
    reloads: int = 0
    reboots: int = 0
    errors: float = 0.0
    findings: list[str] = field(default_factory=list)
    """What was wrong with the ledger, or with what was taken up from it, at a start."""
    configs: list[Applied] = field(default_factory=list)
    lives: list[FinishedLife] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class FinishedLife:
    """A life that ended in order: its entries of the ledger, and each target's gaps by the metrics then."""

    first: int
    last: int
    gap_seconds: dict[str, float]


@dataclass(frozen=True, slots=True)
class Applied:
    """A config that was read: when that began and was done with, and the name and interval of each service."""

    start: float
    end: float
    entries: dict[str, Entry]


class Run:
    """One world from beginning to end; `folder` gets the ledger."""

    def __init__(self, world: World, folder: Path, template: Path | None = None) -> None:
        self.world, self.folder = world, folder
        self.clocks = Clocks(world.seed)
        self.history = History()
        self.probes = SimulatedProbes(world, self.clocks)
        self._happenings = list(world.machine_events)
        if template is not None:
            shutil.copytree(template, folder)

    def through(self) -> None:
        """Live through all of the world, and start once more, which checks what the last life left."""
        survey = Survey(self.world, self.clocks)
        with self.clocks.shown(), patched(mailwatch.monitor.background, "survey", survey.ask):
            while self.clocks.true < self.world.end:
                self._live()
            self._live()

    def _live(self) -> None:
        self.clocks.start()
        life = _Life(self)
        self._after(life.live())
        self.history.off.append(Span(life.ended, self.clocks.true, "not running"))

    def _after(self, event: MachineEvent) -> None:
        """Let the time pass until MailWatch starts again."""
        if event.what != "reboot":
            self._pass(event.value)
            return
        self.clocks.advance(event.value)
        self._happenings = [each for each in self._happenings if each.what != "ntp" or each.at > self.clocks.true]
        self.clocks.reboot(self.clocks.offset if event.clock is None else self._bounded(event.clock))
        self.history.reboots += 1
        if event.ntp is not None:
            self._happenings.append(MachineEvent(self.clocks.true + event.ntp, "ntp"))
            self._happenings.sort(key=lambda each: each.at)
        self._pass(self.world.chance.uniform(1.0, 30.0))

    def _pass(self, seconds: float) -> None:
        """While MailWatch is off, its clock may be put right: nobody sees it."""
        until = self.clocks.true + seconds
        for event in [each for each in self._happenings if each.what == "ntp" and each.at <= until]:
            self.clocks.advance(max(0.0, event.at - self.clocks.true))
            self.put_right()
            self._happenings.remove(event)
        self.clocks.advance(until - self.clocks.true)

    def put_right(self) -> None:
        """NTP sets the clock, as well as it can."""
        error = SYNCHRONISED_WITHIN * self.world.chance.uniform(-1, 1)
        self.clocks.set_off(error, synchronised=True)

    def put_wrong(self, seconds: float) -> None:
        """Someone sets the clock by so much."""
        self.clocks.set_off(self._bounded(self.clocks.offset + seconds))

    @staticmethod
    def _bounded(offset: float) -> float:
        return min(max(offset, -MAX_CLOCK_ERROR_SECONDS), MAX_CLOCK_ERROR_SECONDS)

    def targets(self) -> list[Target]:
        """What the config says now."""
        found = []
        for service in self.world.services.values():
            if (entry := service.configured(self.clocks.true)) is not None:
                found.append(self._configured(service, *entry))
        return found

    def _configured(self, service: Service, name: str, interval: float) -> Target:
        target = replace(service.target, name=name, interval=interval)
        if service.account is None:
            return target
        password = SecretStr(service.account.written(self.clocks.true))
        login = Login(username=service.account.username, password=password)
        return replace(target, login=login)

    def disk(self) -> tuple[float, float]:
        """How long a commit takes, before and after it is done."""
        took = self.world.chance.uniform(0.001, 0.02)
        return (took, 0.0) if self.world.chance.random() < 0.5 else (0.0, took)

    def next_event(self) -> Any:
        """Take the next thing that happens to the machine; what came while it was off happened to no one."""
        while self._happenings and self._happenings[0].at < self.clocks.true - 1.0:
            self._happenings.pop(0)
        return self._happenings.pop(0) if self._happenings else None


class NoDiagnosis(Diagnosis):
    """Sees nothing else at the moment of a failure."""

    async def diagnose(self, *_: Any) -> DiagnosisFacts:
        """Ask nobody."""
        return {}


class _Life:
    """MailWatch from one start to its end."""

    def __init__(self, run: Run) -> None:
        self._run, self._clocks = run, run.clocks
        self._loop = VirtualLoop(run.clocks, run.disk)
        self._why = MachineEvent(0.0, "off", 1.0)
        self.ended = 0.0

    def live(self) -> MachineEvent:
        """Run until the world says stop or kill; return what put an end to it."""
        asyncio.set_event_loop(self._loop)
        self._store = Store.open(self._run.folder)
        self._reader = Reader.open(self._run.folder)
        main = self._loop.create_task(self._main())
        main.add_done_callback(lambda _: self._loop.stop())
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        if main.done():
            main.result()
        else:
            # As the kernel does with a killed process: nothing runs on, files are closed, the lock is free.
            self._store.close()
            self._reader.close()
        for task in asyncio.all_tasks(self._loop):
            for _ in range(2):  # one that awaits something in its `finally` is closed at the second time
                with contextlib.suppress(RuntimeError):
                    task.get_coro().close()
        self._run.history.errors += self._metrics._errors
        self._loop.close()
        asyncio.set_event_loop(None)
        return self._why

    async def _main(self) -> None:
        world, run = self._run.world, self._run
        self._metrics = Metrics(CollectorRegistry())
        writer = Writer(self._store)
        await writer.start()
        self._ticks = Ticks(self._clocks)
        guard = guard_of(world, self._clocks)
        self.monitor = monitor = Pipeline(
            vantage_point=VantagePoint(name="campaign"),
            rules=world.rules,
            writer=writer,
            metrics=self._metrics,
            guard=guard,
            clock=self._ticks,
            secret=self._store.keys.secret,
            observe=run.probes.observe,
        )
        # It would ask the real network about hosts that are nowhere.
        monitor.attribution._diagnosis = NoDiagnosis()
        first = self._reader.size()
        await self._node("start")
        await self._read_config(begin=True)
        run.history.findings += check_ledger(self._reader, self._store.keys, monitor)
        monitor.schedule.start()
        for number, name in enumerate(monitor.targets):
            monitor.schedule.advance_to(name, number * 0.05)
        stopping = asyncio.Event()
        beside = [asyncio.create_task(self._machine(stopping)), asyncio.create_task(self._checkpoints())]
        beside.append(asyncio.create_task(regular_rounds(guard, world, self._clocks)))
        beside.append(asyncio.create_task(self._renewals()))
        beside.append(asyncio.create_task(BackgroundTasks(monitor, self._reader, ()).survey()))
        await stopping.wait()
        self.ended = self._clocks.true
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        monitor.schedule.stop()
        await monitor.schedule.finish(5.0)
        await self._node("stop")
        displayed = {record.name: record.gap_seconds for record in self._metrics._records.values()}
        run.history.lives.append(FinishedLife(first, self._reader.size(), displayed))
        await writer.close()
        self._reader.close()

    async def _read_config(self, *, begin: bool) -> None:
        """Take over what the config says, at the start and at a reload, as the daemon does."""
        run, monitor, start = self._run, self.monitor, self._clocks.true
        targets = run.targets()
        keys = {service.target.host: key for key, service in run.world.services.items()}
        if begin:
            await end_targets(monitor, self._reader, {target.name for target in targets})
            added = targets
        else:
            added = await apply_config(monitor, {target.name: target for target in targets})
        await record_targets(monitor, self._reader, added, START if begin else RELOAD)
        await restore_targets(monitor, self._reader, added)
        entries = {keys[target.host]: (target.name, target.interval) for target in targets}
        run.history.configs.append(Applied(start, self._clocks.true, entries))
        for number, target in enumerate(() if begin else added):
            monitor.schedule.advance_to(target.name, number * 0.05)

    async def _renewals(self) -> None:
        while True:
            await asyncio.sleep(3600)
            await renew_records(self.monitor)

    async def _node(self, event: str) -> None:
        payload = {"event": event, "rules": rules_payload(self._run.world.rules)}
        await self.monitor.writer.submit(NewEntry(kind="node", time=now(), target=None, payload=payload))

    async def _checkpoints(self) -> None:
        while True:
            await self.monitor.writer.checkpoint()
            await asyncio.sleep(CHECKPOINT_EVERY)

    async def _machine(self, stopping: asyncio.Event) -> None:
        run, clocks = self._run, self._clocks
        while True:
            event = run.next_event()
            until = run.world.end if event is None else event.at
            while clocks.true < until:
                await asyncio.sleep(until - clocks.true)
            if event is None:
                stopping.set()
                return
            if event.what in ("off", "kill", "reboot"):
                self._why = event
                if event.what == "kill" or event.killed:
                    self._kill_soon()
                else:
                    stopping.set()
                return
            if event.what == "reload":
                run.history.reloads += 1
                if event.killed:
                    self._why = MachineEvent(event.at, "kill", 60.0)
                    self._loop.call_later(run.world.chance.uniform(0, 0.1), self._kill)
                await self._read_config(begin=False)
            else:
                self._apply_event(event)

    def _kill(self) -> None:
        self._run.probes.on_end = None
        self._run.history.kills += 1
        self.ended = self._clocks.true
        self._loop.stop()

    def _kill_soon(self) -> None:
        """Kill soon: mostly a moment after a probe, when its record is on the way, else just so."""

        chance = self._run.world.chance
        last = self._loop.call_later(chance.uniform(0, 1800), self._kill)

        def ended() -> None:
            if self._run.probes.on_end:
                self._run.probes.on_end = None
                last.cancel()
                self._loop.call_later(chance.uniform(0, 0.3), self._kill)

        self._run.probes.on_end = ended

    def _apply_event(self, event: Any) -> None:
        run, clocks, history = self._run, self._clocks, self._run.history
        self._ticks.before_disturbance()
        self._loop.call_later(self._ticks.until_next(), self._tick)
        start = clocks.true
        if event.what == "suspend":
            clocks.suspend(event.value)
        elif event.what == "stall":
            clocks.advance(event.value)
        elif event.what == "ntp":
            run.put_right()
        else:
            run.put_wrong(event.value)
        what = "step" if event.what == "ntp" else event.what
        history.disturbed.append(Span(start, clocks.true, what))

    def _tick(self) -> None:
        task = self._loop.create_task(self.monitor.check_clock())
        self._ticking = task
        task.add_done_callback(lambda done: done.cancelled() or done.result())


@contextlib.contextmanager
def template(folder: Path) -> Iterator[Path]:
    """An empty ledger to copy: making the keys and the tables takes as long as a day of probes."""
    Store.open(folder).close()
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
