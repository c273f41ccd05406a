"""MailWatch watches itself: what stands still, does not end, is not probed or runs out is shown and on record."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mailwatch import monotonic
from mailwatch.analysis.elapsed import gap_length
from mailwatch.model import EventType, Gap, GapReason, HealthArea, Notification, Observation
from mailwatch.monitor import resources
from mailwatch.monitor.resources import Usage
from mailwatch.monitor.restore import restore_targets
from mailwatch.monitor.self_check import BEGIN_SECONDS, END_SECONDS, HealthFinding, HealthProblem, SelfCheck
from mailwatch.notify.text import message_text
from mailwatch.probes import ProbeRequest
from mailwatch.settings import Channel
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.webhook import Webhook
from tests.servers import free_port


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "data")
    await made.writer.start()
    yield made
    if made.server:
        made.server.close()
        await made.server.wait_closed()
    await made.close()


def finding(wrong: bool, reason: str = "it is late") -> HealthFinding:
    return HealthFinding(HealthArea.LOOP, wrong, True, reason, {"seconds": 3})


def test_a_problem_is_reported_at_its_start_and_end_and_a_blip_is_not() -> None:
    problem, at = HealthProblem(finding(False)), 0.0

    def lives(seconds: float, *, wrong: bool) -> list[Notification]:
        nonlocal at
        news = []
        for _ in range(int(seconds)):
            at += 1.0
            news += [problem.update(finding(wrong), at)]
        return [each for each in news if each]

    assert lives(BEGIN_SECONDS - 2, wrong=True) == lives(2, wrong=False) == []
    (begun,) = lives(BEGIN_SECONDS + 5, wrong=True)
    assert (begun.event_type, begun.facts["sign"], problem.begun) == (EventType.MONITOR, "loop", begun.time)
    # In order for a moment: it is the same problem.
    assert problem.reason(at) == "it is late"
    assert lives(END_SECONDS - 2, wrong=False) == []
    assert problem.reason(at) == "it is late; it has been normal again for 27 s; ready after 30 s"
    assert lives(100, wrong=True) == []
    assert problem.finding.is_wrong
    (over,) = lives(END_SECONDS + 5, wrong=False)
    assert over.facts == {"sign": "loop", "over": True, "first_wrong": begun.time}
    assert over.key != begun.key
    assert problem.begun is None


def test_a_single_standstill_however_long_is_no_problem() -> None:
    problem = HealthProblem(finding(False))
    assert problem.update(finding(True), 1000.0) is None
    assert problem.update(finding(True), 5000.0) is None
    assert problem.update(finding(False), 5001.0) is None
    assert problem.begun is None


@pytest.mark.parametrize("lang", ["en", "it"])
@pytest.mark.parametrize("sign", list(HealthArea))
def test_each_self_check_problem_has_a_text_in_each_language(sign: HealthArea, lang: str) -> None:
    channel = Channel(name="json-1", url=None, lang=lang)  # type: ignore[arg-type]
    facts: dict[str, Any] = {"sign": sign.value, "seconds": 12, "count": 3, "all": 7, "targets": ["a", "b"]}
    begun = Notification(key="1", event_type=EventType.MONITOR, time=0, facts=facts | {"used": 5, "limit": 6})
    over = Notification(
        key="2", event_type=EventType.MONITOR, time=0, facts={"sign": sign.value, "over": True, "first_wrong": 0}
    )
    title, body = message_text([begun, over], channel, 0)
    assert title.count("MailWatch") == 3
    assert len(body.splitlines()) == 2
    assert "{" not in body
    assert "1970" in body


def selfwatch(harness: PipelineHarness) -> tuple[SelfCheck, list[Notification]]:
    """A self-watch that has watched for an hour."""
    news: list[Notification] = []

    async def notify(each: Notification) -> None:
        news.append(each)

    made = SelfCheck(harness.pipeline, notify)
    made._began -= 3600
    return made, news


def aged(harness: PipelineHarness, seconds: int) -> int:
    """As if the target had been seen so long ago; return when that was, on the clock that nobody can set."""
    harness.assume_up(seconds * 1000)
    harness.runtime.watched_since = harness.runtime.observed_at = time.monotonic() - seconds
    assert harness.runtime.latest is not None
    assert harness.runtime.latest.clock is not None
    return harness.runtime.latest.clock.end


async def overdue(harness: PipelineHarness, process: SelfCheck, at: float | None = None) -> None:
    """Let the self-watch go through all targets, and put on record what it finds."""
    at = at or time.monotonic()
    for _ in range(12):
        process.tick(at, 0.0)
    await process._record_gaps(process._gaps_to_record(at))


def state(harness: PipelineHarness) -> str:
    return harness.runtime.state.name


def gaps(harness: PipelineHarness) -> list[tuple[GapReason, int, int]]:
    """The gaps on record with their times on the clock that nobody can set, as long as by the calendar."""
    found = []
    for entry in harness.reader.entries(kinds=["gap"]):
        gap = entry.fact
        assert isinstance(gap, Gap)
        assert gap.clock is not None
        assert gap.clock.start is not None
        assert abs(gap.end - gap.start - gap_length(gap)) <= 2
        found.append((gap.reason, gap.clock.start, gap.clock.end))
    return found


async def test_a_target_that_is_not_probed_is_on_record_while_it_is_so_and_not_twice(
    harness: PipelineHarness,
) -> None:
    await harness.greet()
    process, _ = selfwatch(harness)
    aged(harness, 3 * 60 - 5)
    await overdue(harness, process)
    assert gaps(harness) == []
    last = aged(harness, 4 * 60)
    await overdue(harness, process)
    assert harness.pipeline.metrics.self_check.overdue == 1
    assert state(harness) == "unknown"
    assert 'mailwatch_target_state{target="t",provider="",kind="imap",state="unknown"} 1' in harness.exposition()
    # It stays so: no further entry before it lasts twice as long.
    await overdue(harness, process, time.monotonic() + 200)
    assert len(gaps(harness)) == 1
    await asyncio.sleep(1.1)
    await overdue(harness, process, time.monotonic() + 300)
    # The probe comes at last, and takes the rest; then all is as ever.
    await asyncio.sleep(1.1)
    await harness.probe()
    await harness.probe()
    found = gaps(harness)
    assert [reason for reason, _, _ in found] == [GapReason.MISSED] * 3
    assert [start for _, start, _ in found[1:]] == [end for _, _, end in found[:-1]]
    first = next(harness.reader.entries(kinds=["observation"])).fact
    assert isinstance(first, Observation)
    assert first.clock is not None
    assert (found[0][1], found[-1][2]) == (last, first.clock.start)
    assert state(harness) == "up"
    await overdue(harness, process)
    assert harness.pipeline.metrics.self_check.overdue == 0


async def test_a_restart_goes_on_where_the_gap_on_record_ends(harness: PipelineHarness) -> None:
    await harness.greet()
    await harness.probe()
    process, _ = selfwatch(harness)
    aged(harness, 240)
    await overdue(harness, process)
    harness.pipeline.forget_target("t")
    await asyncio.sleep(1.1)
    await restore_targets(harness.pipeline, harness.reader, [harness.target])
    await harness.probe()
    (reason, _, before), (then, after, _) = gaps(harness)
    assert (reason, then) == (GapReason.MISSED, GapReason.NOT_RUNNING)
    assert after == before


async def test_a_target_that_was_never_probed_gets_a_gap_too(harness: PipelineHarness) -> None:
    began = harness.runtime.settings_written = monotonic.milliseconds() - 240_000
    harness.runtime.watched_since -= 240
    process, _ = selfwatch(harness)
    await overdue(harness, process)
    ((reason, start, end),) = gaps(harness)
    assert (reason, start) == (GapReason.MISSED, began)
    assert end - start >= 240_000


async def test_a_target_being_probed_or_recorded_is_not_overdue(harness: PipelineHarness) -> None:
    process, _ = selfwatch(harness)
    aged(harness, 240)
    harness.runtime.probing_since = time.monotonic()
    await overdue(harness, process)
    harness.runtime.probing_since, harness.runtime.unrecorded = None, True
    await overdue(harness, process)
    assert gaps(harness) == []
    # But judging it does not last for ever.
    harness.runtime.probe_ended = time.monotonic()
    await overdue(harness, process, time.monotonic() + 100)
    assert harness.pipeline.metrics.self_check.stalled == 1
    harness.runtime.unrecorded = False
    await overdue(harness, process, time.monotonic() - 200)
    assert harness.pipeline.metrics.self_check.stalled == 0


async def test_after_a_stall_gaps_are_recorded_only_once_probes_had_time(
    harness: PipelineHarness,
) -> None:
    process, _ = selfwatch(harness)
    aged(harness, 240)
    at = time.monotonic()
    process.tick(at, 499.0)
    for _ in range(2):
        process.tick(at, 0.0)
        assert process._gaps_to_record(at) == []
    process.tick(at, 0.0)
    assert process._gaps_to_record(at) == [harness.runtime]


async def test_a_probe_that_does_not_end_is_ended_and_shown(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mailwatch.monitor.runner.max_probe_seconds", lambda _: 0.05)
    monkeypatch.setattr("mailwatch.monitor.bounded_probes.CANCEL_SECONDS", 0.05)
    back = asyncio.Event()

    async def deaf(_: ProbeRequest) -> Observation:
        while not back.is_set():
            try:
                await back.wait()
            except asyncio.CancelledError:
                continue
        raise ValueError("too late")

    harness.pipeline.runner.observe = deaf
    await harness.probe()
    process, _ = selfwatch(harness)
    process.tick(time.monotonic(), 0.0)
    assert harness.pipeline.metrics.self_check.stalled == 1
    assert not harness.runtime.unrecorded
    (observation,) = harness.recorded("observation")
    assert (observation["outcome"], observation["cause"]) == ("unknown", "monitor")
    assert "did not end within 0.05 s" in observation["detail"]
    back.set()
    while harness.pipeline.runner.abandoned:
        await asyncio.sleep(0)
    process.tick(time.monotonic(), 0.0)
    assert harness.pipeline.metrics.self_check.stalled == 0


async def test_a_self_check_tick_covers_a_tenth_of_the_targets(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(200):
        harness.add_target(replace(harness.target, name=f"t{number}"))
    process, _ = selfwatch(harness)
    seen: list[str] = []
    real = SelfCheck._is_overdue

    def counted(self: SelfCheck, name: str, at: float) -> bool:
        seen.append(name)
        return real(self, name, at)

    monkeypatch.setattr(SelfCheck, "_is_overdue", counted)
    for tick in range(1, 12):
        process.tick(time.monotonic(), 0.0)
        assert len(seen) <= tick * 21
    assert set(seen) == set(harness.pipeline.targets)
    # One that a reload took away is forgotten.
    process._overdue["gone"] = 0.0
    process.tick(time.monotonic(), 0.0)
    assert "gone" not in process._overdue


def test_resource_use_is_measured_against_the_limits() -> None:
    before = resources.open_files()
    assert before is not None
    with socket.socket(), socket.socket():
        during = resources.open_files()
    assert during is not None
    assert during.used == before.used + 2
    assert during.limit == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert resources.threads().used >= 1
    resident = resources.memory()["resident"]
    assert resident.used > 1_000_000
    assert Usage(80, 100).share == 0.8
    assert Usage(80, None).share == 0.0


class Silent:
    """Takes connections, and never says a word."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.socket.getsockname()[1])


