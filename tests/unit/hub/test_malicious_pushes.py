"""Pushes of a malicious member, or of someone on the way: answered, bounded in memory, and nothing is kept of them
that the member's key did not sign, to the byte.
"""

from __future__ import annotations

import contextlib
import hashlib
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailwatch.analysis.confirmation import FOLLOWED_KINDS
from mailwatch.hub.client import build_push, verified_tree
from mailwatch.hub.quorum import QuorumBoard
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.entry_line import ENTRY_LINE
from mailwatch.ledger.merkle import leaf_hash
from mailwatch.ledger.payloads import fact_payload
from mailwatch.ledger.push import MAX_BYTES, MAX_WINDOW, compress_push, parse_push
from mailwatch.model import TargetEvent
from mailwatch.store import Reader
from mailwatch.store.member_ledger import member_place
from mailwatch.witness.cosigner import Answer
from tests.helpers.hub_members import START, LivingHub, WrittenMember
from tests.helpers.ledger_factory import MINUTE, change

TAKEN = 8
"""Entries that the hub has before."""
STATUSES = {200, 400, 403, 409, 413, 422}
LOOSE = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)  # fmt: skip
EDGES = [2**31, 2**32 - 1, 2**53, 2**63 - 1, 2**63, 2**64, 10**16, 10**19, -1, -(2**63)]
NUMBERS = st.sampled_from(EDGES) | st.integers(0, 40)
TRICKS = [
    "\u202e",
    "\u0000",
    "\ufeff",
    "\u2028",
    "é",
    "e\u0301",
    "\ud83d\ude00",
    "\x85",
    "\r",
    "\t",
    '"',
    "\\",
    "\\ud800",
]


class Attacked:
    """A hub that has TAKEN entries of a member, and the member, whose key signs whatever is asked."""

    def __init__(self, folder: Path) -> None:
        self.hub = LivingHub(folder / "hub", 2)
        self.member = WrittenMember(folder / "home", lambda _at: "+", 30)
        self.hub.join(self.member, "home")
        self.hub.take(self.member, TAKEN)
        with contextlib.closing(Reader.open(self.member.folder)) as reader:
            self.tree = verified_tree(reader, self.member.store.keys, TAKEN)
            built = build_push(reader, self.member.store.keys, self.tree, TAKEN + 8, None)
        assert built is not None
        self.body, self.push = built.body, parse_push(built.body)
        self.kept = self.entries()

    def signed(self, lines: Sequence[bytes], size: int | None = None) -> bytes:
        """A push of these lines, for whose headers the member signs."""
        tree, keys = self.tree.copy(), self.member.store.keys
        for line in lines:
            match = ENTRY_LINE.fullmatch(line)
            tree.append(leaf_hash(match[1] if match else line))
        note = notes.sign(Checkpoint(keys.origin, tree.size if size is None else size, tree.root()), keys.private)
        return compress_push(self.push.before, note, lines)

    def send(self, body: bytes, first: str = str(TAKEN)) -> Answer:
        answer = self.hub.receiver.push(self.member.log, first, body)
        assert answer.status in STATUSES, answer
        return answer

    def line(self, kind: str, payload: dict[str, object], further: int) -> bytes:
        """A line of this kind and payload, after what was taken and so many more."""
        entry = orjson.loads(self.push.lines[0])
        text = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
        index = self.tree.size + further
        entry["header"] |= {"kind": kind, "index": index, "payload": hashlib.sha256(text).hexdigest()}
        entry["header"]["number"] += index - TAKEN
        entry["payload"] = payload
        return orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n"

    def follow(self, lines: Sequence[bytes]) -> None:
        """Go on from these lines, which were taken."""
        for line in lines:
            match = ENTRY_LINE.fullmatch(line)
            assert match is not None
            self.tree.append(leaf_hash(match[1]))
        keys = self.member.store.keys
        before = notes.sign(Checkpoint(keys.origin, self.tree.size, self.tree.root()), keys.private)
        self.push = replace(self.push, before=before)

    def entries(self) -> list[object]:
        """What is kept, as bytes and not as an entry."""
        place = member_place(self.hub.data_dir, self.member.origin)
        with contextlib.closing(Reader.open(place)) as reader:
            return list(reader.raw_entries(0, reader.size()))

    def check_unchanged(self) -> None:
        assert self.entries() == self.kept
        (member,) = self.hub.register.members()
        assert member.size == TAKEN


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    made = Attacked(tmp_path_factory.mktemp("attacked"))
    yield made
    made.hub.close()
    made.member.store.close()


