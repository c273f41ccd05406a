"""PostgreSQL goes away for an hour: probing goes on, nothing is lost, and the outages are the same as without."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from prometheus_client import CollectorRegistry

from mailwatch import monotonic
from mailwatch.analysis.detector import Detector
from mailwatch.analysis.rolling_availability import RollingAvailability
from mailwatch.guard.clock import ClockMonitor
from mailwatch.ledger.canonical_json import canonical
from mailwatch.ledger.payloads import fact_payload
from mailwatch.metrics import Metrics
from mailwatch.model import GapReason, Kind, Observation, Rules
from mailwatch.monitor.pipeline import Pipeline
from mailwatch.monitor.spooling import Spooler
from mailwatch.monitor.target_runtime import TargetRuntime
from mailwatch.settings import Target, VantagePoint
from mailwatch.store import Reader, Store, StoreError, Writer, audit, load_keys
from mailwatch.store import writer as writer_module
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.spool import ROW_BYTES, SPOOL_FILE, Spool, SpooledDraft, SpoolFullError
from mailwatch.store.sqlite import SqlitePlace
from tests.helpers.ledger_factory import MINUTE, SECOND, observation_of
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need
from tests.helpers.seed import SEED
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder

START = 1_767_225_600_000
NAMES = [f"box-{number}" for number in range(5)]
MINUTES = 80
AWAY, BACK = 10, 70
"""The minutes from which the database is away, and is there again."""


def mark(name: str, minute: int) -> str:
    """What a probe finds: each target is down at times, before, in and after the time without a database."""
    return "-" if (minute + 7 * NAMES.index(name)) % 25 < 5 else "+"


class Node:
    """The parts of a monitor that record, over a ledger; the test says what its probes find."""

    def __init__(self, place: Place, most: int = 10_000_000, spool: Path | None = None) -> None:
        self.store = Store.open(place)
        self.store.read_clock = lambda: START + (MINUTES + 10) * MINUTE
        self.writer, self.reader = Writer(self.store), Reader.open(place)
        self.pipeline = Pipeline(
            vantage_point=VantagePoint(name="here"), rules=Rules(), writer=self.writer,
            metrics=Metrics(CollectorRegistry()), guard=None, clock=ClockMonitor(), secret=b"s" * 32,
        )  # fmt: skip
        self.spooler = Spooler(
            Spool(spool or place.data_dir, most), self.pipeline, self.pipeline.recorder, self.writer, self.reader
        )
        self.pipeline.spooler, self.pipeline.recorder.has_spool = self.spooler, True
        for name in NAMES:
            target = Target(name=name, kind=Kind.IMAP, host="127.0.0.1", port=1, timeout=2.0)
            self.pipeline.targets[name] = TargetRuntime(
                target=target, detector=Detector(), rolling_availability=RollingAvailability(interval=60.0)
            )

    def restore(self) -> None:
        """Know the latest observations on record, as after a start."""
        for name, runtime in self.pipeline.targets.items():
            (entry,) = self.reader.entries(target=name, kinds=["observation"], descending=True, limit=1)
            assert isinstance(entry.fact, Observation)
            runtime.latest = entry.fact

    async def see(self, minutes: Sequence[int]) -> None:
        """Have all targets probed in these minutes."""
        for minute in minutes:
            await asyncio.gather(*(self._see(name, minute) for name in NAMES))

    async def _see(self, name: str, minute: int) -> None:
        runtime = self.pipeline.targets[name]
        at = START + minute * MINUTE + NAMES.index(name) * SECOND
        runtime.probe_ended = at / 1000
        await self.spooler.take(runtime, observation_of(name, mark(name, minute), at))

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        await self.writer.start()
        await self.spooler.open()
        task = asyncio.create_task(self._drain())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            await self.spooler.close()
            await self.writer.close()
            self.reader.close()

    async def _drain(self) -> None:
        while True:
            # As the monitor does, when the database goes away again meanwhile.
            with contextlib.suppress(StoreError, FileNotFoundError):
                await self.spooler.run()
            await asyncio.sleep(0.01)


@contextlib.contextmanager
def away(place: Place) -> Iterator[None]:
    """The database cannot be written while the context lasts: its folder is somewhere else."""
    elsewhere = place.data_dir.rename(place.data_dir.with_name("elsewhere"))
    try:
        yield
    finally:
        elsewhere.rename(place.data_dir)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer tries again at once."""
    monkeypatch.setattr(writer_module, "RETRY_SECONDS", 0.005)
    monkeypatch.setattr(writer_module, "BATCH_SECONDS", 0.0)


