"""One or two cases of each scenario of `make chaos`; the whole of it takes a quarter of an hour."""

from __future__ import annotations

import random
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos import (
    clock,
    database_kills,
    failover,
    full_disk,
    hostile,
    hub,
    kills,
    limits,
    nodes,
    pages,
    slow_disk,
    web_clients,
)
from tests.chaos.crowd import CROWD
from tests.chaos.figures import Figures, Scale
from tests.chaos.lab import Flapping, Lab, lab
from tests.chaos.promises import size, starts, wait_for
from tests.helpers.requirements import need, need_program, need_root
from tests.helpers.wall_clock import LIBRARIES
from tests.servers import DOVECOT
from tests.servers.postgresql import POSTGRES

SCALE = Scale()


@pytest.fixture(scope="module")
def servers() -> Iterator[Lab]:
    need_program(DOVECOT)
    with lab() as started:
        yield started


@pytest.fixture
def figures() -> Iterator[Figures]:
    kept = Figures("test", quiet=True)
    yield kept
    assert not kept.broken, kept.broken
    assert kept.counts["promises checked"] > 0


def test_observations_shown_before_a_kill_are_on_record(servers: Lab, figures: Figures, tmp_path: Path) -> None:
    with Flapping().running() as flapping:
        one = kills.Killed(servers, figures, random.Random(0), tmp_path / "one", flapping)
        for moment in ("start", "writing", "stop"):
            one.killed(moment)
        one.last()
    assert one.shown.observations
    assert one.shown.outages


def test_a_first_start_that_was_killed_begins_again(servers: Lab, figures: Figures, tmp_path: Path) -> None:
    with Flapping().running() as flapping:
        kills.first_start(servers, figures, random.Random(1), tmp_path / "one", flapping, within=0.3)


def test_a_damaged_database_page_is_always_reported(servers: Lab, figures: Figures, tmp_path: Path) -> None:
    with Flapping().running() as flapping:
        whole = pages.make(servers, tmp_path, flapping)
    index = next(page for page, use in whole.uses.items() if "entries_by_target" in use)
    for case in (
        pages.Case(index, "noise", "while it runs"),
        pages.Case(whole.pages - 1, "zeros", "before a start"),
    ):
        pages.one(servers, figures, whole, case, SCALE)


@pytest.mark.nightly
def test_a_full_disk_is_survived(servers: Lab, figures: Figures) -> None:
    need_root("mount")
    full_disk.at_the_start(servers, figures, 0)
    full_disk.one_act(servers, figures, "an audit", stop=True)


@pytest.mark.nightly
def test_a_wrong_clock_is_not_an_outage(servers: Lab, figures: Figures) -> None:
    need_program(LIBRARIES[-1] if LIBRARIES else Path("/usr/bin/faketime"))
    clock.renew_certificate(servers)
    clock.one(servers, figures, "3 hours behind", guarded=False)


def test_running_out_of_file_handles_is_our_own_failure(servers: Lab, figures: Figures) -> None:
    limits.while_it_runs(
        servers, figures, "no file handle left", resource.RLIMIT_NOFILE, limits.handles, seconds=2.0
    )
    limits.at_the_start(servers, figures, "file handles", "nofile", 8)


@pytest.mark.nightly
def test_a_slow_disk_holds_up_no_probe(servers: Lab, figures: Figures) -> None:
    if not slow_disk.Disk.possible():
        pytest.skip("neither a C compiler nor strace")
    slow_disk.while_it_runs(servers, figures, 2, 8.0)


def test_hostile_servers_are_never_up(servers: Lab, figures: Figures) -> None:
    hostile.among(figures, 0.02, servers.certificates, CROWD)


def test_health_is_answered_in_a_crowd(servers: Lab, figures: Figures, tmp_path: Path) -> None:
    process = servers.install(tmp_path / "one")
    assert starts(process)
    try:
        assert wait_for(lambda: size(process) > 6)
        web_clients.one(figures, process, "pipelining, never reading", 60, 1.0)
    finally:
        process.stop()


@pytest.mark.nightly
def test_another_node_takes_over_however_the_active_one_is_lost(servers: Lab, figures: Figures) -> None:
    need(POSTGRES)
    nodes.run(servers, figures, SCALE)


@pytest.mark.nightly
def test_what_was_shown_outlives_kills_of_node_and_database(figures: Figures) -> None:
    need(POSTGRES)
    database_kills.under_load(figures, random.Random(0), 8, 20)


@pytest.mark.nightly
def test_a_hub_confirms_what_two_of_three_observe(servers: Lab, figures: Figures) -> None:
    need_root("ip", "nft")
    hub.run(servers, figures, SCALE)


@pytest.mark.nightly
def test_a_failover_of_the_database_loses_nothing(figures: Figures) -> None:
    need(POSTGRES)
    failover.synchronous(figures)
    for active_killed in (False, True):
        failover.asynchronous(figures, active_killed=active_killed)
