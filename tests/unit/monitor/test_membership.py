"""A node in its event loop: what a busy loop, and one that stands still, do to its lease. On a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from mailwatch.config import load
from mailwatch.config.compared import compared_parts
from mailwatch.monitor import membership
from mailwatch.monitor.membership import Membership, WaitingLog
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store import Store, lease
from mailwatch.store.lease import Lease, Node, list_nodes
from mailwatch.store.postgres import PostgresPlace
from tests.helpers.patience import PATIENCE, tries
from tests.helpers.requirements import need
from tests.helpers.severing_proxy import SeveringProxy
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder


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


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is so, while the loop turns."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.fixture
def own_server() -> Iterator[PostgreSql]:
    """A cluster of the test's own, which it may freeze."""
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql").running() as server:
        yield server


@contextlib.contextmanager
def other_node(member: Membership, config: dict[str, str] | None = None) -> Iterator[Lease]:
    """Another node, which lives."""
    origin = member.lease._origin
    other = Lease(member.place.unfenced_engine, "b", name="B", version="1", origin=origin, config=config)
    other.register()
    yield other
    other.close()


@pytest.mark.usefixtures("_quick")
async def test_a_server_that_is_frozen_ends_the_probes_and_hangs_no_node(
    own_server: PostgreSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "ANSWER_SECONDS", 0.5)
    place = PostgresPlace(tmp_path / "data", own_server.url(own_server.make_database()))
    async with active(place) as member:
        with other_node(member):
            await until(lambda: not member.lease.alone)
            assert member.may_probe()
            with own_server.frozen():
                # By its own clock, without an answer of the server.
                await until(lambda: not member.may_probe())
                await until(lambda: member.problem)
                failed = member.problem
                assert member.active_problems() == [f"this node could not renew its lease: {failed}"]
            await until(lambda: not member.problem and member.may_probe())
            assert not member.ended.is_set()


def digests(tmp_path: Path, **more: str) -> dict[str, str]:
    """The parts of a config, as a node compares them, with some lines in place of others."""
    lines = {
        "vantage_point": "{name: home}",
        "guard": "off",
        "targets": "[{name: a, kind: imap, host: h.example, port: 1, ca_file: one.pem, interval: 60s}]",
        **more,
    }
    file = tmp_path / "config.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in lines.items()))
    return compared_parts(load(file))


def test_configs_are_compared_in_what_goes_on_record(tmp_path: Path) -> None:
    one = digests(tmp_path)

    def differing(**more: str) -> set[str]:
        return {name for name, digest in digests(tmp_path, **more).items() if one[name] != digest}

    target = "name: a, kind: imap, host: h.example, port: 1"
    assert differing(targets=f"[{{{target}, ca_file: two.pem, interval: 60s}}]") == set()
    assert differing(web="{listen: 127.0.0.1:9999}", data_dir="elsewhere") == set()
    assert differing(targets=f"[{{{target}, ca_file: one.pem, interval: 61s}}]") == {"intervals"}
    assert differing(targets=f"[{{{target[:-1]}2, ca_file: one.pem, interval: 60s}}]") == {"targets"}
    assert differing(vantage_point="{name: office}") == {"vantage_point"}
    assert differing(detection="{open_after: 4}") == {"detection"}


@pytest.mark.usefixtures("_quick")
async def test_another_config_of_another_node_is_named_once(
    postgresql_place: PostgresPlace, caplog: pytest.LogCaptureFixture
) -> None:
    async with active(postgresql_place) as member:
        member.lease.config = {"targets": "1", "guard": "1"}
        with other_node(member, {"targets": "2", "guard": "1"}) as other:
            await until(member.config_notes)
            assert member.config_notes() == ["the config of node B (b) differs from this node's: targets"]
            other.renew()
            for _ in range(3):
                await member.searched()
            logged = [each.getMessage() for each in caplog.records if "the config of" in each.getMessage()]
            assert logged == ["nodes: the config of node B (b) differs from this node's: targets"]
            other.config = {"targets": "1", "guard": "1"}
            other.renew()
            await until(lambda: not member.config_notes())


@pytest.mark.usefixtures("_quick")
async def test_a_node_that_may_not_take_over_says_why(
    postgresql_place: PostgresPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with active(postgresql_place):
        Store.open(postgresql_place).close()
        place = PostgresPlace(tmp_path / "other", postgresql_place.url)
        made = await Membership.join(place, StartupProgress())
        # As if its keys were others.
        made.lease._origin = "mailwatch/0000000000000000"
        async with made.running(lambda: pytest.fail("the thread of the lease failed")):
            await until(
                lambda: "nodes: this node does not take over: its keys are those of another" in caplog.text
            )
            for _ in range(3):
                await made.searched()
        assert caplog.text.count("does not take over") == 1


def test_a_long_wait_for_the_database_is_logged_at_growing_intervals(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    waiting, at = WaitingLog(), []
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            before = len(caplog.records)
            waiting.say("gone")
            at += [seconds] * (len(caplog.records) - before)
            seconds += membership.RETRY_SECONDS
    assert at == [0, 60, 180, 420, 900, 1860]


async def test_a_start_gives_up_a_database_that_accepts_connections_and_answers_nothing(
    postgresql_place: PostgresPlace, postgresql: PostgreSql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "JOIN_SECONDS", 0.2)
    with SeveringProxy(postgresql.port).running() as proxy:
        url = postgresql_place.url.replace(f":{postgresql.port}", f":{proxy.port}")
        assert url != postgresql_place.url
        progress = StartupProgress()
        # Within a statement: a connection that is never made ends by itself.
        proxy.hold_requests_after(2000)
        joining = asyncio.create_task(Membership.join(PostgresPlace(postgresql_place.data_dir, url), progress))
        await until(lambda: progress.step is StartupStep.AWAY)
        monkeypatch.setattr(membership, "JOIN_SECONDS", 3600.0)
        proxy.resume()
        member = await joining
        async with member.running(lambda: pytest.fail("the thread of the lease failed")):
            await member.take()
