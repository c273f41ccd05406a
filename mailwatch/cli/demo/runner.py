"""Runs the demo: the fake provider in this process, `mailwatch run` in another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from mailwatch.cli.demo.display import ApiClient, ApiSnapshot, OutageComparison, compare_outages
from mailwatch.cli.demo.line_connection import Behaviour
from mailwatch.cli.demo.provider import FakeProvider
from mailwatch.cli.demo.script import CLOSE_SECONDS, PAUSE_SECONDS, SCRIPT, play_script, write_config
from mailwatch.config.load import VARIABLES
from mailwatch.config.types import split_endpoint
from mailwatch.times import Millis

LOG_FILE = "run.log"
READY_SECONDS = 60.0
STOP_SECONDS = 12.0
_POLL_SECONDS = 0.3

Display = Callable[[Behaviour, ApiSnapshot, str], None]
"""Displays one moment: the provider's behaviour, the API snapshot, and the URL of the pages."""


class DemoError(Exception):
    """The demo cannot go on. `text_key`: key of its text in en.yaml. `facts`: the text's fields."""

    def __init__(self, why: str, **facts: object) -> None:
        super().__init__(why)
        self.text_key = why
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """The result: the outages on record compared with the true downtime."""

    verdicts: list[OutageComparison]
    down_time: tuple[Millis, Millis | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _DemoRun:
    provider: FakeProvider
    monitor: asyncio.subprocess.Process
    api: ApiClient

    def check(self) -> None:
        """Raise DemoError if `mailwatch run` has ended."""
        if self.monitor.returncode is not None:
            raise DemoError("died", status=self.monitor.returncode)


async def run_demo(folder: Path, speed: float, display: Display) -> DemoResult:
    """Play the script to its end. Raises DemoError; on SIGTERM and SIGHUP ends as on Ctrl-C."""
    async with _started(folder, speed, f"127.0.0.1:{_free_port()}") as stage:
        snapshot = await _follow(stage, speed, display)
        truth = stage.provider.down_time()
    return DemoResult(verdicts=compare_outages(snapshot, truth), down_time=truth)


async def run_forever(
    folder: Path, speed: float, listen: str, display: Display, *, pause: float = PAUSE_SECONDS
) -> None:
    """Repeat the script, `pause` seconds apart, with the pages on `listen`, HOST:PORT.

    Never returns: raises DemoError, or CancelledError on SIGTERM, SIGHUP and Ctrl-C.
    """
    async with _started(folder, speed, listen) as stage:
        while True:
            await _follow(stage, speed, display)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stage.monitor.wait()
            stage.check()


@contextlib.asynccontextmanager
async def _started(folder: Path, speed: float, listen: str) -> AsyncIterator[_DemoRun]:
    """Start the fake provider and a `mailwatch run` that monitors it; yield once that is ready."""
    _end_on_signals()
    async with FakeProvider(folder) as provider:
        config = write_config(provider, folder, listen, speed)
        async with _monitor(config, folder) as monitor:
            stage = _DemoRun(provider=provider, monitor=monitor, api=ApiClient(split_endpoint(listen)[1]))
            await _ready(stage)
            yield stage


def _end_on_signals() -> None:
    performance = asyncio.current_task()

    def end() -> None:
        # Only once: a second cancellation would interrupt the cleanup.
        if performance is not None and not performance.cancelling():
            performance.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)


@contextlib.asynccontextmanager
async def _monitor(config: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `mailwatch run` as a user would, and end it with SIGTERM."""
    with (folder / LOG_FILE).open("wb") as log:
        # -P: no file of the current folder stands in for a module.
        command = (sys.executable, "-P", "-m", "mailwatch", "--config", str(config), "run")
        # Without a container's data_dir and port: they are not the demo's.
        environment = clean_environment()
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(stage: _DemoRun) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await asyncio.to_thread(stage.api.is_ready):
                stage.check()
                await asyncio.sleep(_POLL_SECONDS)
    except TimeoutError:
        raise DemoError("not_ready", seconds=READY_SECONDS) from None


async def _follow(stage: _DemoRun, speed: float, show: Display) -> ApiSnapshot:
    """Display snapshots until every outage has closed, or should have. Return the last."""
    script = asyncio.create_task(play_script(stage.provider, speed))
    snapshot: ApiSnapshot | None = None
    try:
        async with asyncio.timeout(SCRIPT[-1].at / speed + CLOSE_SECONDS):
            while not (script.done() and snapshot and snapshot.over):
                await asyncio.sleep(_POLL_SECONDS)
                stage.check()
                with contextlib.suppress(OSError):  # busy for a moment; the timeout bounds it
                    snapshot = await asyncio.to_thread(stage.api.snapshot)
                    show(stage.provider.behaviour, snapshot, stage.api.url)
    except TimeoutError:
        if snapshot is None:
            raise DemoError("mute") from None
    finally:
        script.cancel()
    return snapshot


def _free_port() -> int:
    # Another program may take the port before `mailwatch run` does; then the demo ends with an error.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Return the environment without the variables for a container's own MailWatch."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}


async def make_evidence(folder: Path, outage_id: str, language: str) -> Path:
    """Make the evidence file of an outage with `mailwatch report`. Raises DemoError."""
    path = folder / f"outage-{outage_id}.zip"
    verb = ("report", outage_id, "-o", str(path), "--lang", language)
    command = (sys.executable, "-P", "-m", "mailwatch", "--config", str(folder / "config.yaml"), *verb)
    made = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=clean_environment()
    )
    _, output = await made.communicate()
    if made.returncode:
        raise DemoError("no_evidence", reason=output.decode(errors="replace").strip())
    return path
