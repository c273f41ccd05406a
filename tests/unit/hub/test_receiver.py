"""What a hub takes, keeps and cosigns; and what it refuses, with which status, without keeping any of it."""

from __future__ import annotations

import contextlib
import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mailwatch.hub.client import BuiltPush, build_push, verified_tree
from mailwatch.hub.ledgers import MemberLedgers
from mailwatch.hub.receiver import CosignedHere, Pushed, Receiver
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint
from mailwatch.ledger.cosignature import cosign, log_key, signatures, split_note, verify_cosignature
from mailwatch.ledger.enrolment import JoinRequest, read_hub_keys
from mailwatch.ledger.entry_line import ENTRY_LINE, entry_line
from mailwatch.ledger.merkle import CompactRange, leaf_hash
from mailwatch.ledger.push import MAX_BYTES, compress_push, parse_push
from mailwatch.ledger.witness_request import parse_add_checkpoint
from mailwatch.store import Reader, Store
from mailwatch.store.backup import backup
from mailwatch.store.hub_register import INVITATION_MS, HubRegister, HubRegisterError
from mailwatch.store.member_ledger import CHECKPOINT_MS, MemberLedger, member_place
from mailwatch.store.place import Place
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.witness.cosigner import Answer, Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.ledger_factory import observed

BEGIN = 1_772_000_000_000


class Clock:
    """The hub's wall clock."""

    now = BEGIN

    def __call__(self) -> int:
        return self.now


class Hub:
    """A hub with a ledger of its own."""

    def __init__(self, place: Place) -> None:
        self.place, self.data_dir, self.clock = place, place.data_dir, Clock()
        self.store = Store.open(place)
        self.store.append_batch([observed("lab", BEGIN)])
        self.store.checkpoint()
        self.reader = Reader.open(place)
        self.register = HubRegister(place)
        self.witnessed = WitnessRegister(place)
        self.cosigner = Cosigner(load_witness_key(self.data_dir), self.witnessed, [], self.clock)
        self.pushed: list[Pushed] = []
        self.cosigned: list[CosignedHere] = []
        self.open()

    def open(self) -> None:
        """Begin to take pushes, as after a start."""
        self.ledgers = MemberLedgers(self.place)
        self.receiver = Receiver(
            self.store.keys, self.reader, self.register, self.ledgers, self.cosigner,
            on_push=self.pushed.append, on_cosigned=self.cosigned.append, read_clock=self.clock,
        )  # fmt: skip

    def close(self) -> None:
        self.ledgers.close()
        for one in (self.register, self.witnessed, self.reader, self.store):
            one.close()


class Vantage:
    """A vantage point with a ledger of its own."""

    def __init__(self, data_dir: Path, targets: frozenset[str] | None = None) -> None:
        self.data_dir, self.targets = data_dir, targets
        self.store = Store.open(data_dir)
        self.reader: Reader | None = None
        self.at = BEGIN

    @property
    def log(self) -> str:
        return hashlib.sha256(self.store.keys.origin.encode()).hexdigest()

    def observe(self, count: int, target: str = "box") -> None:
        for _ in range(count):
            self.store.append_batch([observed(target, self.at)])
            self.at += 60_000

    def request(self, token: str) -> bytes:
        keys = self.store.keys
        witness = Cosigner(load_witness_key(self.data_dir), None, []).key  # type: ignore[arg-type]
        return JoinRequest(token, log_key(keys.origin, keys.public), witness, "home").sign(keys.private).encode()

    def push(self, first: int, end: int | None = None) -> BuiltPush:
        with contextlib.closing(Reader.open(self.data_dir)) as reader:
            tree = verified_tree(reader, self.store.keys, first)
            built = build_push(reader, self.store.keys, tree, end or self.store.size, self.targets)
        assert built is not None
        return built

    def signed(self, size: int, root: bytes) -> str:
        return notes.sign(Checkpoint(self.store.keys.origin, size, root), self.store.keys.private)


@pytest.fixture(params=["sqlite_place"])
def hub(request: pytest.FixtureRequest) -> Iterator[Hub]:
    """In SQLite, unless a test asks for both."""
    made = Hub(request.getfixturevalue(request.param))
    yield made
    made.close()


ON_BOTH = pytest.mark.parametrize("hub", ["sqlite_place", "postgresql_place"], indirect=True)


@pytest.fixture
def home(hub: Hub, tmp_path: Path) -> Iterator[Vantage]:
    """A member that has pushed nothing yet."""
    made = Vantage(tmp_path / "home")
    made.observe(20)
    made.observe(10, "mario@example.org")
    assert hub.receiver.join(made.request(hub.register.invite("home", hub.clock.now))).status == 200
    yield made
    made.store.close()


