"""One world of the hub's campaign from its seed to its verdict, and many of them side by side."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from tests.campaign.hub_run import HubRun
from tests.campaign.hub_verdict import HubVerdict, judge
from tests.campaign.hub_world import K, make_hub_world
from tests.campaign.worlds import WEEKS
from tests.helpers.marks import marked
from tests.helpers.paths import MEMORY


@marked("campaign")
def hub_result_of(seed: str, number: int, weeks: float = WEEKS, liars: int = 1) -> HubVerdict:
    """Live through world `number` of a seed, in which so many of the three vantage points lie."""
    logging.disable(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="hub-campaign-", dir=MEMORY) as name:
            run = HubRun(make_hub_world(f"{seed}:{number}", weeks, liars), Path(name), K)
            run.through()
            return judge(run)
    finally:
        logging.disable(logging.NOTSET)


def hub_results(seed: str, numbers: range, jobs: int, liars: int) -> Iterator[tuple[int, HubVerdict]]:
    """Yield the verdicts of worlds as they come, from so many processes."""
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        asked = {pool.submit(hub_result_of, seed, number, WEEKS, liars): number for number in numbers}
        for done in as_completed(asked):
            yield asked[done], done.result()
