"""The client of witnesses: each checkpoint is cosigned and on record, and no witness can do harm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import SecretStr

from mailwatch.ledger.checkpoint import verify
from mailwatch.ledger.cosignature import (
    cosign,
    cosigner_key,
    log_key,
    parse_verifier_key,
    signatures,
    split_note,
    verify_cosignature,
)
from mailwatch.ledger.entry import target_id
from mailwatch.ledger.merkle import leaf_hash
from mailwatch.ledger.witness_register import mailbox_commitment, read_statement
from mailwatch.ledger.witness_request import parse_add_checkpoint
from mailwatch.model import EventType, Notification
from mailwatch.monitor import witnessing
from mailwatch.monitor.witnessing import WitnessScheduler
from mailwatch.settings import Login, Target, Witness
from mailwatch.store import Store
from mailwatch.store.keys import load_keys
from mailwatch.store.witness_register import WitnessedLedger
from mailwatch.times import now
from mailwatch.witness import client
from mailwatch.witness.cosigner import Answer
from mailwatch.witness.keys import load_witness_key, witness_vkey
from tests.helpers.malicious_operator import Operator
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.witnesses import (
    WitnessServer,
    answering,
    cosign_by_hand,
    http_answer,
    register_by_hand,
    requesting,
)


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "own")
    await made.writer.start()
    yield made
    await made.close()


@pytest.fixture
async def server(harness: PipelineHarness, tmp_path: Path) -> AsyncIterator[WitnessServer]:
    keys = load_keys(tmp_path / "own")
    async with WitnessServer(tmp_path / "other", [log_key(keys.origin, keys.public)]).serving() as made:
        yield made


class Client:
    """A scheduler over the harness, and the messages that it sent to the owner."""

    def __init__(self, harness: PipelineHarness, *witnesses: Witness) -> None:
        self.harness, self.messages = harness, list[Notification]()
        self.scheduler = WitnessScheduler(
            harness.pipeline, harness.reader, load_keys(harness.database.parent), witnesses, self._notify
        )

    async def _notify(self, notification: Notification) -> None:
        self.messages.append(notification)

    async def grow(self, entries: int = 3) -> int:
        """Append entries and sign a checkpoint; return its size."""
        for _ in range(entries):
            await self.harness.pipeline.recorder.append("clock", now(), None, {"event": "test"})
        made = await self.harness.writer.checkpoint()
        assert made is not None
        return made.size

    def problem(self) -> str:
        """Why the first witness did not cosign."""
        return next((state.problem for state in self.scheduler.states.values()), "")

    def cosigned(self) -> list[int]:
        return [each["checkpoint"] for each in self.harness.recorded("witness") if "cosignature" in each]

    def refused(self) -> list[dict[str, Any]]:
        return [each for each in self.harness.recorded("witness") if "refused" in each]


async def until(holds: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := holds()):
            await asyncio.sleep(0.01)
    return found


async def test_each_checkpoint_is_cosigned_and_the_cosignature_is_on_record(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    own = Client(harness, server.settings)
    sizes = [await own.grow()]
    async with requesting(own.scheduler):
        await until(lambda: own.cosigned() == sizes)
        for entries in (1, 4, 9):
            sizes.append(await own.grow(entries))
            await until(lambda: own.cosigned() == sizes)
        name = server.settings.name
        counted = f'mailwatch_witness_requests_total{{witness="{name}",outcome="cosigned"}} 4'
        await until(lambda: counted in harness.exposition())
    notes = {row.size: row.note for row in harness.reader.checkpoints()}
    for payload in harness.recorded("witness"):
        (signature,) = signatures(payload["cosignature"] + "\n")
        text, _ = split_note(notes[payload["checkpoint"]])
        assert payload["time"] == verify_cosignature(signature, text, parse_verifier_key(payload["witness"]))
        assert payload["asked"] <= payload["answered"]
        assert abs(payload["offset_ms"]) <= 5_000 + payload["answered"] - payload["asked"]
    known = server.register.ledgers()
    assert [(one.first_size, one.size) for one in known] == [(sizes[0], sizes[-1])]
    assert f'mailwatch_witness_cosigned_entries{{witness="{name}"}} {sizes[-1]}\n' in harness.exposition()
    assert own.messages == []


async def test_after_a_restart_the_proof_begins_where_the_witness_is(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    first = Client(harness, server.settings)
    size = await first.grow()
    async with requesting(first.scheduler):
        await until(lambda: first.cosigned() == [size])
    second = Client(harness, server.settings)
    async with requesting(second.scheduler):
        await until(lambda: second.scheduler.states)
        state = second.scheduler.states[server.settings.key]
        assert (state.size, state.conflict) == (size, False)
        more = await second.grow()
        await until(lambda: second.cosigned() == [size, more])


async def test_a_witness_that_knows_another_size_is_asked_again_from_there(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    """As after a restore of the config alone, or where two names stand for one witness."""
    own = Client(harness, server.settings)
    size = await own.grow(7)
    async with requesting(own.scheduler):
        await until(lambda: [state.size for state in own.scheduler.states.values()] == [size])
        own.scheduler.states[server.settings.key].size = 0
        more = await own.grow(6)
        await until(lambda: own.cosigned() == [size, more])
    assert own.messages == []


def fork(server: WitnessServer, size: int, origin: str) -> None:
    """As if the witness had seen another history of that size."""

    def decide(_: WitnessedLedger | None) -> WitnessedLedger:
        return WitnessedLedger(
            origin=origin, first_size=size, first_at=1, size=size, at=1, root=leaf_hash(b"another"), note=""
        )

    server.register.update(origin, decide)


async def test_a_witness_of_another_history_raises_the_alarm_once(
    harness: PipelineHarness, server: WitnessServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witnessing, "RETRY_SECONDS", 0.01)
    origin = load_keys(tmp_path / "own").origin
    own = Client(harness, server.settings)
    size = await own.grow(9)
    fork(server, 4, origin)
    async with requesting(own.scheduler):
        await until(lambda: len(server.register.refusals(origin)) >= 1)
        await until(lambda: own.scheduler.states[server.settings.key].problem)
        await until(lambda: 'outcome="conflict"} 3' in harness.exposition())
        (refused,) = own.refused()
        assert refused["checkpoint"] == size
        assert refused["old"] == 4
        assert "not consistent" in refused["refused"]
        (message,) = own.messages
        assert message.event_type is EventType.LEDGER
        assert f'mailwatch_witness_conflict{{witness="{server.settings.name}"}} 1' in harness.exposition()
    # The history is kept at the witness, and what was submitted here: the checkpoint and its proof.
    kept = parse_add_checkpoint(server.register.refusals(origin)[0].request.encode())
    assert [one.hex() for one in kept.proof] == refused["proof"]
    # A restart says it no second time.
    again = Client(harness, server.settings)
    async with requesting(again.scheduler):
        await until(lambda: again.scheduler.states and again.scheduler.states[server.settings.key].conflict)
        await until(lambda: 'outcome="conflict"} 4' in harness.exposition())
    assert again.messages == []
    assert len(again.refused()) == 1


async def test_a_witness_that_knows_more_than_we_have_raises_the_alarm(
    harness: PipelineHarness, server: WitnessServer, tmp_path: Path
) -> None:
    """The database is an older copy, and the keys are those of a ledger that went on."""
    own = Client(harness, server.settings)
    size = await own.grow()
    fork(server, 1000, load_keys(tmp_path / "own").origin)
    async with requesting(own.scheduler):
        (message,) = await until(lambda: own.messages)
        assert message.facts["finding"] == f"it knows 1000 entries of this ledger, which has {size}"


HOSTILE = {
    b"": "RemoteProtocolError",
    http_answer(200, b""): "not a cosignature",
    http_answer(200, b"\xff\xfe"): "not UTF-8",
    http_answer(200, "— a AAAAAAA=\n".encode()): "no cosignature by",
    http_answer(200, b"x" * 70_000): "longer than",
    http_answer(409, b"many\n"): "409",
    http_answer(409, b"-1\n"): "409",
    http_answer(500, b"\x1b[31mred\n"): "HTTP 500: ",
    http_answer(403, b"who are you\n"): "HTTP 403: who are you",
    http_answer(404, b""): "HTTP 404",
    b"HTTP/1.1 302 X\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n": "HTTP 302",
    b"HTTP/1.1 200 X\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc": "not a cosignature",
}


async def test_hostile_answers_are_logged_once_each_and_record_nothing(
    harness: PipelineHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(witnessing, "RETRY_SECONDS", 0.01)
    caplog.set_level(logging.INFO)
    async with contextlib.AsyncExitStack() as servers:
        hostile = [
            Witness(url=await servers.enter_async_context(answering(answer)), key=key_of(number))
            for number, answer in enumerate(HOSTILE)
        ]
        own = Client(harness, *hostile)
        await own.grow()

        def failures(witness: Witness) -> list[int]:
            start = f"witness {witness.name} did not cosign"
            return [each.levelno for each in caplog.records if each.message.startswith(start)]

        async with requesting(own.scheduler):
            await until(lambda: all(len(failures(witness)) >= 3 for witness in hostile))
        for witness, words in zip(hostile, HOSTILE.values(), strict=True):
            assert words in own.scheduler.states[witness.key].problem
            assert own.scheduler.states[witness.key].problem.isprintable()
            assert set(failures(witness)[1:]) == {logging.INFO}
            assert failures(witness)[0] == logging.WARNING
    assert harness.recorded("witness") == []
    assert own.messages == []


def key_of(number: int) -> str:
    return str(cosigner_key(Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key()))


async def test_a_cosignature_of_another_checkpoint_or_key_is_not_taken(
    harness: PipelineHarness, server: WitnessServer, tmp_path: Path
) -> None:
    """One that is over an older checkpoint, and one by a key that was not agreed on."""
    (tmp_path / "third" / "keys").mkdir(parents=True)
    genuine, other = load_witness_key(tmp_path / "other"), load_witness_key(tmp_path / "third")

    async def replay(_: bytes) -> bytes:
        made = cosign("mailwatch/x\n1\nroot\n", genuine, 1_772_000_000)
        return http_answer(200, f"{made}\n".encode())

    async def foreign(body: bytes) -> bytes:
        text, _ = split_note(parse_add_checkpoint(body).note)
        return http_answer(200, f"{cosign(text, other, 1_772_000_000)}\n".encode())

    for lie, words in ((replay, "does not match"), (foreign, "no cosignature by")):
        async with answering(lie) as url:
            own = Client(harness, Witness(url=url, key=server.settings.key))
            await own.grow()
            async with requesting(own.scheduler):
                assert words in await until(lambda made=own: made.problem())  # type: ignore[misc]
    assert harness.recorded("witness") == []


async def test_a_slow_witness_delays_neither_the_record_nor_the_others(
    harness: PipelineHarness, server: WitnessServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, release = asyncio.Event(), asyncio.Event()

    async def silence(_: bytes) -> bytes:
        asked.set()
        await release.wait()
        return b""

    async with answering(silence) as url:
        (tmp_path / "third" / "keys").mkdir(parents=True)
        slow = Witness(url=url, key=str(witness_vkey(tmp_path / "third")))
        own = Client(harness, slow, server.settings)
        sizes = [await own.grow()]
        async with requesting(own.scheduler):
            await asked.wait()
            await until(lambda: own.cosigned() == sizes)
            sizes.append(await own.grow())
            await until(lambda: own.cosigned() == sizes)
            # An answer that never comes is given up.
            monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.05)
            own.scheduler.set_witnesses([])
            release.set()


async def test_no_answer_in_time_is_a_failure(
    harness: PipelineHarness, server: WitnessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "TIMEOUT_SECONDS", 0.05)
    release = asyncio.Event()

    async def silence(_: bytes) -> bytes:
        await release.wait()
        return b""

    async with answering(silence) as url:
        own = Client(harness, Witness(url=url, key=server.settings.key))
        await own.grow()
        async with requesting(own.scheduler):
            await until(own.problem)
        release.set()
    assert own.scheduler.states[server.settings.key].problem


async def test_a_reload_asks_a_new_witness_at_once_and_leaves_a_removed_one(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    own = Client(harness)
    size = await own.grow()
    async with requesting(own.scheduler):
        own.scheduler.set_witnesses([server.settings])
        await until(lambda: own.cosigned() == [size])
        own.scheduler.set_witnesses([])
        assert own.scheduler.states == {}
        await own.grow()
        assert "mailwatch_witness_cosigned_entries{" not in harness.exposition()
        own.scheduler.set_witnesses([server.settings])
        await until(lambda: len(own.cosigned()) == 2)


async def test_each_mailbox_is_registered_and_its_statement_is_on_record(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    def target(name: str, username: str) -> Target:
        login = Login(username=username, password=SecretStr("x"))
        return replace(harness.target, name=name, login=login)

    for name, username in (("a", "A@example.org"), ("b", "b@example.org"), ("c", "a@example.org"), ("d", "user")):
        harness.add_target(target(name, username))
    own = Client(harness, server.settings)
    size = await own.grow()
    async with requesting(own.scheduler):
        await until(lambda: len(harness.recorded("register")) == 2)
        # Asked once a day only, but again when a mailbox has another target.
        await own.grow()
        await until(lambda: len(own.cosigned()) == 2)
        harness.add_target(target("e", "b@example.org"))
        await own.grow()
        await until(lambda: len(harness.recorded("register")) == 3)
    by_box = {}
    for payload in harness.recorded("register"):
        stated = read_statement(payload["statement"], parse_verifier_key(server.settings.key))
        by_box[stated.commitment] = payload["targets"]
        assert (stated.first_size, stated.refused, stated.others) == (size, 0, ())
    secret = load_keys(harness.database.parent).secret
    assert by_box == {
        mailbox_commitment(f"{one}@example.org"): sorted(target_id(secret, name) for name in names)
        for one, names in (("a", "ac"), ("b", "be"))
    }
    again = Client(harness, server.settings)
    async with requesting(again.scheduler):
        await until(lambda: again.scheduler.states)
        await again.grow()
        await until(lambda: len(again.cosigned()) == 4)
    assert len(harness.recorded("register")) == 3


async def test_another_ledger_of_the_mailbox_is_on_record_as_soon_as_the_witness_is_asked(
    harness: PipelineHarness, server: WitnessServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("mailwatch.monitor.witnessing.REQUEST_MS", 0)
    login = Login(username="a@example.org", password=SecretStr("x"))
    harness.add_target(replace(harness.target, name="a", login=login))
    own = Client(harness, server.settings)

    async def grow(times: int) -> None:
        await own.grow()
        await until(lambda: len(own.cosigned()) == times and asked() == times)

    def asked() -> int:
        return len(requests)

    requests, register = list[bytes](), server.cosigner.register

    def noted(body: bytes) -> Answer:
        requests.append(body)
        return register(body)

    monkeypatch.setattr(server.cosigner, "register", noted)
    async with requesting(own.scheduler):
        await grow(1)
        # Asked again, but it has nothing new.
        await grow(2)
        assert len(harness.recorded("register")) == 1
        with contextlib.closing(Store.open(tmp_path / "another")) as store:
            another = Operator(store, tmp_path / "another")
            server.cosigner.allow([*server.cosigner._logs.values(), log_key(store.keys.origin, store.keys.public)])
            another.observe("+")
            cosign_by_hand(another, server.cosigner)
            register_by_hand(another, server.cosigner, "a@example.org")
        await grow(3)
        await until(lambda: len(harness.recorded("register")) == 2)
    stated = read_statement(harness.recorded("register")[-1]["statement"], server.cosigner.key)
    assert stated.others == (another.store.keys.origin,)


async def test_a_witness_without_a_register_cosigns_all_the_same(
    harness: PipelineHarness, server: WitnessServer
) -> None:
    """As one that is no MailWatch."""

    async def cosign_only(body: bytes) -> bytes:
        answer = server.cosigner.add_checkpoint(body)
        status = answer.status if body.startswith(b"old") else 404
        return http_answer(status, answer.body.encode())

    login = Login(username="a@example.org", password=SecretStr("x"))
    harness.add_target(replace(harness.target, name="a", login=login))
    async with answering(cosign_only) as url:
        own = Client(harness, Witness(url=url, key=server.settings.key))
        await own.grow()
        async with requesting(own.scheduler):
            await until(lambda: [state.no_register for state in own.scheduler.states.values()] == [True])
            await own.grow()
            await until(lambda: len(own.cosigned()) == 2)
    assert own.problem() == ""
    assert harness.recorded("register") == []


async def test_one_request_is_of_the_specification(harness: PipelineHarness, server: WitnessServer) -> None:
    """What another program would get: the body as C2SP tlog-witness has it."""
    bodies = list[bytes]()

    async def note(body: bytes) -> bytes:
        bodies.append(body)
        answer = server.cosigner.add_checkpoint(body)
        return http_answer(answer.status, answer.body.encode(), answer.content_type)

    async with answering(note) as url:
        own = Client(harness, Witness(url=url, key=server.settings.key))
        await own.grow(5)
        async with requesting(own.scheduler):
            await until(lambda: len(own.cosigned()) == 1)
            await own.grow(5)
            await until(lambda: len(own.cosigned()) == 2)
    first, second = (parse_add_checkpoint(body) for body in bodies)
    assert (first.old, first.proof) == (0, ())
    assert second.old == verify(first.note, load_keys(harness.database.parent).public).size
    assert second.text().encode() == bodies[1]
    assert len(bodies) == 2