def take(hub: Hub, home: Vantage, first: int, built: BuiltPush) -> Answer:
    return hub.receiver.push(home.log, str(first), built.body)


def kept(hub: Hub, home: Vantage) -> int:
    answer = hub.receiver.newest(home.log)
    assert answer.status == 200
    return notes.verify(answer.body, home.store.keys.public).size if answer.body else 0


def test_an_invitation_is_used_once_and_within_a_day(hub: Hub, tmp_path: Path) -> None:
    token = hub.register.invite("home", hub.clock.now)
    for number, at, status in ((1, INVITATION_MS + 1, 403), (1, INVITATION_MS, 200), (2, INVITATION_MS, 403)):
        hub.clock.now = BEGIN + at
        one = Vantage(tmp_path / f"{number}-{status}")
        answer = hub.receiver.join(one.request(token))
        assert answer.status == status
        if status == 200:
            key, witness = read_hub_keys(answer.body)
            assert key.name == hub.store.keys.origin
            assert str(witness) == str(hub.cosigner.key)
        one.store.close()
    assert [member.name for member in hub.register.members()] == ["home"]
    with pytest.raises(HubRegisterError, match="member already"):
        hub.register.invite("home", hub.clock.now)


def test_who_asks_to_join_with_the_key_of_another_is_refused(hub: Hub, tmp_path: Path) -> None:
    token = hub.register.invite("home", hub.clock.now)
    one, other = Vantage(tmp_path / "one"), Vantage(tmp_path / "other")
    request = one.request(token).decode()
    forged = request.replace(request.splitlines()[3], other.request(token).decode().splitlines()[3])
    assert hub.receiver.join(forged.encode()).status == 400
    assert hub.register.members() == []
    one.store.close()
    other.store.close()


@ON_BOTH
def test_what_was_pushed_is_the_same_to_the_byte_and_cosigned(hub: Hub, home: Vantage) -> None:
    for first, end in ((0, 7), (7, 8), (8, 30)):
        built = home.push(first, end)
        answer = take(hub, home, first, built)
        assert answer.status == 200, answer
        (signature,) = signatures(answer.body)
        assert verify_cosignature(signature, split_note(built.note)[0], hub.cosigner.key) == BEGIN // 1000 * 1000
    assert [one.checkpoint.size for one in hub.pushed] == [7, 8, 30]
    with (
        contextlib.closing(Reader.open(member_place(hub.place, home.store.keys.origin))) as there,
        contextlib.closing(Reader.open(home.data_dir)) as here,
    ):
        assert list(there.entries()) == list(here.entries())
        assert there.targets() == here.targets()
    (member,) = hub.register.members()
    assert (member.size, member.pushed_at) == (30, BEGIN)


@ON_BOTH
def test_it_goes_on_after_a_restart_and_keeps_a_checkpoint_every_ten_minutes(hub: Hub, home: Vantage) -> None:
    sizes = []
    for first in range(0, 30, 3):
        assert take(hub, home, first, home.push(first, first + 3)).status == 200
        hub.ledgers.close()
        hub.open()
        hub.clock.now += CHECKPOINT_MS // 2
        sizes.append(kept(hub, home))
    assert sizes == [*range(3, 31, 3)]
    with contextlib.closing(Reader.open(member_place(hub.place, home.store.keys.origin))) as there:
        assert [one.size for one in there.checkpoints()] == [3, 9, 15, 21, 27]


@ON_BOTH
def test_payloads_of_other_targets_stay_with_their_owner(hub: Hub, home: Vantage) -> None:
    home.targets = frozenset(["box"])
    built = home.push(0)
    assert b"mario@example.org" not in zstandard.ZstdDecompressor().decompress(built.body)
    assert take(hub, home, 0, built).status == 200
    with contextlib.closing(Reader.open(member_place(hub.place, home.store.keys.origin))) as there:
        assert there.targets() == ["box"]
        assert len(list(there.entries(target="box"))) == 20
        withheld = [row for row in there.raw_entries(0, 30) if not row[5]]
    assert len(withheld) == 10
    # Its numbers go on where they are shown again.
    home.targets = None
    home.observe(2)
    assert take(hub, home, 30, home.push(30)).status == 200


def test_a_push_that_does_not_begin_at_the_end_is_answered_with_the_size(hub: Hub, home: Vantage) -> None:
    assert take(hub, home, 0, home.push(0, 5)).status == 200
    for first in (0, 4, 6):
        answer = take(hub, home, first, home.push(0, 6))
        assert (answer.status, answer.body) == (409, "5\n")
    # Sent again, as where the answer was lost.
    assert take(hub, home, 0, home.push(0, 5)).status == 409
    assert kept(hub, home) == 5


