"""Round trips under watch: logins that are held back, lines that break, stops and kills in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch.guard.connectivity import Guard
from mailwatch.guard.controls import Control
from mailwatch.model import Kind
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.restore import restore_targets
from mailwatch.settings import RoundtripTask
from mailwatch.store import Reader
from tests.helpers.faults.fault import Fault, closed_port
from tests.helpers.faults.roundtrip import Service, roundtrip_target, serving
from tests.helpers.mail_route import mail_service, wait_until
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.targets import Targets
from tests.servers import ALICE, Certificates

REJECTED = b"TAG NO [AUTHENTICATIONFAILED] no\r\n"
TRIP = Fault(kind=Kind.ROUNDTRIP, what="", cause=None, phase=None, place=closed_port).target


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    await made.close()


def monitor_like(harness: PipelineHarness) -> Pipeline:
    """A monitor that begins anew over the same ledger."""
    return Pipeline(
        vantage_point=harness.pipeline.vantage_point,
        rules=harness.pipeline.rules,
        writer=harness.writer,
        metrics=harness.metrics,
        guard=None,
        clock=harness.pipeline._clock,
        secret=b"s" * 32,
    )


def latest(harness: PipelineHarness) -> dict[str, Any]:
    return [observation for observation in harness.recorded("observation") if observation["target"] == "lab"][-1]


async def test_a_login_that_is_held_back_sends_nothing(harness: PipelineHarness) -> None:
    service = Service(imap={"LOGIN": REJECTED})
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to)
        harness.add_target(trip)
        await harness.probe(trip)
        assert (latest(harness)["outcome"], latest(harness)["cause"]) == ("unknown", "credentials")
        assert len(service.sent) == 1
        await harness.probe(trip)
        assert (latest(harness)["outcome"], latest(harness)["cause"]) == ("unknown", "credentials")
        assert latest(harness)["detail"].startswith("nothing was sent")
        assert len(service.sent) == 1
        # What the trip learnt counts for all probes of the account, and after a restart too.
        again = monitor_like(harness)
        await restore_targets(again, harness.reader, [trip])
        for monitor in (harness.pipeline, again):
            assert not monitor.runner.login_backoff.may_login(trip.endpoints[1], latest(harness)["end"])
        assert [*again.targets["lab"].outstanding.sent] == [*harness.pipeline.targets["lab"].outstanding.sent]
        assert len(again.targets["lab"].outstanding.sent) == 1


async def test_a_login_rejected_elsewhere_holds_the_trip_back(harness: PipelineHarness) -> None:
    service = Service(imap={"LOGIN": REJECTED})
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to)
        assert isinstance(trip.task, RoundtripTask)
        assert trip.task.to.login is not None
        another = replace(trip.task.to, login=replace(trip.task.to.login, username="anna@example.org"))
        trip = replace(trip, task=replace(trip.task, to=another))
        mailbox = trip.endpoints[1]
        harness.add_target(mailbox)
        harness.add_target(trip)
        await harness.probe(mailbox)
        await harness.probe(trip)
        assert latest(harness)["detail"].startswith("nothing was sent")
        assert service.sent == []


async def test_waiting_for_a_message_delays_no_other_probe(tmp_path: Path) -> None:
    harness = PipelineHarness(tmp_path / "data", at_once=1)
    await harness.writer.start()
    service = Service(becomes="nothing")
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to, deadline=60.0)
        harness.add_target(trip)
        await harness.greet()
        waiting = asyncio.create_task(harness.probe(trip))
        await wait_until(lambda: bool(service.sent))
        await harness.probe()
        assert [observation["target"] for observation in harness.recorded("observation")] == ["t"]
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert [observation["target"] for observation in harness.recorded("observation")] == ["t"]
    assert harness.server is not None
    harness.server.close()
    await harness.close()


async def test_a_line_that_was_down_while_we_waited_is_not_the_providers_fault(harness: PipelineHarness) -> None:
    control = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    port = control.sockets[0].getsockname()[1]
    harness.pipeline.attribution.guard = guard = Guard([Control("127.0.0.1", port)], 1.0, names=())
    service = Service(becomes="nothing")
    async with serving(service) as (via, to):
        trip = roundtrip_target(TRIP, via, to, deadline=3.0)
        harness.add_target(trip)
        waiting = asyncio.create_task(harness.probe(trip))
        await wait_until(lambda: bool(service.sent))
        control.close()
        await control.wait_closed()
        # As the background task does every 15 seconds.
        assert (await guard.check()).online is False
        control = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", port)
        await waiting
    control.close()
    observation = latest(harness)
    assert (observation["outcome"], observation["cause"]) == ("unknown", "offline")
    assert "was: undelivered" in observation["detail"]
    # It was accepted all the same, and may come.
    assert len(harness.pipeline.targets["lab"].outstanding.sent) == 1


async def test_a_round_trip_in_doubt_keeps_its_interval(harness: PipelineHarness) -> None:
    hurried: list[str] = []
    harness.pipeline.schedule.advance_to = lambda name, seconds: hurried.append(name)  # type: ignore[method-assign]
    async with serving(Service(becomes="nothing")) as (via, to):
        trip = replace(roundtrip_target(TRIP, via, to, deadline=0.5), interval=900.0)
        harness.add_target(trip)
        await harness.probe(trip)
    assert latest(harness)["cause"] == "undelivered"
    assert hurried == []


def settings(post: Any, certificates: Certificates, folder: Path, **more: Any) -> list[dict[str, Any]]:
    secret = folder / "secret"
    secret.write_text(post.dovecot.passwords[ALICE] + "\n")
    secret.chmod(0o600)
    common = {
        "provider": "lab",
        "host": "localhost",
        "tls": "implicit",
        "ca_file": str(certificates.ca_file),
        "login": {"username": ALICE, "password_file": str(secret)},
        "interval": "60s",
        "timeout": "10s",
    }
    return [
        {"name": "lab-imap", "kind": "imap", "port": post.dovecot.imaps_port, **common},
        {"name": "lab-smtp", "kind": "smtp", "port": post.postfix.submissions_port, **common},
        {"name": "trip", "kind": "roundtrip", "via": "lab-smtp", "to": "lab-imap", "timeout": "10s", **more},
    ]


def trips(process: MailWatchProcess) -> list[dict[str, Any]]:
    reader = Reader.open(process.data_dir)
    found = [entry.payload for entry in reader.entries(target="trip", kinds=["observation"])]
    reader.close()
    return found


@pytest.mark.parametrize("end", [MailWatchProcess.stop, MailWatchProcess.kill], ids=["stop", "kill"])
def test_a_message_on_its_way_at_the_end_is_found_by_the_next_start(
    end: Callable[[MailWatchProcess], Any], certificates: Certificates, targets: Targets, tmp_path: Path
) -> None:
    with mail_service(certificates, targets) as post:
        before = post.messages_of()
        post.postfix.hold(True)
        process = MailWatchProcess(tmp_path, settings(post, certificates, tmp_path, deadline="5m", interval="15m"))
        process.start()
        process.wait_until(post.postfix.queue, "a message in the queue")
        end(process)
        assert trips(process) == []
        post.postfix.hold(False)
        process.wait_until(lambda: len(post.messages_of()) > len(before), "delivered")
        with process.running():
            (seen,) = process.wait_until(lambda: trips(process), "an observation")
            assert (seen["outcome"], seen["facts"]["stage"]) == ("up", "served")
            (stray,) = seen["facts"]["stray"]
            assert stray["delay_ms"] >= 0
            assert process.metric("mailwatch_delivery_latency_seconds{") == seen["facts"]["latency_ms"] / 1000
        assert sorted(post.messages_of().values()) == sorted(before.values())
        assert post.dovecot.passwords[ALICE].encode() not in process.all_output()
        assert "Traceback" not in process.log.read_text()
