"""Two nodes of one ledger in PostgreSQL: the active one is stopped, killed, frozen and cut off, time and again;
and the clock of one is off.
"""

from __future__ import annotations

import itertools
import json
import random
import signal
import tempfile
import time
from pathlib import Path

from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import wait_for
from tests.helpers.node_pair import Pair, running_pair, running_pair_apart, stands_by
from tests.helpers.process import MailWatchProcess
from tests.helpers.severing_proxy import SeveringProxy
from tests.helpers.wall_clock import LIBRARIES, WallClock
from tests.servers.postgresql import PostgreSql
from tests.servers.program import server_folder

ENDS = ("stopped", "killed", "frozen", "cut off")
STATEMENT_BYTES = 3000
"""The network is cut after any number of bytes up to this: within a statement, between two, within an append."""


def run(_servers: Lab, figures: Figures, scale: Scale) -> None:
    """Run the scenario."""
    rounds = 10 if scale.thorough else 2
    chance = random.Random(scale.seed)
    with server_folder() as folder, PostgreSql(folder / "postgresql", durable=True).running() as server:
        with tempfile.TemporaryDirectory() as here, running_pair_apart(Path(here), server) as (pair, ways):
            pair.start()
            for number, how in enumerate(ENDS * rounds):
                active, other = sorted(pair.nodes, key=lambda name: stands_by(pair.nodes[name]))
                one(figures, pair, active, other, how, ways[active], chance.randrange(STATEMENT_BYTES))
                figures.progress(number + 1, len(ENDS) * rounds)
            audited(figures, pair)
        if LIBRARIES:
            for seconds in (0.9, -0.9, 5.0, -5.0):
                clock_off(figures, server, seconds)


def one(figures: Figures, pair: Pair, active: str, other: str, how: str, way: SeveringProxy, within: int) -> None:
    """End the active node, and measure until the other one has probed."""
    ending, heir = pair.nodes[active], pair.nodes[other]
    shown = known(ending)
    before = heir.count("away", "down")
    began = time.time()
    if how == "frozen":
        ending.signal(signal.SIGSTOP)
    elif how == "killed":
        ending.kill()
    elif how == "cut off":
        way.hold_requests_after(within)
    else:
        figures.promise(ending.stop() == 0, "the active node did not stop cleanly")
    pair.wait_active(heir)
    heir.wait_for_more("away", "down", before)
    seconds = first_probe(pair) - began
    figures.count(f"{how}: hand-overs")
    figures.at_most(f"{how}: until the first probe of the other", seconds)
    figures.promise(shown <= known(heir), f"{how}: an observation that was shown is not on record")
    if how == "frozen":
        ending.signal(signal.SIGCONT)
    elif how == "cut off":
        way.resume()
    else:
        ending.start(ready=False)
    pair.wait_standing_by(ending)


def first_probe(pair: Pair) -> float:
    """Return when the node that took over last began its first probe, in seconds of Unix time."""
    entries = pair.entries()
    starts = [
        at for at, (kind, payload, _) in enumerate(entries) if kind == "node" and payload["event"] == "start"
    ]
    first = next(payload for kind, payload, _ in entries[starts[-1] :] if kind == "observation")
    return float(first["start"]) / 1000


def clock_off(figures: Figures, server: PostgreSql, seconds: float) -> None:
    """Kill the active node while the other one's clock is off: by less than a second it takes over."""
    with tempfile.TemporaryDirectory() as here, running_pair(Path(here), server) as pair:
        clock = WallClock(Path(here))
        clock.step(seconds)
        pair.nodes["b"].environment = clock.environment
        a, b = pair.start(standing_by=abs(seconds) < 1)
        a.wait_for_state("away", "down")
        what = f"clock off by {seconds:+g} s"
        if abs(seconds) < 1:
            a.kill()
            pair.wait_active(b)
            b.wait_for_more("away", "down", b.count("away", "down") + 1)
            a.start(ready=False)
            pair.wait_standing_by(a)
            figures.promise(b.stop() == 0, f"{what}: it did not stop cleanly")
            pair.wait_active(a)
            a.wait_for_more("away", "down", a.count("away", "down") + 1)
            figures.count("clock off by 0.9 s: hand-overs there and back")
        else:
            refusal = "this node does not take over: its clock is"
            figures.promise(wait_for(lambda: refusal in b.get("/readyz")), f"{what}: it says nothing")
            a.kill()
            gone = "no node is active"
            figures.promise(wait_for(lambda: gone in b.get("/readyz")), f"{what}: it does not see the other go")
            written = len(pair.entries())
            time.sleep(2.0)
            figures.promise(len(pair.entries()) == written, f"{what}: it writes")
            a.start(ready=False)
            pair.wait_active(a)
            figures.count("clock off by 5 s: take-overs refused")
        audited(figures, pair)


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