@ON_BOTH
def test_strangers_and_removed_members_are_refused(hub: Hub, home: Vantage, tmp_path: Path) -> None:
    outsider = Vantage(tmp_path / "outsider")
    outsider.observe(3)
    built = outsider.push(0)
    assert hub.receiver.push(outsider.log, "0", built.body).status == 404
    # Under the name of a member.
    assert hub.receiver.push(home.log, "0", built.body).status == 403
    assert take(hub, home, 0, home.push(0, 5)).status == 200
    hub.register.revoke("home", hub.clock.now)
    assert take(hub, home, 5, home.push(5, 6)).status == 403
    assert hub.receiver.admits(home.log).status == 403
    with pytest.raises(HubRegisterError, match="removed already"):
        hub.register.revoke("home", hub.clock.now)
    with contextlib.closing(Reader.open(member_place(hub.place, home.store.keys.origin))) as there:
        assert there.size() == 5
    outsider.store.close()


@ON_BOTH
def test_another_history_is_refused_and_kept_as_proof(hub: Hub, home: Vantage) -> None:
    assert take(hub, home, 0, home.push(0, 5)).status == 200
    forked = CompactRange()
    lines = parse_push(home.push(0, 9).body).lines
    for line in lines[:5]:
        forked.append(leaf_hash(line))
    before, note = home.signed(5, forked.root()), home.signed(9, forked.root())
    answer = hub.receiver.push(home.log, "5", compress_push(before, note, lines[5:]))
    assert answer.status == 422
    assert [one.request for one in hub.witnessed.refusals(home.store.keys.origin)] == [f"{before}\n{note}"]
    assert kept(hub, home) == 5
    # The honest history goes on.
    assert take(hub, home, 5, home.push(5, 9)).status == 200


def test_entries_must_pass_through_what_was_cosigned_without_them(hub: Hub, home: Vantage) -> None:
    """A member that first sent checkpoints alone, of another history."""
    other = CompactRange()
    for number in range(4):
        other.append(leaf_hash(str(number).encode()))
    hub.cosigner.others = hub.receiver.member_key
    body = f"old 0\n\n{home.signed(4, other.root())}".encode()
    assert hub.cosigner.add_checkpoint(body).status == 200
    assert take(hub, home, 0, home.push(0, 9)).status == 422
    assert kept(hub, home) == 0


def change(line: bytes, **values: object) -> bytes:
    """A line with another value in its header, still canonical."""
    entry = orjson.loads(line)
    entry["header"] |= values
    return orjson.dumps(entry, option=orjson.OPT_SORT_KEYS) + b"\n"


def with_payload(line: bytes, text: str) -> bytes:
    """A line whose header seals another payload."""
    sealed = change(line, payload=hashlib.sha256(text.encode()).hexdigest())
    match = ENTRY_LINE.fullmatch(sealed)
    assert match is not None
    return entry_line(match[1].decode(), text)


@pytest.mark.parametrize(
    ("forge", "says"),
    [
        (lambda line: change(line, index=7), "expected entry 5"),
        (lambda line: change(line, number=9), "expected number 6"),
        (lambda line: change(line, kind="withheld"), "no MailWatch writes"),
        (lambda line: change(line, target=None), "do not go together"),
        (lambda line: line.replace(b'"up"', b'"down"'), "its header seals"),
        (lambda line: line.replace(b'"v":2', b'"v": 2'), "canonical"),
        (lambda line: with_payload(line, '{"outcome":"up","target":"box", "a":1}'), "canonical"),
        (lambda line: with_payload(line, '{"outcome":"up","outcome":"up","target":"box"}'), "canonical"),
        (lambda line: with_payload(line, '{"outcome":"up","target":"b\\u0000x"}'), "does not name its target"),
        (lambda line: with_payload(line, '{"outcome":"up","target":"another"}'), "as those before it"),
        (lambda line: with_payload(line, '{"outcome":"sideways","target":"box"}'), "no outcome"),
        (lambda line: with_payload(line, '{"a":9007199254740993,"outcome":"up","target":"box"}'), "canonical"),
    ],
)
def test_a_signed_lie_about_the_form_is_refused_by_name(hub: Hub, home: Vantage, forge, says: str) -> None:  # type: ignore[no-untyped-def]
    """The owner's own key signs it, so only the checks of the entries are left."""
    assert take(hub, home, 0, home.push(0, 5)).status == 200
    (line,) = parse_push(home.push(5, 6).body).lines
    wrong = forge(line)
    tree = home.push(0, 5).tree.copy()
    before = home.signed(5, tree.root())
    found = ENTRY_LINE.fullmatch(wrong)
    tree.append(leaf_hash(found[1] if found else b""))
    answer = hub.receiver.push(home.log, "5", compress_push(before, home.signed(6, tree.root()), [wrong]))
    assert answer.status == 400
    assert says in answer.body
    assert kept(hub, home) == 5


