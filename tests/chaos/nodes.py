"""Two nodes of one ledger in PostgreSQL: the active one is stopped, killed and frozen, time and again."""

from __future__ import annotations

import itertools
import json
import signal
import tempfile
import time
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.helpers.node_pair import Pair, running_pair, stands_by
from tests.helpers.process import MailWatchProcess
from tests.servers.postgresql import PostgreSql
from tests.servers.program import server_folder

ENDS = ("stopped", "killed", "frozen")


def run(_servers: Lab, figures: Figures, scale: Scale) -> None:
    """Run the scenario."""
    rounds = 10 if scale.thorough else 2
    with (
        server_folder() as folder,
        PostgreSql(folder / "postgresql", durable=True).running() as server,
        tempfile.TemporaryDirectory() as here,
        running_pair(Path(here), server) as pair,
    ):
        pair.start()
        for number, how in enumerate(ENDS * rounds):
            active, other = sorted(pair.nodes.values(), key=stands_by)
            one(figures, pair, active, other, how)
            figures.progress(number + 1, len(ENDS) * rounds)
        audited(figures, pair)


def one(figures: Figures, pair: Pair, active: MailWatchProcess, other: MailWatchProcess, how: str) -> None:
    """End the active node, and measure until the other one has probed."""
    shown = known(active)
    before = other.count("away", "down")
    began = time.monotonic()
    if how == "frozen":
        active.signal(signal.SIGSTOP)
    elif how == "killed":
        active.kill()
    else:
        figures.promise(active.stop() == 0, "the active node did not stop cleanly")
    pair.wait_active(other)
    other.wait_for_more("away", "down", before)
    figures.count(f"{how}: hand-overs")
    figures.at_most(f"{how}: until the first probe of the other", time.monotonic() - began)
    figures.promise(shown <= known(other), f"{how}: an observation that was shown is not on record")
    if how == "frozen":
        active.signal(signal.SIGCONT)
    else:
        active.start(ready=False)
    pair.wait_standing_by(active)


def known(node: MailWatchProcess) -> set[str]:
    """Return the observations that a node shows, by their start."""
    answer = json.loads(node.get("/api/v1/observations?limit=1000"))
    return {observation["started_at"] for observation in answer}


def audited(figures: Figures, pair: Pair) -> None:
    """Check the whole record."""
    a = pair.nodes["a"]
    done = a.command("ledger", "audit")
    figures.promise(done.returncode == 0, f"the audit found: {done.stdout}{done.stderr}")
    boots = [boot for boot, _ in itertools.groupby(boot for _, _, boot in pair.entries())]
    figures.promise(len(boots) == len(set(boots)), "a boot comes back after another one")
    figures.count("entries audited", len(pair.entries()))
