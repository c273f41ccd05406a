"""Scans the ledger range in a bundle: verifies hashes, order and numbers, and collects data for the other claims.

A year of one target is half a million entries: each is read once, none is kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import orjson

from mailwatch.evidence.verify.archive import VerificationError
from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.clock_readings import READING_KEYS, ClockReadings
from mailwatch.ledger.entry_line import ENTRY_LINE
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.payloads import change_from
from mailwatch.net import is_address
from mailwatch.times import Millis

PUBLIC_KINDS = frozenset((b"guard", b"clock", b"node", b"token", b"successor", b"witness"))
TARGET_KINDS = frozenset((b"observation", b"gap", b"outage", b"watch"))

MAX_TARGETS = 100_000
MAX_STEPS = 100_000
MAX_WITNESS_ENTRIES = 200_000
MAX_ADDRESSES = 1000
MAX_CARRIED = 2000
MAX_CARRIED_CHARS = 131_072
"""Most characters of an entry with a message: of 16 KiB, each byte of which may be escaped."""
MAX_NAME_CHARS = 1000
MAX_REPLY_CHARS = 8192
"""Most characters of a server's reply: 500 are recorded, each of which may be escaped as ten."""

EntryHandler = Callable[[int, str, int, str, dict[str, object]], None]
"""Called with each entry that has a payload: index, kind, time, target name ("" for none), payload."""


class EntryObserver(Protocol):
    """Receives entries of targets while they are verified; to be trusted only if the bundle proves valid."""

    def on_seal(self, digest: bytes) -> None:
        """Process the payload digest (hexadecimal) in the header of an entry, shown or not."""

    def on_payload(self, payload: Mapping[str, object]) -> None:
        """Process the payload of a shown entry."""


@dataclass(frozen=True, slots=True)
class TokenEntry:
    """An entry about a token: the size of its checkpoint, its time, and our times of request and answer.

    `boot`, `clock`: the clock reading in its header, "" and 0 on old records.
    """

    index: int
    boot: str
    clock: Millis
    checkpoint: object
    time: object
    asked: object
    answered: object


@dataclass(frozen=True, slots=True)
class WitnessEntry:
    """An entry about a witness: its key, the size of the checkpoint, and the cosignature with its time.

    `cosignature` is None where the witness had seen another history. `boot`, `clock`: as of a TokenEntry.
    """

    index: int
    boot: str
    clock: Millis
    witness: str
    checkpoint: int
    cosignature: str | None
    time: object
    asked: object
    answered: object


@dataclass(frozen=True, slots=True)
class WriteTimes:
    """The earliest and the latest time that the entries [begin, end) claim."""

    begin: int
    end: int
    earliest: Millis
    latest: Millis
    boot: str = ""
    clock: Millis = 0
    """Clock reading of the last of these entries, 0 on old records."""


