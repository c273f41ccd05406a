"""kill -9 of the active node of two, and of their PostgreSQL, at random moments, under 200 probes a second."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mailwatch.store import Reader
from mailwatch.store.postgres import PostgresPlace
from mailwatch.times import Millis, parse_rfc3339
from tests.chaos.failover import size
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import TRACEBACK, log_since, wait_for
from tests.helpers.command import mailwatch
from tests.helpers.node_pair import Pair, killed_at_the_end, stands_by
from tests.helpers.process import MailWatchProcess
from tests.servers.postgresql import PostgreSql
from tests.servers.program import server_folder

TARGETS = 200
"""Each is probed once a second."""
AT_ONCE = 300
"""Observations of one answer of the API: more than there are of a second."""
NEW = 50
"""New entries after which recording goes on."""
AUDIT_SECONDS = 1800.0
KILLED = ("node", "database", "database", "database")
"""What is killed, in turns: another node takes over within a dozen seconds, and starts again in as many."""


def run(_servers: Lab, figures: Figures, scale: Scale) -> None:
    """Run the scenario."""
    under_load(figures, random.Random(f"database kills {scale.seed}"), scale.kills, TARGETS)


def under_load(figures: Figures, chance: random.Random, kills: int, targets: int) -> None:
    """Kill so many times, with so many probes a second, and compare the record with what was shown."""
    with (
        server_folder() as folder,
        PostgreSql(folder / "postgresql", durable=True).running() as server,
        tempfile.TemporaryDirectory() as here,
        server.database() as name,
        killed_at_the_end(Pair(Path(here), server.url(name), more=targets - 1)) as pair,
    ):
        pair.start()
        shown = Shown(pair)
        with shown.taking():
            for number in range(kills):
                one(figures, chance, KILLED[number % len(KILLED)], pair, server)
                figures.progress(number + 1, kills)
        _recorded(figures, pair, shown)


class Shown:
    """The observations that the pages of either node showed, by index: target and start."""

    def __init__(self, pair: Pair) -> None:
        self.observations: dict[int, tuple[str, Millis]] = {}
        self.changed: list[str] = []
        self._nodes = pair.nodes.values()
        self._over = threading.Event()

    def _take(self, node: MailWatchProcess) -> None:
        while not self._over.wait(0.3):
            with contextlib.suppress(ValueError, OSError):
                for each in json.loads(node.get(f"/api/v1/observations?limit={AT_ONCE}")):
                    seen = each["target"], parse_rfc3339(each["started_at"])
                    if self.observations.setdefault(each["index"], seen) != seen:
                        self.changed.append(f"entry {each['index']} was shown as two observations")

    @contextlib.contextmanager
    def taking(self) -> Iterator[None]:
        """Ask both nodes again and again, while the context lasts."""
        threads = [threading.Thread(target=self._take, args=(node,)) for node in self._nodes]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._over.set()
            for thread in threads:
                thread.join()


def one(figures: Figures, chance: random.Random, what: str, pair: Pair, server: PostgreSql) -> None:
    """Kill one of them, and wait until something new is on record."""
    nodes = pair.nodes.values()
    if what == "node":
        # The one that was killed before starts meanwhile, also while the database is killed.
        ready = wait_for(lambda: any(map(stands_by, nodes)))
        figures.promise(ready, f"a killed node does not stand by again: {[_says(one) for one in nodes]}")
    active, heir = sorted(nodes, key=stands_by)
    before = size(pair.url, active)
    written = wait_for(lambda: size(pair.url, active) > before)
    figures.promise(written, f"before a kill of the {what}: nothing is recorded")
    time.sleep(chance.uniform(0, 1))
    began = time.monotonic()
    if what == "node":
        active.kill()
        taken = wait_for(lambda: heir.get("/readyz") and not stands_by(heir))
        figures.promise(taken, f"a node was killed, and the other one does not take over: {_says(heir)}")
        active.start(ready=False)
    else:
        server.kill()
        server.start()
    # Not by what is shown: of what waited, others may have overtaken all, and that is shown nowhere.
    before = size(pair.url, heir)
    came = wait_for(lambda: size(pair.url, heir) > before + NEW)
    figures.promise(came, f"{what} killed, then nothing is recorded: {[_says(one) for one in nodes]}")
    figures.count(f"kills of the {what}")
    figures.at_most(f"{what} killed: until {NEW} new entries are on record", time.monotonic() - began)


def _says(node: MailWatchProcess) -> str:
    return f"{node.get('/readyz')[:100]}; {log_since(node)[-200:]}"


def _recorded(figures: Figures, pair: Pair, shown: Shown) -> None:
    """Compare the whole record with what was shown, and audit it."""
    for node in sorted(pair.nodes.values(), key=stands_by):
        figures.promise(node.stop() == 0, "a node did not stop cleanly")
        figures.promise(TRACEBACK not in log_since(node), "a traceback in the log of a node")
    a = pair.nodes["a"]
    done = mailwatch("--config", a.config, "ledger", "audit", timeout=AUDIT_SECONDS)
    figures.promise(done.returncode == 0, f"the audit found: {done.stdout}{done.stderr}")
    reader = Reader.open(PostgresPlace(a.data_dir, pair.url))
    try:
        kept = {
            entry.index: (entry.payload["target"], entry.payload["start"])
            for entry in reader.entries(kinds=["observation"])
        }
        figures.count("entries on record", reader.size())
    finally:
        reader.close()
    lost = [index for index, seen in shown.observations.items() if kept.get(index) != seen]
    figures.count("observations on record", len(kept))
    figures.count("observations shown before", len(shown.observations))
    figures.count("of them lost", len(lost))
    figures.promise(not lost, f"shown and not on record as shown: {sorted(lost)[:5]}")
    figures.promise(not shown.changed, f"{shown.changed[:3]}")
    twice = [one for one, number in Counter(kept.values()).items() if number > 1]
    figures.promise(not twice, f"on record twice: {twice[:3]}")
    seconds = (max(at for _, at in kept.values()) - min(at for _, at in kept.values())) / 1000
    figures.count("of them a second, all kills included", round(len(kept) / seconds))
