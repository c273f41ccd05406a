"""What is said of incidents does not depend on where a start begins to follow, which reads what it may need."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.model import Notification
from mailwatch.notify.incident_events import IncidentFollower
from mailwatch.store import Reader, Store
from tests.helpers.counting_reader import CountingReader
from tests.helpers.outage_script import OutageScript


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Store, CountingReader]]:
    store = Store.open(tmp_path)
    reader = Reader.open(tmp_path)
    reader.__class__ = CountingReader
    assert isinstance(reader, CountingReader)
    yield store, reader
    reader.close()
    store.close()


def new_follower() -> IncidentFollower:
    return IncidentFollower(watched=dict, in_maintenance=lambda _target, _at: False)


@pytest.mark.parametrize("seed", range(3))
def test_a_start_anywhere_says_what_one_at_the_beginning_says(
    opened: tuple[Store, CountingReader], seed: int
) -> None:
    store, reader = opened
    script = OutageScript(store, random.Random(seed))
    for _ in range(120):
        script.step()
    entries = list(reader.entries(kinds=["outage"]))
    whole = new_follower()
    expected: dict[int, Notification | None] = {}
    open_then: dict[int, dict[str, set[str]]] = {}
    for entry in entries:
        expected[entry.index] = whole.follow(entry)
        open_then[entry.index] = still_open(whole)
    assert sum(found is not None for found in expected.values()) > 50
    for start in range(0, len(entries), 7):
        started = new_follower()
        started.catch_up(reader, entries[start].index)
        for entry in entries[start:]:
            assert started.follow(entry) == expected[entry.index]
        if start:
            again = new_follower()
            again.catch_up(reader, entries[start].index)
            assert still_open(again) == open_then[entries[start - 1].index]


def still_open(follower: IncidentFollower) -> dict[str, set[str]]:
    """The outages of each open incident, by its id."""
    return {one.id: {outage.id for outage in one.outages} for one in follower.open_incidents()}


def test_a_start_reads_what_is_open_however_much_is_over(opened: tuple[Store, CountingReader]) -> None:
    store, reader = opened
    script = OutageScript(store, random.Random(5))
    for _ in range(300):
        script.step()
    while store.index_outages():
        pass
    started = new_follower()
    started.catch_up(reader, reader.size())
    assert reader.returned == 0
    assert 0 < reader.by_index == len(script.still_open)
