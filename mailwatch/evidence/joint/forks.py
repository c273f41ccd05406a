"""Whether two bundles of one ledger have the same history, and whether two ledgers share observations.

Two bundles of one ledger may sign no checkpoint of the same size. But where the range of one reaches the end of
the other, its entries give the root at that size, which must be the one that the other signs. The same holds for
the sizes of the subtrees that stand before a range.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import islice
from pathlib import Path

from mailwatch.evidence.joint.member import JointMember
from mailwatch.evidence.verify.archive import Archive
from mailwatch.ledger.entry_line import ENTRY_LINE
from mailwatch.ledger.merkle import CompactRange, leaf_hash

MemberOpener = Callable[[JointMember], AbstractContextManager[Path]]
"""Gives the file of a member once more."""
FORKED = "its ledger signs two different histories"


def member_file(member: JointMember) -> AbstractContextManager[Path]:
    """Return the file that a member was read from."""
    assert member.source is not None
    return nullcontext(member.source.path)


def forked_ledgers(members: Iterable[JointMember], opener: MemberOpener = member_file) -> dict[str, str]:
    """Return the ledgers of which two bundles have different histories, each with the reason."""
    by_ledger: dict[str, list[JointMember]] = defaultdict(list)
    for member in _in_order(members):
        by_ledger[member.ledger].append(member)
    found = {}
    for ledger, own in by_ledger.items():
        pair = _differing_pair(own, opener) if len(own) > 1 else None
        if pair is not None:
            found[ledger] = f"{FORKED}: {_place(*pair, opener)}"
    return found


def _differing_pair(own: Sequence[JointMember], opener: MemberOpener) -> tuple[JointMember, JointMember] | None:
    """Return two bundles of a ledger that give different roots for one size."""
    known: dict[int, tuple[bytes, JointMember]] = {}
    for member in own:
        for size, root in (member.signed | _roots_before(member)).items():
            other = known.setdefault(size, (root, member))
            if other[0] != root:
                return other[1], member
    for member in own:
        sizes = {size for size in known if member.first < size < member.end} - member.signed.keys()
        if sizes:
            with opener(member) as path:
                for size, root in _roots_at(path, member, sizes):
                    if known[size][0] != root:
                        return known[size][1], member
    return None


def _roots_before(member: JointMember) -> dict[int, bytes]:
    """Return the roots at the sizes that the subtrees before a bundle's entries give."""
    assert member.source is not None
    start, found, size = member.source.start, dict[int, bytes](), 0
    bits = [1 << at for at in reversed(range(start.size.bit_length())) if start.size >> at & 1]
    for count, bit in enumerate(bits, 1):
        size += bit
        found[size] = CompactRange(size, start.hashes[:count]).root()
    return found


def _roots_at(path: Path, member: JointMember, sizes: set[int]) -> Iterator[tuple[int, bytes]]:
    assert member.source is not None
    tree = member.source.start.copy()
    for leaf in _leaves(path):
        tree.append(leaf)
        if tree.size in sizes:
            yield tree.size, tree.root()


def _place(one: JointMember, other: JointMember, opener: MemberOpener) -> str:
    """Return in words where two histories part, leaf by leaf."""
    one, other = _in_order((one, other))
    start, end = max(one.first, other.first), min(one.end, other.end)
    names = f"{one.name} and {other.name}"
    with opener(one) as first, opener(other) as second:
        ours = islice(_leaves(first), start - one.first, None)
        theirs = islice(_leaves(second), start - other.first, None)
        for index, (mine, its) in zip(range(start, end), zip(ours, theirs, strict=False), strict=False):
            if mine != its:
                return f"entry {index} of {names} is not the same"
    return f"{names} differ before entry {start}"


def _leaves(path: Path) -> Iterator[bytes]:
    """Yield the leaf hashes of a verified bundle."""
    archive = Archive(path)
    try:
        for line in archive.lines("entries.jsonl"):
            found = ENTRY_LINE.fullmatch(line)
            assert found is not None
            yield leaf_hash(found[1])
    finally:
        archive.close()


def _in_order(members: Iterable[JointMember]) -> list[JointMember]:
    """Return members in the one order in which reasons name them."""
    return sorted(members, key=lambda one: (one.name, one.sha256))


def copied_ledgers(members: Iterable[JointMember]) -> dict[str, str]:
    """Return the ledgers that have the salt or digest of an entry in common with another, with the reason."""
    having: dict[str, JointMember] = {}
    found: dict[str, str] = {}
    for member in _in_order(members):
        assert member.source is not None
        for seal in sorted(member.source.seals):
            other = having.setdefault(seal, member)
            if other.ledger != member.ledger:
                reason = f"{other.name} and {member.name} have an entry in common, which two ledgers cannot"
                for ledger in (other.ledger, member.ledger):
                    found.setdefault(ledger, f"one of two ledgers is a copy: {reason}")
    return found


def shared_machines(members: Iterable[JointMember]) -> list[list[str]]:
    """Return the groups of ledgers that were written on one machine, as their entries name the same boot."""
    groups: list[tuple[set[str], set[str]]] = []
    for member in members:
        assert member.source is not None
        ledgers, boots = {member.ledger}, set(member.source.boots)
        apart = []
        for other in groups:
            if boots.isdisjoint(other[1]):
                apart.append(other)
            else:
                ledgers |= other[0]
                boots |= other[1]
        groups = [*apart, (ledgers, boots)]
    return sorted(sorted(ledgers) for ledgers, _ in groups if len(ledgers) > 1)
