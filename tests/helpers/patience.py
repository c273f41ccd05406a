"""How long a test waits for what must come. No test is timed: a busy machine needs longer, and fails nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator

import pytest

FACTOR = float(os.environ.get("MAILWATCH_TEST_PATIENCE", "1"))
"""For machines that are slower or busier still: all waits are as many times longer."""
PATIENCE = 60.0 * FACTOR
"""Seconds before a wait is given up. Far above what anything needs, since only a defect is waited for so long."""
STALL_LIMITS = ("mailwatch.probes.attempts", "mailwatch.monitor.pipeline")
"""Modules whose STALL_SECONDS says from when MailWatch takes a timeout for a stall of its own process."""
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


def tolerate_stalls(monkeypatch: pytest.MonkeyPatch, kept: tuple[str, ...]) -> None:
    """Let this process be stopped as long as a test may wait, except by the modules in `kept`.

    A timeout is then a timeout on a busy machine too.
    """
    for name in STALL_LIMITS:
        if name not in kept and (module := sys.modules.get(name)):
            monkeypatch.setattr(module, "STALL_SECONDS", PATIENCE)
