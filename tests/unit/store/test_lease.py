"""The lease of a node, on a real PostgreSQL: one node holds the targets, and the epoch decides who writes."""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from mailwatch.store import Store
from mailwatch.store.errors import CommitInDoubtError, EvictedError, StoreUnavailableError
from mailwatch.store.lease import LEASE_SECONDS, START_SECONDS, Lease, Takeover, session_name
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.postgres_check import examine
from tests.helpers.ledger_audit import audited
from tests.helpers.ledger_factory import observed
from tests.helpers.patience import tries
from tests.servers.postgresql import PostgreSql

Join = Callable[[str], "Member"]


class Member:
    """A node: its place, its lease, and, once it has taken over, its store."""

    def __init__(self, folder: Path, url: str, name: str, keys: Path, origin: str) -> None:
        self.seconds = 0.0
        self.store: Store | None = None
        self.place = PostgresPlace(folder / name, url, name=session_name(name))
        self.lease = self.place.lease = Lease(
            self.place.engine, name, name=name.upper(), version="1", origin=origin, monotonic=self.clock
        )
        if name != "a":
            (folder / name).mkdir()
            (folder / name / "keys").symlink_to(keys)

    def clock(self) -> float:
        """Stand still unless the test moves it: a busy machine ends no lease here."""
        return self.seconds

    def take_over(self) -> Takeover:
        """Take the targets and open the ledger."""
        taken = self.lease.take()
        assert taken is not None
        self.store = Store.open(self.place)
        return taken

    def append(self, *numbers: int) -> list[int]:
        """Append observations to the open ledger; return their indices."""
        assert self.store is not None
        return [entry.index for entry in self.store.append_batch([observed("t", number) for number in numbers])]

    def close(self) -> None:
        """Close everything."""
        if self.store is not None:
            self.store.close()
        self.lease.close()


@pytest.fixture
def join(postgresql_place: PostgresPlace, tmp_path: Path) -> Iterator[Join]:
    """Returns a function that registers a node of a name; the first is "a", which makes the ledger."""
    first = Store.open(PostgresPlace(tmp_path / "a", postgresql_place.url))
    first.close()
    with contextlib.ExitStack() as undo:

        def registered(name: str) -> Member:
            keys, origin = tmp_path / "a" / "keys", first.keys.origin
            member = Member(tmp_path, postgresql_place.url, name, keys, origin)
            undo.callback(member.close)
            member.lease.register()
            member.lease.renew()
            return member

        yield registered


@pytest.fixture
def lapse(postgresql_place: PostgresPlace) -> Iterator[Callable[[str], None]]:
    """Returns a function that lets the time of a node's lease pass."""
    made = postgresql_place.engine()

    def pass_time(node: str) -> None:
        with made.begin() as connection:
            moved = f"UPDATE nodes SET until = until - interval '{LEASE_SECONDS + 1} seconds' WHERE id = '{node}'"
            connection.exec_driver_sql(moved)

    yield pass_time
    made.dispose()


def until_one(server: PostgreSql, place: PostgresPlace, condition: str, wanted: int) -> None:
    """Wait until so many sessions fulfil a condition."""
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND {condition}"
    with server.connect() as connection:
        for _ in tries():
            if connection.execute(query, [place.url.rpartition("/")[2]]).fetchone() == (wanted,):
                return
    raise AssertionError(f"not {wanted} sessions with {condition}")


def test_one_node_holds_the_targets_and_the_next_takes_them_when_it_leaves(join: Join) -> None:
    a, b = join("a"), join("b")
    assert a.lease.take() == Takeover(node="a", epoch=1, former="", reason="first", takeovers=0)
    assert b.lease.take() is None
    assert [(node.name, node.active, node.lives) for node in b.lease.nodes()] == [
        ("A", True, True),
        ("B", False, True),
    ]
    assert b.lease.evict() == []
    a.lease.leave()
    assert [(node.name, node.active, node.lives) for node in b.lease.nodes()] == [
        ("A", False, False),
        ("B", False, True),
    ]
    assert b.lease.take() == Takeover(node="b", epoch=1, former="a", reason="left", takeovers=1)
    with pytest.raises(EvictedError, match="stands by again"):
        a.lease.renew()
    a.lease.register()
    assert (a.lease.epoch, a.lease.take()) == (3, None)
    b.lease.leave()
    assert a.lease.take() == Takeover(node="a", epoch=3, former="b", reason="left", takeovers=2)
    a.lease.leave()
    a.lease.register()
    assert a.lease.take() == Takeover(node="a", epoch=5, former="a", reason="again", takeovers=2)


