"""Two nodes of one ledger, whose PostgreSQL fails over to its replica: a synchronous one, and one that lags."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mailwatch.store import Reader, StoreError
from mailwatch.store.postgres import PostgresPlace
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Lab
from tests.chaos.promises import wait_for
from tests.helpers.node_pair import Pair, killed_at_the_end, stands_by
from tests.helpers.process import MailWatchProcess
from tests.servers.program import server_folder
from tests.servers.replicated import Replicated, replicated

TARGETS = 20
LAG_SECONDS = 3.0
"""For so long the replica receives nothing."""
MAY_LACK = "the database failed over to a replica that may lack what node"


def run(_servers: Lab, figures: Figures, scale: Scale) -> None:
    """Run the scenario."""
    rounds = 20 if scale.thorough else 2
    for number in range(rounds):
        synchronous(figures)
        asynchronous(figures, active_killed=number % 2 == 1)
        figures.progress(number + 1, rounds)


class Roots:
    """Every checkpoint that a node has signed or saw, read all the while: one root for each size."""

    def __init__(self, pair: Pair) -> None:
        self._files = [node.data_dir / "keys" / "ledger.checkpoint" for node in pair.nodes.values()]
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.found: dict[str, set[str]] = {}

    def add(self, note: str) -> None:
        """Add a note: its second line is the size, its third the root."""
        _, size, root, *_ = note.split("\n")
        self.found.setdefault(size, set()).add(root)

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            for file in self._files:
                with contextlib.suppress(OSError, ValueError):
                    self.add(file.read_text())

    @contextlib.contextmanager
    def watched(self) -> Iterator[Roots]:
        """Read while the context lasts."""
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()


@contextlib.contextmanager
def _nodes(*, synchronous: bool) -> Iterator[tuple[Replicated, Pair, Roots]]:
    with (
        server_folder() as folder,
        replicated(folder, synchronous=synchronous, durable=True) as database,
        tempfile.TemporaryDirectory() as here,
        killed_at_the_end(Pair(Path(here), database.url, more=TARGETS - 1)) as pair,
    ):
        pair.start()
        with Roots(pair).watched() as roots:
            yield database, pair, roots


def synchronous(figures: Figures) -> None:
    """Fail over to a replica that a commit waits for."""
    with _nodes(synchronous=True) as (database, pair, roots):
        active = pair.nodes["a"]
        # The active node has on record that its commits wait for the replica.
        wait_for(lambda: size(database.url, active) > 3 * TARGETS)
        shown = known(active)
        database.fail_over()
        began = time.monotonic()
        before = size(database.url, active)
        figures.promise(wait_for(lambda: size(database.url, active) > before), "synchronous: nothing comes after")
        figures.at_most("synchronous: first commit after the promotion", time.monotonic() - began)
        figures.count("synchronous: failovers")
        lost = shown - wait_known(pair, shown)
        figures.count("synchronous: observations shown before", len(shown))
        figures.count("synchronous: of them lost", len(lost))
        figures.promise(not lost, "synchronous: an observation that was shown is not on record")
        audited(figures, pair, roots, "synchronous")


def asynchronous(figures: Figures, *, active_killed: bool) -> None:
    """Fail over to a replica that lags, with the active node alive or killed with the primary."""
    with _nodes(synchronous=False) as (database, pair, roots):
        a, b = pair.nodes["a"], pair.nodes["b"]
        wait_for(lambda: size(database.url, a) > 3 * TARGETS)
        database.wait_streaming()
        database.cut()
        time.sleep(LAG_SECONDS)
        shown, before = known(a), size(database.url, a)
        if active_killed:
            a.kill()
        database.fail_over()
        began = time.monotonic()
        figures.count("asynchronous: failovers")
        figures.count("asynchronous: entries that the replica lacked", before - size(database.url, a))
        if active_killed:
            figures.promise(wait_for(lambda: MAY_LACK in b.get("/readyz")), "asynchronous: the other takes over")
            lacking = size(database.url, a)
            time.sleep(LAG_SECONDS)
            figures.promise(size(database.url, a) == lacking, "asynchronous: something was appended to a loss")
            a.start(ready=False)
            began = time.monotonic()
        figures.promise(wait_for(lambda: size(database.url, a) > before), "asynchronous: nothing comes after")
        figures.at_most("asynchronous: until all is back, and more", time.monotonic() - began)
        lost = shown - wait_known(pair, shown)
        figures.count("asynchronous: observations shown before", len(shown))
        figures.count("asynchronous: of them lost", len(lost))
        figures.promise(not lost, "asynchronous: an observation that was shown is not on record")
        notes = [payload.get("findings", []) for kind, payload, _ in pair.entries() if kind == "node"]
        found = any("the database had lost" in finding for one in notes for finding in one)
        figures.promise(found, "asynchronous: no entry says that the database had lost something")
        audited(figures, pair, roots, "asynchronous")


def size(url: str, node: MailWatchProcess) -> int:
    """Return the number of entries in the database; 0 while it does not answer."""
    reader = Reader.open(PostgresPlace(node.data_dir, url))
    try:
        return reader.size()
    except StoreError:
        return 0
    finally:
        reader.close()


def known(node: MailWatchProcess) -> set[tuple[str, str]]:
    """Return the observations that a node shows: target and start."""
    answer = json.loads(node.get("/api/v1/observations?limit=1000"))
    return {(observation["target"], observation["started_at"]) for observation in answer}


def wait_known(pair: Pair, shown: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """Return what the active node shows, once it shows all that was shown, or does not."""

    def all_of_it() -> set[tuple[str, str]]:
        for node in pair.nodes.values():
            if node.process is not None and not stands_by(node):
                with contextlib.suppress(ValueError):
                    found = known(node)
                    if shown <= found:
                        return found
        return set()

    return wait_for(all_of_it, 30.0) or known(pair.nodes["a"])


def audited(figures: Figures, pair: Pair, roots: Roots, how: str) -> None:
    """Check the whole record, and that no size has two roots."""
    for node in pair.nodes.values():
        if node.process is not None:
            node.signal(signal.SIGTERM)
            figures.promise(node.stop() == 0, f"{how}: a node did not stop cleanly")
    a = pair.nodes["a"]
    done = a.command("ledger", "audit")
    figures.promise(done.returncode == 0, f"{how}: the audit found: {done.stdout}{done.stderr}")
    reader = Reader.open(PostgresPlace(a.data_dir, pair.url))
    signed = [row.note for row in reader.checkpoints()]
    reader.close()
    for note in signed:
        roots.add(note)
    figures.count("checkpoints compared", len(roots.found))
    twice = [size for size, found in roots.found.items() if len(found) > 1]
    figures.promise(not twice, f"{how}: two roots for the sizes {twice}")
    boots = [boot for boot, _ in itertools.groupby(boot for _, _, boot in pair.entries())]
    figures.promise(len(boots) == len(set(boots)), f"{how}: a boot comes back after another one")
