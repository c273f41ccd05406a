"""The indexes of outages and incidents follow the ledger, and are those of all of it; a page reads a part."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from operator import sub
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mailwatch.analysis.incident_json import incident_json
from mailwatch.analysis.incidents import Incident, IncidentOutage, incidents
from mailwatch.analysis.outage_record import outage_payload
from mailwatch.store import NewEntry, Reader, Store, Tokens, queries
from mailwatch.store.incident_queries import paused_outages
from mailwatch.store.incident_rows import incident_rows
from mailwatch.store.outage_lists import OutageHead, OutageLists
from mailwatch.store.place import place_of
from mailwatch.store.queries import NotInListError, Part
from tests.helpers.counting_reader import CountingReader
from tests.helpers.outage_script import TARGETS, OutageScript
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.records import made_record


def members_of(reader: Reader, paused: set[str]) -> list[IncidentOutage]:
    """All outages, as the entries give them, each read."""
    heads = {head.id: head for head in reader.outages.heads()}
    records = [record for record, _ in reader.outages.records(heads.values())]
    return [
        IncidentOutage(order=heads[one.id].opened, outage=one, is_target_paused=one.target in paused)
        for one in records
    ]


def shown(incident: Incident) -> tuple[object, ...]:
    """What the row of an incident has of its JSON."""
    json = incident_json(incident)
    names = {member["target"] for member in json["outages"]}
    paused = {member["target"] for member in json["outages"] if member.get("paused")}
    bounds = json["duration"]
    return (
        json["id"], json["provider"], json["outages"][0]["target"], json["state"], incident.first_bad,
        bounds["min"], bounds["max"], len(names), len(paused),
    )  # fmt: skip


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Store, Reader]]:
    store = Store.open(tmp_path)
    reader = Reader.open(tmp_path)
    yield store, reader
    reader.close()
    store.close()


@pytest.mark.parametrize("seed", range(2))
def test_indexes_that_follow_each_change_are_those_of_the_whole_ledger(
    opened: tuple[Store, Reader], seed: int
) -> None:
    store, reader = opened
    chance = random.Random(seed)
    script = OutageScript(store, chance)
    for _ in range(20):
        for _ in range(chance.choice([1, 1, 1, 2, 60])):
            script.step()
        paused = set(chance.sample(list(TARGETS), chance.choice([0, 0, 1, 2])))
        whole = OutageLists.of(reader.outages.heads())
        lists = reader.outages.lists()
        assert list(lists.newest_first) == sorted(lists.by_id.values(), key=lambda head: head.place)
        assert lists.by_target == whole.by_target
        for state in ("", "open", "closed", "unwatched"):
            for names in (None, {"a"}, {"a", "c"}):
                chosen = None if names is None else [one for one in lists.by_target if one.target in names]
                expected = [
                    head
                    for head in whole.newest_first
                    if state in ("", head.state) and (names is None or head.target in names)
                ]
                found = lists.select(chosen, state)
                assert list(found) == expected
                assert [lists.place_of(head.id, found) for head in expected] == list(range(len(expected)))
        expected_incidents = incidents(members_of(reader, paused))[::-1]
        groups = queries.incident_groups(reader, paused=paused)
        assert [[one.id for one in group.members] for group in groups] == [
            [member.id for member in incident.members] for incident in expected_incidents
        ]
        rows = incident_rows(reader, groups)
        assert [
            (
                row.id, row.provider, row.target, row.state, row.first_bad, row.least / 1000,
                None if row.most is None else row.most / 1000, row.targets, row.paused,
            )
            for row in rows
        ] == [shown(incident) for incident in expected_incidents]  # fmt: skip
        index = reader.incidents.lists(paused_outages(reader, {}, paused))
        for incident in expected_incidents:
            for outage in incident.outages:
                group = index.of_outage[outage.id]
                assert group.id == incident.id
                assert index.get(incident.id) is group


def test_an_incident_is_found_by_each_id_that_it_had(opened: tuple[Store, Reader]) -> None:
    store, reader = opened
    ids = []
    for number, (good, bad, again) in enumerate([(100, 110, 120), (200, 210, 220), (90, 300, 310)]):
        outage = made_record(bad, bad, again, id=f"{number:012x}", target=f"t{number}", last_good=good)
        payload: dict[str, Any] = {**outage_payload(outage)}
        store.append_batch([NewEntry(kind="outage", time=1, target=outage.target, payload=payload)])
        ids.append([group.id for group in queries.incident_groups(reader, paused=())])
    # The third outage may have begun before the others: it makes them one.
    first, (second, _), (both,) = ids
    assert first == [both]
    for identity in (both, second):
        found = queries.incident(reader, identity, paused=())
        assert found is not None
        assert (found.id, len(found.members)) == (both, 3)
    with pytest.raises(NotInListError):
        queries.incidents(reader, paused=(), part=Part(3, after="0" * 12))


async def test_a_page_costs_as_much_with_ten_times_the_outages(tmp_path: Path) -> None:
    """By statements, entries and outages that are parsed: each page is asked for twice, the second is counted."""
    costs = []
    for outages in (80, 400):
        folder = tmp_path / str(outages)
        folder.mkdir()
        harness = PipelineHarness(folder)
        script = OutageScript(harness.writer._store, random.Random(3))
        while len(harness.reader.outages.heads()) < outages or script.still_open:
            script.step()
        while harness.writer._store.index_outages():
            pass
        harness.reader.__class__ = CountingReader
        assert isinstance(harness.reader, CountingReader)
        costs.append(page_costs(harness, folder))
        await harness.close()
    assert costs[0] == costs[1]
    assert costs[0]["outages"][1:] == (0, 50)
    assert costs[0]["neighbours"][1:] == (0, 0)


def page_costs(harness: PipelineHarness, folder: Path) -> dict[str, tuple[int, ...]]:
    """Return how many statements and entries each page takes."""
    from mailwatch.monitor.recorded_outages import RecordedOutages
    from mailwatch.web.read_model import ALL_OUTAGES, OutageQuery

    reader = harness.reader
    assert isinstance(reader, CountingReader)
    model = RecordedOutages(harness.pipeline, reader, Tokens(place_of(folder)))
    statements = 0

    @sa.event.listens_for(reader._engine, "before_cursor_execute")
    def _count(*_: object) -> None:
        nonlocal statements
        statements += 1

    over = next(head for head in reader.outages.heads()[20:] if head.state == "closed")
    asked: dict[str, Callable[[], object]] = {
        "outages": lambda: model.list_outages(ALL_OUTAGES, Part(50)),
        "closed": lambda: model.list_outages(OutageQuery(state="closed"), Part(50, 10)),
        "of a target": lambda: model.list_outages(OutageQuery(target="a"), Part(10)),
        "after one": lambda: model.outages(ALL_OUTAGES, Part(20, after=over.id)),
        "count": lambda: model.count_outages(OutageQuery(provider="lab")),
        "neighbours": lambda: model.neighbours(over.id),
        "outage": lambda: model.outage_json(over.id),
    }
    found = {}
    for name, ask in asked.items():
        ask()
        before = statements, reader.returned, reader.by_index
        ask()
        after = statements, reader.returned, reader.by_index
        found[name] = tuple(map(sub, after, before))
    return found


def test_a_change_groups_a_few_outages_again(opened: tuple[Store, Reader]) -> None:
    store, reader = opened
    script = OutageScript(store, random.Random(11))
    for _ in range(200):
        script.step()
    before = {group.id: group for group in queries.incident_groups(reader, paused=())}
    script.step()
    after = {group.id: group for group in queries.incident_groups(reader, paused=())}
    fresh = [group for name, group in after.items() if group is not before.get(name)]
    assert 0 < sum(len(group.members) for group in fresh) < len(reader.outages.heads()) / 3


def head(number: int, **more: Any) -> OutageHead:
    facts: dict[str, Any] = {
        "id": f"{number:012x}", "target": "a", "provider": "lab", "kind": "imap", "state": "closed",
        "begin": number, "first_bad": number, "until": number + 1, "least": 0, "opened": number, "index": number,
    }  # fmt: skip
    return OutageHead(**facts | more)


def test_lists_do_not_change_after_they_were_given() -> None:
    lists = OutageLists.of([head(1), head(2)])
    given = lists.newest_first, lists.select(state="closed"), lists.of_name("a")
    later = lists.with_changed([head(2, state="open", until=None, target="b"), head(3)])
    assert [[one.id for one in each] for each in given] == [[head(2).id, head(1).id]] * 3
    assert [one.id for one in later.select(state="open")] == [head(2).id]
    assert [one.id for one in later.of_name("a")] == [head(3).id, head(1).id]
    assert [one.id for one in later.of_name("b")] == [head(2).id]


def test_an_incident_takes_as_many_statements_with_ten_times_the_outages(tmp_path: Path) -> None:
    """A target that flaps while another is down for long: all of it is one incident."""
    costs = []
    for outages in (80, 800):
        with closing(Store.open(tmp_path / str(outages))) as store:
            long = made_record(1, 10**8, None, id="f" * 12, target="long", last_good=0)
            short = [
                made_record(at, at + 20, at + 40, id=f"{at:012x}", target=f"t{at % 200}", last_good=at - 5)
                for at in range(100, 100 + 100 * outages, 100)
            ]
            store.append_batch(
                [
                    NewEntry(kind="outage", time=1, target=one.target, payload={**outage_payload(one)})
                    for one in (long, *short)
                ]
            )
            reader = Reader.open(tmp_path / str(outages))
            (group,) = queries.incident_groups(reader, paused=())
            statements = 0

            @sa.event.listens_for(reader._engine, "before_cursor_execute")
            def _count(*_: object) -> None:
                nonlocal statements
                statements += 1

            found = queries.incident(reader, group.id, paused=())
            assert found is not None
            assert len(found.members) == outages + 1
            costs.append(statements)
            reader.close()
    few, many = costs
    assert few < 40
    assert many <= few