def mutated(data: st.DataObject, whole: bytes) -> bytes:
    """Bytes flipped, cut, doubled, inserted, or the end missing."""
    text = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, max(0, len(text) - 1)))
        kind = data.draw(st.sampled_from(["flip", "cut", "double", "insert", "end"]))
        if kind == "flip" and text:
            text[at] ^= data.draw(st.integers(1, 255))
        elif kind == "cut":
            del text[at : at + data.draw(st.integers(1, 100))]
        elif kind == "double":
            text[at:at] = text[at : at + data.draw(st.integers(1, 300))]
        elif kind == "insert":
            text[at:at] = data.draw(st.binary(min_size=1, max_size=40))
        else:
            del text[at:]
    return bytes(text)


@given(st.data())
@LOOSE
def test_changed_on_the_way_compressed_or_not_it_is_refused(attacked: Attacked, data: st.DataObject) -> None:
    if data.draw(st.booleans()):
        sent = mutated(data, attacked.body)
    else:
        text = f"{attacked.push.before}\n{attacked.push.note}\n".encode() + b"".join(attacked.push.lines)
        sent = zstandard.ZstdCompressor().compress(mutated(data, text))
    if sent == attacked.body or parses_alike(sent, attacked.body):
        return
    assert attacked.send(sent).status in (400, 403, 413)
    attacked.check_unchanged()


def parses_alike(one: bytes, other: bytes) -> bool:
    """Whether the bytes of the frame differ, and what is in it does not."""
    try:
        with zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).stream_reader(one) as reader:
            text = reader.read(MAX_BYTES)
    except zstandard.ZstdError:
        return False
    return text == zstandard.ZstdDecompressor().decompress(other)


@given(st.permutations(range(8)), st.lists(st.integers(0, 7), max_size=3))
@LOOSE
def test_lines_in_another_order_or_twice_are_refused_though_signed(
    attacked: Attacked, order: list[int], twice: list[int]
) -> None:
    lines = [attacked.push.lines[number] for number in (*order, *twice)]
    if lines == list(attacked.push.lines):
        return
    assert attacked.send(attacked.signed(lines)).status == 400
    attacked.check_unchanged()


REPLACED: list[tuple[bytes, Callable[[int], str]]] = [
    (b'"index":', lambda at: f'"index":{at}'),
    (b'"number":', lambda at: f'"number":{at}'),
    (b'"time":', lambda at: f'"time":{at}'),
    (b'"clock":', lambda at: f'"clock":{at}'),
    (b'"v":', lambda at: f'"v":{at}'),
]


@given(st.integers(0, 7), st.sampled_from(REPLACED), NUMBERS)
@LOOSE
def test_numbers_of_any_size_are_answered_though_signed(
    attacked: Attacked, which: int, replaced: tuple[bytes, Callable[[int], str]], number: int
) -> None:
    key, made = replaced
    line = attacked.push.lines[which]
    head, _, rest = line.partition(key)
    digits = len(rest) - len(rest.lstrip(b"-0123456789"))
    lines = [*attacked.push.lines]
    lines[which] = head + made(number).encode() + rest[digits:]
    if lines[which] == line:
        return
    body = attacked.signed(lines)
    if key in (b'"time":', b'"clock":', b'"v":') and ENTRY_LINE.fullmatch(lines[which]):
        # Its owner signs for any time, and for either version. It is not sent, since it would be taken.
        return
    assert attacked.send(body).status == 400
    attacked.check_unchanged()


@given(st.sampled_from(EDGES) | st.integers(0, 30), st.sampled_from(["size", "first"]))
@LOOSE
def test_sizes_near_two_to_the_63_are_refused(attacked: Attacked, size: int, where: str) -> None:
    if where == "first" and size != TAKEN:
        assert attacked.send(attacked.body, str(size)).status in (400, 409)
    elif where == "size" and size != TAKEN + 8:
        try:
            body = attacked.signed(attacked.push.lines, size)
        except (ValueError, OverflowError):
            return
        assert attacked.send(body).status in (400, 403)
    attacked.check_unchanged()


@given(st.sampled_from(TRICKS), st.data())
@LOOSE
def test_tricks_of_unicode_in_notes_and_headers_are_refused(
    attacked: Attacked, trick: str, data: st.DataObject
) -> None:
    parts = [attacked.push.before, attacked.push.note, attacked.push.lines[0].decode()]
    number = data.draw(st.integers(0, 2))
    at = data.draw(st.integers(0, len(parts[number]) - 1))
    parts[number] = parts[number][:at] + trick + parts[number][at:]
    line = parts[2].encode("utf-8", "surrogatepass")
    if number == 2:
        body = attacked.signed([line, *attacked.push.lines[1:]])
    else:
        head = f"{parts[0]}\n{parts[1]}\n".encode("utf-8", "surrogatepass")
        body = zstandard.ZstdCompressor().compress(head + b"".join(attacked.push.lines))
    assert attacked.send(body).status in (400, 403)
    attacked.check_unchanged()


