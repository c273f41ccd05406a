"""Ends a process whose event loop stands still, so that whoever supervises it starts it again.

The loop beats every few seconds, and two look after it, for neither sees every standstill:

1. A thread counts how often it woke without a beat in between. It counts itself and no clock, so that a suspended
   machine or a stopped process (SIGSTOP) is none, however long that lasts.
2. Code that keeps the interpreter to itself, such as a regular expression, lets no thread run. The kernel then
   ends the process (ITIMER_PROF), once that has taken as much of the processor; stopped, it takes none.

Either way the stacks of all threads are written to stderr: where they stand, and none of their values.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable

logger = logging.getLogger(__name__)

EVERY = 5.0
"""Seconds from beat to beat."""
MISSED = 60
"""Beats that may be missed: five minutes."""
STATUS = 70
"""The exit status: MailWatch itself is wrong (EX_SOFTWARE)."""


class _Heart:
    """Beats in the loop, and is listened to in a thread."""

    def __init__(self, every: float, missed: int, also: Callable[[], None]) -> None:
        self._every, self._most, self._also = every, missed, also
        self._beats = 0
        self.over = threading.Event()

    async def beat(self) -> None:
        """Beat until cancelled."""
        while True:
            self._beats += 1
            signal.setitimer(signal.ITIMER_PROF, self._every * self._most)
            self._also()
            await asyncio.sleep(self._every)

    def listen(self) -> None:
        """End the process when it has not beaten for long."""
        heard, missed = 0, 0
        while not self.over.wait(self._every):
            heard, missed, before = self._beats, missed + 1, heard
            if heard != before:
                missed = 0
            elif missed >= self._most:
                said = threading.Thread(target=_say, daemon=True)
                said.start()
                # It may stand still because nobody reads our log.
                said.join(5.0)
                os._exit(STATUS)


def _say() -> None:
    faulthandler.dump_traceback(sys.stderr, all_threads=True)
    logger.critical("the event loop stood still; the process is ended, to be started again")


@contextlib.asynccontextmanager
async def watched(also: Callable[[], None], every: float = EVERY, missed: int = MISSED) -> AsyncIterator[None]:
    """Watch the running loop while the context lasts; `also` is called at each beat."""
    heart = _Heart(every, missed, also)
    # It writes the stacks without the interpreter, and then lets the signal do what it does.
    faulthandler.register(signal.SIGPROF, sys.stderr, all_threads=True, chain=True)
    threading.Thread(target=heart.listen, name="standstill", daemon=True).start()
    beats = asyncio.create_task(heart.beat())
    try:
        yield
    finally:
        heart.over.set()
        beats.cancel()
        signal.setitimer(signal.ITIMER_PROF, 0)