@dataclass(slots=True)
class LedgerScan:
    """The results of a scan. The lists of strings hold faults, at most MAX_FAULTS each."""

    start: CompactRange
    roots: dict[int, bytes] = field(default_factory=dict)
    next_index: int = 0
    order: list[str] = field(default_factory=list)
    numbers: list[str] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    payloads: list[str] = field(default_factory=list)
    clock: list[str] = field(default_factory=list)
    readings: ClockReadings = field(default_factory=ClockReadings)
    target_change_faults: list[str] = field(default_factory=list)
    target_changes: int = 0
    """Number of target changes."""
    clocked: int = 0
    """Number of entries with a reading of the steady clock."""
    boots: int = 0
    tokens: dict[str, TokenEntry] = field(default_factory=dict)
    """Entries about the enclosed tokens, by the SHA-256 of the reply."""
    witnesses: list[WitnessEntry] = field(default_factory=list)
    """Entries about witnesses, in order."""
    carried: list[tuple[int, dict[str, object]]] = field(default_factory=list)
    """Entries about checkpoints that messages carried, by index."""
    public_addresses: dict[str, list[Millis]] = field(default_factory=dict)
    """Our own addresses on record: of each the time of the first and the last entry, and their number."""
    first_rules: object = None
    rules: object = None
    """Rules of the ledger's first start and of the last start of MailWatch."""
    steps: list[tuple[int, Millis]] = field(default_factory=list)
    """Steps of the wall clock (milliseconds), by entry index."""
    clock_disturbance: Millis = 0
    """Total milliseconds on record by which the clock was set, and during which MailWatch was suspended."""
    ends: dict[bytes, Millis] = field(default_factory=dict)
    overlap: Millis = 0
    """`ends`: end of the latest observation by target. `overlap`: most milliseconds by which an observation claims
    to begin before the previous one ended.
    """
    later_successors: list[int] = field(default_factory=list)
    """Entries that name a predecessor and are not the first of the ledger."""
    spans: list[WriteTimes] = field(default_factory=list)
    """Spans of entries, cut at each checkpoint and at each entry about an enclosed token or a witness."""
    names: dict[bytes, str] = field(default_factory=dict)
    hidden_count: int = 0
    """Number of entries of other targets, whose payload is not in the bundle."""
    hidden_targets: set[bytes] = field(default_factory=set)
    count: int = 0
    shown_count: int = 0
    first_time: int | None = None
    last_time: int | None = None


MAX_FAULTS = 20
UNWRITTEN_MS: Millis = 60_000
"""Most milliseconds between the wake of a machine and the entry about its sleep, less those before the sleep."""
NEVER_MS: Millis = 1 << 62
EARLIEST_MS: Millis = -(10**12)


def scan(
    lines: Iterable[bytes],
    start: CompactRange,
    checkpoints: Mapping[int, Checkpoint],
    enclosed: Collection[str],
    handle: EntryHandler,
    observer: EntryObserver | None = None,
) -> LedgerScan:
    """Scan all entries, and call `handle` with those that have a payload. `enclosed`: SHA-256 of the enclosed
    tokens. Raises VerificationError if reading cannot go on; other faults are recorded.
    """
    scanner = _Scanner(start, checkpoints, enclosed, handle, observer)
    fullmatch, feed = ENTRY_LINE.fullmatch, scanner.feed
    for line in lines:
        match, header_fault = fullmatch(line), None
        if match is None:
            match, header_fault = _match_without_reading(line)
        if match is None:
            raise VerificationError(
                f"entries.jsonl: line {scanner.found.count + 1} is not an entry in canonical form"
            )
        feed(match.groups(), header_fault)
    return scanner.finish()


