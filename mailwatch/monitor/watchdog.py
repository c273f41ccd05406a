"""Ends a process whose event loop stands still, so that its supervisor restarts it.

The loop ticks every few seconds, and two watchers check it, since neither detects every standstill:

1. A thread counts how often it woke without a tick in between. It uses no clock, so that a suspended machine or a
   stopped process (SIGSTOP) is no standstill, however long it lasts.
2. Code that never releases the interpreter, such as a regular expression, lets no thread run. Then the kernel ends
   the process (ITIMER_PROF) after as much processor time; a stopped process uses none.

Either way the stacks of all threads are written to stderr, without the values of variables.

This module also reports MailWatch's state to systemd (sd_notify(3)), if systemd names a socket.
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
    """Send lines to systemd. Ignore a socket that is full or gone: nothing must wait for it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto("\n".join(lines).encode(), address)


def starting(status: str, seconds: float) -> None:
    """Report progress of the start, and extend the start timeout to `seconds` from now."""
    notify(f"STATUS={status}", f"EXTEND_TIMEOUT_USEC={seconds * 1_000_000:.0f}")


def reloading() -> None:
    """Report that a reload has begun; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")


def ready(status: str) -> None:
    """Report that the start or a reload is complete."""
    notify("READY=1", f"STATUS={status}")


def stopping() -> None:
    """Report that MailWatch is stopping."""
    notify("STOPPING=1", "STATUS=ending")


def keep_alive() -> None:
    """Send a keep-alive to systemd's watchdog."""
    notify("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """Return the seconds without `keep_alive` after which systemd ends us (WatchdogSec=); None for no limit."""
    pid, text = os.environ.get("WATCHDOG_PID", ""), os.environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(text) / 1_000_000


logger = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 5.0
"""Seconds between two ticks."""
MAX_MISSED = 60
"""Ticks that may be missed; 60 of them are five minutes."""
EXIT_STATUS = 70
"""The exit status for an error in MailWatch itself (EX_SOFTWARE)."""


class _LoopWatchdog:
    """A ticker in the loop, and the thread that checks it."""

    def __init__(self, every: float, missed: int, also: Callable[[], None]) -> None:
        self._every, self._most, self._also = every, missed, also
        self._ticks = 0
        self.over = threading.Event()

    async def tick(self) -> None:
        """Count ticks until cancelled."""
        while True:
            self._ticks += 1
            signal.setitimer(signal.ITIMER_PROF, self._every * self._most)
            self._also()
            await asyncio.sleep(self._every)

    def watch(self) -> None:
        """End the process when the loop has not ticked for long."""
        last_tick, missed = 0, 0
        while not self.over.wait(self._every):
            last_tick, missed, before = self._ticks, missed + 1, last_tick
            if last_tick != before:
                missed = 0
            elif missed >= self._most:
                writer = threading.Thread(target=_log_standstill, daemon=True)
                writer.start()
                # The loop may stand still because nothing reads our log.
                writer.join(5.0)
                os._exit(EXIT_STATUS)


def _log_standstill() -> None:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    logger.critical("the event loop stopped; the process ends so that it can be restarted")


@contextlib.asynccontextmanager
async def watch_loop(
    on_tick: Callable[[], None], every: float = HEARTBEAT_SECONDS, missed: int = MAX_MISSED
) -> AsyncIterator[None]:
    """Watch the running loop while the context lasts; call `on_tick` at each tick."""
    watchdog = _LoopWatchdog(every, missed, on_tick)
    # faulthandler needs no interpreter; it writes the stacks, then lets the signal end the process.
    faulthandler.register(signal.SIGPROF, sys.stderr, all_threads=True, chain=True)
    threading.Thread(target=watchdog.watch, name="standstill", daemon=True).start()
    ticks = asyncio.create_task(watchdog.tick())
    try:
        yield
    finally:
        watchdog.over.set()
        ticks.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
