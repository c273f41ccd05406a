"""How many observations a second the ledger takes: hashed, in the tree, committed to disk."""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from mailwatch.model import Attempt, Observation, Outcome, Phase, TlsFacts
from mailwatch.store import NewEntry, Store, Writer
from mailwatch.times import now

TARGETS = 1_000
AT_ONCE = 5_000
"""Observations handed in before the first of them must be on disk."""


def measure(seconds: float) -> dict[str, Any]:
    """Hand in observations for `seconds`; all of them are on disk before the clock is stopped."""
    # Beside the repository and not in /tmp, which may be memory: a commit must meet a disk.
    parent = Path("build")
    parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ingest-", dir=parent) as name:
        return asyncio.run(_measure(Path(name), seconds))


async def _measure(folder: Path, seconds: float) -> dict[str, Any]:
    commits: list[tuple[float, int]] = []
    store = await asyncio.to_thread(Store.open, folder)
    writer = Writer(store, on_commit=lambda took, entries: commits.append((took, entries)))
    await writer.start()
    written = 0
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        await asyncio.gather(*(writer.submit(draft(written + number)) for number in range(AT_ONCE)))
        written += AT_ONCE
    took = time.monotonic() - began
    await writer.close()
    size = await asyncio.to_thread(_size, folder)
    return {
        "observations": written,
        "seconds": round(took, 2),
        "observations_per_second": round(written / took),
        "bytes_per_observation": round(size / written),
        "commits": len(commits),
        "slowest_commit_seconds": round(max(taken for taken, _ in commits), 3),
    }


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def draft(number: int) -> NewEntry:
    """An observation to append, of one of many targets."""
    observation = _observation(number)
    return NewEntry(kind="observation", time=observation.ended_at, target=observation.target, payload=observation)


def _observation(number: int) -> Observation:
    """An observation as long as those of a real login."""
    at = now()
    phases = {
        phase: 1_000 + (number * step) % 997
        for step, phase in enumerate(
            (Phase.RESOLVE, Phase.CONNECT, Phase.TLS, Phase.GREETING, Phase.AUTH, Phase.MAILBOX), start=1
        )
    }
    attempt = Attempt(
        started_at=at,
        ended_at=at + 50,
        peer="127.0.0.1:10993",
        phases=phases,
        tls=TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", fingerprint="ab" * 32, not_after=at),
    )
    return Observation(
        target=f"t{number % TARGETS:04}",
        scheduled_at=at,
        started_at=at,
        ended_at=at + 50,
        outcome=Outcome.UP,
        attempts=(attempt,),
        addresses=("127.0.0.1",),
        with_login=True,
    )


def show(result: dict[str, Any], console: Console) -> dict[str, Any]:
    """Print the result in one line; return it."""
    console.print(
        f"ledger: [bold]{result['observations_per_second']:,}[/] observations a second on disk, "
        f"{result['bytes_per_observation']} bytes each, slowest commit {result['slowest_commit_seconds']} s"
    )
    return result