class _Scanner:
    """Checks entry after entry: clock reading, index and number, hash, payload."""

    def __init__(
        self,
        start: CompactRange,
        checkpoints: Mapping[int, Checkpoint],
        enclosed: Collection[str],
        handle: EntryHandler,
        observer: EntryObserver | None,
    ) -> None:
        self._observer = observer
        self.found = LedgerScan(start=start.copy(), next_index=start.size)
        self._first = start.size
        self._tree = start.copy()
        self._checkpoints, self._enclosed, self._handle = checkpoints, enclosed, handle
        self._numbers: dict[bytes, int] = {}
        self._closed: set[bytes] = set()
        """Targets with an entry without payload."""
        self._boot, self._run, self._clock = b"", b"", 0
        self._sleep: list[Millis] = []
        self._pause: Millis = 0
        """Times that the machine slept in this boot, and the longest time between two of its entries."""
        self._span_begin, self._earliest, self._latest, self._named = start.size, NEVER_MS, -NEVER_MS, 0
        if start.size in checkpoints:
            self.found.roots[start.size] = self._tree.root()

    def feed(self, fields: tuple[bytes, ...], header_fault: dict[str, object] | None) -> None:
        """Process an entry: the groups of ENTRY_LINE, and the header if its clock reading is malformed."""
        header, boot, clock, number_of, kind, number, digest, run, target, at, version, payload = fields
        found, index, time = self.found, int(number_of), int(at)
        if (
            header_fault is None
            and version == b"2"
            and boot == self._boot
            and run == self._run
            and clock
            and int(clock) >= self._clock
        ):
            # The fast path for nearly all entries: the same run, a little later.
            now = int(clock)
            self._pause, self._clock = max(self._pause, now - self._clock), now
            found.readings.advance(now)
        else:
            self._check_reading(index, boot, clock, run, version, header_fault)
        found.clocked += boot is not None
        self._check_place(index, kind, target, number)
        if header_fault is not None:
            header = orjson.dumps(header_fault, option=orjson.OPT_SORT_KEYS)
        self._tree.append(leaf_hash(header))
        if found.count == 0:
            found.first_time = time
        found.count += 1
        found.last_time = time
        if self._observer is not None and target is not None:
            self._observer.on_seal(digest)
        if payload is not None and hashlib.sha256(payload).hexdigest().encode() == digest:
            self._handle_shown(index, kind.decode(), time, target, payload)
        elif payload is not None:
            _note_fault(found.payloads, f"the payload of entry {index} is not the one that its header seals")
        elif target is not None:
            self._closed.add(target)
            found.hidden_count += 1
        elif kind in PUBLIC_KINDS:
            _note_fault(found.hidden, f"entry {index} ({kind.decode()}) has no payload")
        if kind != b"gap":
            # A gap is written when it has ended, however long after its time; all others at once.
            self._earliest, self._latest = min(self._earliest, time), max(self._latest, time)
        if self._tree.size in self._checkpoints or len(found.tokens) + len(found.witnesses) > self._named:
            self._cut_span()

    def finish(self) -> LedgerScan:
        """Return the results after the last entry."""
        found = self.found
        self._count_sleep()
        found.next_index, found.hidden_targets = self._tree.size, self._closed
        for target in self._closed & found.names.keys():
            _note_fault(found.hidden, f"entries of {found.names[target]} appear without their payload")
        if len(set(found.names.values())) != len(found.names):
            _note_fault(found.hidden, "two targets have the same name")
        return found

    def _check_place(self, index: int, kind: bytes, target: bytes | None, number: bytes) -> None:
        """Check that an entry's index and target number follow those before it."""
        found = self.found
        if index != self._first + found.count:
            _note_fault(found.order, f"expected entry {self._first + found.count}, got {index}")
        if (target is None) != (number == b"null") or (target is None) == (kind in TARGET_KINDS):
            _note_fault(found.order, f"entry {index}: kind, target and number do not go together")
        elif target is not None:
            _count(found, index, target, int(number), self._numbers)

    def _check_reading(
        self,
        index: int,
        boot: bytes | None,
        clock: bytes | None,
        run: bytes | None,
        version: bytes,
        header_fault: dict[str, object] | None,
    ) -> None:
        """Check a clock reading that the fast path does not cover."""
        read = header_fault
        if read is None:
            read = {"v": int(version)}
            read |= {key: value.decode() for key, value in (("boot", boot), ("run", run)) if value is not None}
            read |= {} if clock is None else {"clock": int(clock)}
        for fault in self.found.readings.check_header(read):
            _note_fault(self.found.clock, f"entry {index}: {fault}")
        self.found.boots += boot is not None and boot != self._boot
        if (boot or b"") != self._boot:
            self._count_sleep()
        elif clock:
            self._pause = max(self._pause, int(clock) - self._clock)
        self._boot, self._run, self._clock = boot or b"", run or b"", int(clock or 0)

    def _count_sleep(self) -> None:
        """Count the sleep of a boot. Its clock advances during it: none was longer than the longest pause between
        two entries.
        """
        self.found.clock_disturbance += sum(min(slept, self._pause + UNWRITTEN_MS) for slept in self._sleep)
        self._sleep, self._pause = [], 0

    def _cut_span(self) -> None:
        """End the current span of times, at a checkpoint or at an entry about an enclosed token or a witness."""
        found, size = self.found, self._tree.size
        if size in self._checkpoints:
            found.roots[size] = self._tree.root()
        found.spans.append(
            WriteTimes(self._span_begin, size, self._earliest, self._latest, self._boot.decode(), self._clock)
        )
        self._span_begin, self._named = size, len(found.tokens) + len(found.witnesses)
        self._earliest, self._latest = NEVER_MS, -NEVER_MS

    def _handle_shown(self, index: int, kind: str, time: Millis, target: bytes | None, payload: bytes) -> None:
        found = self.found
        found.shown_count += 1
        read = _read_payload(payload, index)
        if target is None:
            self._keep_monitor_entry(index, kind, read)
            self._handle(index, kind, time, "", read)
            return
        name = read.get("target")
        if not isinstance(name, str) or len(name) > MAX_NAME_CHARS or found.names.setdefault(target, name) != name:
            _note_fault(found.payloads, f"entry {index} does not name its target as the others do")
            return
        for fault in found.readings.check_payload(kind, name, read):
            _note_fault(found.clock, f"entry {index}: {fault}")
        if kind == "watch":
            _check_target_change(found, index, read)
        if kind == "observation":
            _check_times(found, index, time, target, read)
            if len(payload) > MAX_REPLY_CHARS and not _has_short_replies(read):
                raise VerificationError(f"entry {index} contains a server reply longer than MailWatch records")
        if kind == "outage" and len(payload) > 16 * MAX_REPLY_CHARS:
            raise VerificationError(f"entry {index} is longer than any outage that MailWatch records")
        if self._observer is not None:
            self._observer.on_payload(read)
        self._handle(index, kind, time, name, read)

    def _keep_monitor_entry(self, index: int, kind: str, payload: dict[str, object]) -> None:
        """Keep the data that other claims need from MailWatch's own entries, in bounded size."""
        found = self.found
        if kind == "node":
            found.rules = payload.get("rules", found.rules)
            if self._first == 0 and found.first_rules is None:
                found.first_rules = payload.get("rules", {})
        elif kind == "successor" and index and len(found.later_successors) < MAX_FAULTS:
            found.later_successors.append(index)
        elif kind == "clock" and payload.get("event") in ("step", "suspend"):
            self._keep_clock_event(index, payload)
        elif kind == "token" and isinstance(reply := payload.get("reply"), str) and reply in self._enclosed:
            values = (payload.get(key) for key in ("checkpoint", "time", "asked", "answered"))
            found.tokens.setdefault(reply, TokenEntry(index, self._boot.decode(), self._clock, *values))
        elif kind == "witness":
            self._keep_witness(index, payload)
        elif kind == "address" and isinstance(address := payload.get("address"), str):
            _keep_address(found.public_addresses, address, payload.get("at"))
        elif kind == "carried":
            if len(found.carried) == MAX_CARRIED:
                raise VerificationError(f"entries.jsonl has more than {MAX_CARRIED} messages")
            if len(str(payload)) > MAX_CARRIED_CHARS:
                raise VerificationError(f"entry {index} has a message longer than MailWatch keeps")
            found.carried.append((index, payload))

    def _keep_clock_event(self, index: int, payload: dict[str, object]) -> None:
        """Keep by how much the wall clock was set, or how long the machine slept."""
        millis, found = payload.get("milliseconds"), self.found
        if type(millis) is not int or (payload["event"] == "suspend" and millis < 0):
            raise VerificationError(f"entry {index} does not say by how many milliseconds")
        if payload["event"] == "step":
            found.clock_disturbance += abs(millis)
            if len(found.steps) < MAX_STEPS:
                found.steps.append((index, millis))
        elif self._boot and len(self._sleep) < MAX_STEPS:
            self._sleep.append(millis)
        else:
            found.clock_disturbance += millis

    def _keep_witness(self, index: int, payload: dict[str, object]) -> None:
        witness, checkpoint, line = (payload.get(key) for key in ("witness", "checkpoint", "cosignature"))
        answered = isinstance(line, str) or (line is None and "refused" in payload)
        if not isinstance(witness, str) or type(checkpoint) is not int or not answered:
            raise VerificationError(f"entry {index} has no witness, checkpoint and cosignature")
        if len(self.found.witnesses) == MAX_WITNESS_ENTRIES:
            raise VerificationError(f"entries.jsonl has more than {MAX_WITNESS_ENTRIES} cosignatures")
        values = (payload.get(key) for key in ("time", "asked", "answered"))
        reading = index, self._boot.decode(), self._clock
        self.found.witnesses.append(
            WitnessEntry(*reading, witness, checkpoint, line if isinstance(line, str) else None, *values)
        )


