"""Audits the ledger: recomputes everything and compares it with the record.

The file of each timestamp token must exist and cover the checkpoint that its entry names; a cosignature, too, must
be over the checkpoint of its entry.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.canonical_json import canonical, digest
from mailwatch.ledger.checkpoint import CheckpointError
from mailwatch.ledger.clock_readings import READING_KEYS, ClockReadings, ReadingsMemory
from mailwatch.ledger.cosignature import parse_verifier_key, signatures, split_note, verify_cosignature
from mailwatch.ledger.entry import VERSION, target_id
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.payloads import change_from
from mailwatch.ledger.timestamp import TimestampError, check_reply
from mailwatch.store.closed_ledger import CLOSED_FILE
from mailwatch.store.entry_rows import CheckpointRow, Entry
from mailwatch.store.errors import StoreDamagedError
from mailwatch.store.first_start import signed_size
from mailwatch.store.keys import Keys
from mailwatch.store.pack_audit import PackRoots
from mailwatch.store.packs import PrunedSubtree
from mailwatch.store.pruning import pruned_packs, segments
from mailwatch.store.reader import Reader
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


@dataclass(frozen=True, slots=True)
class AuditPosition:
    """Where an audit stopped that found nothing up to there: after `size` entries, with subtrees `hashes` (hex).

    `numbers`: the last running number of each target.
    """

    size: int
    hashes: str
    numbers: Mapping[str, int]
    readings: ReadingsMemory


def audit(
    reader: Reader,
    public: Ed25519PublicKey,
    secret: bytes,
    progress: Callable[[int], None] = lambda _done: None,
    *,
    max_findings: int | None = None,
    begin: AuditPosition | None = None,
    reached: Callable[[Callable[[], AuditPosition]], None] = lambda _position: None,
) -> list[Finding]:
    """Check every entry and checkpoint present at the start. An empty list means no inconsistency.

    1. Indexes and each target's running numbers are consecutive.
    2. Headers are canonical, agree with the columns, and contain the digest of their payload.
    3. The readings of the steady clock are consistent (ledger/clock_readings.py).
    4. Every checkpoint is signed by our key, with the root and the subtrees computed from the entries.
    5. Every pack has the root of its entries.

    Of pruned entries only the root of their pack is there: later checkpoints sign it, and of earlier ones only the
    signature is checked (pruning.pruned_entries says how many they are).

    It reads in slices, so that a long audit does not stop SQLite from emptying its log; `progress` may wait. It
    ends at `max_findings`: after one missing entry, every later entry is inconsistent. Unreadable parts of a
    damaged database are findings; the rest is checked as far as possible. Raises StoreUnavailableError.

    `begin`: where an audit without findings stopped. `reached` gets how to make such a position, after each slice
    without findings.
    """
    make = partial(EntryAudit, secret)
    return audit_entries(reader, public, make, progress, max_findings=max_findings, begin=begin, reached=reached)


class MakeEntryAudit(Protocol):
    """Makes the checks of a ledger's entries."""

    def __call__(self, packs: PackRoots, begin: AuditPosition | None, *, after_pruned: bool) -> EntryAudit:
        """Return them. `after_pruned`: there are pruned entries before the first that is checked."""


def audit_entries(
    reader: Reader,
    public: Ed25519PublicKey,
    make: MakeEntryAudit,
    progress: Callable[[int], None],
    *,
    max_findings: int | None,
    begin: AuditPosition | None,
    reached: Callable[[Callable[[], AuditPosition]], None],
) -> list[Finding]:
    """Check entries by what `make` gives, else as `audit`. Raises StoreUnavailableError."""
    try:
        signed = reader.last_checkpoint()
        size = reader.size()
        packs = PackRoots(reader.subtrees())
    except StoreDamagedError as error:
        return [Finding(None, error.public_reason)]
    pruned_before = pruned_packs(reader, 0 if begin is None else begin.size)
    if begin is not None and any(
        pack.first < begin.size < pack.first + (1 << pack.level) for pack in pruned_before
    ):
        # What was to be read next was pruned since.
        begin, pruned_before = None, []
    entry_audit = make(packs, begin, after_pruned=bool(pruned_before))
    with reader.keeping_packs():
        return _audit_entries(reader, public, entry_audit, progress, max_findings, reached, signed, size)


def _audit_entries(
    reader: Reader,
    public: Ed25519PublicKey,
    entry_audit: EntryAudit,
    progress: Callable[[int], None],
    max_findings: int | None,
    reached: Callable[[Callable[[], AuditPosition]], None],
    signed: CheckpointRow | None,
    size: int,
) -> list[Finding]:
    for start, end, pruned in _steps(reader, entry_audit.tree.size, size):
        due_checkpoints = _due_checkpoints(reader, start, end, entry_audit.findings)
        if pruned is not None:
            _check_pruned(reader, pruned, entry_audit, due_checkpoints, public)
            progress(end)
            continue
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
        if not entry_audit.findings:
            reached(entry_audit.position)
        progress(end)
    entry_audit.ended()
    if signed is not None and signed.size > size:
        what = f"a checkpoint covers {signed.size} entries, but there are {size}"
        entry_audit.findings.append(Finding(None, what))
    return entry_audit.findings


def _steps(reader: Reader, begin: int, size: int) -> Iterator[tuple[int, int, PrunedSubtree | None]]:
    """Yield the slices of the entries [begin, size) as [start, end), and each pruned pack as one."""
    for segment in segments(reader, begin, size):
        if isinstance(segment, PrunedSubtree):
            yield segment.first, segment.first + (1 << segment.level), segment
            continue
        for start in range(segment.start, segment.stop, SLICE_ENTRIES):
            yield start, min(segment.stop, start + SLICE_ENTRIES), None


