"""A crowd of servers that break every rule, probed by the real monitor for hours of virtual time.

Sockets, TLS, probes, schedule, judgement and store are real; only waiting is left out: while nothing is under way,
the clock jumps to the next timer. So an hour takes a minute or two.

No exception escapes, no server that breaks the rules is ever up, none that keeps them is ever down, and memory,
tasks and file handles are no more in the second half than in the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import selectors
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from pydantic import SecretStr

from mailwatch.analysis.detector import Detector
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.metrics import Metrics
from mailwatch.model import Outcome, Rules, TlsMode
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Login, Target, VantagePoint
from mailwatch.store import Reader, Store, Writer
from tests.campaign.run import NoDiagnosis
from tests.campaign.virtual import Clocks, Ticks
from tests.chaos.crowd import CROWD, HEALTHY, Member
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.helpers.paths import MEMORY
from tests.helpers.scripted_server import scripted_server
from tests.servers import Certificates

INTERVAL, TIMEOUT = 30.0, 4.0
HOUR = 3600.0
SAMPLE = 20.0
"""Virtual seconds between two measurements."""
STANDSTILL = 2.0
"""Seconds of processor time that one turn of the loop may take, whatever a server said."""
GRACE = 0.0005
"""Real seconds for what is on its way through the kernel."""
ENOUGH = 30
"""Measurements that can be compared."""
GROWTH = 1.1
MEGABYTES, TASKS, HANDLES = 8, 10, 5
"""What the second half may have more, besides a tenth: the allocator and the moment of the measurement."""


class _Jump(selectors.DefaultSelector):
    """Lets the time pass only while neither a socket nor a thread has anything under way."""

    def __init__(self, clocks: Clocks, busy: Callable[[], bool]) -> None:
        super().__init__()
        self._clocks, self._busy = clocks, busy

    def select(self, timeout: float | None = None) -> list[Any]:
        found = super().select(0)
        while not found and (timeout is None or timeout > 0):
            if found := super().select(0.02 if self._busy() or timeout is None else GRACE):
                break
            if timeout is not None and not self._busy():
                self._clocks.advance(timeout)
                break
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """Real sockets and threads on virtual time. `longest` is the processor time of the longest turn."""

    def __init__(self, clocks: Clocks) -> None:
        self._clocks, self._working, self.longest = clocks, 0, 0.0
        super().__init__(_Jump(clocks, lambda: self._working > 0))

    def time(self) -> float:
        """The virtual monotonic clock."""
        return self._clocks.running

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Count what threads are at, for no time passes meanwhile."""
        future = super().run_in_executor(executor, func, *args)
        self._working += 1

        def done(_: asyncio.Future[Any]) -> None:
            self._working -= 1

        future.add_done_callback(done)
        return future

    def _run_once(self) -> None:
        began = time.thread_time()
        super()._run_once()  # type: ignore[misc]
        self.longest = max(self.longest, time.thread_time() - began)


@dataclass(slots=True)
class Samples:
    """What was measured, in order."""

    memory: list[float] = field(default_factory=list)
    tasks: list[float] = field(default_factory=list)
    handles: list[float] = field(default_factory=list)

    def take(self) -> None:
        """Measure once."""
        gc.collect()
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        self.memory.append(pages * resource.getpagesize() / 1e6)
        self.tasks.append(len(asyncio.all_tasks()))
        self.handles.append(sum(1 for _ in Path("/proc/self/fd").iterdir()))


class Complaints(logging.Handler):
    """Exceptions that were logged: each is one that nobody handled."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep what comes with an exception."""
        if record.exc_info and record.exc_info[1] is not None:
            self.found.append(f"{record.getMessage()}: {type(record.exc_info[1]).__name__}: {record.exc_info[1]}")


def run(lab: Lab, figures: Figures, scale: Scale) -> None:
    """Live among them."""
    among(figures, scale.hours, lab.certificates)


def among(figures: Figures, hours: float, certificates: Certificates, crowd: Sequence[Member] = CROWD) -> None:
    """Live among a crowd for so many virtual hours."""
    clocks, complaints = Clocks("hostile"), Complaints()
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(certificates.server.chain, certificates.server.key)
    logging.getLogger().addHandler(complaints)
    loop = JumpingLoop(clocks)
    loop.set_exception_handler(lambda _, what: complaints.found.append(str(what.get("exception") or what)))
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-", dir=MEMORY) as folder, clocks.shown():
            clocks.start()
            asyncio.set_event_loop(loop)
            life = _Life(figures, clocks, loop, Path(folder), complaints)
            loop.run_until_complete(life.through(hours, crowd, served, certificates.ca_file))
            loop.run_until_complete(loop.shutdown_default_executor())
            _checked(figures, Path(folder))
    finally:
        logging.getLogger().removeHandler(complaints)
        asyncio.set_event_loop(None)
        loop.close()
    figures.count("exceptions that escaped", len(complaints.found))
    figures.promise(not complaints.found, f"exceptions escaped: {complaints.found[:2]}")


