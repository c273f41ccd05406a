"""Makes the snapshots: python -m tests.contracts.produce FOLDER. A process of its own, for it sets the clock."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import mailwatch
from mailwatch.evidence import code_version
from tests.contracts.answers import fresh, web
from tests.contracts.commands import commands, exits, kept, options
from tests.contracts.evidence import bundles
from tests.contracts.live import live
from tests.contracts.maker import TIMES, Maker

VERSION = "0.1.0"
"""As which the snapshots are made: it stands in each statement, and so in what is signed."""
HOUR_MS = 3_600_000
NOW_MS: int = TIMES["written"] + HOUR_MS


def make(out: Path, work: Path) -> Maker:
    """Make all snapshots that need no probe."""
    maker = Maker(out, work)
    for step in (commands, bundles, options, exits, kept):
        step(maker)
    asyncio.run(web(maker))
    asyncio.run(fresh(maker))
    return maker


@contextlib.contextmanager
def _settled() -> Iterator[None]:
    """At the stored time, in Rome, as the version of the snapshots."""
    mailwatch.__version__ = VERSION
    vars(code_version)["code_digest"] = lambda: "0" * 8
    nanoseconds = patch.object(time, "time_ns", lambda: NOW_MS * 1_000_000)
    with nanoseconds, patch.object(time, "time", lambda: NOW_MS / 1000):
        yield


if __name__ == "__main__":
    from tempfile import TemporaryDirectory

    os.umask(0o077)
    with TemporaryDirectory() as folder:
        with _settled():
            maker = make(Path(sys.argv[1]), Path(folder))
        # By the true clock: what is probed takes time.
        asyncio.run(live(maker))
