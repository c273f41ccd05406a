"""A monitor over a real store, without a schedule: the test says when to probe."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.guard.clock import TICK_SECONDS, ClockMonitor
from mailwatch.metrics import Metrics
from mailwatch.model import ClockSpan, Kind, Observation, Outcome, Rules, TlsMode
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target, VantagePoint
from mailwatch.store import Reader, Store, Writer
from mailwatch.store.sqlite import database
from mailwatch.times import Millis, now
from tests.servers import free_port


class PipelineHarness:
    """A monitor over a real store, and a mail server that greets or is not there."""

    def __init__(self, data_dir: Path, *, at_once: int = 200) -> None:
        self.database = database(data_dir)
        self.writer = Writer(Store.open(data_dir))
        self.reader = Reader.open(data_dir)
        self.metrics = Metrics(CollectorRegistry())
        self.port = free_port()
        self.server: asyncio.Server | None = None
        self.pipeline = Pipeline(
            vantage_point=VantagePoint(name="here"),
            rules=Rules(),
            writer=self.writer,
            metrics=self.metrics,
            guard=None,
            clock=ClockMonitor(),
            secret=b"s" * 32,
            at_once=at_once,
        )
        self.target = Target(
            name="t", kind=Kind.IMAP, host="127.0.0.1", port=self.port, tls=TlsMode.NONE, timeout=2.0
        )
        runtime = TargetRuntime(
            target=self.target, detector=Detector(), rolling_availability=RollingAvailability(interval=60.0)
        )
        self.pipeline.add_target(runtime)
        self.runtime = runtime

    async def greet(self) -> None:
        """Begin to serve."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
            line = await reader.readline()
            writer.write(b"* BYE\r\n" + line.split()[0] + b" OK\r\n" if line else b"")
            writer.close()

        self.server = await asyncio.start_server(serve, "127.0.0.1", self.port)

    def assume_up(self, ago: Millis, runtime: TargetRuntime | None = None) -> None:
        """As if the target had been up so many milliseconds ago, since the start of MailWatch."""
        runtime = runtime or self.runtime
        at, clock = now() - ago, monotonic.milliseconds() - ago
        runtime.latest = Observation(
            target=runtime.target.name, scheduled_at=at, started_at=at, ended_at=at, outcome=Outcome.UP,
            clock=ClockSpan(monotonic.origin().boot, clock, clock),
        )  # fmt: skip
        runtime.observed_until, runtime.observed_at, runtime.observed_interval = (
            at,
            time.monotonic(),
            runtime.target.interval,
        )

    async def probe(self, target: Target | None = None) -> None:
        """One probe, as the schedule would start it."""
        await self.pipeline.run_probe(target or self.target, now())

    @contextlib.asynccontextmanager
    async def ticking(self) -> AsyncIterator[None]:
        """The monitor's clock, each second: without it a long probe seems to be a standstill of ours."""

        async def ticks() -> None:
            while True:
                await self.pipeline.check_clock()
                await asyncio.sleep(TICK_SECONDS)

        task = asyncio.create_task(ticks())
        try:
            yield
        finally:
            task.cancel()

    def add_target(self, target: Target) -> TargetRuntime:
        """Watch another target."""
        runtime = TargetRuntime(
            target=target, detector=Detector(), rolling_availability=RollingAvailability(interval=target.interval)
        )
        self.pipeline.add_target(runtime)
        return runtime

    async def close(self) -> None:
        """Close the store."""
        await self.writer.close()
        self.reader.close()

    def recorded(self, kind: str) -> list[dict[str, Any]]:
        return [entry.payload for entry in self.reader.entries(kinds=[kind])]

    def exposition(self) -> str:
        return b"".join(self.metrics.exposition()).decode()
