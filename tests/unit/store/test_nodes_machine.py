"""Three nodes of one ledger on a real PostgreSQL, as a state machine: pauses at any byte, kills, evictions.

Whatever comes, the entries have no gap and no number twice, the tree is that of the rows, and each entry that was
acknowledged is there once.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.store import NewEntry, Reader, Store
from mailwatch.store.errors import EvictedError, StoreError
from mailwatch.store.lease import LEASE_SECONDS, Lease, session_name
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.schema import head
from tests.helpers.ledger_audit import audited
from tests.helpers.ledger_factory import observed
from tests.helpers.patience import tries
from tests.helpers.severing_proxy import SeveringProxy
from tests.servers.postgresql import PostgreSql

NODES = ("a", "b", "c")
nodes = st.sampled_from(NODES)


class Node:
    """A node behind its own way to the database. `waiting`: drafts without an answer yet."""

    def __init__(
        self, folder: Path, name: str, server: PostgreSql, database: str, origin: str, holder: Callable[[], str]
    ) -> None:
        self.name, self._folder, self._origin = name, folder, origin
        self.way = SeveringProxy(server.port)
        self.url = server.url(database).replace(str(server.port), str(self.way.port))
        self.acknowledged: dict[int, int] = {}
        """Which draft has which index, as this node learned."""
        self.waiting: list[tuple[int, NewEntry]] = []
        self.written_late = 0
        """How often it wrote though another node, or none, held the targets."""
        self._holder = holder
        self.store: Store | None = None
        self.held: threading.Thread | None = None
        self.join()

    def join(self) -> None:
        """Register as a new process of this node."""
        self.place = PostgresPlace(self._folder / self.name, self.url, name=session_name(self.name))
        self.lease = self.place.lease = Lease(
            self.place.unfenced_engine, self.name, name=self.name, version="1", origin=self._origin,
            monotonic=lambda: 0.0,
        )  # fmt: skip
        self.lease.register()
        self.lease.renew()

    def end_term(self) -> None:
        """End the term: what waits is dropped, as by the writer."""
        self.waiting.clear()
        if self.store is not None:
            self.store.close()
            self.store = None

    def write(self) -> None:
        """Append what waits, as the writer does: until it is on record, or refused for good."""
        assert self.store is not None
        for _ in range(3):
            try:
                written = self.store.append_batch([draft for _, draft in self.waiting])
            except EvictedError:
                self.end_term()
                return
            except StoreError:
                continue
            self.written_late += self._holder() != self.name
            pairs = zip(self.waiting, written, strict=True)
            self.acknowledged |= {number: entry.index for (number, _), entry in pairs}
            self.waiting.clear()
            return

    def close(self) -> None:
        """Close all."""
        self.end_term()
        self.lease.close()
        self.way.close()


class Nodes(RuleBasedStateMachine):
    """The machine. `server` and `template`: where each of its ledgers is made."""

    server: PostgreSql
    template: str

    @initialize()
    def begin(self) -> None:
        """Make a ledger, and three nodes that stand by."""
        self.folder = Path(tempfile.mkdtemp())
        self.database = self.server.make_database(self.template)
        self.plain = PostgresPlace(self.folder / "a", self.server.url(self.database))
        with contextlib.closing(Store.open(self.plain)) as store:
            origin = store.keys.origin
        for name in NODES[1:]:
            (self.folder / name).mkdir()
            (self.folder / name / "keys").symlink_to(self.folder / "a" / "keys")
        self.nodes = {
            name: Node(self.folder, name, self.server, self.database, origin, self.holder) for name in NODES
        }
        self.numbers = itertools.count(1)
        self.take("a")

    def writer(self, name: str) -> tuple[Node, Store] | None:
        """Return a node that believes it may write, this one if it does; None without one that is not held."""
        free = [node for node in self.nodes.values() if node.store is not None and node.held is None]
        free.sort(key=lambda node: node.name != name)
        return (free[0], free[0].store) if free and free[0].store is not None else None

    def resume(self, name: str) -> None:
        """Let a node that is held go on."""
        node = self.nodes[name]
        if node.held is not None:
            node.way.resume()
            node.held.join()
            node.held = None

    @rule(name=nodes)
    def take(self, name: str) -> None:
        """Stand by again after an eviction, and take over if nobody else has the targets."""
        node = self.nodes[name]
        if node.store is not None or node.held is not None:
            return
        with contextlib.suppress(StoreError):
            try:
                node.lease.renew()
            except EvictedError:
                node.lease.register()
                node.lease.renew()
            if node.lease.take() is not None:
                node.store = Store.open(node.place)

    @rule(name=nodes, count=st.integers(1, 5))
    def append(self, name: str, count: int) -> None:
        """Append some entries."""
        if (found := self.writer(name)) is not None:
            node, _ = found
            node.waiting += self._drafts(count)
            node.write()

    @rule(name=nodes, count=st.integers(1, 3), after=st.integers(0, 2000))
    def append_without_an_answer(self, name: str, count: int, after: int) -> None:
        """Append some entries; the answer to one of the messages for it is lost."""
        if (found := self.writer(name)) is not None:
            node, _ = found
            node.way.sever_answers_after(after)
            node.waiting += self._drafts(count)
            node.write()
            node.way.forget_severing()

    @rule(name=nodes, count=st.integers(1, 3), within=st.integers(0, 3000))
    def pause_within_an_append(self, name: str, count: int, within: int) -> None:
        """Hold a node at any byte of what it sends for an append."""
        if (found := self.writer(name)) is not None:
            node, _ = found
            node.waiting += self._drafts(count)
            self._hold(node, within, node.write)

    @rule(name=nodes, within=st.integers(0, 2500))
    def pause_within_a_checkpoint(self, name: str, within: int) -> None:
        """Hold a node at any byte of what it sends for a checkpoint."""
        if (found := self.writer(name)) is not None:
            node, store = found

            def sign() -> None:
                with contextlib.suppress(StoreError):
                    store.checkpoint()

            self._hold(node, within, sign)

    def _hold(self, node: Node, within: int, work: Callable[[], None]) -> None:
        node.way.hold_requests_after(within)
        node.held = threading.Thread(target=work)
        node.held.start()
        for _ in tries():
            if node.way.severed.is_set() or not node.held.is_alive():
                return

    @rule(name=nodes)
    def checkpoint(self, name: str) -> None:
        """Sign what is committed."""
        if (found := self.writer(name)) is not None:
            node, store = found
            try:
                store.checkpoint()
            except EvictedError:
                node.end_term()
            except StoreError:
                return

    @rule(name=nodes)
    def go_on(self, name: str) -> None:
        """Let a node that is held go on."""
        self.resume(name)

    @rule(by=nodes, takes=st.booleans())
    def evict(self, by: str, takes: bool) -> None:
        """Let the time of the lease of the active node pass, and another node end it, and perhaps take over."""
        name = self.holder()
        if name in ("", by) or self.nodes[by].held is not None:
            return
        with self._connection() as connection:
            passed = f"UPDATE nodes SET until = until - interval '{LEASE_SECONDS + 1} seconds' WHERE id = '{name}'"
            connection.exec_driver_sql("SET lock_timeout = '100ms'")
            with contextlib.suppress(StoreError):
                connection.exec_driver_sql(passed)
        with contextlib.suppress(StoreError):
            self.nodes[by].lease.evict()
        if takes:
            self.take(by)

    @rule(name=nodes)
    def kill(self, name: str) -> None:
        """Kill a node, which starts again."""
        node = self.nodes[name]
        self.resume(name)
        node.end_term()
        node.lease.close()
        for _ in tries():
            with contextlib.suppress(StoreError):
                node.join()
                return

    def holder(self) -> str:
        """Return the node that the database says has the targets, "" for none."""
        with self._connection() as connection:
            return connection.exec_driver_sql("SELECT node FROM shares").scalar() or ""

    def _drafts(self, count: int) -> list[tuple[int, NewEntry]]:
        return [(number, observed("t", number)) for number in itertools.islice(self.numbers, count)]

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sa.Connection]:
        made = self.plain.unfenced_engine()
        try:
            with made.begin() as connection:
                yield connection
        finally:
            made.dispose()

    def teardown(self) -> None:
        """Let all go on, and check the whole record."""
        if not hasattr(self, "nodes"):
            return
        try:
            for name in NODES:
                self.resume(name)
            for node in self.nodes.values():
                node.close()
            self.check()
        finally:
            self.server.drop_database(self.database)
            shutil.rmtree(self.folder)

    def check(self) -> None:
        """Check the entries, the tree and what was acknowledged."""
        reader = Reader.open(self.plain)
        entries = list(reader.entries())
        reader.close()
        assert [entry.index for entry in entries] == list(range(len(entries)))
        assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
        tree = CompactRange()
        for entry in entries:
            tree.append(leaf_hash(entry.header.encode()))
        with self._connection() as connection:
            row = connection.execute(sa.select(head)).one()
        assert (row.size, row.hashes) == (tree.size, tree.to_bytes())
        drafts = [entry.payload["start"] for entry in entries]
        assert max(Counter(drafts).values(), default=1) == 1
        for node in self.nodes.values():
            assert node.written_late == 0
            for number, index in node.acknowledged.items():
                assert drafts[index] == number
        assert audited(self.plain) == []


def machine(server: PostgreSql, template: str) -> type[Nodes]:
    return type("NodesHere", (Nodes,), {"server": server, "template": template})


SETTINGS: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def test_a_few_runs_keep_the_record_whole(postgresql: PostgreSql, postgresql_template: str) -> None:
    few = settings(max_examples=6, stateful_step_count=30, **SETTINGS)
    run_state_machine_as_test(machine(postgresql, postgresql_template), settings=few)


@pytest.mark.nightly
def test_many_runs_keep_the_record_whole(postgresql: PostgreSql, postgresql_template: str) -> None:
    many = settings(max_examples=60, stateful_step_count=40, **SETTINGS)
    run_state_machine_as_test(machine(postgresql, postgresql_template), settings=many)
