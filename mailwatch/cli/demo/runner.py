"""The demo from curtain to curtain: the stand-in here, `mailwatch run` in a process of its own."""

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
"""Shows one moment: the provider's true mood, what MailWatch says, and the address of its pages."""


class DemoError(Exception):
    """The demo cannot go on. `text_key` is a key of texts.py, `facts` fill it."""

    def __init__(self, why: str, **facts: object) -> None:
        super().__init__(why)
        self.text_key = why
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoResult:
    """How it ended: the outages on record beside the truth, and since when until when that was."""

    verdicts: list[OutageComparison]
    down_time: tuple[Millis, Millis | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _DemoRun:
    provider: FakeProvider
    monitor: asyncio.subprocess.Process
    api: ApiClient

    def check(self) -> None:
        """Raise DemoError when `mailwatch run` has ended."""
        if self.monitor.returncode is not None:
            raise DemoError("died", status=self.monitor.returncode)


async def run_demo(folder: Path, speed: float, display: Display) -> DemoResult:
    """Play the script to its end. Raises DemoError; ends on SIGTERM and SIGHUP as on Ctrl-C."""
    async with _started(folder, speed, f"127.0.0.1:{_free_port()}") as stage:
        snapshot = await _follow(stage, speed, display)
        truth = stage.provider.down_time()
    return DemoResult(verdicts=compare_outages(snapshot, truth), down_time=truth)


async def run_forever(
    folder: Path, speed: float, listen: str, display: Display, *, pause: float = PAUSE_SECONDS
) -> None:
    """Play the script again and again, `pause` seconds apart, with the pages on `listen`, host:port.

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
    """Set up the stand-in and a `mailwatch run` that is ready and watches it."""
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
        # Once: a second cancellation would break into the tidying up.
        if performance is not None and not performance.cancelling():
            performance.cancel()

    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, end)


@contextlib.asynccontextmanager
async def _monitor(config: Path, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run `mailwatch run` as its users do, and end it with SIGTERM."""
    with (folder / LOG_FILE).open("wb") as log:
        command = (sys.executable, "-m", "mailwatch", "--config", str(config), "run")
        # A container's data_dir and port are not the demo's.
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
    """Show what happens until every outage has closed, or should have."""
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
    # Another program may take it before `mailwatch run` does; that would be reported, and the demo ends.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Return the environment without what a container says of its own MailWatch, not of this one."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}


async def make_evidence(folder: Path, outage_id: str, language: str) -> Path:
    """Make the evidence file of an outage as its owner would. Raises DemoError."""
    path = folder / f"outage-{outage_id}.zip"
    verb = ("report", outage_id, "-o", str(path), "--lang", language)
    command = (sys.executable, "-m", "mailwatch", "--config", str(folder / "config.yaml"), *verb)
    made = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=clean_environment()
    )
    _, output = await made.communicate()
    if made.returncode:
        raise DemoError("no_evidence", reason=output.decode(errors="replace").strip())
    return path