@pytest.fixture
def silent() -> Iterator[Silent]:
    made = Silent()
    yield made
    made.socket.close()


def section(name: str, port: int, **more: Any) -> dict[str, Any]:
    base = {"name": name, "kind": "imap", "host": "127.0.0.1", "port": port, "tls": "none"}
    return {**base, "interval": "1s", "timeout": "1s", **more}


@pytest.mark.nightly
def test_targets_that_wait_for_a_probe_that_hangs_are_shown_and_on_record_before_a_kill(
    tmp_path: Path, silent: Silent
) -> None:
    slow = section("slow", silent.port, timeout="10m", interval="10m")
    webhook = Webhook().open()
    process = MailWatchProcess(
        tmp_path,
        [section("waits", free_port()), slow],
        limits={"max_concurrent": 1},
        notify=[{"url": webhook.url, "on": ["monitor"], "group": "0s", "lang": "it"}],
    )
    process.start()
    try:
        process.wait_until(lambda: process.metric("mailwatch_self_overdue_targets") == 1, "overdue", 40)
        process.wait_until(lambda: "503" in process.get("/readyz"), "unready", 40)
        assert "were not probed for three intervals" in process.get("/readyz")
        assert "waits" not in process.get("/readyz")
        assert process.metric('mailwatch_self_problem{sign="targets"}') == 1
        assert process.metric('mailwatch_self_problem{sign="probes"}') == 0
        assert process.get("/healthz").startswith("ok")
        (sent,) = process.wait_until(lambda: webhook.received, "a message")
        assert "un problema di MailWatch" in sent["title"]
        assert "1 servizi su 2" in sent["message"]
        assert "waits" in sent["message"]
    finally:
        webhook.close()
        process.kill()
    database = sqlite3.connect(process.data_dir / "mailwatch.sqlite")
    rows = database.execute("SELECT payload FROM entries WHERE kind = 'gap'").fetchall()
    database.close()
    gaps = [json.loads(row[0]) for row in rows]
    assert {(gap["target"], gap["reason"]) for gap in gaps} == {("waits", "missed")}
    # Twice as long each time: whatever it lasts, it is a few entries.
    assert len(gaps) <= 5
    process.start()
    process.stop()
    audit = process.command("ledger", "audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr


def test_few_handles_left_make_it_unready_and_a_standstill_does_not(tmp_path: Path, silent: Silent) -> None:
    hanging = [section(f"lab{number}", silent.port, interval="10m", timeout="10m") for number in range(50)]
    process = MailWatchProcess(tmp_path, hanging)
    with process.running():
        process.wait_until(lambda: (process.metric("mailwatch_self_open_files ") or 0) > 50, "the probes")
        process.signal(signal.SIGSTOP)
        time.sleep(3)
        process.signal(signal.SIGCONT)
        _, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)

        def unready() -> str:
            # Some handles are open for a moment only: the limit follows what is in use, as the kernel counts it.
            # A limit that others reached first would keep it from ever answering again.
            used = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used + 3, hard))
            answer = process.get("/readyz")
            # A handle may be closed between the two answers.
            both = (
                "file handles are in use" in answer and process.metric('mailwatch_self_problem{sign="files"}') == 1
            )
            return answer if both else ""

        answer = process.wait_until(unready, "unready", 60)
        assert answer.startswith("503")
        assert "event loop" not in answer
        assert process.metric('mailwatch_self_problem{sign="loop"}') == 0
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (hard, hard))


@pytest.mark.nightly
def test_a_disk_that_refuses_writes_makes_it_unready_with_the_reason(tmp_path: Path) -> None:
    webhook = Webhook().open()
    process = MailWatchProcess(
        tmp_path, [section("lab", free_port())], notify=[{"url": webhook.url, "on": ["monitor"], "group": "0s"}]
    )
    with process.running():
        process.wait_until(lambda: process.count("lab", "down"), "probing")
        # Another writer has the database: no commit ends.
        blocker = sqlite3.connect(process.data_dir / "mailwatch.sqlite", isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        try:
            answer = process.wait_until(
                lambda: "waited for the disk" in (text := process.get("/readyz")) and text, "unready", 60
            )
            # The outbox lies on that disk too: the message goes past it.
            (sent,) = process.wait_until(lambda: webhook.received, "a message", 60)
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
        assert answer.startswith("503")
        assert process.metric('mailwatch_self_problem{sign="store"}') == 1
        assert process.metric("mailwatch_self_overdue_targets") == 0
    webhook.close()
    assert "an entry has waited" in sent["message"]
