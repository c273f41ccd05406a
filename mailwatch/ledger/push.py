"""A push: the next entries of a ledger, with a checkpoint over them, as its owner sends them to a hub.

    the note of the checkpoint that it begins from, and an empty line
    the note of the checkpoint over its entries, and an empty line
    a line for each entry, as in entries.jsonl of a bundle; for a perfect subtree of entries that its owner pruned
    one line with the root of it

The signatures of the notes are the only proof of who sends it. The first one shows a ledger that went on from
another history: entries that were changed on their way would only not give the root of the second.
It is compressed by zstd (RFC 8878).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import zstandard

from mailwatch.ledger.entry_line import ENTRY_LINE
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.model import Outcome
from mailwatch.times import Millis

MAX_BYTES = 16 * 2**20
"""Most bytes of a push, before it is compressed."""
MAX_LINES = MAX_BYTES // 128
"""Most lines of a push: each entry has more bytes than that, and each line more memory than bytes."""
MAX_NOTE_BYTES = 4096
MAX_NAME_CHARS = 1000
MAX_WINDOW = 2**23
"""Most bytes that a compressed push may refer back: the least that each reader supports (RFC 8878, 3.1.1.1.2)."""
MAX_LEVEL = 30
"""Most levels of a pruned subtree: a thousand million entries."""
_SUBTREE_LINE = re.compile(
    rb'\{"pruned":\{"first":(0|[1-9][0-9]{0,15}),"level":([1-9][0-9]?),"root":"([0-9a-f]{64})"\}\}\n'
)
_OUTCOMES = frozenset(Outcome)
_CANONICAL = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class PushError(Exception):
    """A push is malformed, or its entries are not what their headers say. The message says why."""


class PushTooLongError(PushError):
    """A push is longer than MAX_BYTES, or has more lines than MAX_LINES."""


@dataclass(frozen=True, slots=True)
class Push:
    """The notes of both checkpoints, not verified, and the lines of the entries, each with its end."""

    before: str
    note: str
    lines: Sequence[bytes]


class PushedEntry(NamedTuple):
    """An entry whose header fits its index and its payload, which is None where it is withheld.

    `target_id`: the opaque id in the header. `target`: the clear name in the payload. "" without a target.
    """

    idx: int
    kind: str
    time: Millis
    target_id: str
    target: str
    number: int | None
    outcome: str | None
    header: str
    payload: str | None


class PushedSubtree(NamedTuple):
    """The root of the 2**level entries from `first` on, which their owner pruned: they are nowhere any more."""

    first: int
    level: int
    root: bytes

    def line(self) -> bytes:
        """Return its line in a push."""
        return f'{{"pruned":{{"first":{self.first},"level":{self.level},"root":"{self.root.hex()}"}}}}\n'.encode()


def compress_push(before: str, note: str, lines: Iterable[bytes]) -> bytes:
    """Return a push as it is sent."""
    text = b"".join([f"{before}\n{note}\n".encode(), *lines])
    return zstandard.ZstdCompressor(level=3).compress(text)


def parse_push(body: bytes) -> Push:
    """Decompress and split a push. Raises PushError."""
    text, end, found = _decompress(body), 0, list[str]()
    for _ in range(2):
        # A note has one empty line, between its text and its signatures.
        signed = text.find(b"\n\n", end, end + MAX_NOTE_BYTES)
        last = text.find(b"\n\n", signed + 2, end + MAX_NOTE_BYTES) if signed >= 0 else -1
        if last < 0:
            raise PushError("a push begins with the notes of two checkpoints, each with an empty line")
        try:
            found.append(text[end : last + 1].decode())
        except UnicodeDecodeError:
            raise PushError("a note is not UTF-8") from None
        end = last + 2
    if text.count(b"\n", end) > MAX_LINES:
        raise PushTooLongError(f"a push has at most {MAX_LINES} entries")
    return Push(found[0], found[1], text[end:].splitlines(keepends=True))


def _decompress(body: bytes) -> bytes:
    try:
        # A frame may state a size of 2**63, or be much longer than it states.
        decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW)
        with decompressor.stream_reader(body, read_across_frames=False) as reader:
            text = reader.read(MAX_BYTES + 1)
    except (zstandard.ZstdError, MemoryError) as error:
        raise PushError(f"the push is not compressed by zstd: {error}"[:200]) from None
    if len(text) > MAX_BYTES:
        raise PushTooLongError(f"a push has at most {MAX_BYTES} bytes")
    return text


def read_entries(lines: Iterable[bytes], tree: CompactRange) -> Iterator[PushedEntry | PushedSubtree]:
    """Yield the entries and pruned subtrees, and grow the tree over each. Raises PushError at the first that does
    not fit.
    """
    fullmatch, digest_of = ENTRY_LINE.fullmatch, hashlib.sha256
    for line in lines:
        match = fullmatch(line)
        if match is None and (pruned := _SUBTREE_LINE.fullmatch(line)) is not None:
            yield _grown(PushedSubtree(int(pruned[1]), int(pruned[2]), bytes.fromhex(pruned[3].decode())), tree)
            continue
        if match is None:
            raise PushError(f"entry {tree.size} is not in canonical form")
        header, _, _, index, kind, number, digest, _, target_id, at, _, payload = match.groups()
        if int(index) != tree.size:
            raise PushError(f"expected entry {tree.size}, got {int(index)}")
        if kind == b"withheld":
            raise PushError(f"entry {tree.size} has a kind that no MailWatch writes")
        if (target_id is None) != (number == b"null"):
            raise PushError(f"entry {tree.size}: target and number do not go together")
        name, outcome = "", None
        if payload is not None:
            if digest_of(payload).hexdigest().encode() != digest:
                raise PushError(f"entry {tree.size}: its payload is not the one that its header seals")
            name, outcome = _shown(tree.size, kind, target_id, payload)
        tree.append(leaf_hash(header))
        yield PushedEntry(
            idx=tree.size - 1,
            kind=kind.decode(),
            time=int(at),
            target_id="" if target_id is None else target_id.decode(),
            target=name,
            number=None if target_id is None else int(number),
            outcome=outcome,
            header=header.decode(),
            payload=None if payload is None else payload.decode(),
        )


def _grown(pruned: PushedSubtree, tree: CompactRange) -> PushedSubtree:
    """Grow the tree over a pruned subtree, and return that. Raises PushError."""
    if pruned.first != tree.size or pruned.level > MAX_LEVEL:
        raise PushError(f"expected entry {tree.size}, got pruned ones from {pruned.first} on")
    try:
        tree.append_subtree(pruned.root, pruned.level)
    except ValueError as error:
        raise PushError(str(error)) from None
    return pruned


def _shown(index: int, kind: bytes, target_id: bytes | None, payload: bytes) -> tuple[str, str | None]:
    """Return the target's name and the outcome in a payload, which must be canonical. Raises PushError."""
    try:
        read = orjson.loads(payload)
        fits = isinstance(read, dict) and orjson.dumps(read, option=_CANONICAL) == payload
    except (ValueError, TypeError, RecursionError):
        fits = False
    if not fits:
        raise PushError(f"entry {index}: its payload is not in canonical form")
    if target_id is None:
        return "", None
    name, outcome = read.get("target"), read.get("outcome")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise PushError(f"entry {index} does not name its target")
    if kind != b"observation":
        return name, None
    if not isinstance(outcome, str) or outcome not in _OUTCOMES:
        raise PushError(f"entry {index} has no outcome")
    return name, str(outcome)
