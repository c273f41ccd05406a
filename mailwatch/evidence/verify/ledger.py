"""Walks the range of the ledger in a bundle: hashes, order, numbers; hands on what the other claims need.

A year of one target is half a million entries: each is looked at once, and none is kept but MailWatch's own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson

from mailwatch.evidence.verify.archive import Refused
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


Take = Callable[[int, str, int, str, dict[str, Any]], None]
"""Given each entry that is shown: index, kind, time, the name of its target ("": none), payload."""


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
    own: list[Shown] = field(default_factory=list)
    """MailWatch's own entries, as far as the other claims ask for them."""
    names: dict[bytes, str] = field(default_factory=dict)
    count: int = 0
    in_full: int = 0
    first_time: int | None = None
    last_time: int | None = None


FAULTS = 20
KEPT = frozenset(("node", "token"))


def walk(lines: Iterable[bytes], start: CompactRange, checkpoints: dict[int, Checkpoint], take: Take) -> Walk:
    """Read all entries, and hand on those that are shown.

    Raises Refused where the bundle cannot be read on; other faults are noted.
    """
    found = Walk(start=start.copy(), next_index=start.size)
    tree, numbers, closed = start.copy(), dict[bytes, int](), set[bytes]()
    if tree.size in checkpoints:
        found.roots[tree.size] = tree.root()
    fullmatch, append, sha256 = LINE.fullmatch, tree.append, hashlib.sha256
    for line in lines:
        match = fullmatch(line)
        if match is None:
            raise Refused(f"entries.jsonl: line {found.count + 1} is not an entry in canonical form")
        header, number_of, kind, number, digest, target, at, payload = match.groups()
        index, time = int(number_of), int(at)
        if index != start.size + found.count:
            _note(found.order, f"expected entry {start.size + found.count}, got {index}")
        if (target is None) != (number == b"null") or (target is None) == (kind in TARGET_KINDS):
            _note(found.order, f"entry {index}: kind, target and number do not go together")
        elif target is not None:
            _count(found, index, target, int(number), numbers)
        append(leaf_hash(header))
        if found.count == 0:
            found.first_time = time
        found.count += 1
        found.last_time = time
        if payload is not None:
            if sha256(payload).hexdigest().encode() == digest:
                _show(found, index, kind.decode(), time, target, payload, take)
            else:
                _note(found.payloads, f"the payload of entry {index} is not the one that its header seals")
        elif target is not None:
            closed.add(target)
        elif kind in OPEN_KINDS:
            _note(found.hidden, f"entry {index} ({kind.decode()}) has no payload")
        if tree.size in checkpoints:
            found.roots[tree.size] = tree.root()
    found.next_index = tree.size
    for target in closed & found.names.keys():
        _note(found.hidden, f"entries of {found.names[target]} are shown without their payload")
    if len(set(found.names.values())) != len(found.names):
        _note(found.hidden, "two targets bear one name")
    return found


def _count(found: Walk, index: int, target: bytes, number: int, numbers: dict[bytes, int]) -> None:
    last = numbers.get(target)
    if last is not None and number != last + 1:
        _note(found.numbers, f"entry {index}: expected number {last + 1} of its target, got {number}")
    numbers[target] = number


def _show(found: Walk, index: int, kind: str, time: int, target: bytes | None, payload: bytes, take: Take) -> None:
    found.in_full += 1
    told = _read(payload, index)
    name = ""
    if target is not None:
        said = told.get("target")
        if not isinstance(said, str) or found.names.setdefault(target, said) != said:
            _note(found.payloads, f"entry {index} does not name its target as the others do")
            return
        name = said
    elif kind in KEPT:
        found.own.append(Shown(index, kind, time, told))
    take(index, kind, time, name, told)


def _read(payload: bytes, index: int) -> dict[str, Any]:
    """Read a payload in its canonical form, in which no name can stand twice. Raises Refused."""
    try:
        told = orjson.loads(payload)
        if orjson.dumps(told, option=orjson.OPT_SORT_KEYS) != payload or not isinstance(told, dict):
            raise Refused(f"entry {index}: its payload is not in canonical form")
    except ValueError as error:
        raise Refused(f"entry {index} is not JSON: {str(error)[:120]}") from None
    except TypeError as error:
        raise Refused(f"entry {index}: {str(error)[:120]}") from None
    return told


def _note(faults: list[str], what: str) -> None:
    if len(faults) < FAULTS:
        faults.append(what)
