"""What a member agrees to send is on the hub's record, signed by the member, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from mailwatch.hub.consents import consents
from mailwatch.hub.receiver import AGREED_MS
from mailwatch.ledger.checkpoint import CheckpointError, origin_of, sign_text
from mailwatch.ledger.consent import MAX_NOTE_BYTES, Consent, Scope, read_consent
from mailwatch.store import NewEntry, StoreUnavailableError
from tests.helpers.hub_members import START, LivingHub, WrittenMember

TARGETS: Scope = ("a", "mario@example.org")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LivingHub]:
    made = LivingHub(tmp_path / "hub", 2)
    yield made
    made.close()


@pytest.fixture
def home(hub: LivingHub, tmp_path: Path) -> Iterator[WrittenMember]:
    made = WrittenMember(tmp_path / "home", lambda _at: "+", 3)
    hub.join(made, "home")
    yield made
    made.store.close()


def on_record(hub: LivingHub) -> list[object]:
    return [entry.payload["send"] for entry in hub.reader.entries(kinds=["consent"])]


def test_each_change_is_on_record_once(hub: LivingHub, home: WrittenMember) -> None:
    for send in ("all", TARGETS, "checkpoints"):
        hub.at += AGREED_MS
        for _ in range(2):
            assert hub.agree(home, send).status == 200
    assert on_record(hub) == ["all", list(TARGETS), "checkpoints"]
    ((note, stated),) = consents(hub.reader, hub.store.keys.origin).values()
    assert (stated.send, stated.at) == ("checkpoints", hub.at)
    assert read_consent(note, home.store.keys.public) == stated


def test_a_hub_that_was_started_anew_knows_what_is_on_record(hub: LivingHub, home: WrittenMember) -> None:
    assert hub.agree(home, "all").status == 200
    hub.receiver._agreed.clear()
    assert hub.agree(home, "all").status == 200
    assert on_record(hub) == ["all"]
    hub.at -= 1
    assert hub.agree(home, TARGETS).status == 400
    assert on_record(hub) == ["all"]


def test_what_changes_all_the_time_does_not_fill_the_record(hub: LivingHub, home: WrittenMember) -> None:
    assert hub.agree(home, "all").status == 200
    hub.at += AGREED_MS - 1
    assert hub.agree(home, TARGETS).status == 429
    hub.at += 1
    assert hub.agree(home, TARGETS).status == 200
    assert on_record(hub) == ["all", list(TARGETS)]


def test_it_is_not_known_before_it_is_on_record(
    hub: LivingHub, home: WrittenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: list[NewEntry]) -> None:
        raise StoreUnavailableError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(hub.store, "append_batch", fail)
        with pytest.raises(StoreUnavailableError):
            hub.agree(home, "all")
    assert on_record(hub) == []
    assert hub.agree(home, "all").status == 200
    assert on_record(hub) == ["all"]


def test_only_the_member_itself_agrees_and_only_to_this_hub(
    hub: LivingHub, home: WrittenMember, tmp_path: Path
) -> None:
    keys, own = home.store.keys, hub.store.keys
    stated = Consent(keys.origin, own.origin, hub.at, "all")
    refused = {
        403: (
            stated.sign(own.private),
            "no note",
            sign_text(f"{keys.origin}\nsend\n{own.origin}\n{hub.at}\n[]\n", keys.origin, keys.private),
        ),
        400: (Consent(keys.origin, keys.origin, hub.at, "all").sign(keys.private),),
        413: ("x" * (MAX_NOTE_BYTES + 1),),
    }
    for status, given_notes in refused.items():
        for note in given_notes:
            assert hub.receiver.agree(home.log, note.encode()).status == status, note[:200]
    assert hub.receiver.agree(home.log, b"\xff").status == 400
    other = WrittenMember(tmp_path / "other", lambda _at: "+", 2)
    assert hub.agree(other, "all").status == 404
    hub.register.revoke("home", hub.at)
    assert hub.agree(home, "all").status == 403
    assert on_record(hub) == []


NAMES = st.lists(st.text(min_size=1, max_size=20).filter(str.isprintable), min_size=1, max_size=5, unique=True)


@given(st.one_of(st.sampled_from(["all", "checkpoints"]), NAMES.map(tuple)))
def test_a_note_says_what_was_agreed(send: Scope) -> None:
    key = Ed25519PrivateKey.from_private_bytes(bytes(32))
    stated = Consent(origin_of(key.public_key()), "mailwatch/0123456789abcdef", START, send)
    assert read_consent(stated.sign(key), key.public_key()) == stated
    assert stated.amount == (send if isinstance(send, str) else len(send))


@pytest.mark.parametrize("what", ["null", "[]", '"some"', '["a","a"]', "[1]", '[""]', "{}", "[", '["a\\u0000"]'])
def test_what_is_no_scope_is_refused(what: str, home: WrittenMember, hub: LivingHub) -> None:
    keys = home.store.keys
    text = f"{keys.origin}\nsend\n{hub.store.keys.origin}\n{hub.at}\n{what}\n"
    with pytest.raises(CheckpointError):
        read_consent(sign_text(text, keys.origin, keys.private), keys.public)
    assert on_record(hub) == []
