"""The wall clock is set at each moment of a start of the real service, on virtual time: what is on record then."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

import mailwatch.monitor.background
import mailwatch.monitor.startup
from mailwatch.analysis.elapsed import gap_length
from mailwatch.config import load
from mailwatch.guard.clock import STEP_SECONDS, ClockSurvey
from mailwatch.guard.sntp import Offset
from mailwatch.metrics import Metrics
from mailwatch.model import Attempt, Cause, Gap, Observation, Outcome, Phase
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.startup import Startup, record_stop
from mailwatch.probes import ProbeRequest
from mailwatch.store import Reader, audit, queries
from mailwatch.store.keys import load_keys
from mailwatch.store.replay import audit_outages, rule_book
from mailwatch.times import now
from tests.campaign.run import NoDiagnosis
from tests.campaign.virtual import Clocks, VirtualLoop, patched
from tests.helpers.seed import SEED

INTERVAL = 20.0
OFF = 300.0
"""Seconds between two lives of MailWatch."""
ERROR_US = 15_000
"""The bound of a time server's answer."""
DISK_SECONDS = 0.005
SERVED_SECONDS = 25.0
"""How long a life lasts after its start: a round of probes and more."""
ROUNDING_MS = 3


@dataclass(slots=True)
class Life:
    """What is true of one life: when its start began, and each probe."""

    began: float
    moments: int = 0
    """How often its start gave way to something else."""
    probes: list[Probe] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Probe:
    """A probe of a target, in true time."""

    target: str
    start: float
    end: float


class SteppingLoop(VirtualLoop):
    """A loop on virtual time that sets the wall clock at one moment: before an iteration, or a thread's job.

    `at`: the number of that moment, None for never.
    """

    def __init__(self, clocks: Clocks, at: int | None, step: Callable[[], None]) -> None:
        super().__init__(clocks, lambda: (DISK_SECONDS, DISK_SECONDS))
        self.moments, self._at, self._step = 0, at, step

    def _moment(self) -> None:
        if self.moments == self._at:
            # After all that was read at this moment so far.
            self._clocks.advance(1e-6)
            self._step()
        self.moments += 1

    def _run_once(self) -> None:
        self._moment()
        super()._run_once()  # type: ignore[misc]

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        def job() -> Any:
            self._moment()
            return func(*args)

        return super().run_in_executor(executor, job)


class Machine:
    """A machine, its installation in `folder`, and a provider that is up or not."""

    def __init__(self, folder: Path) -> None:
        self.clocks = Clocks("start")
        self.config = folder / "config.yaml"
        self.data_dir = folder / "data"
        self.is_up = True
        self.lives: list[Life] = []
        targets = [
            {"name": name, "kind": "imap", "host": f"{name}.example", "provider": "p", "interval": f"{INTERVAL}s",
             "timeout": "10s"}
            for name in ("one", "two")
        ]  # fmt: skip
        settings = {
            "data_dir": str(self.data_dir), "vantage_point": {"name": "here"}, "guard": "off",
            "clock": {"servers": []}, "targets": targets,
            "detection": {"open_after": 1, "close_after": 1, "recheck": []},
        }  # fmt: skip
        self.config.write_text(json.dumps(settings))

    async def observe(self, request: ProbeRequest) -> Observation:
        """Probe the provider: it takes a second, or fails after one."""
        began, started = self.clocks.true, now()
        await asyncio.sleep(1.0)
        self.lives[-1].probes.append(Probe(request.target.name, began, self.clocks.true))
        cause, failed = (None, None) if self.is_up else (Cause.TIMEOUT, Phase.CONNECT)
        attempt = Attempt(
            started_at=started, ended_at=started + 1000, peer="192.0.2.1:993", phases={Phase.CONNECT: 20_000},
            cause=cause, failed_phase=failed, detail="",
        )  # fmt: skip
        return Observation(
            target=request.target.name, scheduled_at=request.scheduled_at, started_at=started,
            ended_at=started + 1000, outcome=Outcome.UP if self.is_up else Outcome.DOWN, cause=cause,
            failed_phase=failed, attempts=(attempt,),
        )  # fmt: skip

    async def survey(self, _servers: object) -> ClockSurvey:
        """Ask three time servers that are right: what they say is of a moment before they have all answered."""
        at, offset_us = now(), round(-self.clocks.offset * 1e6)
        await asyncio.sleep(0.03)
        answers = tuple(Offset(f"time{number}.example", offset_us, ERROR_US, 30_000, 2) for number in range(3))
        return ClockSurvey(at=at, kernel=None, answers=answers)

    def live(self, at: int | None = None, offset: float = 0.0) -> Life:
        """Start, serve for a while and stop; at that moment of the start the clock is set, to be off so much."""
        clocks = self.clocks
        life = Life(clocks.true)
        self.lives.append(life)
        clocks.start()
        loop = SteppingLoop(clocks, at, lambda: clocks.set_off(offset))
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(self._live(loop, life))
        finally:
            loop.close()
            asyncio.set_event_loop(None)
        return life

    async def _live(self, loop: SteppingLoop, life: Life) -> None:
        async with contextlib.AsyncExitStack() as undo:
            startup = Startup(self.config, load(self.config), Metrics(CollectorRegistry()), undo)
            service = await startup.run()
            async with service.running(lambda: pytest.fail("a loop of MailWatch ended")):
                # The first probes end after these moments.
                await asyncio.sleep(1.5)
                life.moments = loop.moments
                await asyncio.sleep(SERVED_SECONDS)
            await record_stop(service)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)

    def pipeline(**parts: Any) -> Pipeline:
        built = Pipeline(**parts | {"observe": made.observe})
        built.attribution._diagnosis = NoDiagnosis()
        return built

    monkeypatch.setattr(mailwatch.monitor.startup, "Pipeline", pipeline)
    with made.clocks.shown(), patched(mailwatch.monitor.background, "survey", made.survey):
        yield made


