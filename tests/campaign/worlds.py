"""One world from its seed to its verdict, many of them side by side, and their sum."""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path

from mailwatch.store import Reader
from tests.campaign.comparison import WorldResult, compare_world
from tests.campaign.run import Run, template
from tests.campaign.world import make_world
from tests.helpers.marks import marked
from tests.helpers.paths import MEMORY

WEEKS = 2.0
"""How long a world lasts."""


@marked("campaign")
def result_of(seed: str, number: int, weeks: float = WEEKS) -> WorldResult:
    """Live through world `number` of a seed."""
    logging.disable(logging.CRITICAL)
    with (
        tempfile.TemporaryDirectory(prefix="campaign-", dir=MEMORY) as name,
        template(Path(name) / "empty") as empty,
    ):
        run = Run(make_world(f"{seed}:{number}", weeks), Path(name) / "world", empty)
        run.through()
        reader = Reader.open(run.folder)
        try:
            return compare_world(run, reader)
        finally:
            reader.close()
            logging.disable(logging.NOTSET)


@dataclass(slots=True)
class Campaign:
    """What came of many worlds; `failures` by the number of the world."""

    figures: Counter[str] = field(default_factory=Counter)
    excused: Counter[str] = field(default_factory=Counter)
    failures: dict[int, list[str]] = field(default_factory=dict)

    def add(self, number: int, verdict: WorldResult) -> None:
        """Add one world."""
        self.figures += verdict.figures
        self.excused += verdict.excused
        self.figures["worlds"] += 1
        if verdict.failures:
            self.failures[number] = verdict.failures


def results(seed: str, numbers: range, jobs: int) -> Iterator[tuple[int, WorldResult]]:
    """Yield the verdicts of worlds as they come, from so many processes: each has clocks of its own."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(result_of, seed, number): number for number in numbers}
        for done in as_completed(asked):
            yield asked[done], done.result()
