"""The audit of a hub: each member's ledger by what its owner signed, and damage stops no other."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mailwatch.hub.member_audit import MemberAuditing, audit_members, recorded_roots
from mailwatch.hub.quorum import QuorumBoard
from mailwatch.monitor import member_packing, member_self_audit
from mailwatch.monitor.member_packing import MemberPacking
from mailwatch.monitor.member_self_audit import MemberSelfAudit
from mailwatch.store import NewEntry
from mailwatch.store import packing as store_packing
from mailwatch.store.member_ledger import member_place
from mailwatch.store.place import Place
from mailwatch.store.sqlite import database
from mailwatch.times import DAY_MS
from tests.helpers.altered_rows import alter
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE

END = START + 100 * MINUTE


@pytest.fixture
def hub(place: Place) -> Iterator[LivingHub]:
    made = LivingHub(place)
    yield made
    made.close()


ON_SQLITE = pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)


def joined(hub: LivingHub, folder: Path, name: str, targets: frozenset[str] | None = None) -> WrittenMember:
    """A member with two targets, whose payloads of `targets` it shows; its push is on the hub's record."""
    one = WrittenMember(folder / name, lambda _: "+", 100, others={"second": lambda _: "+"})
    hub.join(one, name)
    hub.at = END
    hub.take(one, one.size_at(END), targets)
    one.store.close()
    record(hub)
    return one


def record(hub: LivingHub) -> None:
    """Put the pushes on the hub's record, as each minute of a running one."""
    for pushed in hub.arrived:
        signed = pushed.checkpoint
        ledger = {"ledger": pushed.member.origin, "size": signed.size, "root": signed.root.hex(), "at": pushed.at}
        hub.store.append_batch(
            [NewEntry(kind="witnessed", time=pushed.at, target=None, payload={"ledgers": [ledger]})]
        )
    hub.arrived.clear()


def faults(hub: LivingHub) -> dict[str, list[str]]:
    """What an audit finds, by the names of the members."""
    found = audit_members(hub.place, hub.reader, hub.register.members(), MemberAuditing(max_findings=3))
    return {
        one.member.name: [finding.what if finding.index is None else f"{finding.index}: {finding.what}"
                          for finding in one.findings]
        for one in found
    }  # fmt: skip


@pytest.mark.parametrize("targets", [None, frozenset(["mail"]), frozenset[str]()])
def test_a_whole_ledger_has_no_finding_packed_or_not(
    hub: LivingHub, tmp_path: Path, targets: frozenset[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined(hub, tmp_path, "home", targets)
    assert faults(hub) == {"home": []}
    monkeypatch.setattr(store_packing, "SMALL_LEVEL", 5)
    monkeypatch.setattr(member_packing, "now", lambda: END + DAY_MS)
    packing = MemberPacking(hub.place, hub.register, hub.ledgers)
    while packing.step(DAY_MS, lambda _: None):
        pass
    assert packing.sizes[hub.register.members()[0].origin].packed > 100
    packing.close()
    assert faults(hub) == {"home": []}


PAYLOAD = "UPDATE entries SET payload = replace(payload, '\"up\"', '\"down\"') WHERE idx = 50"
TIME = "UPDATE entries SET time_ms = time_ms + 1 WHERE idx = 50"
HEADER = "UPDATE entries SET header = replace(header, '\"v\":2', '\"v\":1') WHERE idx = 50"
GONE = "DELETE FROM entries WHERE idx = 50"
NOTE = "UPDATE checkpoints SET note = replace(note, 'mailwatch', 'mailwatcj')"


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        (PAYLOAD, "50: its header differs in: payload"),
        (TIME, "50: its header differs in: time"),
        (HEADER, "its owner signed another root"),
        (GONE, "its header differs in: index"),
        (NOTE, "checkpoint "),
        ("UPDATE entries SET target = 'other' WHERE idx = 50", "50: filed under other"),
    ],
)
def test_what_was_altered_is_found_under_the_name_of_its_member(
    hub: LivingHub, tmp_path: Path, statement: str, says: str
) -> None:
    one = joined(hub, tmp_path, "home", frozenset(["mail", "second"]))
    joined(hub, tmp_path, "fine", frozenset(["mail"]))
    hub.ledgers.close()
    alter(member_place(hub.place, one.origin), statement)
    found = faults(hub)
    assert found["fine"] == []
    assert any(says in fault for fault in found["home"]), found["home"]


def test_a_withheld_entry_is_compared_as_far_as_it_is_shown(hub: LivingHub, tmp_path: Path) -> None:
    one = joined(hub, tmp_path, "home", frozenset())
    hub.ledgers.close()
    where = "kind = 'withheld' AND idx = (SELECT max(idx) - 5 FROM entries)"
    alter(member_place(hub.place, one.origin), f"UPDATE entries SET payload = '{{}}' WHERE {where}")
    assert faults(hub) == {"home": [f"{hub.register.members()[0].size - 6}: it is withheld, and shows something"]}