@pytest.fixture
def down(machine: Machine, tmp_path: Path) -> Callable[[], Machine]:
    """Return a function that makes the machine as it was after a life in which the provider went down."""
    machine.live()
    machine.clocks.advance(OFF)
    machine.is_up = False
    machine.live()
    machine.clocks.advance(OFF)
    machine.is_up = True
    kept = shutil.copytree(machine.data_dir, tmp_path / "kept")
    clocks, lives = copy.deepcopy(machine.clocks.__dict__), list(machine.lives)

    def again() -> Machine:
        shutil.rmtree(machine.data_dir)
        shutil.copytree(kept, machine.data_dir)
        machine.clocks.__dict__.update(copy.deepcopy(clocks))
        machine.lives = list(lives)
        return machine

    return again


def faults(machine: Machine, offset: float, before: float) -> Iterator[str]:
    """Yield what is wrong with the record after a start in which the clock was set from one offset to another."""
    reader, keys = Reader.open(machine.data_dir), load_keys(machine.data_dir)
    try:
        yield from map(str, audit(reader, keys.public, keys.secret))
        events = [entry.payload for entry in reader.entries(kinds=["clock"])]
        steps = [event["milliseconds"] for event in events if event["event"] == "step"]
        true = round((offset - before) * 1000)
        noticed = abs(true) > STEP_SECONDS * 1000
        if len(steps) != noticed or any(abs(step - true) > ROUNDING_MS for step in steps):
            yield f"steps on record: {steps} ms, truly {true}"
        for target in ("one", "two"):
            yield from map(str, audit_outages(reader, rule_book(reader), target, reader.size()))
            yield from _durations(machine, reader, target)
            yield from _bounds(machine, reader, target)
    finally:
        reader.close()


def _durations(machine: Machine, reader: Reader, target: str) -> Iterator[str]:
    """Gaps and outages are as long as they were, by whatever the wall clock was set."""
    good, bad, after = ([probe for probe in life.probes if probe.target == target] for life in machine.lives)
    gaps = [entry.fact for entry in reader.entries(target=target, kinds=["gap"])]
    true = [bad[0].start - good[-1].end, after[0].start - bad[-1].end]
    known = [gap_length(gap) / 1000 for gap in gaps if isinstance(gap, Gap)]
    if len(known) != 2 or any(abs(one - two) * 1000 > ROUNDING_MS for one, two in zip(known, true, strict=True)):
        yield f"{target}: gaps of {known} s, truly {true}"
    (outage,) = [one for one in queries.outages(reader) if one["target"] == target]
    least, most = bad[-1].start - bad[0].end, after[0].end - good[-1].start
    lasted = outage["duration"]
    if lasted["max"] is None or abs(lasted["min"] - least) > 0.003 or abs(lasted["max"] - most) > 0.003:
        yield f"{target}: an outage of {lasted}, truly {least} to {most}"


def _bounds(machine: Machine, reader: Reader, target: str) -> Iterator[str]:
    """What is known of the error of the clock is true, or nothing is known."""
    probes = [probe for life in machine.lives for probe in life.probes if probe.target == target]
    observations = [entry.fact for entry in reader.entries(target=target, kinds=["observation"])]
    for probe, fact in zip(probes, observations, strict=True):
        assert isinstance(fact, Observation)
        assert fact.clock is not None
        error = max(abs(machine.clocks.offset_at(at)) for at in (probe.start, probe.end)) * 1000
        if fact.clock.bound is not None and fact.clock.bound < error - 1:
            yield f"{target}: the clock is off by {error:.0f} ms at {probe.start:.2f}, known as {fact.clock.bound}"


@pytest.mark.parametrize(
    ("before", "offset", "every"),
    [
        (0.0, 0.54, 40),
        pytest.param(0.0, 0.54, 5, marks=pytest.mark.nightly),
        pytest.param(0.0, -0.54, 10, marks=pytest.mark.nightly),
        pytest.param(0.0, 0.3, 5, marks=pytest.mark.nightly),  # too small to be noticed: in the bounds alone
        pytest.param(-3e7, 0.0, 10, marks=pytest.mark.nightly),  # a machine without a battery, put right
        pytest.param(0.0, 3600.0, 10, marks=pytest.mark.nightly),
    ],
)
def test_a_step_of_the_clock_at_any_moment_of_a_start_is_on_record(
    down: Callable[[], Machine], before: float, offset: float, every: int
) -> None:
    """Of every so many moments another one each night."""

    def started(at: int | None) -> Machine:
        machine = down()
        machine.clocks.set_off(before)
        machine.live(at, offset)
        return machine

    moments = started(None).lives[-1].moments
    assert moments > 100
    first = 1 + random.Random(SEED).randrange(every)
    wrong = {at: found for at in range(first, moments, every) if (found := [*faults(started(at), offset, before)])}
    assert wrong == {}
