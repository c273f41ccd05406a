"""The ledgers of a hub's members are packed as one's own is, with what their owners withhold."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.analysis.storage_budget import LedgerSizes, combined
from mailwatch.ledger.push import PushedEntry, PushError
from mailwatch.monitor import member_packing
from mailwatch.monitor.member_packing import MemberPacking, StoppedError
from mailwatch.store import Reader
from mailwatch.store import packing as store_packing
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place
from mailwatch.store.sqlite import database
from mailwatch.times import DAY_MS
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE

MINUTES = 150
END = START + MINUTES * MINUTE


def mark(at: int) -> str:
    """Down in the last minutes: what is within an hour of them stays in rows."""
    return "-" if at >= END - 5 * MINUTE else "+"


@pytest.fixture
def hub(place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[LivingHub]:
    monkeypatch.setattr(store_packing, "SMALL_LEVEL", 5)
    monkeypatch.setattr(member_packing, "now", lambda: END + DAY_MS)
    made = LivingHub(place)
    yield made
    made.close()


def joined(hub: LivingHub, folder: Path, name: str, targets: frozenset[str] | None = None) -> WrittenMember:
    """A member with three targets, of which it shows the payloads of `targets`, and all if None."""
    up = {"second": lambda _: "+", "third": lambda at: " " if at % (50 * MINUTE) == 0 else "+"}
    one = WrittenMember(folder / name, mark, MINUTES, others=up)
    hub.join(one, name)
    hub.at = END
    hub.take(one, one.size_at(END), targets)
    one.store.close()
    return one


def packing(hub: LivingHub) -> MemberPacking:
    return MemberPacking(hub.place, hub.register, hub.ledgers)


def pack_all(hub: LivingHub, made: MemberPacking, pauses: list[float] | None = None) -> int:
    """Pack all that there is; return how many packs were made."""
    found = 0
    while made.step(DAY_MS, (lambda _: None) if pauses is None else pauses.append):
        found += 1
    return found


def read(hub: LivingHub, member: WrittenMember) -> dict[str, Any]:
    """All that a reader says of a member's ledger."""
    with contextlib.closing(Reader.open(member_place(hub.place, member.origin))) as reader:
        size = reader.size()
        kinds = sorted({entry.kind for entry in reader.entries(checked=False)})
        found: dict[str, Any] = {
            kind: list(reader.entries(kinds=[kind], from_index=3, limit=200)) for kind in kinds
        }
        for target in reader.targets():
            found[target] = list(reader.entries(target=target))
            found[f"{target} backwards"] = list(reader.entries(target=target, descending=True, limit=9))
        between = reader.entries(start_ms=START + 9 * MINUTE, end_ms=START + 99 * MINUTE)
        return found | {
            "all": list(reader.raw_entries(0, size)),
            "leaves": list(reader.leaf_hashes(0, size)),
            "backwards": [entry.index for entry in reader.entries(descending=True)],
            "between": list(between),
            "latest time": reader.latest_time(1, size // 2),
        }


def rows(hub: LivingHub, member: WrittenMember) -> dict[str, int]:
    """How many rows of each kind there are."""
    made = member_place(hub.place, member.origin).engine(read_only=True)
    with made.connect() as connection:
        found = connection.exec_driver_sql("SELECT kind, count(*) FROM entries GROUP BY kind").all()
    made.dispose()
    return {str(kind): int(count) for kind, count in found}


@pytest.mark.parametrize("targets", [None, frozenset(["mail"]), frozenset[str]()])
def test_every_answer_is_the_same_after_packing(
    hub: LivingHub, tmp_path: Path, targets: frozenset[str] | None
) -> None:
    home = joined(hub, tmp_path, "home", targets)
    before, unpacked = read(hub, home), rows(hub, home)
    made = packing(hub)
    assert pack_all(hub, made) > 10
    left = rows(hub, home)
    assert left.get("observation", 0) + left.get("withheld", 0) < 120
    assert sum(unpacked.values()) > 400
    after = read(hub, home)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == []
    measured = made.sizes[home.origin]
    assert measured.entries == len(before["all"])
    assert measured.packed == measured.entries - sum(left.values())
    made.close()
    # Opened again, it takes the next push.
    hub.ledgers.close()
    with hub.ledgers.using(hub.register.members()[0]) as ledger:
        assert ledger.size == measured.entries


def test_a_push_after_packing_goes_on_with_each_target(hub: LivingHub, tmp_path: Path) -> None:
    """Its newest entry is in a pack: a hub that starts again still knows its number and its name."""
    one = WrittenMember(tmp_path / "home", lambda _: "+", MINUTES)
    hub.join(one, "home")
    hub.at = END
    hub.take(one, 96)
    made = packing(hub)
    assert pack_all(hub, made) == 3
    assert not rows(hub, one).get("observation")
    made.close()
    hub.ledgers.close()
    (member,) = hub.register.members()
    with contextlib.closing(Reader.open(member_place(hub.place, one.origin))) as reader:
        last = next(iter(list(reader.entries(target="mail", descending=True, limit=1))))
    asked = PushedEntry(96, "observation", END, last.target_id, "mail", 1, "up", "", "")
    with hub.ledgers.using(member) as ledger:
        assert ledger._kept_target(asked).number == last.number
        with pytest.raises(PushError, match="two targets have the same name"):
            ledger._kept_target(asked._replace(target_id="0" * 16))
    hub.take(one, 96 + 40)
    one.store.close()


def test_packing_waits_in_proportion_and_stops_when_asked(hub: LivingHub, tmp_path: Path) -> None:
    home = joined(hub, tmp_path, "home")
    made, pauses, began = packing(hub), list[float](), time.thread_time()
    assert pack_all(hub, made, pauses) > 10
    # All but what opening and closing the ledger takes.
    assert sum(pauses) > 0.6 * (time.thread_time() - began)
    made.close()
    before = read(hub, home)

    def stop(_took: float) -> None:
        raise StoppedError

    again = packing(hub)
    with pytest.raises(StoppedError):
        again.step(0, stop)
    again.close()
    assert read(hub, home) == before


@pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)
def test_a_damaged_ledger_is_named_and_the_others_are_packed(
    hub: LivingHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fine = joined(hub, tmp_path, "broken"), joined(hub, tmp_path, "fine")
    hub.ledgers.close()
    file = database(member_place(hub.place, broken.origin).data_dir)
    file.write_bytes(b"nothing of a database" * 1000)
    made = packing(hub)
    with caplog.at_level(logging.ERROR):
        assert pack_all(hub, made) > 10
    assert "packing: the ledger of broken: " in caplog.text
    assert rows(hub, fine).get("observation", 0) < 120
    made.close()


def test_a_member_that_joined_and_pushed_nothing_has_nothing_to_pack(hub: LivingHub, tmp_path: Path) -> None:
    one = WrittenMember(tmp_path / "home", mark, 5)
    hub.join(one, "home")
    one.store.close()
    made = packing(hub)
    assert pack_all(hub, made) == 0
    assert made.sizes == {}
    assert not (hub.data_dir / "hub").exists()


def test_the_disk_is_that_of_all_ledgers_together() -> None:
    own = LedgerSizes(rows=1000, packs=10, free=1, log=2, entries=9, packed=3, last_day=4, disk_free=77)
    young = LedgerSizes(rows=500, entries=5)
    old = LedgerSizes(rows=30, packs=60, free=3, log=1, entries=90, packed=80, last_day=10)
    assert combined(own, []) == own
    assert combined(own, [young, old]) == LedgerSizes(
        rows=1530, packs=70, free=4, log=3, entries=104, packed=83, last_day=4 + 5 + 10, disk_free=77
    )
    assert combined(young, [old]).last_day is None
