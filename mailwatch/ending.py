"""How the process ends: within its time in any case, also where a thread hangs on a disk that does not answer.

A thread cannot be cancelled. It can be left: what was acknowledged is on disk, and what was being written then is
undone by SQLite at the next start, as after a loss of power.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

logger = logging.getLogger(__name__)

WITHIN = 9.0
"""Seconds from the wish to end until the process is gone; service managers kill after ten."""


def leave(status: int) -> NoReturn:
    """End the process now. Threads that still work are left."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def end_within(status: Callable[[], int], seconds: float = WITHIN) -> None:
    """End the process in so many seconds, whatever hangs then; `status` gives the exit status."""

    def end() -> None:
        # Not time.sleep: it counts to a moment, which is no such under a clock that is set for a test (faketime).
        threading.Event().wait(seconds)
        said = threading.Thread(target=_say, args=(seconds,), daemon=True)
        said.start()
        # Whoever reads our log may hang too.
        said.join(0.5)
        os._exit(status())

    threading.Thread(target=end, name="ending", daemon=True).start()


def _say(seconds: float) -> None:
    logger.error("not ended in %g s, since the disk does not answer; what was acknowledged is on it", seconds)
