"""Handles SIGTERM, SIGINT and SIGHUP for `mailwatch run`, and ends the process in time.

Loaded before all other modules: until the event loop runs, a SIGHUP is remembered, and the other signals end a
process that has nothing to close yet. The process also ends in time if a thread hangs on a disk that does not
answer. A thread cannot be cancelled, but it can be abandoned: acknowledged entries are on disk, and SQLite undoes
unfinished writes at the next start, as after a loss of power.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Loading it takes longer than a signal should wait.
    import asyncio
import logging
import sys
import threading
from typing import NoReturn

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class _EarlySignals:
    """The signals that came before the event loop ran."""

    hangups = 0


def command_verb(given: Sequence[str]) -> str:
    """Return the verb of a command line, "" without one."""
    words = (word for before, word in zip(("", *given), given, strict=False) if before != "--config")
    return next((word for word in words if not word.startswith("-")), "")


def install_early_handlers() -> None:
    """Handle signals while the rest of MailWatch is loaded, which takes seconds on a small machine."""

    def remember(*_: object) -> None:
        _EarlySignals.hangups += 1

    signal.signal(signal.SIGHUP, remember)
    for number in STOP_SIGNALS:
        # Exit directly, not by an exception, which a module being loaded could catch.
        signal.signal(number, lambda *_: os._exit(0))


def install_handlers(loop: asyncio.AbstractEventLoop, end: Callable[[], None], reload: Callable[[], None]) -> None:
    """Handle signals in an event loop from here on, and a SIGHUP that came earlier."""
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, reload)
    if _EarlySignals.hangups:
        _EarlySignals.hangups = 0
        reload()


logger = logging.getLogger(__name__)

STOP_SECONDS = 9.0
"""Seconds from the signal until the process has ended; service managers kill after ten."""


def exit_now(status: int) -> NoReturn:
    """End the process now, without waiting for its threads."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def exit_within(status: Callable[[], int], seconds: float = STOP_SECONDS) -> None:
    """End the process in `seconds`, even if a thread hangs; `status` returns the exit status."""

    def end() -> None:
        # Not time.sleep: it waits until a point in time, which faketime moves in a test.
        threading.Event().wait(seconds)
        writer = threading.Thread(target=_log_hang, args=(seconds,), daemon=True)
        writer.start()
        # Whatever reads our log may hang too.
        writer.join(0.5)
        os._exit(status())

    threading.Thread(target=end, name="ending", daemon=True).start()


def _log_hang(seconds: float) -> None:
    logger.error(
        "not stopped after %g s, because the disk does not answer; all acknowledged entries are on it", seconds
    )
