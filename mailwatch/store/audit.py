"""Recomputes the whole ledger and compares it with what it says of itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.canonical import canonical, digest
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.entry import VERSION, target_id
from mailwatch.ledger.facts import change_from
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.readings import KEYS, Readings
from mailwatch.store.reader import CheckpointRow, Entry, Reader

SLICE = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that does not fit. `index` is the entry, None for the ledger as a whole."""

    index: int | None
    what: str


def audit(
    reader: Reader,
    public: Ed25519PublicKey,
    secret: bytes,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    enough: int | None = None,
) -> list[Finding]:
    """Check every entry and checkpoint there is at the start; the empty list means that all fits.

    1. Indexes and each target's running numbers follow one another.
    2. Headers are canonical, agree with the columns, and carry the digest of their payload.
    3. The readings of the clock that nobody can set fit one another (ledger/readings.py).
    4. Every checkpoint is signed by our key and has the root that the entries give.

    Read in slices, so that a long audit does not keep the database from clearing up; `progress` may wait.
    With `enough` findings it ends: after one missing entry none that follows fits, and each would be a finding.
    """
    findings: list[Finding] = []
    tree = CompactRange()
    numbers: dict[str, int] = {}
    readings = Readings()
    signed = reader.last_checkpoint()
    size = reader.size()
    for start in range(0, size, SLICE):
        end = min(size, start + SLICE)
        due = {row.size: row for row in reader.checkpoints(start + 1, end)}
        for entry in reader.entries(from_index=start, to_index=end):
            findings += _check(entry, tree.size, numbers, secret, readings)
            tree.append(leaf_hash(entry.header.encode()))
            if (row := due.pop(tree.size, None)) is not None:
                _compare(row, tree, public, findings)
        findings += [Finding(None, f"checkpoint {at}: there are {tree.size} entries up to there") for at in due]
        if enough is not None and len(findings) >= enough:
            return findings
        progress(tree.size)
    if signed is not None and signed.size > size:
        findings.append(Finding(None, f"a checkpoint covers {signed.size} entries, but there are {size}"))
    return findings


def _compare(row: CheckpointRow, tree: CompactRange, public: Ed25519PublicKey, findings: list[Finding]) -> None:
    try:
        note = notes.verify(row.note, public)
    except CheckpointError as error:
        findings.append(Finding(None, f"checkpoint {row.size}: {error}"))
        return
    if (note.size, note.root) != (tree.size, tree.root()):
        signed, given = f"{note.size} entries, root {note.root.hex()}", tree.root().hex()
        findings.append(Finding(None, f"checkpoint {row.size}: signs {signed}; the entries give {given}"))


def _wrong_change(payload: dict[str, Any]) -> Iterator[str]:
    """Say why a change of what is watched cannot be read, if it cannot."""
    try:
        change_from(payload)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        yield f"what is watched cannot be read from it: {type(error).__name__} {error}"[:200]


def _check(
    entry: Entry, expected: int, numbers: dict[str, int], secret: bytes, readings: Readings
) -> list[Finding]:
    number = opaque = None
    if entry.target is not None:
        number = numbers[entry.target] = numbers.get(entry.target, 0) + 1
        opaque = target_id(secret, entry.target)
    header = json.loads(entry.header)
    fitting = {
        **{key: header[key] for key in KEYS if key in header},
        "index": expected,
        "kind": entry.kind,
        "number": number,
        "payload": digest(entry.text),
        "target": opaque,
        "time": entry.time,
        "v": header.get("v"),
    }
    findings = [Finding(entry.index, f"clock: {what}") for what in readings.header(header)]
    if header.get("v") not in (1, VERSION):
        findings.append(Finding(entry.index, f"its header is of version {header.get('v')}, which is unknown"))
    if entry.header != canonical(fitting):
        wrong = [key for key in fitting if header.get(key) != fitting[key]] or ["its form"]
        findings.append(Finding(entry.index, f"its header does not fit in: {', '.join(wrong)}"))
    payload = entry.payload
    findings += [
        Finding(entry.index, f"clock: {what}")
        for what in readings.payload(entry.kind, entry.target or "", payload)
    ]
    if entry.kind == "watch":
        findings += [Finding(entry.index, f"watch: {what}") for what in _wrong_change(payload)]
    named = payload.get("target") if entry.target is not None else None
    if named != entry.target:
        findings.append(Finding(entry.index, f"filed under {entry.target}, but its payload is of {named}"))
    return findings