def _check_pruned(
    reader: Reader,
    pruned: PrunedSubtree,
    entry_audit: EntryAudit,
    due: dict[int, CheckpointRow],
    public: Ed25519PublicKey,
) -> None:
    """Check what is left of a pruned pack: some rows, and the checkpoints within it."""
    end = pruned.first + (1 << pruned.level)
    for entry in reader.entries(from_index=pruned.first, to_index=end, checked=False):
        entry_audit.check_beside(entry)
    entry_audit.append_pruned(pruned)
    for at, row in due.items():
        if at == end and entry_audit.complete:
            _compare(row, entry_audit.tree, public, entry_audit.findings)
            continue
        try:
            notes.verify(row.note, public)
        except CheckpointError as error:
            entry_audit.findings.append(Finding(None, f"checkpoint {at}: {error}"))


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


class EntryAudit:
    """Checks the entries of one's own ledger in order. Once one is unreadable the tree cannot grow, and `complete`
    is False.
    """

    def __init__(
        self, secret: bytes, packs: PackRoots, begin: AuditPosition | None, *, after_pruned: bool
    ) -> None:
        self.tree = CompactRange()
        self._packs = packs
        self.complete = True
        self.findings: list[Finding] = []
        self._pruned = after_pruned
        self._secret = secret
        self._numbers: dict[str, int] = {}
        self._readings = ClockReadings()
        if begin is not None:
            self.tree = CompactRange.from_bytes(begin.size, bytes.fromhex(begin.hashes))
            self._numbers, self._readings = dict(begin.numbers), ClockReadings.of(begin.readings)

    def position(self) -> AuditPosition:
        """Return where it is, without findings so far."""
        hashes = self.tree.to_bytes().hex()
        return AuditPosition(self.tree.size, hashes, dict(self._numbers), self._readings.memory)

    def check(self, entry: Entry) -> None:
        """Check the next entry."""
        self._take_number(entry)
        try:
            self.findings += self.faults(entry, self.tree.size)
            leaf = leaf_hash(entry.header.encode())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.findings.append(Finding(entry.index, f"it cannot be read: {type(error).__name__}"))
            self._skip(1)
        else:
            if wrong := self._packs.add(self.tree.size, leaf):
                self.findings.append(Finding(entry.index, wrong))
            self.tree.append(leaf)

    def faults(self, entry: Entry, expected: int) -> list[Finding]:
        """Return what is wrong with an entry, which should have the index `expected`.

        Raises ValueError, KeyError, TypeError, AttributeError for one that cannot be read.
        """
        return _check_entry(entry, expected, self._numbers, self._secret, self._readings)

    def ended(self) -> None:
        """Add what shows at the end only."""

    def _take_number(self, entry: Entry) -> None:
        """Take an entry's number for the next one, where the number of its target's lost entries is unknown."""
        if (self._pruned or not self.complete) and entry.target is not None and entry.number is not None:
            self._numbers.setdefault(entry.target, entry.number - 1)

    def check_beside(self, entry: Entry) -> None:
        """Check an entry that is left of a pruned pack; its leaf is in the pack's root."""
        self._numbers.clear()
        self._pruned = True
        self._take_number(entry)
        try:
            self.findings += self.faults(entry, entry.index)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.findings.append(Finding(entry.index, f"it cannot be read: {type(error).__name__}"))

    def append_pruned(self, pruned: PrunedSubtree) -> None:
        """Go on over the root of a pruned pack."""
        self._numbers.clear()
        self._pruned = True
        self.tree.append_subtree(pruned.root, pruned.level)

    def note_unreadable(self, part: _UnreadableEntries) -> None:
        """Record unreadable entries; consecutive ones are one finding."""
        last = self.findings[-1] if self.findings else None
        what = f"it cannot be read: {part.why}"
        if last is None or last.what != what or last.index is None or last.index >= part.start:
            self.findings.append(Finding(part.start, what))
        self._skip(part.end - part.start)

    def _skip(self, count: int) -> None:
        self.complete = False
        self._packs.skip()
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
    """Compare the number of entries with the checkpoint saved beside the keys.

    Not of a closed ledger: its successor names what was signed last.
    """
    if (data_dir / CLOSED_FILE).exists():
        return []
    signed = signed_size(data_dir, keys)
    what = f"{signed} entries were signed by the checkpoint beside the keys, but there are {size}"
    return [Finding(None, what)] if signed > size else []


def audit_cosignatures(reader: Reader) -> tuple[int, list[Finding]]:
    """Return the number of cosignatures of witnesses on record, and the findings."""
    findings: list[Finding] = []
    notes = {row.size: row.note for row in reader.checkpoints()}
    count = 0
    for entry in reader.entries(kinds=["witness"]):
        payload = entry.payload
        if "cosignature" not in payload:
            continue
        count += 1
        note = notes.get(payload["checkpoint"])
        if note is None:
            what = f"its cosignature is over a checkpoint {payload['checkpoint']} that is gone"
            findings.append(Finding(entry.index, what))
            continue
        try:
            (signature,) = signatures(f"{payload['cosignature']}\n")
            time = verify_cosignature(signature, split_note(note)[0], parse_verifier_key(payload["witness"]))
        except (CheckpointError, ValueError) as error:
            findings.append(Finding(entry.index, f"its cosignature does not match: {error}"))
            continue
        if time != payload["time"]:
            findings.append(Finding(entry.index, "its cosignature has another time"))
    return count, findings


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