def test_entries_that_are_gone_from_the_end_are_missed(hub: LivingHub, tmp_path: Path) -> None:
    """With every checkpoint after them, and the kept one of the newest push: the hub's own record has it."""
    one = joined(hub, tmp_path, "home")
    hub.ledgers.close()
    place, size = member_place(hub.place, one.origin), hub.register.members()[0].size
    for statement in ("entries WHERE idx >= 40", "checkpoints WHERE size > 40", "kept_states"):
        alter(place, f"DELETE FROM {statement}")
    assert faults(hub) == {"home": [f"the hub recorded {size} entries, and there are 40"]}
    assert recorded_roots(hub.reader, hub.register.members())[one.origin].keys() == {size}


@ON_SQLITE
def test_a_ledger_that_is_damaged_or_gone_is_named_and_the_others_audited(hub: LivingHub, tmp_path: Path) -> None:
    broken, gone, _ = (joined(hub, tmp_path, name) for name in ("broken", "gone", "whole"))
    hub.ledgers.close()
    database(member_place(hub.place, broken.origin).data_dir).write_bytes(b"nothing of a database" * 1000)
    shutil.rmtree(member_place(hub.place, gone.origin).data_dir)
    found = faults(hub)
    assert found["whole"] == []
    assert found["gone"] == [f"its ledger is gone, of which {gone.size_at(END)} entries were pushed"]
    assert "not a database" in found["broken"][0]


@ON_SQLITE
def test_the_others_still_confirm_where_one_is_damaged(
    hub: LivingHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def down(at: int) -> str:
        return "-" if at >= START + 10 * MINUTE else "+"

    members = [WrittenMember(tmp_path / name, down, 30) for name in ("a", "b", "c")]
    for name, one in zip("abc", members, strict=True):
        hub.join(one, name)
        hub.at = START + 20 * MINUTE
        hub.take(one, one.size_at(hub.at))
        one.store.close()
    hub.ledgers.close()
    database(member_place(hub.place, members[0].origin).data_dir).write_bytes(b"nothing of a database" * 1000)
    board = QuorumBoard(hub.place, hub.reader, hub.store.keys.origin, 2)
    with caplog.at_level(logging.ERROR):
        board.restore(hub.counted())
    assert f"the ledger {members[0].origin} cannot be read" in caplog.text
    (decided,) = board.changes(hub.at)
    assert decided.confirmed
    assert {view.ledger for view in decided.views} == {one.origin for one in members[1:]}


class StoppedHereError(Exception):
    """The audit is interrupted."""


def self_audit(hub: LivingHub) -> MemberSelfAudit:
    return MemberSelfAudit(hub.place, hub.reader, hub.register, hub.ledgers, lambda one: hub.store.keep([one]))


def test_an_audit_that_was_interrupted_goes_on_where_it_was(
    hub: LivingHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mailwatch.store.audit"], "SLICE_ENTRIES", 20)
    monkeypatch.setattr(member_self_audit, "KEEP_SECONDS", 0.0)
    names = ("home", "office")
    home, _ = (joined(hub, tmp_path, name) for name in names)
    seen = list[int]()

    def until(stop: int) -> Callable[[int], None]:
        def progress(done: int) -> None:
            seen.append(done)
            if len(seen) >= stop:
                raise StoppedHereError

        return progress

    # In the middle of the first, and in the middle of the second.
    slices = -(-home.size_at(END) // 20)
    for stop in (slices // 2, slices + slices // 2):
        with pytest.raises(StoppedHereError):
            self_audit(hub).findings(until(stop), lambda: False, 5)
    assert self_audit(hub).findings(seen.append, lambda: False, 5) == []
    # The slice before a stop is read again at most. Then the first one's turn comes again.
    assert 2 * slices <= len(seen) - slices <= 2 * slices + 2


def test_damage_is_found_by_the_daily_audit_with_the_name_of_the_member(hub: LivingHub, tmp_path: Path) -> None:
    one = joined(hub, tmp_path, "home")
    joined(hub, tmp_path, "fine")
    assert self_audit(hub).findings(lambda _: None, lambda: False, 5) == []
    hub.ledgers.close()
    alter(member_place(hub.place, one.origin), PAYLOAD)
    found = self_audit(hub).findings(lambda _: None, lambda: False, 5)
    assert [finding.what for finding in found] == [
        "the ledger of home: entry 50: its header differs in: payload"
    ]  # fmt: skip