def test_a_node_with_the_keys_of_another_ledger_takes_nothing(join: Join) -> None:
    other = Lease(join("a").place.unfenced_engine, "c", name="C", version="1", origin="mailwatch/other")
    other.register()
    other.renew()
    assert other.refusal() == "its keys are those of another ledger"
    other._is_of_other = False
    assert other.take() is None
    other.close()


def test_a_node_that_restarts_takes_its_own_targets_at_once(join: Join) -> None:
    a = join("a")
    a.take_over()
    a.append(1)
    assert a.store is not None
    a.store.close()
    again = join("a")
    assert again.take_over() == Takeover(node="a", epoch=2, former="a", reason="again", takeovers=0)
    assert again.append(2) == [1]


def test_a_node_that_wakes_up_late_writes_nothing(join: Join, lapse: Callable[[str], None]) -> None:
    a, b = join("a"), join("b")
    a.take_over()
    a.append(1)
    assert a.store is not None
    lapse("a")
    # Nobody has ended its lease yet, so nobody else has written.
    assert a.append(2) == [1]
    assert b.lease.evict() == ["a"]
    assert b.take_over() == Takeover(node="b", epoch=1, former="a", reason="lapsed", takeovers=1)
    assert b.append(3) == [2]
    # The eviction ended its sessions too, so that it cannot know at first what became of its append.
    for kind in (CommitInDoubtError, EvictedError):
        with pytest.raises(kind):
            a.append(9)
    for write in (a.store.checkpoint, functools.partial(a.store.keep, []), a.lease.renew):
        with pytest.raises(EvictedError):
            write()
    assert b.append(4) == [3]
    assert b.store is not None
    assert b.store.checkpoint() is not None
    assert audited(b.place) == []


def test_an_append_without_the_targets_is_refused(join: Join) -> None:
    a, b = join("a"), join("b")
    a.take_over()
    b.store = Store.open(b.place)
    with pytest.raises(EvictedError):
        b.append(1)
    assert a.append(1) == [0]


def test_an_eviction_waits_for_an_append_under_way(
    join: Join, lapse: Callable[[str], None], postgresql: PostgreSql, postgresql_place: PostgresPlace
) -> None:
    """What the old epoch has begun to write is committed before the new one reads, or ended with its session."""
    a, b = join("a"), join("b")
    a.take_over()
    made = postgresql_place.engine()
    with made.connect() as connection:
        # The head row is held, so the append waits inside its one statement, and has its lease locked.
        connection.exec_driver_sql("SELECT 1 FROM ledger_head FOR UPDATE")
        lapse("a")
        appending = ThreadPoolExecutor(1).submit(a.append, 1)
        waits = "application_name = 'mailwatch a' AND wait_event_type = 'Lock'"
        until_one(postgresql, b.place, waits, 1)
        # It waits for two seconds at most, and then ends the sessions that it waits for.
        with pytest.raises(StoreUnavailableError):
            b.lease.evict()
        with pytest.raises(CommitInDoubtError):
            appending.result()
        assert b.lease.evict() == ["a"]
    made.dispose()
    b.take_over()
    assert b.append(2) == [0]
    assert audited(b.place) == []


def test_an_eviction_ends_the_sessions_of_the_node(
    join: Join, lapse: Callable[[str], None], postgresql: PostgreSql
) -> None:
    a, b = join("a"), join("b")
    a.take_over()
    lapse("a")
    b.lease.evict()
    until_one(postgresql, b.place, "application_name = 'mailwatch a'", 0)


def test_a_node_judges_its_own_lease_by_when_it_asked(join: Join) -> None:
    a = join("a")
    assert a.lease.start_seconds_left() == START_SECONDS
    a.seconds = 3.0
    assert a.lease.start_seconds_left() == START_SECONDS - 3.0
    a.seconds = 5.0
    assert a.lease.start_seconds_left() < 0
    assert a.lease.take() is None
    a.lease.renew()
    assert a.lease.take() is not None


