"""The active node and one that probes for it, in one loop, over a real PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from mailwatch import monotonic
from mailwatch.config import Config
from mailwatch.fleet import dispatcher
from mailwatch.fleet.dispatcher import Dispatcher
from mailwatch.fleet.exchange import Exchange
from mailwatch.fleet.messages import Result, result_item
from mailwatch.model import Attempt, Cause, ClockSpan, Observation, Outcome, Phase
from mailwatch.monitor import membership
from mailwatch.monitor.membership import Membership
from mailwatch.monitor.prober import Prober
from mailwatch.probes import ProbeRequest
from mailwatch.progress import StartupProgress
from mailwatch.settings import Login, Target
from mailwatch.store import Store, lease
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.probe_messages import Address
from mailwatch.times import now
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.servers import free_port

LOGIN = Login(username="ann", password=SecretStr("right"))


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until something is so, while the loop turns."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.01)
            return
    raise AssertionError(f"never {what}")


class Fleet:
    """An active node with a pipeline, and a node that probes for it. `asked`: what each was asked to probe."""

    def __init__(self, harness: PipelineHarness, active: Membership, other: Membership) -> None:
        self.harness, self.active, self.other = harness, active, other
        self.asked: dict[str, list[ProbeRequest]] = {"active": [], "other": []}
        self.answer: Callable[[ProbeRequest], Observation] = up
        self.hanging: asyncio.Event | None = None
        self.dispatcher = Dispatcher(
            active.place,
            Address(active.lease.node, active.lease.epoch),
            nodes=lambda: active.nodes,
            secret=harness.pipeline.secret,
            at_once=100,
        )
        harness.pipeline.runner.fleet = self.dispatcher
        harness.pipeline.runner.observe = self._observe("active")

    def _observe(self, who: str):  # type: ignore[no-untyped-def]
        async def observed(request: ProbeRequest) -> Observation:
            self.asked[who].append(request)
            if who == "other" and self.hanging is not None and len(self.asked[who]) == 1:
                await self.hanging.wait()
            return self.answer(request)

        return observed

    def prober(self, targets: list[Target], guard: object = "off") -> Prober:
        """What probes at the other node."""
        config = config_with(guard)
        return Prober(self.other, config, targets, self.harness.pipeline.secret, self._observe("other"))

    @contextlib.asynccontextmanager
    async def running(self, targets: list[Target], guard: object = "off") -> AsyncIterator[Prober]:
        """Both work; the division is made."""
        prober = self.prober(targets, guard)
        for target in targets:
            if target.name not in self.harness.pipeline.targets:
                self.harness.add_target(target)
        self.dispatcher.set_targets(targets)
        tasks = [asyncio.create_task(self.dispatcher.run()), asyncio.create_task(prober.run())]
        try:
            yield prober
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(result, asyncio.CancelledError), result

    async def divided(self, targets: list[Target]) -> None:
        """Wait until the other node is to probe some of the targets."""
        await until(lambda: any(map(self.dispatcher.node_for, targets)), "divided")


def config_with(guard: object) -> Config:
    target = {"name": "t", "kind": "imap", "host": "127.0.0.1", "tls": "none"}
    given = {"vantage_point": {"name": "v"}, "guard": guard, "clock": {"servers": []}, "targets": [target]}
    return Config.model_validate(given)


def up(request: ProbeRequest) -> Observation:
    return found(request, None)


def found(request: ProbeRequest, cause: Cause | None, phase: Phase | None = None) -> Observation:
    """An observation as a probe makes it, of a server in another network."""
    at, clock = now(), monotonic.milliseconds()
    span = ClockSpan(monotonic.origin().boot, clock, clock)
    attempt = Attempt(
        started_at=at, ended_at=at, clock=span, peer="192.0.2.1:993", phases={Phase.CONNECT: 1}, cause=cause,
        failed_phase=phase, detail="as scripted" if cause else "",
    )  # fmt: skip
    return Observation(
        target=request.target.name, scheduled_at=request.scheduled_at, started_at=at, ended_at=at,
        outcome=Outcome.UP if cause is None else cause.outcome, cause=cause, failed_phase=phase,
        detail=attempt.detail, attempts=(attempt,),
        with_login=request.target.login is not None and request.with_login,
    )  # fmt: skip


@pytest.fixture
async def fleet(
    postgresql_place: PostgresPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Fleet]:
    monkeypatch.setattr(membership, "RENEW_SECONDS", 0.1)
    # A busy machine loses no lease here, and no probe begins too late.
    monkeypatch.setattr(lease, "LEASE_SECONDS", PATIENCE)
    monkeypatch.setattr(lease, "START_SECONDS", PATIENCE)
    monkeypatch.setattr(membership, "STANDSTILL_SECONDS", PATIENCE)
    monkeypatch.setattr(dispatcher, "BEGIN_MS", 1000 * round(PATIENCE))
    monkeypatch.setattr(dispatcher, "WAY_SECONDS", PATIENCE)
    place, harness = postgresql_place, PipelineHarness(tmp_path / "sqlite")
    Store.open(place).close()
    other_place = PostgresPlace(tmp_path / "other", place.url)
    other_place.data_dir.mkdir(mode=0o700)
    shutil.copytree(place.data_dir / "keys", other_place.data_dir / "keys")
    async with contextlib.AsyncExitStack() as undo:
        await harness.writer.start()
        undo.push_async_callback(harness.close)
        members = []
        for each in (place, other_place):
            member = await Membership.join(each, StartupProgress())
            await undo.enter_async_context(member.running(lambda: pytest.fail("the thread of the lease failed")))
            members.append(member)
            if each is place:
                await member.take()
        yield Fleet(harness, *members)


def targets(fleet: Fleet, login: Login | None = None) -> list[Target]:
    """So many targets that each node has some; with a login, each has an account of its own."""
    base = replace(fleet.harness.target, provider="P")
    return [
        replace(base, name=f"target-{number}", login=login and replace(login, username=f"user-{number}"))
        for number in range(24)
    ]


def one_of(fleet: Fleet, known: list[Target], *, elsewhere: bool) -> Target:
    """A target that the other node is to probe, or one of the active node."""
    return next(one for one in known if (fleet.dispatcher.node_for(one) is not None) == elsewhere)


async def test_each_node_probes_its_targets_and_one_of_them_records(fleet: Fleet) -> None:
    known = targets(fleet)
    async with fleet.running(known):
        await fleet.divided(known)
        far, near = one_of(fleet, known, elsewhere=True), one_of(fleet, known, elsewhere=False)
        await fleet.harness.probe(far)
        await fleet.harness.probe(near)
    assert [request.target.name for request in fleet.asked["other"]] == [far.name]
    assert [request.target.name for request in fleet.asked["active"]] == [near.name]
    nodes = {payload["target"]: payload.get("node") for payload in fleet.harness.recorded("observation")}
    assert nodes == {far.name: fleet.other.lease.node[:4], near.name: None}


async def test_three_rejected_logins_an_hour_hold_over_all_nodes(fleet: Fleet) -> None:
    known = targets(fleet, LOGIN)
    fleet.answer = lambda request: found(
        request, Cause.CREDENTIALS if request.with_login else None, Phase.AUTH if request.with_login else None
    )
    async with fleet.running(known):
        await fleet.divided(known)
        far = one_of(fleet, known, elsewhere=True)
        for _ in range(3):
            await fleet.harness.probe(far)
        fleet.dispatcher.set_targets([])
        # As if its share had moved here meanwhile.
        fleet.harness.pipeline.runner.fleet = None
        for _ in range(3):
            await fleet.harness.probe(far)
    assert [request.with_login for request in fleet.asked["other"]] == [True, False, False]
    assert [request.with_login for request in fleet.asked["active"]] == [False, False, False]
    assert {payload["outcome"] for payload in fleet.harness.recorded("observation")} == {"unknown"}


async def test_a_lost_probe_is_made_again_and_its_login_counts_as_rejected_with_the_next(fleet: Fleet) -> None:
    known = targets(fleet, LOGIN)
    fleet.hanging = asyncio.Event()
    fleet.answer = lambda request: found(request, Cause.CREDENTIALS, Phase.AUTH)
    async with fleet.running(known):
        await fleet.divided(known)
        far = one_of(fleet, known, elsewhere=True)
        probing = asyncio.create_task(fleet.harness.probe(far))
        await until(lambda: fleet.asked["other"], "asked")
        # Another node ends its lease, as when it was killed.
        made = fleet.active.place.unfenced_engine()
        with made.begin() as connection:
            values = {"node": fleet.other.lease.node}
            connection.execute(sa.text("UPDATE nodes SET epoch = epoch + 1 WHERE id = :node"), values)
        made.dispose()
        await probing
    # Here, or there in its next epoch.
    assert len(fleet.asked["active"]) + len(fleet.asked["other"]) == 2
    assert fleet.dispatcher.lost == {"lapsed": 1}
    (recorded,) = fleet.harness.recorded("observation")
    assert recorded["cause"] == "credentials"
    backoff = fleet.harness.pipeline.runner.login_backoff
    steady = fleet.harness.pipeline.runner.steady_now()
    # After two rejections it waits for twenty minutes, after one for five.
    assert not backoff.may_login(far, steady + 6 * 60_000)
    assert backoff.may_login(far, steady + 21 * 60_000)


async def test_a_node_whose_line_is_down_gets_no_targets_and_its_failures_are_unknown(fleet: Fleet) -> None:
    known = targets(fleet)
    controls = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"]
    fleet.answer = lambda request: found(request, Cause.TIMEOUT, Phase.CONNECT)
    async with fleet.running(known, {"controls": controls}) as prober:
        await until(lambda: fleet.other.lease.probing.get("line") == "down", "down")
        await until(lambda: len(fleet.active.nodes) == 2 and fleet.dispatcher.record().shares, "divided")
        assert fleet.dispatcher.record().shares == {fleet.active.lease.node[:4]: 256}
        assert prober.attribution.offline_since is not None
        # A job that was on its way all the same.
        to = Address(fleet.other.lease.node, fleet.other.lease.epoch)
        answer = await fleet.dispatcher.probe(
            to,
            known[0],
            scheduled_at=now(),
            with_login=False,
            every_address=False,
            diagnose=False,
            max_seconds=60.0,
        )
        assert answer.attributed is not None
        assert (answer.attributed.outcome, answer.attributed.cause) == (Outcome.UNKNOWN, Cause.OFFLINE)


async def test_a_probe_that_fails_by_our_own_fault_is_unknown_and_says_so(fleet: Fleet) -> None:
    known = targets(fleet)

    def broken(_: ProbeRequest) -> Observation:
        raise RuntimeError("broken")

    fleet.answer = broken
    async with fleet.running(known):
        await fleet.divided(known)
        await fleet.harness.probe(one_of(fleet, known, elsewhere=True))
    (recorded,) = fleet.harness.recorded("observation")
    assert (recorded["outcome"], recorded["cause"]) == ("unknown", "monitor")
    assert recorded["node"] == fleet.other.lease.node[:4]


async def test_a_result_of_a_node_that_was_not_asked_is_dropped(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    known = targets(fleet)
    fleet.hanging = asyncio.Event()
    async with fleet.running(known):
        await fleet.divided(known)
        far = one_of(fleet, known, elsewhere=True)
        probing = asyncio.create_task(fleet.harness.probe(far))
        await until(lambda: fleet.asked["other"], "asked")
        (number,) = fleet.dispatcher._under_way
        forged = found(fleet.asked["other"][0], None)
        forged = replace(forged, clock=forged.attempts[0].clock)
        item = result_item(Result(number=number, observation=forged))
        outsider = Exchange(
            fleet.active.place, Address("no node", 1), on_message=lambda _: None, on_undelivered=lambda *_: None
        )
        async with outsider.running():
            own = Address(fleet.active.lease.node, fleet.active.lease.epoch)
            outsider.send(own, fleet.dispatcher._series, item)
            await until(lambda: fleet.dispatcher.record().dropped == 1, "dropped")
        assert "it is of a node that was not asked" in caplog.text
        assert not probing.done()
        fleet.answer = lambda request: found(request, Cause.TIMEOUT, Phase.CONNECT)
        fleet.hanging.set()
        await probing
    (recorded,) = fleet.harness.recorded("observation")
    assert recorded["outcome"] == "down"


async def test_a_result_outlives_the_loss_of_the_connection(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    known = targets(fleet)
    fleet.hanging = asyncio.Event()
    async with fleet.running(known) as prober:
        await fleet.divided(known)
        far = one_of(fleet, known, elsewhere=True)
        probing = asyncio.create_task(fleet.harness.probe(far))
        await until(lambda: fleet.asked["other"], "asked")
        assert prober._exchange is not None
        mailbox, lost = prober._exchange._mailbox, list[str]()
        send = mailbox.send

        def break_once(to: Address, body: str) -> bool:
            """Lose the connection in the middle of the result, as at a restart of the database."""
            if not lost and "observation" in body:
                lost.append(body)
                raise psycopg.OperationalError("the connection is lost")
            return send(to, body)

        monkeypatch.setattr(mailbox, "send", break_once)
        fleet.hanging.set()
        await probing
    assert lost
    (recorded,) = fleet.harness.recorded("observation")
    assert (recorded["outcome"], recorded["node"]) == ("up", fleet.other.lease.node[:4])
    assert not fleet.dispatcher.lost


async def test_a_job_that_the_database_lost_is_given_up_soon_after_it_is_back(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "LATE_SECONDS", 0.1)
    known = targets(fleet)
    fleet.hanging = asyncio.Event()
    async with fleet.running(known):
        await fleet.divided(known)
        far = one_of(fleet, known, elsewhere=True)
        probing = asyncio.create_task(fleet.harness.probe(far))
        await until(lambda: fleet.asked["other"], "asked")
        # The node that was asked says nothing any more; the connection of the active one breaks.
        fleet.active.place.cut()
        await probing
    (recorded,) = fleet.harness.recorded("observation")
    assert recorded["outcome"] == "up"
    assert fleet.dispatcher.lost == {"undelivered": 1}
