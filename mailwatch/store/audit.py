"""Audits the ledger: recomputes everything and compares it with the record.

The file of each timestamp token must exist and cover the checkpoint that its entry names.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.clock_readings import READING_KEYS, ClockReadings
from mailwatch.ledger.entry import VERSION, target_id
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.payloads import change_from
from mailwatch.ledger.timestamp import TimestampError, check_reply
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.first_start import signed_size
from mailwatch.store.keys import Keys
from mailwatch.store.reader import CheckpointRow, Entry, Reader
from mailwatch.store.tokens import Tokens

SLICE_ENTRIES = 1000


@dataclass(frozen=True, slots=True)
class Finding:
    """An inconsistency. `index`: the entry, None for the ledger as a whole.

    A `pending` finding is no error: the next start records it, as after a kill or in a live backup.
    """

    index: int | None
    what: str
    pending: bool = False


def audit(
    reader: Reader,
    public: Ed25519PublicKey,
    secret: bytes,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    max_findings: int | None = None,
) -> list[Finding]:
    """Check every entry and checkpoint present at the start. An empty list means no inconsistency.

    1. Indexes and each target's running numbers are consecutive.
    2. Headers are canonical, agree with the columns, and contain the digest of their payload.
    3. The readings of the steady clock are consistent (ledger/clock_readings.py).
    4. Every checkpoint is signed by our key, with the root and the subtrees computed from the entries.

    It reads in slices, so that a long audit does not stop SQLite from emptying its log; `progress` may wait. It
    ends at `max_findings`: after one missing entry, every later entry is inconsistent. Unreadable parts of a
    damaged database are findings; the rest is checked as far as possible. Raises StoreUnavailableError.
    """
    try:
        signed = reader.last_checkpoint()
        size = reader.size()
    except StoreDamagedError as error:
        return [Finding(None, error.public_reason)]
    entry_audit = _EntryAudit(secret)
    for start in range(0, size, SLICE_ENTRIES):
        end = min(size, start + SLICE_ENTRIES)
        due_checkpoints = _due_checkpoints(reader, start, end, entry_audit.findings)
        for part in _slices(reader, start, end):
            if isinstance(part, _UnreadableEntries):
                entry_audit.note_unreadable(part)
                continue
            for entry in part:
                entry_audit.check(entry)
                if (row := due_checkpoints.pop(entry_audit.tree.size, None)) is not None and entry_audit.complete:
                    _compare(row, entry_audit.tree, public, entry_audit.findings)
        if entry_audit.complete:
            entry_audit.findings += [
                Finding(None, f"checkpoint {at}: there are {entry_audit.tree.size} entries up to there")
                for at in due_checkpoints
            ]
        if max_findings is not None and len(entry_audit.findings) >= max_findings:
            return entry_audit.findings
        progress(end)
    if signed is not None and signed.size > size:
        what = f"a checkpoint covers {signed.size} entries, but there are {size}"
        entry_audit.findings.append(Finding(None, what))
    return entry_audit.findings


@dataclass(frozen=True, slots=True)
class _UnreadableEntries:
    """Entries [start, end) that the database cannot return."""

    start: int
    end: int
    why: str


def _due_checkpoints(reader: Reader, start: int, end: int, findings: list[Finding]) -> dict[int, CheckpointRow]:
    try:
        return {row.size: row for row in reader.checkpoints(start + 1, end)}
    except StoreDamagedError as error:
        findings.append(Finding(None, f"the checkpoints of {start + 1} to {end} entries: {error.public_reason}"))
        return {}


def _slices(reader: Reader, start: int, end: int) -> Iterator[list[Entry] | _UnreadableEntries]:
    """Read entries; if that fails, halve the range until the unreadable entries are known."""
    try:
        yield list(reader.entries(from_index=start, to_index=end, checked=False))
    except StoreDamagedError as error:
        if end - start == 1:
            yield _UnreadableEntries(start, end, error.public_reason)
            return
        middle = (start + end) // 2
        yield from _slices(reader, start, middle)
        yield from _slices(reader, middle, end)


class _EntryAudit:
    """Checks entries in order. Once one is unreadable the tree cannot grow: `complete` is False."""

    def __init__(self, secret: bytes) -> None:
        self.tree = CompactRange()
        self.complete = True
        self.findings: list[Finding] = []
        self._secret = secret
        self._numbers: dict[str, int] = {}
        self._readings = ClockReadings()

    def check(self, entry: Entry) -> None:
        """Check the next entry."""
        if not self.complete and entry.target is not None and entry.number is not None:
            # The number of this target's lost entries is unknown.
            self._numbers.setdefault(entry.target, entry.number - 1)
        try:
            self.findings += _check_entry(entry, self.tree.size, self._numbers, self._secret, self._readings)
            leaf = leaf_hash(entry.header.encode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.findings.append(Finding(entry.index, f"it cannot be read: {type(error).__name__}"))
            self._skip(1)
        else:
            self.tree.append(leaf)

    def note_unreadable(self, part: _UnreadableEntries) -> None:
        """Record unreadable entries; consecutive ones are one finding."""
        last = self.findings[-1] if self.findings else None
        what = f"it cannot be read: {part.why}"
        if last is None or last.what != what or last.index is None or last.index >= part.start:
            self.findings.append(Finding(part.start, what))
        self._skip(part.end - part.start)

    def _skip(self, count: int) -> None:
        self.complete = False
        self._numbers.clear()
        for _ in range(count):
            self.tree.append(_UNREADABLE_LEAF)


_UNREADABLE_LEAF = bytes(32)
"""Placeholder for the leaf of a lost entry, so that the others keep their places."""


def _compare(row: CheckpointRow, tree: CompactRange, public: Ed25519PublicKey, findings: list[Finding]) -> None:
    try:
        note = notes.verify(row.note, public)
    except CheckpointError as error:
        findings.append(Finding(None, f"checkpoint {row.size}: {error}"))
        return
    if (note.size, note.root) != (tree.size, tree.root()):
        signed, given = f"{note.size} entries, root {note.root.hex()}", tree.root().hex()
        findings.append(Finding(None, f"checkpoint {row.size}: signs {signed}; the entries give {given}"))
    elif row.hashes != tree.to_bytes():
        what = "the subtrees kept with it, from which a tree grows on, are damaged; its root fits the entries"
        findings.append(Finding(None, f"checkpoint {row.size}: {what}"))


def _target_change_faults(payload: dict[str, Any]) -> Iterator[str]:
    """Yield why a target change cannot be read, if so."""
    try:
        change_from(payload)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        yield f"what is watched cannot be read from it: {type(error).__name__} {error}"[:200]


def _check_entry(
    entry: Entry, expected: int, numbers: dict[str, int], secret: bytes, readings: ClockReadings
) -> list[Finding]:
    number = opaque = None
    if entry.target is not None:
        number = numbers[entry.target] = numbers.get(entry.target, 0) + 1
        opaque = target_id(secret, entry.target)
    header = json.loads(entry.header)
    if not isinstance(header, dict):
        raise TypeError("its header is no object")
    fitting = {
        **{key: header[key] for key in READING_KEYS if key in header},
        "index": expected,
        "kind": entry.kind,
        "number": number,
        "payload": digest(entry.text),
        "target": opaque,
        "time": entry.time,
        "v": header.get("v"),
    }
    findings = [Finding(entry.index, f"clock: {what}") for what in readings.check_header(header)]
    if header.get("v") not in (1, VERSION):
        findings.append(Finding(entry.index, f"its header is of version {header.get('v')}, which is unknown"))
    if entry.header != canonical(fitting):
        wrong = [key for key in fitting if header.get(key) != fitting[key]] or ["its form"]
        findings.append(Finding(entry.index, f"its header differs in: {', '.join(wrong)}"))
    payload = entry.payload
    findings += [
        Finding(entry.index, f"clock: {what}")
        for what in readings.check_payload(entry.kind, entry.target or "", payload)
    ]
    if entry.kind == "watch":
        findings += [Finding(entry.index, f"watch: {what}") for what in _target_change_faults(payload)]
    named = payload.get("target") if entry.target is not None else None
    if named != entry.target:
        findings.append(Finding(entry.index, f"filed under {entry.target}, but its payload is of {named}"))
    return findings


def audit_database(reader: Reader, stopped: Callable[[], bool] = lambda: False) -> list[Finding]:
    """Let SQLite check its pages, and each index against its table, since the audit itself reads past the indexes.

    This reads the whole database again in one go. It ends without a finding once `stopped` returns True. Raises
    StoreUnavailableError.
    """
    try:
        return [Finding(None, f"the database is damaged: {line}") for line in reader.integrity(stopped)]
    except StoreDamagedError as error:
        return [Finding(None, error.public_reason)]


def audit_signed(data_dir: Path, keys: Keys, size: int) -> list[Finding]:
    """Compare the number of entries with the checkpoint saved beside the keys."""
    signed = signed_size(data_dir, keys)
    what = f"{signed} entries were signed by the checkpoint beside the keys, but there are {size}"
    return [Finding(None, what)] if signed > size else []


def audit_tokens(reader: Reader, tokens: Tokens) -> tuple[int, list[Finding]]:
    """Return the number of tokens on record, and the findings."""
    findings: list[Finding] = []
    notes = {row.size: row.note for row in reader.checkpoints()}
    count = 0
    for entry in reader.entries(kinds=["token"]):
        count += 1
        payload = entry.payload
        reply = tokens.get(payload["reply"])
        note = notes.get(payload["checkpoint"])
        if reply is None:
            findings.append(Finding(entry.index, f"the token file {payload['reply']}.tsr is gone or altered"))
        elif note is None:
            findings.append(
                Finding(entry.index, f"its token is over a checkpoint {payload['checkpoint']} that is gone")
            )
        else:
            try:
                token_time = check_reply(reply, note).time
            except TimestampError as error:
                findings.append(Finding(entry.index, f"its token does not match: {error}"))
                continue
            if token_time != payload["time"]:
                findings.append(Finding(entry.index, "its token has another time"))
    return count, findings