def recorded(place: Place) -> tuple[list[Observation], list[dict[str, object]]]:
    """The observations and the outages on record."""
    with contextlib.closing(Reader.open(place)) as reader:
        facts = [entry.fact for entry in reader.entries(kinds=["observation"])]
        outages = [
            {key: value for key, value in entry.payload.items() if key not in ("id", "ledger", "salt")}
            for entry in reader.entries(kinds=["outage"])
        ]
        gaps = [entry.payload for entry in reader.entries(kinds=["gap"])]
        late = list(reader.entries(kinds=["late"]))
    assert gaps == []
    assert late == []
    return [fact for fact in facts if isinstance(fact, Observation)], sorted(outages, key=str)


def draft_of(seen: Observation) -> SpooledDraft:
    """An observation of an earlier process, as it waits."""
    return SpooledDraft(
        kind="observation", time=seen.ended_at, target=seen.target, payload=fact_payload(seen), continued=True
    )


@pytest.fixture
def cluster() -> Iterator[PostgreSql]:
    """A cluster of the test's own, which it may stop."""
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql").running() as server:
        yield server


@pytest.mark.usefixtures("impatient")
async def test_an_hour_without_the_database_changes_nothing_on_record(
    cluster: PostgreSql, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    undisturbed = PostgresPlace(tmp_path / "a", cluster.url(cluster.make_database()))
    node = Node(undisturbed)
    async with node.running():
        await node.see(range(MINUTES))
    place = PostgresPlace(tmp_path / "b", cluster.url(cluster.make_database()))
    node = Node(place)
    async with node.running():
        await node.see(range(AWAY))
        cluster.stop()
        await node.see(range(AWAY, BACK))
        assert node.spooler.waiting == len(NAMES) * (BACK - AWAY)
        assert node.spooler.problems()[0].startswith(
            f"the record waits: {len(NAMES) * 60} observations since 2026-"
        )
        cluster.start()
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
        assert not node.spooler.problems()
        # By the time of the oldest one, and not by how long it took to record them.
        words = rf"{len(NAMES) * 60} observations are on record now; the oldest waited (\d+) s"
        waited = re.search(words, caplog.text)
        assert waited is not None
        assert int(waited[1]) >= 3600
        await node.see(range(BACK, MINUTES))
    assert not (place.data_dir / SPOOL_FILE).exists()
    there, outages = recorded(place)
    expected, same = recorded(undisturbed)
    assert sorted(there, key=lambda each: (each.target, each.started_at)) == sorted(
        expected, key=lambda each: (each.target, each.started_at)
    )
    for name in NAMES:
        times = [each.started_at for each in there if each.target == name]
        assert times == sorted(times)
    assert outages == same
    assert outages


@pytest.mark.usefixtures("impatient")
async def test_what_waits_outlives_a_kill_and_is_recorded_once(cluster: PostgreSql, tmp_path: Path) -> None:
    place = PostgresPlace(tmp_path / "b", cluster.url(cluster.make_database()))
    node = Node(place)
    async with node.running():
        await node.see(range(AWAY))
        cluster.stop()
        await node.see(range(AWAY, 20))
        # As after kill -9: nothing is closed, and the file stays as it is.
        saved = {path.name: path.read_bytes() for path in place.data_dir.glob(f"{SPOOL_FILE}*")}
        cluster.start()
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
    # All of it is on record, and as the kill came before that was noted, the file has it still.
    for name, content in saved.items():
        (place.data_dir / name).write_bytes(content)
    node = Node(place)
    for runtime, name in ((node.pipeline.targets[name], name) for name in NAMES):
        runtime.latest = next(
            entry.fact
            for entry in node.reader.entries(target=name, kinds=["observation"], descending=True, limit=1)
        )  # type: ignore[assignment]
    async with node.running():
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
    there, _ = recorded(place)
    assert len(there) == len(NAMES) * 20
    assert len({(each.target, each.started_at) for each in there}) == len(there)


@pytest.mark.usefixtures("impatient")
async def test_a_full_spool_is_a_gap_with_a_name(cluster: PostgreSql, tmp_path: Path) -> None:
    place = PostgresPlace(tmp_path / "b", cluster.url(cluster.make_database()))
    node = Node(place, most=20_000)
    async with node.running():
        await node.see(range(AWAY))
        cluster.stop()
        await node.see(range(AWAY, 40))
        assert node.spooler.full_since is not None
        kept = node.spooler.waiting
        assert 0 < kept < len(NAMES) * 30
        assert "limits.spool is reached" in node.spooler.problems()[0]
        cluster.start()
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
        assert node.spooler.full_since is None
        assert [each.reason for each in node.pipeline.attribution.disruptions] == [GapReason.STORE]
    with contextlib.closing(Reader.open(place)) as reader:
        assert len(list(reader.entries(kinds=["observation"]))) == len(NAMES) * AWAY + kept


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("waits", ["for a lock", "until it is cut"])
async def test_a_database_that_answers_nothing_is_away(
    cluster: PostgreSql, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    """Neither the connection nor the statement fails: probing goes on all the same, and nothing is there twice."""
    monkeypatch.setattr(writer_module, "HANG_SECONDS", 0.2)
    monkeypatch.setattr(writer_module, "CUT_SECONDS", PATIENCE if waits == "for a lock" else 0.4)
    database = cluster.make_database()
    place = PostgresPlace(tmp_path / "b", cluster.url(database))
    node, cuts = Node(place), list[str]()
    cut = node.store.cut

    def noted() -> None:
        cuts.append("cut")
        cut()

    monkeypatch.setattr(node.store, "cut", noted)
    async with node.running():
        await node.see(range(AWAY))
        blocker = psycopg.connect(cluster.url(database), password=None)
        blocker.execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
        await node.see(range(AWAY, AWAY + 3))
        assert node.spooler.waiting == len(NAMES) * 3
        assert node.writer.failure == "the database does not answer"
        while waits == "until it is cut" and len(cuts) < 2:
            await asyncio.sleep(0.02)
        blocker.close()
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
            await node.see(range(AWAY + 3, AWAY + 5))
        assert not node.writer.failure
    assert bool(cuts) == (waits == "until it is cut")
    there, _ = recorded(place)
    assert len(there) == len({(each.target, each.started_at) for each in there}) == len(NAMES) * (AWAY + 5)
    keys = load_keys(place.data_dir)
    with contextlib.closing(Reader.open(place)) as reader:
        found = [each.what for each in audit(reader, keys.public, keys.secret)]
    assert [what for what in found if not what.startswith("clock")] == []


async def test_what_others_have_overtaken_counts_nowhere(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "data")
    node = Node(place)
    async with node.running():
        await node.see(range(3))
    spool = Spool(place.data_dir, 10_000_000)
    seen = [observation_of("box-0", "+", START + at) for at in (MINUTE + 30 * SECOND, 3 * MINUTE, 4 * MINUTE)]
    own = SpooledDraft(kind="clock", time=START + 3 * MINUTE, target=None, payload={"event": "step"})
    drafts = list(map(draft_of, seen))
    spool.put([drafts[0], own, *drafts[1:]])
    spool.close()
    node = Node(place)
    node.restore()
    async with node.running():
        await node.spooler.drained()
        # Whether it was probed since, this process does not know.
        assert node.pipeline.targets["box-0"].observed_at is None
        assert node.pipeline.targets["box-0"].latest == seen[-1]
    with contextlib.closing(Reader.open(place)) as reader:
        kinds = [entry.kind for entry in reader.entries()][-4:]
        (late,) = reader.entries(kinds=["late"])
        keys = load_keys(place.data_dir)
        found = [
            each.what for each in audit(reader, keys.public, keys.secret) if not each.what.startswith("clock")
        ]
    assert kinds == ["late", "clock", "observation", "observation"]
    assert late.target is None
    assert late.payload["observation"] == fact_payload(seen[0])
    assert found == []


@pytest.mark.parametrize("kept_on", [False, True])
async def test_what_waits_of_an_earlier_term_is_recorded_in_place_by_the_clock_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kept_on: bool
) -> None:
    monkeypatch.setattr(monotonic, "_this_process", monotonic.origin())
    monkeypatch.setattr(monotonic, "_term", 0)
    place = SqlitePlace(tmp_path / "data")
    node = Node(place)
    async with node.running():
        await node.see(range(3))
    monotonic.begin_term(1)
    spool = Spool(place.data_dir, 10_000_000)
    seen = [observation_of("box-0", "+", START + at) for at in (4 * MINUTE, 5 * MINUTE)]
    spool.put(list(map(draft_of, seen)))
    spool.close()
    saved = (place.data_dir / SPOOL_FILE).read_bytes()
    # Another node was active in between.
    monotonic.begin_term(3)
    for _ in range(2 if kept_on else 1):
        # As if a kill came before the spool said that they are on record.
        (place.data_dir / SPOOL_FILE).write_bytes(saved)
        node = Node(place)
        node.restore()
        async with node.running():
            await node.spooler.drained()
    there, _ = recorded(place)
    found = [each for each in there if each.target == "box-0"][3:]
    assert [each.started_at for each in found] == [each.started_at for each in seen]
    assert {each.clock.boot for each in found if each.clock} == {monotonic.origin().boot}
    assert clock_faults(place) == []


async def test_an_observation_of_no_length_that_was_committed_in_an_earlier_term_is_known_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monotonic, "_this_process", monotonic.origin())
    monkeypatch.setattr(monotonic, "_term", 0)
    monotonic.begin_term(1)
    place = SqlitePlace(tmp_path / "data")
    node, at = Node(place), START + 3 * MINUTE
    long = observation_of("box-0", "+", at)
    attempts = (replace(long.attempts[0], ended_at=at),)
    assert long.clock is not None
    short = replace(long, ended_at=at, attempts=attempts, clock=replace(long.clock, start=at, end=at))
    async with node.running():
        await node.see(range(3))
        await node.spooler.take(node.pipeline.targets["box-0"], short)
    spool = Spool(place.data_dir, 10_000_000)
    spool.put([draft_of(short)])
    spool.close()
    monotonic.begin_term(3)
    node = Node(place)
    node.restore()
    async with node.running():
        await node.spooler.drained()
    there, _ = recorded(place)
    assert [each.started_at for each in there if each.target == "box-0"].count(at) == 1


