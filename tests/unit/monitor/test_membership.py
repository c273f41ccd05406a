"""A node in its event loop: what a busy loop, and one that stands still, do to its lease. On a real PostgreSQL."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mailwatch.monitor import membership
from mailwatch.monitor.membership import Membership
from mailwatch.progress import StartupProgress
from mailwatch.store import Store, lease
from mailwatch.store.lease import Node, list_nodes
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.patience import tries


@contextlib.asynccontextmanager
async def active(place: PostgresPlace) -> AsyncIterator[Membership]:
    """A node that has taken over."""
    member = await Membership.join(place, StartupProgress())
    async with member.running(lambda: pytest.fail("the thread of the lease failed")):
        await member.take()
        yield member


def blocked_until(place: PostgresPlace, wanted: Callable[[Node], bool]) -> Node:
    """Block this thread, which is the loop's, until the database shows the only node as wanted."""
    for _ in tries():
        (node,) = list_nodes(place.unfenced_engine())
        if wanted(node):
            return node
    raise AssertionError(f"still {node}")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(membership, "RENEW_SECONDS", 0.1)
    monkeypatch.setattr(membership, "WATCH_SECONDS", 0.1)


@pytest.mark.usefixtures("_quick")
async def test_a_busy_loop_keeps_the_lease(
    postgresql_place: PostgresPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "STANDSTILL_SECONDS", 3600.0)
    async with active(postgresql_place) as member:
        before = blocked_until(postgresql_place, lambda node: node.active)
        after = blocked_until(postgresql_place, lambda node: node.seen > before.seen)
        again = blocked_until(postgresql_place, lambda node: node.seen > after.seen)
        assert (again.epoch, again.active) == (before.epoch, True)
        assert not member.ended.is_set()


@pytest.mark.usefixtures("_quick")
async def test_a_loop_that_stands_still_loses_it_and_its_node_stands_by(
    postgresql_place: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "STANDSTILL_SECONDS", 0.3)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    place = postgresql_place
    async with active(place) as member:
        blocked_until(place, lambda node: not node.lives)
        other = lease.Lease(place.unfenced_engine, "b", name="B", version="1", origin=member.lease._origin)
        other.register()
        other.renew()
        assert other.evict() == [member.lease.node]
        taken = other.take()
        assert taken is not None
        assert (taken.former, taken.reason) == (member.lease.node, "lapsed")
        # What is left of the lease is for no probe, though the loop has noticed nothing yet.
        member.lease.alone = False
        with monkeypatch.context() as patch:
            patch.setattr(lease, "START_SECONDS", 1.0)
            assert not member.may_probe()
        await member.ended.wait()
        other.leave()
        other.close()
        assert (await member.take()).reason == "left"
        assert not member.ended.is_set()


async def test_a_stop_leaves_the_targets_to_others(postgresql_place: PostgresPlace) -> None:
    Store.open(postgresql_place).close()
    async with active(postgresql_place):
        pass
    (node,) = list_nodes(postgresql_place.unfenced_engine())
    assert (node.active, node.lives) == (False, False)
