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

from mailwatch.cli.demo.display import Seen, Verdict, Witness, verdicts
from mailwatch.cli.demo.line_connection import Mood
from mailwatch.cli.demo.provider import StandIn
from mailwatch.cli.demo.script import PATIENCE, PAUSE, SCRIPT, play, write_config
from mailwatch.config.load import VARIABLES
from mailwatch.config.types import split_endpoint
from mailwatch.times import Millis

LOG = "run.log"
READY_WITHIN = 60.0
STOP_WITHIN = 12.0
_POLL_EVERY = 0.3

Show = Callable[[Mood, Seen, str], None]
"""Shows one moment: the provider's true mood, what MailWatch says, and the address of its pages."""


class Failed(Exception):
    """The demo cannot go on. `why` is a key of words.py, `facts` fill it."""

    def __init__(self, why: str, **facts: object) -> None:
        super().__init__(why)
        self.why = why
        self.facts = facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """How it ended: the outages on record beside the truth, and since when until when that was."""

    verdicts: list[Verdict]
    down_time: tuple[Millis, Millis | None] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stage:
    standin: StandIn
    monitor: asyncio.subprocess.Process
    witness: Witness

    def check(self) -> None:
        """Raise Failed when `mailwatch run` has ended."""
        if self.monitor.returncode is not None:
            raise Failed("died", status=self.monitor.returncode)


async def perform(folder: Path, speed: float, show: Show) -> Result:
    """Play the script to its end. Raises Failed; ends on SIGTERM and SIGHUP as on Ctrl-C."""
    async with _staged(folder, speed, f"127.0.0.1:{_free_port()}") as stage:
        seen = await _watch(stage, speed, show)
        truth = stage.standin.down_time()
    return Result(verdicts=verdicts(seen, truth), down_time=truth)


async def serve(folder: Path, speed: float, listen: str, show: Show, *, pause: float = PAUSE) -> None:
    """Play the script again and again, `pause` seconds apart, with the pages on `listen`, host:port.

    Never returns: raises Failed, or CancelledError on SIGTERM, SIGHUP and Ctrl-C.
    """
    async with _staged(folder, speed, listen) as stage:
        while True:
            await _watch(stage, speed, show)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await stage.monitor.wait()
            stage.check()


@contextlib.asynccontextmanager
async def _staged(folder: Path, speed: float, listen: str) -> AsyncIterator[_Stage]:
    """Set up the stand-in and a `mailwatch run` that is ready and watches it."""
    _end_on_signals()
    async with StandIn(folder) as standin:
        config = write_config(standin, folder, listen, speed)
        async with _monitor(config, folder) as monitor:
            stage = _Stage(standin=standin, monitor=monitor, witness=Witness(split_endpoint(listen)[1]))
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
    with (folder / LOG).open("wb") as log:
        command = (sys.executable, "-m", "mailwatch", "--config", str(config), "run")
        # A container's data_dir and port are not the demo's.
        environment = own_environment()
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env=environment)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(STOP_WITHIN):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(stage: _Stage) -> None:
    try:
        async with asyncio.timeout(READY_WITHIN):
            while not await asyncio.to_thread(stage.witness.is_ready):
                stage.check()
                await asyncio.sleep(_POLL_EVERY)
    except TimeoutError:
        raise Failed("not_ready", seconds=READY_WITHIN) from None


async def _watch(stage: _Stage, speed: float, show: Show) -> Seen:
    """Show what happens until every outage has closed, or should have."""
    script = asyncio.create_task(play(stage.standin, speed))
    seen: Seen | None = None
    try:
        async with asyncio.timeout(SCRIPT[-1].at / speed + PATIENCE):
            while not (script.done() and seen and seen.over):
                await asyncio.sleep(_POLL_EVERY)
                stage.check()
                with contextlib.suppress(OSError):  # busy for a moment; the timeout bounds it
                    seen = await asyncio.to_thread(stage.witness.see)
                    show(stage.standin.mood, seen, stage.witness.url)
    except TimeoutError:
        if seen is None:
            raise Failed("mute") from None
    finally:
        script.cancel()
    return seen


def _free_port() -> int:
    # Another program may take it before `mailwatch run` does; that would be told, and the demo ends.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def own_environment() -> dict[str, str]:
    """Return the environment without what a container says of its own MailWatch, not of this one."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES.values()}


async def evidence(folder: Path, outage_id: str, language: str) -> Path:
    """Make the evidence file of an outage as its owner would. Raises Failed."""
    path = folder / f"outage-{outage_id}.zip"
    verb = ("report", outage_id, "-o", str(path), "--lang", language)
    command = (sys.executable, "-m", "mailwatch", "--config", str(folder / "config.yaml"), *verb)
    made = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, env=own_environment()
    )
    _, said = await made.communicate()
    if made.returncode:
        raise Failed("no_evidence", reason=said.decode(errors="replace").strip())
    return path
