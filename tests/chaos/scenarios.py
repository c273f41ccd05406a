"""The scenarios by name; each is run with servers of its own, in a process of its own."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from importlib import import_module
from multiprocessing import get_context

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab, lab

SCENARIOS = (
    "kills",
    "pages",
    "full_disk",
    "clock",
    "limits",
    "slow_disk",
    "hostile",
    "database_kills",
    "nodes",
    "failover",
    "hub",
    "web_clients",
)
"""The longest first, for two run at a time."""


def scenario(name: str, scale: Scale) -> Figures:
    """Run one scenario."""
    figures, began = Figures(name), time.monotonic()
    _end_with_parent()
    try:
        with lab() as servers:
            _run(name, servers, figures, scale)
    except SystemExit:
        # The pool would go on with the next scenario.
        os._exit(1)
    figures.seconds = time.monotonic() - began
    figures.show(f"done in {figures.seconds:.0f} s")
    return figures


def _run(name: str, servers: Lab, figures: Figures, scale: Scale) -> None:
    try:
        import_module(f"tests.chaos.{name}").run(servers, figures, scale)
    except Exception as error:
        figures.promise(False, f"the scenario itself failed: {type(error).__name__}: {error}")


def _end_with_parent() -> None:
    """Take the servers along: also when the command is killed, or times out, none of them may stay."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    # PR_SET_PDEATHSIG of prctl(2).
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))


def run(names: Sequence[str], scale: Scale, jobs: int) -> Iterator[Figures]:
    """Yield the figures of scenarios as they come, so many at a time."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(scenario, name, scale) for name in names]):
            yield done.result()