async def test_what_waits_of_an_earlier_boot_of_the_machine_counts_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = SqlitePlace(tmp_path / "data")
    node = Node(place)
    async with node.running():
        await node.see(range(3))
    spool = Spool(place.data_dir, 10_000_000)
    spool.put([draft_of(observation_of("box-0", "+", START + 4 * MINUTE))])
    spool.close()
    monkeypatch.setattr(monotonic, "_natural", "f0" * 8)
    monkeypatch.setattr(monotonic, "_this_process", monotonic.Origin("f0" * 8, "ab" * 8))
    node = Node(place)
    node.restore()
    async with node.running():
        await node.spooler.drained()
    with contextlib.closing(Reader.open(place)) as reader:
        assert len(list(reader.entries(kinds=["late"]))) == 1
    assert clock_faults(place) == []


def clock_faults(place: Place) -> list[str]:
    """What the audit finds about boots. The times themselves are made up here."""
    keys = load_keys(place.data_dir)
    with contextlib.closing(Reader.open(place)) as reader:
        return [each.what for each in audit(reader, keys.public, keys.secret) if "boot" in each.what]


@pytest.mark.sqlite
@pytest.mark.usefixtures("impatient")
async def test_a_database_that_comes_and_goes_has_each_observation_once_and_in_order(tmp_path: Path) -> None:
    place, chance = SqlitePlace(tmp_path / "data"), random.Random(SEED)
    (tmp_path / "spool").mkdir()
    node = Node(place, spool=tmp_path / "spool")
    async with node.running():
        seeing = asyncio.create_task(node.see(range(MINUTES)))
        while not seeing.done():
            await asyncio.sleep(chance.random() / 50)
            with away(place):
                await asyncio.sleep(chance.random() / 20)
        await seeing
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
        assert node.spooler.record().waiting == 0
    seen, _ = recorded(place)
    for name in NAMES:
        times = [each.started_at for each in seen if each.target == name]
        assert times == [START + minute * MINUTE + NAMES.index(name) * SECOND for minute in range(MINUTES)]