def _match_without_reading(line: bytes) -> tuple[re.Match[bytes] | None, dict[str, object] | None]:
    """Parse a line that is canonical except for the clock reading in its header, which is recorded as a fault."""
    try:
        entry = orjson.loads(line)
        header = entry["header"]
        if orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n" != line or header["v"] not in (1, 2):
            return None, None
        bare = {key: value for key, value in header.items() if key not in READING_KEYS}
        entry = {**entry, "header": bare}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None, None
    return ENTRY_LINE.fullmatch(orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n"), header


def _count(result: LedgerScan, index: int, target: bytes, number: int, numbers: dict[bytes, int]) -> None:
    last = numbers.get(target)
    if last is None and len(numbers) == MAX_TARGETS:
        raise VerificationError(f"entries.jsonl has more than {MAX_TARGETS} targets")
    if last is not None and number != last + 1:
        _note_fault(result.numbers, f"entry {index}: expected number {last + 1} of its target, got {number}")
    numbers[target] = number


def _keep_address(known: dict[str, list[Millis]], address: str, at: object) -> None:
    if type(at) is int and is_address(address) and (address in known or len(known) < MAX_ADDRESSES):
        span = known.setdefault(address, [at, at, 0])
        span[1:] = [at, span[2] + 1]


def _check_target_change(result: LedgerScan, index: int, payload: dict[str, object]) -> None:
    try:
        change_from(payload)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        _note_fault(result.target_change_faults, f"entry {index}: {type(error).__name__} {error}"[:200])
    result.target_changes += 1


def _check_times(
    result: LedgerScan, index: int, time: Millis, target: bytes, observation: dict[str, object]
) -> None:
    """Check that an entry's time is its observation's end, after its start, and note overlap with the previous
    one.
    """
    start, end = observation.get("start"), observation.get("end")
    if type(start) is not int or type(end) is not int or end != time or not EARLIEST_MS <= start <= end:
        _note_fault(result.payloads, f"entry {index} has another date than the observation in it")
    else:
        result.overlap = max(result.overlap, result.ends.get(target, start) - start)
        result.ends[target] = end


def _has_short_replies(observation: dict[str, object]) -> bool:
    """Return whether the replies in an observation are as short as MailWatch records them."""
    attempts = observation.get("attempts")
    replies_lists = (
        [one.get("replies") for one in attempts if isinstance(one, dict)] if isinstance(attempts, list) else []
    )
    words = [word for replies in replies_lists if isinstance(replies, list) for word in replies]
    return all(len(str(word)) <= MAX_REPLY_CHARS for word in (*words, observation.get("detail", "")))


_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
"""RFC 8785, which has no integers of 2^53 or more: programs that read them as floats would read others."""


def _read_payload(payload: bytes, index: int) -> dict[str, object]:
    """Parse a payload in canonical form, which excludes duplicate keys. Raises VerificationError."""
    try:
        value = orjson.loads(payload)
        if orjson.dumps(value, option=_CANONICAL) != payload or not isinstance(value, dict):
            raise VerificationError(f"entry {index}: its payload is not in canonical form")
    except ValueError as error:
        raise VerificationError(f"entry {index} is not JSON: {str(error)[:120]}") from None
    except TypeError as error:
        raise VerificationError(f"entry {index}: {str(error)[:120]}") from None
    return value


_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER
"""As entries are written: RFC 8785 has no integers of 2**53 or more."""


def _note_fault(faults: list[str], what: str) -> None:
    if len(faults) < MAX_FAULTS:
        faults.append(what)
