"""A member that pruned before it joined: the roots of what is gone stand for it, under the signed root."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailwatch.hub.client import PrunedTooEarlyError, build_push, verified_tree
from mailwatch.hub.member_audit import audit_members
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.merkle import CompactRange
from mailwatch.ledger.push import PushedSubtree, compress_push, parse_push
from mailwatch.monitor.member_packing import MemberPacking
from mailwatch.store import Reader
from mailwatch.store import packing as store_packing
from mailwatch.store.member_ledger import member_place
from mailwatch.store.member_reader import MemberReader
from mailwatch.store.packing import Packer, pack_next
from mailwatch.store.place import Place
from mailwatch.store.pruning import pruned_entries, pruned_packs
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE

END = START + 120 * MINUTE


@pytest.fixture
def hub(place: Place) -> Iterator[LivingHub]:
    made = LivingHub(place)
    made.at = END
    yield made
    made.close()


def pruned(folder: Path, *firsts: int) -> WrittenMember:
    """A member with packs of 32 entries, of which those that begin at `firsts` are pruned."""
    one = WrittenMember(folder, lambda _: "+", 120, others={"second": lambda _: "+"})
    with contextlib.closing(Reader.open(folder)) as reader:
        packer = Packer(reader)
        while pack_next(packer, one.store, 1 << 50, 5) is not None:
            pass
        one.store.prune_packs(firsts, END)
        assert [pack.first for pack in pruned_packs(reader, 1 << 50)] == list(firsts)
    return one


def signed(one: WrittenMember, tree: CompactRange) -> str:
    return notes.sign(Checkpoint(one.origin, tree.size, tree.root()), one.store.keys.private)


@pytest.mark.parametrize("firsts", [(0, 32, 64), (32, 96)])
@pytest.mark.parametrize("targets", [None, frozenset(["mail"])])
def test_what_was_pruned_before_joining_is_there_by_its_roots(
    hub: LivingHub, tmp_path: Path, firsts: tuple[int, ...], targets: frozenset[str] | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(store_packing, "SMALL_LEVEL", 5)
    one = pruned(tmp_path / "home", *firsts)
    hub.join(one, "home")
    middle, size = one.size_at(END) - 60, one.size_at(END)
    hub.take(one, middle, targets)
    # A hub that starts again goes on from there.
    hub.ledgers.close()
    hub.take(one, size, targets)
    place = member_place(hub.place, one.origin)
    with contextlib.closing(Reader.open(place)) as there, contextlib.closing(Reader.open(one.folder)) as here:
        assert there.size() == size
        assert pruned_entries(there) == 32 * len(firsts)
        assert list(there.tree_parts(0, size)) == list(here.tree_parts(0, size))
        # What is left of a pruned pack has no proof, and is not pushed.
        seen = [list(it.entries(target="mail", kinds=["observation"])) for it in (there, here)]
        assert seen[0] == seen[1]
    with contextlib.closing(MemberReader.open(place)) as there:
        last = there.last_checkpoint()
        assert last is not None
        assert last.size == size
    assert [found.findings for found in audit_members(hub.place, hub.reader, hub.register.members())] == [()]
    packing = MemberPacking(hub.place, hub.register, hub.ledgers)
    while packing.step(0, lambda _: None):
        pass
    packing.close()
    assert [found.findings for found in audit_members(hub.place, hub.reader, hub.register.members())] == [()]
    one.store.close()


def test_the_quorum_reads_on_over_what_was_pruned(hub: LivingHub, tmp_path: Path) -> None:
    one = pruned(tmp_path / "home", 0, 32)
    hub.join(one, "home")
    hub.take(one, one.size_at(END))
    hub.board.restore(hub.counted())
    assert hub.board.members[one.origin].size == one.size_at(END)
    one.store.close()


def test_a_push_that_ends_with_what_was_pruned_is_taken(hub: LivingHub, tmp_path: Path) -> None:
    one = pruned(tmp_path / "home", 0)
    hub.join(one, "home")
    hub.take(one, 32)
    hub.board.restore(hub.counted())
    with contextlib.closing(MemberReader.open(member_place(hub.place, one.origin))) as there:
        assert there.size() == 32
        assert there.last_checkpoint() is not None
    hub.take(one, one.size_at(END))
    one.store.close()


@pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda it: it._replace(root=bytes(32)), "do not give the root that was signed"),
        (lambda it: it._replace(level=6), "do not give the root|expected entry"),
        (lambda it: it._replace(level=31), "expected entry 0"),
        (lambda it: it._replace(first=32), "expected entry 0, got pruned ones from 32 on"),
    ],
)
def test_a_subtree_that_does_not_fit_is_refused(  # type: ignore[no-untyped-def]
    hub: LivingHub, tmp_path: Path, change, says: str
) -> None:
    one = pruned(tmp_path / "home", 0)
    hub.join(one, "home")
    with contextlib.closing(Reader.open(one.folder)) as reader:
        (pack,) = pruned_packs(reader, 100)
        built = build_push(reader, one.store.keys, CompactRange(), 100, None)
    assert built is not None
    push = parse_push(built.body)
    line = change(PushedSubtree(pack.first, pack.level, pack.root)).line()
    answer = hub.receiver.push(one.log, "0", compress_push(push.before, push.note, [line, *push.lines[1:]]))
    assert answer.status == 400
    assert any(part in answer.body for part in says.split("|"))
    assert hub.receiver.newest(one.log).body == ""
    one.store.close()


@pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)
def test_a_subtree_that_is_not_aligned_is_refused(hub: LivingHub, tmp_path: Path) -> None:
    one = pruned(tmp_path / "home")
    hub.join(one, "home")
    hub.take(one, 16)
    with contextlib.closing(Reader.open(one.folder)) as reader:
        tree = verified_tree(reader, one.store.keys, 16)
    before, line = signed(one, tree), PushedSubtree(16, 5, bytes(32)).line()
    answer = hub.receiver.push(one.log, "16", compress_push(before, before, [line]))
    assert (answer.status, "cannot begin at 16" in answer.body) == (400, True)
    one.store.close()


@pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)
def test_what_was_cosigned_may_not_be_within_what_was_pruned(hub: LivingHub, tmp_path: Path) -> None:
    """It could not be known any more whether it is the same history."""
    one = pruned(tmp_path / "home", 0)
    hub.join(one, "home")
    hub.cosigner.others = hub.receiver.member_key
    tree = CompactRange()
    for number in range(20):
        tree.append(bytes([number]) * 32)
    assert hub.cosigner.add_checkpoint(f"old 0\n\n{signed(one, tree)}".encode()).status == 200
    with contextlib.closing(Reader.open(one.folder)) as reader:
        built = build_push(reader, one.store.keys, CompactRange(), 100, None)
    assert built is not None
    answer = hub.receiver.push(one.log, "0", built.body)
    assert (answer.status, "within entries that were pruned" in answer.body) == (400, True)
    one.store.close()


@pytest.mark.parametrize("place", ["sqlite_place"], indirect=True)
def test_entries_that_were_pruned_before_the_hub_took_them_say_what_is_left_to_do(
    hub: LivingHub, tmp_path: Path
) -> None:
    one = pruned(tmp_path / "home")
    hub.join(one, "home")
    hub.take(one, 40)
    one.store.prune_packs([32], END)
    with (
        contextlib.closing(Reader.open(one.folder)) as reader,
        pytest.raises(PrunedTooEarlyError, match=r"it has 40 entries .* another hub can"),
    ):
        verified_tree(reader, one.store.keys, 40)
    one.store.close()
