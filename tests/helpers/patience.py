"""How long a test waits for what must come. No test is timed: a busy machine needs longer, and fails nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

FACTOR = float(os.environ.get("MAILWATCH_TEST_PATIENCE", "1"))
"""For machines that are slower or busier still: all waits are as many times longer."""
PATIENCE = 60.0 * FACTOR
"""Seconds before a wait is given up. Far above what anything needs, since only a defect is waited for so long."""
_FIRST, _GROWTH, _LONGEST = 0.01, 1.3, 0.15


def tries(patience: float = PATIENCE) -> Iterator[None]:
    """Give one try after the other until `patience` seconds are over, with pauses that grow.

    For what gives no event. Asking without a pause would take the processor from those who are waited for.
    """
    deadline = time.monotonic() + patience
    pause = _FIRST
    while time.monotonic() < deadline:
        yield
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST)
    yield
