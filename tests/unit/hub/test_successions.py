"""A member that went on in a successor is one vantage point; and nobody uses that to be two, or to be another."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.hub.quorum import audit_decisions
from mailwatch.hub.successions import Successions
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.succession import appoint
from mailwatch.store import NewEntry, Store, begin_successor
from mailwatch.store.place import Place
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE

NOW = START + 12 * MINUTE


def down(at: int) -> str:
    return "-" if at >= START + 3 * MINUTE else "+"


@pytest.fixture
def hub(place: Place) -> Iterator[LivingHub]:
    made = LivingHub(place, 2)
    made.at = NOW
    yield made
    made.close()


def pushed(hub: LivingHub, one: WrittenMember, name: str, targets: frozenset[str] | None = None) -> WrittenMember:
    """A member that joined and pushed all that it has by now."""
    hub.join(one, name)
    hub.take(one, one.size_at(NOW), targets)
    one.store.close()
    hub.at += 1
    return one


def succeeded(folder: Path) -> WrittenMember:
    """The successor of the ledger in a folder."""
    begin_successor(folder, older=True)
    return WrittenMember(folder, down, 12)


def written(folder: Path) -> WrittenMember:
    made = WrittenMember(folder, down, 12)
    made.store.close()
    return made


def confirmed(hub: LivingHub) -> bool:
    hub.at = NOW
    return [one for one, _ in hub.decide()] == [True]


def names(hub: LivingHub) -> set[str]:
    """The members that count."""
    counted = hub.counted()
    return {one.name for one in hub.register.members() if one.origin in counted}


def test_a_ledger_and_its_successor_are_one_vantage_point(hub: LivingHub, tmp_path: Path) -> None:
    old = pushed(hub, WrittenMember(tmp_path / "a", down, 12), "a")
    assert not confirmed(hub)
    # Its key is still there, so a copy of the old ledger may go on beside the new one.
    shutil.copytree(old.folder, tmp_path / "copy")
    new = pushed(hub, succeeded(old.folder), "a again")
    assert names(hub) == {"a again"}
    assert not confirmed(hub)
    assert Successions(hub.place).replaced(hub.register.members()) == {old.origin: "a again"}
    # It counts as one, and as one it does count.
    pushed(hub, WrittenMember(tmp_path / "b", down, 12), "b")
    assert confirmed(hub)
    (entry,) = hub.reader.entries(kinds=["quorum"])
    assert old.origin not in {one["ledger"] for one in entry.payload["members"]}
    assert new.origin in {one["ledger"] for one in entry.payload["members"]}
    assert list(audit_decisions(hub.reader, hub.store.keys.origin, hub.place)) == []


def test_a_chain_of_three_counts_by_its_last(hub: LivingHub, tmp_path: Path) -> None:
    folder = tmp_path / "a"
    pushed(hub, WrittenMember(folder, down, 12), "first")
    pushed(hub, succeeded(folder), "second")
    pushed(hub, succeeded(folder), "third")
    assert names(hub) == {"third"}
    # Also where the one between was removed.
    hub.register.revoke("second", NOW)
    assert names(hub) == {"third"}
    # Without the last one, the one before it counts again.
    hub.register.revoke("third", NOW)
    assert names(hub) == {"first"}


def test_one_ledger_that_appoints_two_counts_once(hub: LivingHub, tmp_path: Path) -> None:
    old = pushed(hub, WrittenMember(tmp_path / "a", down, 12), "a")
    shutil.copytree(old.folder, tmp_path / "twin")
    pushed(hub, succeeded(old.folder), "one")
    pushed(hub, succeeded(tmp_path / "twin"), "other")
    assert names(hub) == {"one"}
    assert not confirmed(hub)
    # Also where the ledger that appointed both is no member.
    hub.register.revoke("a", NOW)
    assert names(hub) == {"one"}


def claiming(folder: Path, victim: WrittenMember, **changed: object) -> WrittenMember:
    """A liar's ledger, which says that it goes on for the victim's."""
    with contextlib.closing(Store.open(folder)) as store:
        own, theirs = store.keys, victim.store.keys
        successor = notes.verifier_key(own.origin, own.public)
        payload: dict[str, object] = {
            "reason": "database_older",
            "size": 0,
            "archive": "ledgers/x",
            "origin": theirs.origin,
            "key": notes.verifier_key(theirs.origin, theirs.public),
            "appointment": appoint(own.private, successor, 0, ""),
        }
        payload = {key: value for key, value in (payload | changed).items() if value is not None}
        store.append_batch([NewEntry(kind="successor", time=START, target=None, payload=payload)])
    return WrittenMember(folder, lambda _: "+", 12)


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ({}, False),
        ({"appointment": None}, False),
        ({"appointment": None, "reason": "keys_lost"}, True),
        ({"appointment": None, "reason": "keys_lost", "key": None}, True),
    ],
)
def test_who_claims_to_go_on_for_another_replaces_nobody(
    hub: LivingHub, tmp_path: Path, changed: dict[str, object], counts: bool
) -> None:
    """Without a signature of the other one: a lost key appoints nobody, so who says so is just one more member."""
    victim = pushed(hub, WrittenMember(tmp_path / "victim", down, 12), "victim")
    pushed(hub, WrittenMember(tmp_path / "b", down, 12), "b")
    pushed(hub, claiming(tmp_path / "liar", victim, **changed), "liar")
    assert names(hub) == {"victim", "b"} | ({"liar"} if counts else set())
    assert confirmed(hub)


def test_an_appointment_of_another_ledger_is_of_no_use(hub: LivingHub, tmp_path: Path) -> None:
    """It names the key that it appoints."""
    victim = written(tmp_path / "victim")
    other = notes.verifier_key("mailwatch/0123456789abcdef", written(tmp_path / "other").store.keys.public)
    stolen = appoint(victim.store.keys.private, other, 0, "")
    pushed(hub, victim, "victim")
    pushed(hub, claiming(tmp_path / "liar", victim, appointment=stolen), "liar")
    assert names(hub) == {"victim"}


def test_a_successor_that_withholds_whom_it_goes_on_for_does_not_count(hub: LivingHub, tmp_path: Path) -> None:
    from mailwatch.hub import client

    old = pushed(hub, WrittenMember(tmp_path / "a", down, 12), "a")
    new = succeeded(old.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "OWN_KINDS", frozenset())
        pushed(hub, new, "a again", frozenset(["mail"]))
    assert names(hub) == {"a"}


def test_the_audit_finds_a_decision_that_counts_one_twice(hub: LivingHub, tmp_path: Path) -> None:
    old = pushed(hub, WrittenMember(tmp_path / "a", down, 12), "a")
    pushed(hub, succeeded(old.folder), "a again")
    hub.at = NOW
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LivingHub, "counted", lambda hub: {one.origin: NOW for one in hub.register.members()})
        assert [one for one, _ in hub.decide()] == [True]
    (found,) = audit_decisions(hub.reader, hub.store.keys.origin, hub.place)
    assert found.what == f"it counts {old.origin}, for which another of its vantage points goes on"