def block(kind: int, size: int, content: bytes = b"", *, last: bool = False) -> bytes:
    """A block of a zstd frame (RFC 8878, 3.1.1.2): kind 0 raw, 1 a repeated byte."""
    return (size << 3 | kind << 1 | last).to_bytes(3, "little") + content


FRAME = bytes.fromhex("28b52ffd") + bytes([0x00, 0x58])
"""The header of a frame with a window of 2 MiB and no size."""
BOMBS = {
    "a repeated byte, for ever": FRAME + block(1, 2**17, b"x") * 4000,
    "empty blocks, for ever": FRAME + block(0, 0) * 300_000,
    "a frame that never ends": FRAME + block(0, 5, b"hello") * 1000,
    "many frames": zstandard.ZstdCompressor().compress(b"x" * 2**20) * 500,
    "frames to be skipped": bytes.fromhex("502a4d18") + (2**24).to_bytes(4, "little") + bytes(2**20),
    "a skipped frame of 4 GiB": bytes.fromhex("502a4d18ffffffff"),
    "text of many lines": zstandard.ZstdCompressor().compress(b"\n" * (MAX_BYTES - 1)),
    "two notes and millions of lines": zstandard.ZstdCompressor().compress(
        b"a\n\nb\n\na\n\nb\n\n" + b"x\n" * (MAX_BYTES // 2 - 10)
    ),
}
MAX_PEAK = 12 * MAX_BYTES
"""Bytes of memory that a push may take: its text, and its lines as they are read."""


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_in_bounded_memory(attacked: Attacked, name: str) -> None:
    tracemalloc.start()
    try:
        assert attacked.send(BOMBS[name]).status in (400, 413)
        assert tracemalloc.get_traced_memory()[1] < MAX_PEAK
    finally:
        tracemalloc.stop()
    attacked.check_unchanged()


KEYS = [
    "state",
    "last_good",
    "first_bad",
    "last_bad",
    "first_good",
    "outcome",
    "start",
    "end",
    "clock",
    "event",
    "at",
]
VALUES: st.SearchStrategy[object] = st.sampled_from(
    [
        None,
        True,
        "open",
        "closed",
        "begin",
        "end",
        "down",
        "up",
        "unknown",
        [],
        {},
        {"bound": "x"},
        {"bound": -1},
        1e300,
    ]
) | st.integers(START - 10**6, START + 10**7)


CLOCK = {"boot": "0" * 16, "end": 9, "bound": 7}
WHOLE: dict[str, dict[str, object]] = {
    "watch": {**fact_payload(change(TargetEvent.BEGIN, START, MINUTE))},
    "observation": {"outcome": "down", "start": START, "end": START + 200, "clock": CLOCK},
    "gap": {"start": START, "end": START + 200},
    "outage": {"state": "open", "last_good": START, "first_bad": START, "last_bad": START, "first_good": None},
}


@given(
    st.lists(
        st.tuples(st.sampled_from(FOLLOWED_KINDS), st.dictionaries(st.sampled_from(KEYS), VALUES)), max_size=4
    )
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_member_signs_is_followed_live_as_it_is_read_again(
    talkative: Attacked, said: list[tuple[str, dict[str, object]]]
) -> None:
    """So no member makes the hub's audit differ from what the hub decided."""
    hub, lines = talkative.hub, list[bytes]()
    for kind, payload in said:
        payload = WHOLE[kind] | payload | {"target": "mail"}
        lines.append(talkative.line(kind, payload, len(lines)))
    if not lines:
        return
    hub.at += 1000
    answer = talkative.send(talkative.signed(lines), str(talkative.tree.size))
    if answer.status == 200:
        talkative.follow(lines)
    hub.decide(observes=False)
    again = QuorumBoard(hub.data_dir, hub.reader, hub.store.keys.origin, hub.k)
    again.restore(hub.counted())
    assert again.members[talkative.member.origin] == hub.board.members[talkative.member.origin]


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    made = Attacked(tmp_path_factory.mktemp("talkative"))
    yield made
    made.hub.close()
    made.member.store.close()


def test_the_honest_push_is_taken_after_all_that(attacked: Attacked) -> None:
    assert attacked.send(attacked.body).status == 200
    assert len(attacked.entries()) == TAKEN + 8
