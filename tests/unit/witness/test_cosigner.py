"""A witness: what it cosigns, and what it refuses with which status (C2SP tlog-witness)."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mailwatch.ledger.checkpoint import Checkpoint, sign
from mailwatch.ledger.consistency import consistency_proof
from mailwatch.ledger.cosignature import Signature, log_key, open_note, signatures, split_note, verify_cosignature
from mailwatch.ledger.merkle import EMPTY_ROOT, CompactRange, leaf_hash
from mailwatch.ledger.witness_register import mailbox_commitment, read_statement, register_request
from mailwatch.ledger.witness_request import SIZE_TYPE, AddCheckpoint
from mailwatch.store import Store
from mailwatch.store.witness_register import MAX_REFUSALS, WitnessRegister
from mailwatch.witness.cosigner import Answer, Cosigner
from mailwatch.witness.keys import WitnessKeyError, load_witness_key
from tests.helpers.paths import TESTDATA

SEQUENCE = json.loads((TESTDATA / "vectors/witness.json").read_bytes())["requests"]
ORIGIN = "example.org/ledger"
PRIVATE = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
LOG = log_key(ORIGIN, PRIVATE.public_key())
AT = 1_772_000_000_999


class History:
    """A ledger of numbered leaves, which another history of the same ledger has up to `common`."""

    def __init__(self, size: int, *, common: int = 0, other: str = "") -> None:
        self.leaves = [leaf_hash(f"{n}{other if n >= common else ''}".encode()) for n in range(size)]

    def tree(self, size: int) -> CompactRange:
        tree = CompactRange()
        for leaf in self.leaves[:size]:
            tree.append(leaf)
        return tree

    def request(self, old: int, size: int) -> AddCheckpoint:
        proof = consistency_proof(self.tree(old), size, self.leaves[old:size] if old else ())
        return AddCheckpoint(old, tuple(proof), sign(Checkpoint(ORIGIN, size, self.tree(size).root()), PRIVATE))

    def body(self, old: int, size: int) -> bytes:
        return self.request(old, size).text().encode()


@pytest.fixture
def register(tmp_path: Path) -> Iterator[WitnessRegister]:
    Store.open(tmp_path).close()
    made = WitnessRegister(tmp_path)
    yield made
    made.close()


@pytest.fixture
def cosigner(register: WitnessRegister, tmp_path: Path) -> Cosigner:
    return Cosigner(load_witness_key(tmp_path), register, [LOG], lambda: AT)


def cosigned(cosigner: Cosigner, answer: Answer, request: AddCheckpoint) -> int:
    """The time of the cosignature in an answer, which is over the checkpoint of the request."""
    assert answer.status == 200, answer
    (signature,) = signatures(answer.body)
    return verify_cosignature(signature, split_note(request.note)[0], cosigner.key)


def test_the_requests_that_another_witness_is_tested_with(register: WitnessRegister, tmp_path: Path) -> None:
    """Of litetlog, with its notes and proofs to the byte, and its statuses in order."""
    public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(SEQUENCE["log"]))
    log = log_key(SEQUENCE["requests"][0]["origin"], public)
    cosigner = Cosigner(load_witness_key(tmp_path), register, [log])
    for one in SEQUENCE["requests"]:
        root = base64.b64encode(bytes.fromhex(one["root"])).decode()
        signature = Signature(one["origin"], log_key(one["origin"], public).id, bytes.fromhex(one["signature"]))
        proof = tuple(bytes.fromhex(each) for each in one["proof"])
        request = AddCheckpoint(one["old"], proof, f"{one['origin']}\n{one['size']}\n{root}\n\n{signature}\n")
        answer = cosigner.add_checkpoint(request.text().encode())
        assert answer.status == one["status"], (one, answer)
        if answer.status == 200:
            cosigned(cosigner, answer, request)
        if answer.status == 409:
            assert (answer.body, answer.content_type) == ("3\n", SIZE_TYPE)


def test_each_next_checkpoint_is_cosigned_and_shown(cosigner: Cosigner) -> None:
    history = History(40)
    sizes = [1, 2, 3, 7, 7, 8, 31, 40]
    for old, size in zip([0, *sizes], sizes, strict=False):
        request = history.request(old, size)
        assert cosigned(cosigner, cosigner.add_checkpoint(request.text().encode()), request) == AT // 1000 * 1000
        shown = cosigner.checkpoint(hashlib.sha256(ORIGIN.encode()).hexdigest())
        assert open_note(shown.body, LOG) == split_note(request.note)[0]
        _, (own, witness) = split_note(shown.body)
        assert own.is_by(LOG)
        verify_cosignature(witness, split_note(request.note)[0], cosigner.key)
    assert cosigner.checkpoint(hashlib.sha256(b"another").hexdigest()).status == 404


def test_a_witness_that_never_cosigned_shows_nothing(cosigner: Cosigner) -> None:
    assert cosigner.checkpoint(hashlib.sha256(ORIGIN.encode()).hexdigest()).status == 404


def test_an_empty_ledger_is_cosigned_with_the_root_of_the_empty_tree_alone(cosigner: Cosigner) -> None:
    request = AddCheckpoint(0, (), sign(Checkpoint(ORIGIN, 0, EMPTY_ROOT), PRIVATE))
    wrong = AddCheckpoint(0, (), sign(Checkpoint(ORIGIN, 0, leaf_hash(b"")), PRIVATE))
    assert cosigner.add_checkpoint(wrong.text().encode()).status == 422
    cosigned(cosigner, cosigner.add_checkpoint(request.text().encode()), request)


def test_a_fork_is_refused_and_kept(cosigner: Cosigner, register: WitnessRegister) -> None:
    honest, fork = History(30), History(30, common=10, other="'")
    cosigner.add_checkpoint(honest.body(0, 20))
    answer = cosigner.add_checkpoint(fork.body(20, 30))
    assert answer.status == 422
    assert "not consistent" in answer.body
    assert cosigner.add_checkpoint(fork.body(20, 20)).status == 422
    # The other history is no more cosigned in steps, nor from the beginning.
    for old in (0, 5, 10):
        assert cosigner.add_checkpoint(fork.body(old, 30)).status == 409
    assert [one.request for one in register.refusals(ORIGIN)] == [
        fork.request(20, 30).text(),
        fork.request(20, 20).text(),
    ]
    # The honest history goes on.
    request = honest.request(20, 30)
    cosigned(cosigner, cosigner.add_checkpoint(request.text().encode()), request)


def test_refusals_are_bounded(cosigner: Cosigner, register: WitnessRegister) -> None:
    cosigner.add_checkpoint(History(20).body(0, 20))
    for number in range(MAX_REFUSALS + 5):
        for _ in range(2):
            assert cosigner.add_checkpoint(History(21, other=str(number)).body(20, 21)).status == 422
    assert len(register.refusals(ORIGIN)) == MAX_REFUSALS


def test_a_ledger_that_begins_anew_is_not_cosigned_again(cosigner: Cosigner) -> None:
    cosigner.add_checkpoint(History(20).body(0, 20))
    anew = History(30, other="new")
    assert cosigner.add_checkpoint(anew.body(0, 5)).status == 409
    assert cosigner.add_checkpoint(anew.body(20, 30)).status == 422


def test_who_may_not_use_it(cosigner: Cosigner, register: WitnessRegister) -> None:
    other = Ed25519PrivateKey.from_private_bytes(b"o" * 32)
    root = History(3).tree(3).root()
    unknown = AddCheckpoint(0, (), sign(Checkpoint("example.org/other", 3, root), other)).text()
    assert cosigner.add_checkpoint(unknown.encode()).status == 404
    foreign = AddCheckpoint(0, (), sign(Checkpoint(ORIGIN, 3, root), other)).text()
    assert cosigner.add_checkpoint(foreign.encode()).status == 403
    unsigned = History(3).body(0, 3).replace(b"3\n", b"4\n", 1)
    assert cosigner.add_checkpoint(unsigned).status == 403
    assert register.ledgers() == []
    cosigner.allow([])
    assert cosigner.add_checkpoint(History(3).body(0, 3)).status == 404


@pytest.mark.parametrize("body", [b"", b"old 0\n\n", b"old 4\n\nx\n1\ny\n\n- z\n", b"\xff" * 100])
def test_what_is_no_request_is_a_bad_request(cosigner: Cosigner, body: bytes) -> None:
    assert cosigner.add_checkpoint(body).status == 400


def test_an_old_size_above_the_new_one_is_a_bad_request(cosigner: Cosigner) -> None:
    request = AddCheckpoint(4, (), History(3).request(0, 3).note)
    assert cosigner.add_checkpoint(request.text().encode()).status == 400


def test_a_proof_where_none_belongs_is_refused(cosigner: Cosigner) -> None:
    request = AddCheckpoint(0, (leaf_hash(b""),), History(3).request(0, 3).note)
    assert cosigner.add_checkpoint(request.text().encode()).status == 422


def test_of_two_requests_at_once_none_rolls_back_the_other(cosigner: Cosigner, register: WitnessRegister) -> None:
    """The race in the text of the specification: the smaller one must not come to be the newest again."""
    history = History(60)
    cosigner.add_checkpoint(history.body(0, 10))
    bodies = [history.body(10, size) for size in range(20, 60)]
    with ThreadPoolExecutor(8) as threads:
        statuses = [answer.status for answer in threads.map(cosigner.add_checkpoint, bodies)]
    assert sorted(statuses) == [200] + [409] * 39
    known = register.ledger(ORIGIN)
    assert known is not None
    assert known.size == 20 + statuses.index(200)
    assert (known.first_size, known.first_at) == (10, AT)


def test_the_register_survives_a_restart(cosigner: Cosigner, tmp_path: Path) -> None:
    cosigner.add_checkpoint(History(20).body(0, 20))
    register = WitnessRegister(tmp_path)
    again = Cosigner(load_witness_key(tmp_path), register, [LOG])
    assert again.key == cosigner.key
    assert again.add_checkpoint(History(30).body(0, 30)).body == "20\n"
    register.close()


def test_a_mailbox_is_registered_and_stated_with_who_else_came_for_it(
    register: WitnessRegister, tmp_path: Path
) -> None:
    """As when the owner begins a second ledger of the same mailbox."""
    second = Ed25519PrivateKey.from_private_bytes(b"2" * 32)
    other = log_key("example.org/second", second.public_key())
    cosigner = Cosigner(load_witness_key(tmp_path), register, [LOG, other], lambda: AT)
    box = mailbox_commitment("a@example.org")

    def ask(origin: str, private: Ed25519PrivateKey) -> Answer:
        return cosigner.register(register_request(origin, private, cosigner.key.name, box).encode())

    assert ask(ORIGIN, PRIVATE).status == 404  # nothing cosigned yet
    cosigner.add_checkpoint(History(20).body(0, 20))
    first = read_statement(ask(ORIGIN, PRIVATE).body, cosigner.key)
    assert (first.ledger, first.first_size, first.size, first.others, first.refused) == (ORIGIN, 20, 20, (), 0)
    assert (first.since, first.time) == (AT // 1000, AT // 1000)
    cosigner.add_checkpoint(History(25, other="'").body(20, 25))
    note = sign(Checkpoint(other.name, 3, History(3).tree(3).root()), second)
    assert cosigner.add_checkpoint(AddCheckpoint(0, (), note).text().encode()).status == 200
    stated = read_statement(ask(other.name, second).body, cosigner.key)
    assert (stated.others, stated.others_count) == ((ORIGIN,), 1)
    again = read_statement(ask(ORIGIN, PRIVATE).body, cosigner.key)
    assert (again.others, again.refused) == ((other.name,), 1)
    assert ask(ORIGIN, second).status == 403
    assert cosigner.register(b"\xff").status == 400
    assert cosigner.register(b"").status == 403
    cosigner.allow([])
    assert ask(ORIGIN, PRIVATE).status == 404


@pytest.mark.parametrize("content", [b"no key", b""])
def test_a_key_that_is_none_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "keys").mkdir()
    path = tmp_path / "keys" / "witness.key"
    path.write_bytes(content)
    with pytest.raises(WitnessKeyError):
        load_witness_key(tmp_path)
    assert path.read_bytes() == content


def test_mailboxes_are_registered_with_the_ledgers_that_came_for_them(register: WitnessRegister) -> None:
    def others(found: Any) -> list[tuple[str, int, tuple[str, ...]]]:
        return [(one.commitment, one.since, one.others) for one in found]

    assert others(register.add_mailboxes("a", ["x", "y"], 1)) == [("x", 1, ()), ("y", 1, ())]
    assert others(register.add_mailboxes("b", ["x"], 2)) == [("x", 2, ("a",))]
    assert others(register.add_mailboxes("a", ["y", "x"], 3)) == [("x", 1, ("b",)), ("y", 1, ())]
    assert register.add_mailboxes("a", [], 3) == []
    with pytest.raises(ValueError, match="at most"):
        register.add_mailboxes("a", map(str, range(1001)), 4)
    assert others(register.add_mailboxes("c", ["1000"], 5)) == [("1000", 5, ())]