@pytest.mark.sqlite
@pytest.mark.usefixtures("impatient")
async def test_a_spool_that_takes_nothing_is_a_gap_that_ends_with_the_absence(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "data")
    node = Node(place, spool=tmp_path / "gone")
    async with node.running():
        await node.see(range(AWAY))
        with away(place):
            await node.see([AWAY])
            assert node.spooler.problems() == [
                "no observation can wait: No such file or directory, and nothing is probed"
            ]
            assert node.spooler.record().used == 1
        async with asyncio.timeout(PATIENCE):
            await node.spooler.drained()
            while node.spooler.full_since is not None:
                await asyncio.sleep(0.01)
        assert [each.reason for each in node.pipeline.attribution.disruptions] == [GapReason.STORE]
        assert node.spooler.problems() == []
        await node.see([AWAY + 1])


@pytest.mark.parametrize("what", ["removed", "paused"])
async def test_what_waits_of_a_target_that_is_watched_no_more_is_late_once(tmp_path: Path, what: str) -> None:
    place = SqlitePlace(tmp_path / "data")
    spool = Spool(tmp_path, 10_000_000)
    seen = [observation_of("box-0", "-", START + minute * MINUTE) for minute in range(1, 4)]
    unreadable = SpooledDraft(kind="observation", time=START + 9 * MINUTE, target="box-1", payload={"new": 1})
    spool.put([*map(draft_of, seen), unreadable])
    spool.close()
    file = tmp_path / SPOOL_FILE
    content = file.read_bytes()
    # The second start is that after a kill, before the file said that all of it was on record.
    for _ in range(2):
        file.write_bytes(content)
        node = Node(place, spool=tmp_path)
        runtime = node.pipeline.targets["box-0"]
        if what == "removed":
            del node.pipeline.targets["box-0"]
        else:
            runtime.target = replace(runtime.target, paused=True)
        async with node.running():
            await node.spooler.drained()
    with contextlib.closing(Reader.open(place)) as reader:
        late = [entry.payload["observation"] for entry in reader.entries(kinds=["late"])]
        assert list(reader.entries(kinds=["observation", "gap", "outage"])) == []
    key = canonical
    assert sorted(map(key, late)) == sorted(map(key, [*map(fact_payload, seen), {"new": 1}]))