class _Life:
    def __init__(
        self, figures: Figures, clocks: Clocks, loop: JumpingLoop, folder: Path, complaints: Complaints
    ) -> None:
        self.figures, self.clocks, self.loop, self.folder = figures, clocks, loop, folder
        self.complaints = complaints

    async def through(self, hours: float, crowd: Sequence[Member], served: ssl.SSLContext, ca_file: Path) -> None:
        """Probe all of them until the time is over."""
        async with contextlib.AsyncExitStack() as stack:
            targets = [
                await stack.enter_async_context(_served(member, served, ca_file)) for member in (*HEALTHY, *crowd)
            ]
            monitor = await self._monitor(targets)
            samples = await self._measured(hours)
            monitor.schedule.stop()
            await monitor.schedule.finish(INTERVAL)
            await monitor.writer.close()
        self.figures.count("servers", len(targets))
        self.figures.count("virtual minutes", round(self.clocks.running / 60))
        self._flat("memory", "MB", samples.memory, MEGABYTES)
        self._flat("tasks", "", samples.tasks, TASKS)
        self._flat("file handles", "", samples.handles, HANDLES)
        self.figures.at_most("longest turn of the loop, of processor time", self.loop.longest)

    async def _monitor(self, targets: Sequence[Target]) -> Pipeline:
        writer = Writer(Store.open(self.folder))
        await writer.start()
        monitor = Pipeline(
            vantage_point=VantagePoint(name="chaos"), rules=Rules(), writer=writer,
            metrics=Metrics(CollectorRegistry()), guard=None, clock=Ticks(self.clocks), secret=b"s" * 32,
        )  # fmt: skip
        # It would send real packets on the way to each host, which take real time.
        monitor.attribution._diagnosis = NoDiagnosis()
        for target in targets:
            monitor.add_target(
                TargetRuntime(
                    target=target,
                    detector=Detector(),
                    rolling_availability=RollingAvailability(interval=target.interval),
                )
            )
        monitor.schedule.start()
        return monitor

    async def _measured(self, hours: float) -> Samples:
        samples, until = Samples(), self.clocks.running + hours * HOUR
        while self.clocks.running < until:
            await asyncio.sleep(SAMPLE)
            samples.take()
            if self.loop.longest > STANDSTILL:
                # It would be so at each probe, for hours.
                self.figures.promise(False, f"one turn of the loop takes {self.loop.longest:.0f} s of a processor")
                break
            if len(samples.memory) % 15 == 0:
                self.figures.show(f"{self.clocks.running / 60:.0f} of {hours * 60:.0f} virtual minutes")
        return samples

    def _flat(self, what: str, unit: str, values: list[float], slack: float) -> None:
        """Compare the halves, without the first tenth in which caches fill."""
        settled = values[len(values) // 10 :]
        if len(settled) < ENOUGH:
            return
        half = len(settled) // 2
        first, second = max(settled[:half], default=0.0), max(settled[half:], default=0.0)
        self.figures.at_most(f"{what}, first half", first, unit)
        self.figures.at_most(f"{what}, second half", second, unit)
        self.figures.promise(
            second <= first * GROWTH + slack, f"{what} grew from {first:.0f} to {second:.0f} {unit}"
        )


@contextlib.asynccontextmanager
async def _served(member: Member, served: ssl.SSLContext, ca_file: Path) -> AsyncIterator[Target]:
    """Play its script to everybody who comes; give the target that observations at it."""
    script = [served, *member.script] if member.tls is TlsMode.IMPLICIT and not member.raw else list(member.script)
    with contextlib.suppress(AssertionError):  # A probe that hangs up first has said less than a script expects.
        async with scripted_server(script) as port:
            yield Target(
                name=member.name, kind=member.kind, host="127.0.0.1", port=port, tls=member.tls,
                provider=member.name, ca_file=ca_file, interval=INTERVAL, timeout=TIMEOUT,
                login=Login(username="mario@example.org", password=SecretStr("canary-hostile")),
            )  # fmt: skip


def _checked(figures: Figures, folder: Path) -> None:
    """No false up, no false down, no exception of ours."""
    healthy = {member.name for member in HEALTHY}
    false: dict[str, str] = {}
    reader = Reader.open(folder)
    try:
        for entry in reader.entries(kinds=["observation"]):
            seen = entry.payload
            figures.count(f"observations {seen['outcome']}")
            if seen.get("cause") == "monitor":
                false[f"{seen['target']} is our own failure"] = str(seen.get("detail"))
            elif seen["target"] in healthy and seen["outcome"] != Outcome.UP:
                false[f"{seen['target']} is {seen['outcome']}, and keeps all rules"] = str(seen.get("detail"))
            elif seen["target"] not in healthy and seen["outcome"] == Outcome.UP:
                false[f"{seen['target']} is up, and breaks the rules"] = ""
    finally:
        reader.close()
    for what, detail in false.items():
        figures.promise(False, f"{what}: {detail}")
    figures.promise(not false, "false observations")