def test_a_node_whose_clock_is_off_takes_nothing_from_others(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    real = __import__("mailwatch.times", fromlist=["now"]).now
    monkeypatch.setattr("mailwatch.store.lease.now", lambda: real() + 60_000)
    a = join("a")
    # Alone, its observations are in the order of its own clock.
    assert (a.lease.alone, a.lease.refusal()) == (True, "")
    monkeypatch.setattr("mailwatch.store.lease.now", real)
    b = join("b")
    a.lease.offset = -60_000
    a.lease.renew()
    a.lease.offset = -60_000
    assert a.lease.refusal() == "its clock is 60.0 s behind the database's"
    assert a.lease.take() is None
    assert b.lease.take() is not None


def test_the_offset_of_the_clock_is_within_its_bound(join: Join) -> None:
    lease = Lease(join("a").place.unfenced_engine, "b", name="B", version="1", origin="")
    lease.register()
    lease.renew()
    lease.close()
    assert lease.offset is not None
    assert abs(lease.offset) <= lease.bound + 1


def test_a_node_is_alone_until_another_one_comes(join: Join) -> None:
    a = join("a")
    assert a.lease.alone
    join("b")
    a.lease.renew()
    assert not a.lease.alone


def test_what_fences_the_append_is_in_the_one_statement(join: Join) -> None:
    """A renewal that comes between reading the lease and writing would be of no use."""
    a = join("a")
    a.take_over()
    assert a.store is not None
    hold = a.store._hold
    statements: list[str] = []
    sa.event.listen(
        hold._engine,  # type: ignore[attr-defined]
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: statements.append(statement),
    )
    a.append(1)
    assert [one for one in statements if "nodes" in one and "INSERT INTO entries" in one] != []
    assert sum("entries" in one for one in statements) == 2  # with the target's last number


def test_which_history_of_the_server_it_is_needs_no_right(join: Join, postgresql: PostgreSql) -> None:
    a = join("a")
    a.take_over()
    a.lease.renew()
    with postgresql.connect(a.place.url.rpartition("/")[2]) as connection:
        (kept,) = connection.execute("SELECT cluster FROM shares").fetchone() or ("",)
        connection.execute("CREATE ROLE without_rights")
        try:
            connection.execute("SET ROLE without_rights")
            assert connection.execute(f"SELECT {a.lease._cluster_query}").fetchone() == (kept,)
            connection.execute("RESET ROLE")
        finally:
            connection.execute("DROP ROLE without_rights")
    assert re.fullmatch(r"[0-9]+\.00000001", str(kept))


def test_nodes_of_one_name_and_a_database_without_a_replica_are_named(join: Join) -> None:
    a, b = join("a"), join("b")
    facts = examine(a.place)
    assert facts is not None
    assert sorted(facts.nodes) == ["A", "B"]
    (alone,) = [one for one in facts.remarks() if "no replica" in one]
    b.lease.name = "A"
    b.lease.register()
    facts = examine(a.place)
    assert facts is not None
    assert [one for one in facts.remarks() if "called" in one or "no replica" in one] == [
        alone,
        "several nodes are called A: nodes of one machine fail together; else give each a host name of its own",
    ]


def test_who_comes_when_the_other_is_gone_takes_over_an_unattended_ledger(
    join: Join, postgresql_place: PostgresPlace
) -> None:
    a, standing_by = join("a"), join("b")
    a.take_over()
    a.lease.leave()
    assert not standing_by.take_over().unattended
    standing_by.lease.leave()
    made = postgresql_place.engine()
    with made.begin() as connection:
        connection.exec_driver_sql(f"UPDATE nodes SET seen = seen - interval '{LEASE_SECONDS + 60} seconds'")
    made.dispose()
    late = join("c")
    assert late.take_over().unattended


def test_each_node_shows_the_digests_of_its_config(join: Join) -> None:
    a, b = join("a"), join("b")
    a.lease.config = {"targets": "1", "guard": "2"}
    b.lease.config = {"targets": "1", "guard": "3", "new": "4"}
    a.lease.renew()
    one, other = b.lease.renew()
    assert (one.config, other.config) == (a.lease.config, b.lease.config)
    assert (one.differs_in(other), other.differs_in(other)) == (["guard"], [])
    # A node of an older version says nothing of it.
    b.lease.config = {}
    assert b.lease.renew()[0].differs_in(b.lease.nodes()[1]) == []
