"""Ends a process whose event loop stands still, so that its supervisor starts it again.

The loop ticks every few seconds, and two watch it, for neither sees every standstill:

1. A thread counts how often it woke without a tick in between. It counts itself and no clock, so that a suspended
   machine or a stopped process (SIGSTOP) is none, however long that lasts.
2. Code that keeps the interpreter to itself, such as a regular expression, lets no thread run. The kernel then
   ends the process (ITIMER_PROF), once that has taken as much of the processor; stopped, it takes none.

Either way the stacks of all threads are written to stderr: where they stand, and none of their values.

What MailWatch reports to systemd about its state (sd_notify(3)), over the socket that systemd names, if it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable


def notify(*lines: str) -> None:
    """Send it. A socket that is full or gone is passed over: nothing must wait for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)


def starting(status: str, seconds: float) -> None:
    """Ask for so many seconds more, from now on, to become ready."""
    notify(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}")


def reloading() -> None:
    """A reload has begun; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def ready(status: str) -> None:
    """The start, or a reload, is over."""
    notify("READY=1", f"STATUS={status}")


def stopping() -> None:
    """The end has begun."""
    notify("STOPPING=1", "STATUS=ending")


def keep_alive() -> None:
    """Keep its watchdog quiet."""
    notify("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """Return after how many seconds without `keep_alive` it ends us (WatchdogSec=); None if never."""
    pid, text = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1_000_000


logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
"""Seconds from tick to tick."""
MAX_MISSED = 60
"""Ticks that may be missed: five minutes."""
EXIT_STATUS = 70
"""The exit status: MailWatch itself is wrong (EX_SOFTWARE)."""


class _LoopWatchdog:
    """Ticks in the loop, and is watched in a thread."""

    def __init__(self, every: float, missed: int, also: Callable[[], None]) -> None:
        self._every, self._most, self._also = every, missed, also
        self._ticks = 0
        self.over = threading.Event()

    async def tick(self) -> None:
        """Tick until cancelled."""
        while True:
            self._ticks += 1
            signal.setitimer(signal.ITIMER_PROF, self._every * self._most)
            self._also()
            await asyncio.sleep(self._every)

    def watch(self) -> None:
        """End the process when it has not beaten for long."""
        last_tick, missed = 0, 0
        while not self.over.wait(self._every):
            last_tick, missed, before = self._ticks, missed + 1, last_tick
            if last_tick != before:
                missed = 0
            elif missed >= self._most:
                writer = threading.Thread(target=_log_standstill, daemon=True)
                writer.start()
                # It may stand still because our log is not read.
                writer.join(5.0)
                os._exit(EXIT_STATUS)


def _log_standstill() -> None:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    logger.critical("the event loop stopped; the process ends so that it can be restarted")


@contextlib.asynccontextmanager
async def watch_loop(
    on_tick: Callable[[], None], every: float = HEARTBEAT_SECONDS, missed: int = MAX_MISSED
) -> AsyncIterator[None]:
    """Watch the running loop while the context lasts; `on_tick` is called at each tick."""
    watchdog = _LoopWatchdog(every, missed, on_tick)
    # It writes the stacks without the interpreter, and then lets the signal do what it does.
    faulthandler.register(signal.SIGPROF, sys.stderr, all_threads=True, chain=True)
    threading.Thread(target=watchdog.watch, name="standstill", daemon=True).start()
    ticks = asyncio.create_task(watchdog.tick())
    try:
        yield
    finally:
        watchdog.over.set()
        ticks.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