@pytest.mark.sqlite
@pytest.mark.usefixtures("impatient")
async def test_a_stop_while_the_database_is_away_loses_nothing_that_waits(tmp_path: Path) -> None:
    place = SqlitePlace(tmp_path / "data")
    (tmp_path / "spool").mkdir()
    node = Node(place, spool=tmp_path / "spool")
    async with node.running():
        await node.see(range(2))
        elsewhere = place.data_dir.rename(tmp_path / "elsewhere")
        await node.see(range(2, 4))
    # What was under way is in the spool too, so it is not lost.
    assert node.writer.unwritten() == ""
    elsewhere.rename(place.data_dir)
    node = Node(place, spool=tmp_path / "spool")
    node.restore()
    async with node.running():
        await node.spooler.drained()
    seen, _ = recorded(place)
    assert len(seen) == len({(each.target, each.started_at) for each in seen}) == 4 * len(NAMES)


@pytest.mark.parametrize("most", [1_000_000, 300_000])
def test_a_full_spool_takes_no_more_of_the_disk_than_its_bound(tmp_path: Path, most: int) -> None:
    spool, taken = Spool(tmp_path, most), 0
    with contextlib.closing(spool):
        for number in itertools.count():
            draft = draft_of(observation_of("box", "-", START + number * SECOND))
            try:
                spool.put([draft])
            except SpoolFullError:
                break
            taken = max(taken, sum(path.stat().st_size for path in tmp_path.glob(f"{SPOOL_FILE}*")))
        # What keeps order in the files is beside the bound, by a tenth and some pages.
        assert taken <= 1.1 * most + 100_000
        assert number * ROW_BYTES < taken
