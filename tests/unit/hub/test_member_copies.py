"""The ledgers of a hub's members go where the hub's own goes: to PostgreSQL, back, and into each backup."""

from __future__ import annotations

import contextlib
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mailwatch.hub.member_audit import audit_members
from mailwatch.store import Reader, StoreDamagedError
from mailwatch.store.backup import Backup, backup, backup_keys
from mailwatch.store.hub_register import HubRegister
from mailwatch.store.member_copies import kept_members
from mailwatch.store.member_ledger import member_place
from mailwatch.store.migrate import Move, MoveStep, Progress, to_postgresql, to_sqlite
from mailwatch.store.place import Place
from mailwatch.store.postgres import PostgresPlace
from mailwatch.store.sqlite import SqlitePlace, database
from tests.helpers.altered_rows import alter
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE

HALF = START + 20 * MINUTE


def made(place: Place, folder: Path) -> dict[str, WrittenMember]:
    """A hub with three members: one shows all, one a target, and one has pushed nothing."""
    hub = LivingHub(place)
    hub.at = HALF
    members = {}
    for name, targets in (("all", None), ("some", frozenset(["mail"])), ("none", frozenset[str]())):
        one = members[name] = WrittenMember(folder / name, lambda _: "+", 40, others={"second": lambda _: "+"})
        hub.join(one, name)
        if name != "none":
            hub.take(one, one.size_at(HALF), targets)
        one.store.close()
    hub.store.checkpoint()
    hub.close()
    return members


def contents(place: Place, one: WrittenMember) -> list[Any]:
    """The entries of a member as stored, and its checkpoints."""
    with contextlib.closing(Reader.open(member_place(place, one.origin))) as reader:
        return [list(reader.raw_entries(0, reader.size())), list(reader.checkpoints())]


def faults(place: Place) -> list[str]:
    with (
        contextlib.closing(Reader.open(place)) as own,
        contextlib.closing(HubRegister(place, read_only=True)) as register,
    ):
        audited = audit_members(place, own, register.members())
        return [finding.what for one in audited for finding in one.findings]


def go_on(place: Place, members: dict[str, WrittenMember], at: int) -> None:
    """The members push what came by then."""
    hub = LivingHub(place)
    hub.at = at
    hub.take(members["all"], members["all"].size_at(at))
    hub.take(members["some"], members["some"].size_at(at), frozenset(["mail"]))
    hub.close()


def test_there_and_back_again_they_are_the_same_and_take_pushes(
    postgresql_place: PostgresPlace, tmp_path: Path
) -> None:
    place, files = postgresql_place, SqlitePlace(postgresql_place.data_dir)
    members = made(files, tmp_path)
    before = {name: contents(files, members[name]) for name in ("all", "some")}
    to_postgresql(place)
    assert {name: contents(place, members[name]) for name in ("all", "some")} == before
    assert not list((place.data_dir / "hub").rglob("mailwatch.sqlite"))
    assert [one.name for one in kept_members(place)] == ["all", "some"]
    go_on(place, members, HALF + 5 * MINUTE)
    assert faults(place) == []
    after = {name: contents(place, members[name]) for name in ("all", "some")}
    assert len(after["all"][0]) > len(before["all"][0])
    to_sqlite(place)
    assert {name: contents(files, members[name]) for name in ("all", "some")} == after
    go_on(files, members, HALF + 10 * MINUTE)
    assert faults(files) == []


def killed(kill: MoveStep, move: Callable[[Progress], Move]) -> None:
    """Move a hub in a process of its own, which dies at a step."""
    if (child := os.fork()) == 0:
        try:
            move(lambda step, _done, _of: os.kill(os.getpid(), signal.SIGKILL) if step is kill else None)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("step", [MoveStep.COPYING, MoveStep.REPLACING, MoveStep.OPENED])
def test_a_move_that_was_killed_is_finished_by_the_next_one(
    postgresql_place: PostgresPlace, tmp_path: Path, step: MoveStep
) -> None:
    place, files = postgresql_place, SqlitePlace(postgresql_place.data_dir)
    members = made(files, tmp_path)
    before = {name: contents(files, members[name]) for name in ("all", "some")}
    killed(step, lambda progress: to_postgresql(place, progress))
    to_postgresql(place)
    assert {name: contents(place, members[name]) for name in ("all", "some")} == before
    (place.data_dir / "mailwatch.sqlite.migrated").unlink()
    killed(step, lambda progress: to_sqlite(place, progress))
    to_sqlite(place)
    assert {name: contents(files, members[name]) for name in ("all", "some")} == before


def restored(place: Place, folder: Path) -> tuple[SqlitePlace, Backup]:
    """A backup of a hub, unpacked."""
    done = backup(place, folder / "backup.tar.gz")
    with tarfile.open(folder / "backup.tar.gz") as tar:
        assert done.files == len([one for one in tar.getmembers() if one.isfile()])
        assert tar.getmember("hub").mode == 0o700
        tar.extractall(folder / "restored", filter="data")
    return SqlitePlace(folder / "restored"), done


def test_a_backup_has_them_from_either_database(place: Place, tmp_path: Path) -> None:
    members = made(place, tmp_path)
    before = {name: contents(place, members[name]) for name in ("all", "some")}
    there, done = restored(place, tmp_path)
    assert done.left_out == ()
    assert {name: contents(there, members[name]) for name in ("all", "some")} == before
    assert faults(there) == []
    go_on(there, members, HALF + 5 * MINUTE)
    # Without the database there is none of them.
    backup_keys(place, tmp_path / "keys.tar.gz")
    with tarfile.open(tmp_path / "keys.tar.gz") as tar:
        assert not [name for name in tar.getnames() if name.startswith("hub")]


def test_a_damaged_one_is_left_out_by_name_and_not_moved(place: Place, tmp_path: Path) -> None:
    members = made(place, tmp_path)
    statement = "UPDATE entries SET payload = replace(payload, '\"up\"', '\"down\"') WHERE idx = 9"
    alter(member_place(place, members["all"].origin), statement)
    there, done = restored(place, tmp_path)
    (why,) = done.left_out
    assert why.startswith("the ledger of all: ")
    assert [one.name for one in kept_members(there)] == ["some"]
    with pytest.raises(StoreDamagedError, match="the ledger of all: "):
        to_sqlite(place) if isinstance(place, PostgresPlace) else _to_postgresql(place)


def _to_postgresql(place: Place) -> None:
    """As far as the copy of the members, which comes before anything is replaced."""
    from mailwatch.store.member_copies import copy_member

    for member in kept_members(place):
        copy_member(member, member.place(place), SqlitePlace(place.data_dir / "copy"))
    assert database(place.data_dir).exists()
