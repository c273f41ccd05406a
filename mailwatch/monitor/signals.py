"""What SIGTERM, SIGINT and SIGHUP ask of `mailwatch run`, and how the process ends in time.

Loaded before all else: until the event loop listens, a SIGHUP is remembered and the others end a process that has
nothing to close yet. The end comes within its time also where a thread hangs on a disk that does not answer. A
thread cannot be cancelled. It can be left: what was acknowledged is on disk, and what was being written then is
undone by SQLite at the next start, as after a loss of power.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Loading it takes longer than a signal should have to wait.
    import asyncio
import logging
import sys
import threading
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _EarlySignals:
    """What came before there was a loop."""

    hangups = 0


def command_verb(given: Sequence[str]) -> str:
    """Return the verb that a command line means, "" without one."""
    words = (word for before, word in zip(("", *given), given, strict=False) if before != "--config")
    return next((word for word in words if not word.startswith("-")), "")


def install_early_handlers() -> None:
    """Handle the signals while the rest of MailWatch is being loaded: that takes seconds on a small machine."""

    def remember(*_: object) -> None:
        _EarlySignals.hangups += 1

    signal.signal(signal.SIGHUP, remember)
    for number in STOP_SIGNALS:
        # At once, and not by an exception, which a module that is being loaded could keep to itself.
        signal.signal(number, lambda *_: os._exit(0))


def install_handlers(loop: asyncio.AbstractEventLoop, end: Callable[[], None], reload: Callable[[], None]) -> None:
    """Hand the signals to a loop from here on, with what came early."""
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if _EarlySignals.hangups:
        _EarlySignals.hangups = 0
        reload()


logger = logging.getLogger(__name__)

STOP_SECONDS = 9.0
"""Seconds from the wish to end until the process is gone; service managers kill after ten."""


def exit_now(status: int) -> NoReturn:
    """End the process now. Threads that still work are left."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def exit_within(status: Callable[[], int], seconds: float = STOP_SECONDS) -> None:
    """End the process in so many seconds, whatever hangs then; `status` gives the exit status."""

    def end() -> None:
        # Not time.sleep: it counts to a moment, which is no such under a clock that is set for a test (faketime).
        threading.Event().wait(seconds)
        writer = threading.Thread(target=_log_hang, args=(seconds,), daemon=True)
        writer.start()
        # The reader of our log may hang too.
        writer.join(0.5)
        os._exit(status())

    threading.Thread(target=end, name="ending", daemon=True).start()


def _log_hang(seconds: float) -> None:
    logger.error(
        "not stopped after %g s, because the disk does not answer; all acknowledged entries are on it", seconds
    )