def test_a_bomb_and_a_frame_that_lies_about_its_size_are_refused(hub: Hub, home: Vantage) -> None:
    bomb = zstandard.ZstdCompressor(level=19).compress(bytes(MAX_BYTES * 8))
    assert len(bomb) < 20_000
    assert hub.receiver.push(home.log, "0", bomb).status == 413
    # A header (RFC 8878, 3.1.1.1) that announces 2**63 bytes, and one with a window of 2**41.
    announced = bytes.fromhex("28b52ffd e0 0000000000000080 010000".replace(" ", ""))
    windowed = bytes.fromhex("28b52ffd 00 f8 010000".replace(" ", ""))
    for body in (announced, windowed, b"", b"PK"):
        assert hub.receiver.push(home.log, "0", body).status == 400
    assert hub.receiver.push(home.log, "9" * 19, home.push(0).body).status == 400


@given(st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_changed_bytes_are_refused_and_nothing_is_kept(hub: Hub, home: Vantage, data: st.DataObject) -> None:
    """By someone on the way: never as a second history, of which only the owner's signature is a proof."""
    push = parse_push(home.push(0, 6).body)
    text = bytearray(f"{push.before}\n{push.note}\n".encode() + b"".join(push.lines))
    at = data.draw(st.integers(0, len(text) - 1))
    kind = data.draw(st.sampled_from(["flip", "cut", "repeat", "insert"]))
    if kind == "flip":
        text[at] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del text[at : at + data.draw(st.integers(1, 200))]
    elif kind == "repeat":
        text[at:at] = text[at : at + data.draw(st.integers(1, 200))]
    else:
        text[at:at] = data.draw(st.binary(min_size=1, max_size=50))
    answer = hub.receiver.push(home.log, "0", zstandard.ZstdCompressor().compress(bytes(text)))
    assert answer.status in (400, 403)
    assert kept(hub, home) == 0


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_answered(hub: Hub, home: Vantage, body: bytes) -> None:
    assert hub.receiver.push(home.log, "0", body).status == 400
    assert hub.receiver.push(home.log, "0", zstandard.ZstdCompressor().compress(body)).status == 400
    assert hub.receiver.join(body).status == 400
    assert hub.receiver.add_cosignature(home.log, "1", body).status == 400


def test_a_member_cosigns_the_ledger_of_the_hub(hub: Hub, home: Vantage) -> None:
    request = parse_add_checkpoint(hub.receiver.checkpoint("0").body.encode())
    text, _ = split_note(request.note)
    own = cosign(text, load_witness_key(home.data_dir), BEGIN // 1000)
    assert hub.receiver.add_cosignature(home.log, "1", f"{own}\n".encode()).status == 200
    assert [(one.member.name, one.size, one.time) for one in hub.cosigned] == [("home", 1, BEGIN // 1000 * 1000)]
    # By another key, of another checkpoint.
    wrong = cosign(text, load_witness_key(hub.data_dir), BEGIN // 1000)
    assert hub.receiver.add_cosignature(home.log, "1", f"{wrong}\n".encode()).status == 400
    assert hub.receiver.add_cosignature(home.log, "2", f"{own}\n".encode()).status == 404
    hub.store.append_batch([observed("lab", BEGIN)])
    hub.store.checkpoint()
    grown = parse_add_checkpoint(hub.receiver.checkpoint("1").body.encode())
    assert grown.old == 1
    assert hub.receiver.add_cosignature(home.log, "2", f"{own}\n".encode()).status == 400
    assert len(hub.cosigned) == 1


def test_a_size_beyond_what_the_hub_signed_is_answered_with_its_own(hub: Hub) -> None:
    assert hub.receiver.checkpoint("2") == Answer(409, "1\n", "text/x.tlog.size")
    assert hub.receiver.checkpoint("01").status == 400


def test_a_backup_has_the_ledgers_of_the_members(hub: Hub, home: Vantage, tmp_path: Path) -> None:
    assert take(hub, home, 0, home.push(0, 20)).status == 200
    made = backup(hub.data_dir, tmp_path / "backup.tar.gz")
    assert take(hub, home, 20, home.push(20)).status == 200
    restored = tmp_path / "restored"
    with tarfile.open(tmp_path / "backup.tar.gz") as tar:
        assert made.files == len([one for one in tar.getmembers() if one.isfile()])
        assert tar.getmember("hub").mode == 0o700
        tar.extractall(restored, filter="data")
    key = home.store.keys
    ledger = MemberLedger.open(member_place(restored, key.origin), key.public)
    assert ledger.size == 20
    ledger.close()
