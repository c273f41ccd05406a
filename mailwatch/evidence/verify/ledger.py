"""Walks the range of the ledger in a bundle: hashes, order, numbers; keeps what the other claims need."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mailwatch.evidence.verify.archive import Refused, parse
from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.merkle import CompactRange, leaf_hash

LINE = re.compile(
    rb'\{"header":(\{"index":(0|[1-9][0-9]{0,15}),"kind":"([a-z]{1,20})","number":(null|[1-9][0-9]{0,15}),'
    rb'"payload":"([0-9a-f]{64})","target":(?:null|"([0-9a-f]{16})"),"time":(0|-?[1-9][0-9]{0,15}),"v":1\})'
    rb'(?:,"payload":(\{[^\n]*\}))?\}\n'
)
"""A line in its one canonical form (RFC 8785); anything else is refused."""
OPEN_KINDS = frozenset((b"guard", b"clock", b"node", b"token"))
TARGET_KINDS = frozenset((b"observation", b"gap", b"outage"))


@dataclass(frozen=True, slots=True)
class Shown:
    """An entry whose payload is in the bundle."""

    index: int
    kind: str
    time: int
    payload: dict[str, Any]


@dataclass(slots=True)
class Walk:
    """What was found on the way. The lists hold faults; each names the first few."""

    start: CompactRange
    roots: dict[int, bytes] = field(default_factory=dict)
    next_index: int = 0
    order: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    shown: dict[str, list[Shown]] = field(default_factory=dict)
    """By target; the entries of MailWatch itself under ""."""
    names: dict[bytes, str] = field(default_factory=dict)
    count: int = 0
    in_full: int = 0
    first_time: int | None = None
    last_time: int | None = None


FAULTS = 20
KEPT = frozenset(("node", "token"))
"""MailWatch's own entries that the other claims ask for."""


def walk(
    lines: Iterable[bytes],
    start: CompactRange,
    checkpoints: dict[int, Checkpoint],
    take: Callable[[str, Shown], None] | None = None,
) -> Walk:
    """Read all entries. With `take` each shown one is handed on with its target ("": none), and not kept.

    Raises Refused where the bundle cannot be read on; other faults are noted.
    """
    found = Walk(start=start.copy(), next_index=start.size)
    tree, numbers, closed = start.copy(), dict[bytes, int](), set[bytes]()
    if tree.size in checkpoints:
        found.roots[tree.size] = tree.root()
    for line in lines:
        match = LINE.fullmatch(line)
        if match is None:
            raise Refused(f"entries.jsonl: line {found.count + 1} is not an entry in canonical form")
        header, index, kind, number, digest, target, time, payload = match.groups()
        _order(found, int(index), kind, number, target, numbers)
        tree.append(leaf_hash(header))
        found.count += 1
        found.first_time = int(time) if found.first_time is None else found.first_time
        found.last_time = int(time)
        if payload is not None:
            _show(found, int(index), kind, digest, target, int(time), payload, take)
        elif target is not None:
            closed.add(target)
        elif kind in OPEN_KINDS:
            _note(found.hidden, f"entry {int(index)} ({kind.decode()}) has no payload")
        if tree.size in checkpoints:
            found.roots[tree.size] = tree.root()
    found.next_index = tree.size
    for target in closed & found.names.keys():
        _note(found.hidden, f"entries of {found.names[target]} are shown without their payload")
    if len(set(found.names.values())) != len(found.names):
        _note(found.hidden, "two targets bear one name")
    return found


def _order(
    found: Walk, index: int, kind: bytes, number: bytes, target: bytes | None, numbers: dict[bytes, int]
) -> None:
    expected = found.start.size + found.count
    if index != expected:
        _note(found.order, f"expected entry {expected}, got {index}")
    if (target is None) != (number == b"null") or (target is None) == (kind in TARGET_KINDS):
        _note(found.order, f"entry {index}: kind, target and number do not go together")
        return
    if target is not None:
        value = int(number)
        if value != numbers.get(target, value - 1) + 1:
            _note(
                found.numbers, f"entry {index}: expected number {numbers[target] + 1} of its target, got {value}"
            )
        numbers[target] = value


def _show(
    found: Walk,
    index: int,
    kind: bytes,
    digest: bytes,
    target: bytes | None,
    time: int,
    payload: bytes,
    take: Callable[[str, Shown], None] | None,
) -> None:
    found.in_full += 1
    if hashlib.sha256(payload).hexdigest().encode() != digest:
        _note(found.payloads, f"the payload of entry {index} is not the one that its header seals")
        return
    told = parse(payload, f"entry {index}")
    name = ""
    if target is not None:
        said = told.get("target")
        if not isinstance(said, str) or found.names.setdefault(target, said) != said:
            _note(found.payloads, f"entry {index} does not name its target as the others do")
            return
        name = said
    shown = Shown(index, kind.decode(), time, told)
    if take is not None:
        take(name, shown)
    if shown.kind in KEPT if target is None else take is None:
        found.shown.setdefault(name, []).append(shown)


def _note(faults: list[str], what: str) -> None:
    if len(faults) < FAULTS:
        faults.append(what)
