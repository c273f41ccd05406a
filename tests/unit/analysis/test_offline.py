"""When we were offline: what the guard puts on record, and the bounds that follow from it."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.analysis.offline import OfflinePeriod, offline_periods
from mailwatch.cli import main
from mailwatch.evidence.report.facts import collect_facts
from mailwatch.guard.guard_log import LOG_INTERVAL_MS, OFFLINE_LOG_INTERVAL_MS, GuardLog
from mailwatch.model import ConnectivityResult
from mailwatch.store import NewEntry, Reader, Store, Writer, queries
from mailwatch.times import rfc3339
from tests.helpers.records import made_record

T0 = 1_700_000_000_000


def checked(
    at: int, online: bool | None, *, took: int = 100, six: bool | None = None, resolver: str = "ok"
) -> ConnectivityResult:
    """An answer given at T0 + `at`."""
    reasons = {"1.1.1.1:443": "ok" if online else "timeout", "9.9.9.9:443": "not awaited"}
    return ConnectivityResult(
        asked_at=T0 + at, answered_at=T0 + at + took, online=online, online4=online, online6=six,
        resolver=resolver, controls=reasons | {"dns:dns.google": resolver},
    )  # fmt: skip


def entries(*answers: ConnectivityResult | None) -> list[tuple[int, dict[str, Any]]]:
    """What is put on record of the answers; None is a restart."""
    changes, kept = GuardLog(), []
    for answer in answers:
        if answer is None:
            changes = GuardLog()
        elif (payload := changes.entry(answer)) is not None:
            kept.append(payload)
    return list(enumerate(kept))


def line(*answers: ConnectivityResult | None, part: str = "line") -> list[OfflinePeriod]:
    return [period for period in offline_periods(entries(*answers)) if period.part == part]


def test_only_changes_are_recorded_and_a_sign_of_life_now_and_then() -> None:
    online = [checked(at, True) for at in range(0, LOG_INTERVAL_MS + 20_000, 15_000)]
    assert len(entries(*online)) == 2
    offline = [checked(at, False) for at in range(0, OFFLINE_LOG_INTERVAL_MS + 10_000, 5_000)]
    assert len(entries(*offline)) == 2
    assert (
        len(entries(checked(0, True), checked(10, True, six=True), checked(20, True, six=True, resolver="lies")))
        == 3
    )


def test_a_time_offline_has_four_times_and_the_durations_of_an_outage() -> None:
    answers = [
        checked(0, True),
        checked(15_000, True),
        checked(30_000, False, took=3000),
        checked(40_000, False, took=3000),
    ]
    (period,) = line(*answers, checked(50_000, True))
    assert period == OfflinePeriod(
        part="line",
        last_online=T0 + 15_000,
        first_offline=T0 + 33_000,
        last_offline=T0 + 40_000,
        first_online=T0 + 50_100,
        durations=period.durations,
        unobserved=0,
        reasons=("timeout",),
        first_index=1,
        last_index=2,
    )
    assert period.state == "closed"
    assert astuple(period.durations) == pytest.approx((7_000, 35_100, 21_050, 11_917), abs=2)


def test_an_offline_period_that_has_not_ended_is_open() -> None:
    (period,) = line(
        checked(0, True),
        checked(15_000, False),
        checked(20_000, False),
        checked(20_000 + OFFLINE_LOG_INTERVAL_MS, False),
    )
    assert (period.state, period.first_online) == ("open", None)
    assert period.durations.least == pytest.approx(OFFLINE_LOG_INTERVAL_MS + 20_000 - 15_100, abs=2)
    assert period.durations.most is None


def test_between_two_runs_there_are_no_checks() -> None:
    (period,) = line(checked(0, True), checked(15_000, False), checked(20_000, False), None, checked(80_000, True))
    # The check at 20 s found no change and is not on record: what is not known is not claimed.
    assert period.last_offline == T0 + 15_100
    assert period.unobserved == pytest.approx(64_900, abs=2)
    assert period.durations.least == 0
    (after,) = line(checked(0, True), checked(60_000, True), None, checked(90_000, False), checked(95_000, True))
    assert after.last_online == T0


def test_a_family_that_never_worked_is_not_offline() -> None:
    never = [checked(at, True, six=False) for at in (0, 10_000, 20_000)]
    assert line(*never, part="ipv6") == []
    lost = [checked(0, True, six=True), checked(10_000, True, six=False), checked(20_000, True, six=True)]
    (period,) = line(*lost, part="ipv6")
    assert period.last_offline == T0 + 10_100
    assert line(*lost) == line(*lost, part="ipv4") == []


def test_an_unknown_answer_neither_begins_nor_ends_an_offline_period() -> None:
    (period,) = line(checked(0, False), checked(10_000, None), checked(20_000, False), checked(30_000, True))
    assert period.last_online is None
    assert period.first_online == T0 + 30_100
    assert line(checked(0, True), checked(10_000, None), checked(20_000, True)) == []


def test_names_that_do_not_resolve_are_a_part_of_their_own() -> None:
    answers = [checked(0, True), checked(10_000, True, resolver="silent"), checked(20_000, True, resolver="lies")]
    (period,) = line(*answers, part="names")
    assert period.reasons == ("silent",)
    assert line(*answers) == []


def test_entries_of_the_first_version_are_read_too() -> None:
    old = [
        {"asked_at": T0 + at, "online": online, "controls": {}}
        for at, online in ((0, True), (9, False), (20, True))
    ]
    (period,) = offline_periods(enumerate(old))
    assert astuple(period.durations) == pytest.approx((0, 20, 10, 8), abs=2)


def test_a_reading_of_the_clock_without_a_boot_is_of_no_boot() -> None:
    clock = {"asked": 5, "answered": 6}
    assert offline_periods([(0, {"asked_at": T0, "online": True, "controls": {}, "clock": clock})]) == []


def test_a_clock_that_steps_back_makes_no_negative_duration() -> None:
    (period,) = line(checked(50_000, True), checked(60_000, False), checked(10_000, True))
    assert period.last_online is not None
    assert period.first_online is not None
    assert period.last_online <= period.first_offline <= period.last_offline <= period.first_online


@given(
    rounds=st.lists(st.tuples(st.integers(1, 15_000), st.integers(1, 3_000)), min_size=2, max_size=40),
    cut=st.integers(0, 200_000),
    lasts=st.integers(1, 100_000),
    restarts=st.sets(st.integers(0, 40)),
)
def test_the_truth_lies_within_the_bounds(
    rounds: list[tuple[int, int]], cut: int, lasts: int, restarts: set[int]
) -> None:
    """A line that goes and comes back at any instant, also in the middle of a round."""
    answers: list[ConnectivityResult | None] = []
    at = 0
    for number, (wait, seconds) in enumerate(rounds):
        at += wait
        if number in restarts:
            answers.append(None)
        # A round is silent if no instant of it was good; a good one needs a single instant.
        silent = cut <= at and at + seconds <= cut + lasts
        partly = at < cut + lasts and cut < at + seconds
        answers.append(checked(at, not silent if not partly or silent else number % 2 == 0, took=seconds))
        at += seconds
    for period in line(*answers):
        assert period.last_online is None or period.last_online <= T0 + cut
        assert period.first_offline >= T0 + cut
        assert period.last_offline <= max(T0 + cut + lasts, period.first_offline)
        assert period.first_online is None or period.first_online >= T0 + cut + lasts
        lasted = period.durations
        assert lasted.least <= lasts
        assert lasted.most is None or lasted.most >= lasts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.yaml").write_text(
        "vantage_point: {name: home}\ntargets: [{name: t, kind: imap, host: imap.example.org}]\n"
    )
    return tmp_path


async def keep(data_dir: Path, *answers: ConnectivityResult) -> None:
    writer = Writer(Store.open(data_dir))
    await writer.start()
    for _, payload in entries(*answers):
        await writer.submit(NewEntry(kind="guard", time=payload["asked_at"], target=None, payload=payload))
    await writer.close()


async def test_offline_periods_are_listed_newest_first_and_by_time(folder: Path) -> None:
    spells = [checked(at, at % 20_000 == 0) for at in range(0, 90_000, 10_000)]
    await keep(folder / "data", *spells)
    reader = Reader.open(folder / "data")
    found = [period for period in queries.offline(reader) if period["part"] == "line"]
    assert [period["first_offline"] for period in found] == [
        rfc3339(T0 + at + 100) for at in (70_000, 50_000, 30_000, 10_000)
    ]
    period = {"min": 0.0, "max": 20.1, "estimate": 10.05, "uncertainty": 8.206}
    assert found[0]["duration"] == pytest.approx(period, abs=0.002)
    some = queries.offline(reader, start=T0 + 41_000, end=T0 + 60_000)
    reader.close()
    assert {period["first_offline"] for period in some} == {rfc3339(T0 + 50_100)}


async def test_a_report_counts_times_offline_and_not_their_entries(folder: Path) -> None:
    long = [checked(at, False, six=None if at % 20_000 else False) for at in range(10_000, 90_000, 10_000)]
    await keep(folder / "data", checked(0, True), *long, checked(90_000, True), checked(100_000, False))
    reader = Reader.open(folder / "data")
    assert len(list(reader.entries(kinds=["guard"]))) == 11
    found = collect_facts(reader.entries(), made_record(0, 0, target="t"))
    reader.close()
    assert found.offline == 2


async def test_the_offline_command_lists_the_periods(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(folder / "config.yaml"), "offline"]
    await keep(folder / "data", checked(0, True))
    assert main(config) == 0
    assert "no time offline on record" in capsys.readouterr().err
    await keep(folder / "data", checked(10, True), checked(5_000, False), checked(9_000, True))
    assert main([*config, "--json"]) == 0
    output = json.loads(capsys.readouterr().out)
    assert {period["part"] for period in output} == {"line", "ipv4"}
    assert main([*config, "--utc"]) == 0
    printed = capsys.readouterr().out
    assert "2023-11-14 22:13:25" in printed
    assert "timeout" in printed
