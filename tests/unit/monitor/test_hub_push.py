"""The client of a hub: what a hub that lies, replays, stalls or answers nonsense can do, which is no harm."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mailwatch.hub import client
from mailwatch.hub.app import HubApp
from mailwatch.ledger import checkpoint as notes
from mailwatch.ledger.checkpoint import Checkpoint, origin_of
from mailwatch.ledger.cosignature import cosign, log_key
from mailwatch.ledger.enrolment import JoinRequest, hub_keys
from mailwatch.ledger.witness_request import AddCheckpoint
from mailwatch.model import EventType, Notification
from mailwatch.monitor import hub_push
from mailwatch.monitor.hub_push import HubPusher
from mailwatch.settings import Hub
from mailwatch.store import Reader
from mailwatch.store.keys import load_keys
from mailwatch.store.member_ledger import member_place
from mailwatch.store.witness_register import WitnessRegister
from mailwatch.times import now
from mailwatch.web.server import serving
from mailwatch.witness.app import WitnessApp
from mailwatch.witness.client import MAX_ANSWER_BYTES
from mailwatch.witness.cosigner import Cosigner
from mailwatch.witness.keys import load_witness_key
from tests.helpers.hub_members import LivingHub
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.servers import free_port

Lie = Callable[["HubServer", Scope, Receive, Send], Awaitable[None]]
OTHER = Ed25519PrivateKey.from_private_bytes(b"o" * 32)


class HubServer:
    """A hub over HTTP on loopback. `lies`: what it answers to a path that contains the key."""

    def __init__(self, data_dir: Path) -> None:
        self.hub = LivingHub(data_dir, 2)
        self.hub.at = now()
        self.port = free_port()
        self.lies: dict[str, Lie] = {}
        self.asked: list[str] = []
        self._app = HubApp(lambda: self.hub.receiver, WitnessApp(lambda: self.hub.cosigner))

    @property
    def settings(self) -> Hub:
        keys = self.hub.store.keys
        key = str(log_key(keys.origin, keys.public))
        return Hub(url=f"http://127.0.0.1:{self.port}", key=key, every=0.05)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self.asked.append(scope["path"])
            for part, lie in self.lies.items():
                if part in scope["path"]:
                    await lie(self, scope, receive, send)
                    return
        await self._app(scope, receive, send)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[HubServer]:
        async with serving(self, "127.0.0.1", self.port):
            yield self
        self.hub.close()


class Client:
    """A vantage point that pushes to the hub, and the messages to its owner."""

    def __init__(self, harness: PipelineHarness, data_dir: Path, server: HubServer) -> None:
        self.harness, self.messages, self.data_dir = harness, list[Notification](), data_dir
        self.keys = load_keys(data_dir)
        self.pusher = HubPusher(harness.pipeline, harness.reader, self.keys, server.settings, self._notify)
        self.register = WitnessRegister(data_dir)
        self.pusher.cosigner = Cosigner(load_witness_key(data_dir), self.register, [])
        hub = server.hub
        key = log_key(hub.store.keys.origin, hub.store.keys.public)
        self.pusher.cosigner.others = {key.name: key}.get
        own = log_key(self.keys.origin, self.keys.public)
        request = JoinRequest(hub.register.invite("home", hub.at), own, self.pusher.cosigner.key, "home")
        assert hub.receiver.join(request.sign(self.keys.private).encode()).status == 200

    async def _notify(self, notification: Notification) -> None:
        self.messages.append(notification)

    @property
    def problem(self) -> str:
        return self.pusher.state.problem if self.pusher.state else ""

    async def grow(self, entries: int = 3) -> int:
        for _ in range(entries):
            await self.harness.pipeline.recorder.append("clock", now(), None, {"event": "test"})
        made = await self.harness.writer.checkpoint()
        return made.size if made else self.harness.reader.size()

    @contextlib.asynccontextmanager
    async def pushing(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.pusher.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait((task,))


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[PipelineHarness]:
    made = PipelineHarness(tmp_path / "own")
    await made.writer.start()
    yield made
    await made.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[HubServer]:
    async with HubServer(tmp_path / "hub").serving() as made:
        yield made


@pytest.fixture
def own(harness: PipelineHarness, server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setattr(hub_push, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(hub_push, "MAX_RETRY_SECONDS", 0.02)
    return Client(harness, tmp_path / "own", server)


async def until(holds: Callable[[], Any]) -> Any:
    async with asyncio.timeout(PATIENCE):
        while not (found := holds()):
            await asyncio.sleep(0.01)
    return found


def pushed(server: HubServer, own: Client) -> int:
    return next(one.size for one in server.hub.register.members() if one.origin == own.keys.origin)


def saying(status: int, body: str | bytes) -> Lie:
    """The same answer each time."""

    async def lie(_server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(body, status)(scope, receive, send)

    return lie


async def dripping(_server: HubServer, _scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that begins, and goes on byte by byte for ever."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    while True:
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await asyncio.sleep(0.01)


async def endless(_server: HubServer, _scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that is much longer than any."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(200):
        await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        await asyncio.sleep(0)


async def silence(_server: HubServer, _scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


async def replay(server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
    """A cosignature that it gave to another checkpoint."""
    key = load_witness_key(server.hub.data_dir)
    made = cosign("mailwatch/x\n1\nroot\n", key, 1_772_000_000)
    await Response(f"{made}\n")(scope, receive, send)


async def other_keys(_server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
    await Response(hub_keys(OTHER, log_key("witness.example/o", OTHER.public_key())))(scope, receive, send)


async def other_note(_server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
    made = Checkpoint(origin_of(OTHER.public_key()), 1, bytes(32))
    await Response(notes.sign(made, OTHER))(scope, receive, send)


async def own_of_another(server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
    """A checkpoint of its own ledger, signed by another key."""
    made = Checkpoint(server.hub.store.keys.origin, 1, bytes(32))
    await Response(AddCheckpoint(0, (), notes.sign(made, OTHER)).text())(scope, receive, send)


@dataclass(frozen=True)
class Case:
    """What a hub does with a path, what the client says of it, and whether that is a second history."""

    part: str
    lie: Lie
    says: str
    alarms: bool = False


KEYS, NEWEST, PUSH, OWN = "/keys", "/logs/", "/entries/", "/checkpoint/"
CASES = [
    Case(KEYS, other_keys, "its keys: "),
    Case(KEYS, saying(200, b"\xff"), "not UTF-8"),
    Case(KEYS, saying(503, "the hub is starting\n"), "HTTP 503: the hub is starting"),
    Case(NEWEST, other_note, "it shows no checkpoint of this ledger"),
    Case(NEWEST, saying(404, "join it\x1b[31m by an invitation\n"), "HTTP 404: join it [31m by an invitation"),
    Case(PUSH, saying(409, "7000000\n"), "it has 7000000 entries now, and not "),
    Case(PUSH, saying(409, "9" * 30 + "\n"), "its answer"),
    Case(PUSH, saying(409, "-1\n"), "its answer"),
    Case(PUSH, saying(422, "the first 0 entries are others\n"), "two histories", alarms=True),
    Case(PUSH, saying(403, "removed\n"), "HTTP 403: removed"),
    Case(PUSH, saying(200, "not a signature\n"), "the answer is not a cosignature"),
    Case(PUSH, replay, "does not match"),
    Case(PUSH, dripping, "no answer within"),
    Case(PUSH, silence, "no answer within"),
    Case(PUSH, endless, f"longer than {MAX_ANSWER_BYTES} bytes"),
    Case(OWN, saying(200, "nonsense"), "the answer is no checkpoint"),
    Case(OWN, own_of_another, "its checkpoint cannot be cosigned"),
]


@pytest.mark.parametrize(
    "cases", [CASES[::5], pytest.param(CASES, marks=pytest.mark.nightly)], ids=["some", "all"]
)
async def test_what_a_hub_does_is_named_and_delays_no_probe(
    own: Client,
    server: HubServer,
    cases: list[Case],
    subtests: pytest.Subtests,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    await own.harness.greet()
    assert own.harness.server is not None
    async with own.harness.server, own.pushing():
        for case in cases:
            with subtests.test(case.says, part=case.part):
                monkeypatch.setattr(client, "PUSH_SECONDS", 0.2 if case.says == "no answer within" else PATIENCE)
                await _lied_to(own, server, case, caplog)
                monkeypatch.setattr(client, "PUSH_SECONDS", PATIENCE)
                # It is no longer at fault: all is pushed from where it is.
                server.lies.clear()
                size = await own.grow()
                await until(lambda at=size: pushed(server, own) >= at and not own.problem)  # type: ignore[misc]
        with (
            contextlib.closing(Reader.open(member_place(server.hub.data_dir, own.keys.origin))) as there,
            contextlib.closing(Reader.open(own.data_dir)) as here,
        ):
            assert list(there.raw_entries(0, size)) == list(here.raw_entries(0, size))


async def _lied_to(own: Client, server: HubServer, case: Case, caplog: pytest.LogCaptureFixture) -> None:
    own.pusher.set_hub(None)
    caplog.clear()
    messages, refused = len(own.messages), len(own.harness.recorded("hub"))
    await own.grow()
    server.lies[case.part] = case.lie
    own.pusher.set_hub(server.settings)
    assert case.says in await until(lambda: own.problem)
    for _ in range(3):
        # A probe and its record, while the hub goes on as it does.
        before = len(own.harness.recorded("observation"))
        await own.harness.probe()
        assert len(own.harness.recorded("observation")) == before + 1
    asked = len(server.asked)
    await until(lambda: len(server.asked) > asked + 4)
    warned = [each.levelno for each in caplog.records if case.says in each.message]
    assert warned.count(logging.WARNING) == 1
    assert own.problem.isprintable()
    # The owner gets one message, however often it says so, and it is on record.
    assert [one.event_type for one in own.messages[messages:]] == [EventType.LEDGER] * case.alarms
    assert len(own.harness.recorded("hub")) == refused + case.alarms


async def test_a_hub_that_rewrites_its_own_ledger_is_found_out(
    own: Client, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own key, to which only its members' cosignatures are an answer."""
    monkeypatch.setattr(hub_push, "COSIGN_MS", 0)
    keys = server.hub.store.keys

    async def rewritten(_server: HubServer, scope: Scope, receive: Receive, send: Send) -> None:
        note = notes.sign(Checkpoint(keys.origin, 1, b"o" * 32), keys.private)
        await Response(AddCheckpoint(1, (), note).text())(scope, receive, send)

    await own.grow()
    async with own.pushing():
        await until(lambda: own.pusher.state and own.pusher.state.cosigned)
        for number, (lie, says) in enumerate(
            (
                (rewritten, "its own ledger is another than was cosigned here"),
                (saying(409, "0\n"), "its own ledger has 0 entries, fewer than were cosigned here"),
            )
        ):
            server.lies[OWN] = lie
            await until(lambda so_far=number: len(own.messages) > so_far)  # type: ignore[misc]
            assert says in str(own.messages[-1].facts["finding"])
            assert own.harness.recorded("hub")[-1]["refused"].startswith(says)
            server.lies.clear()
            size = await own.grow()
            await until(lambda at=size: pushed(server, own) >= at)  # type: ignore[misc]
            await until(lambda: not own.problem)
        # What was cosigned before stays what it was.
        (known,) = own.register.ledgers()
        assert known.root != b"o" * 32


async def test_an_outage_of_the_hub_costs_no_entry_and_no_second_copy(own: Client, server: HubServer) -> None:
    """The answer is lost after the hub took the push: the next one begins there, and nothing is sent twice."""
    lost = 0

    async def lose(made: HubServer, scope: Scope, receive: Receive, _send: Send) -> None:
        nonlocal lost

        async def nothing(_message: object) -> None:
            nonlocal lost
            lost += 1
            raise OSError("cut")

        await made._app(scope, receive, nothing)

    server.lies[PUSH] = lose
    await own.grow()
    async with own.pushing():
        await until(lambda: lost > 0 and pushed(server, own) > 0)
        server.lies.clear()
        size = await own.grow()
        await until(lambda: pushed(server, own) >= size)
        await until(lambda: not own.problem)
    assert own.messages == []


async def test_nothing_is_pruned_that_the_hub_does_not_have(own: Client, server: HubServer) -> None:
    assert own.pusher.needed() == [0]
    size = await own.grow()
    async with own.pushing():
        await until(lambda: pushed(server, own) >= size)
        await until(lambda: own.pusher.needed()[0] >= size)
        own.pusher.set_hub(None)
        assert own.pusher.needed() == []


def test_the_log_says_how_far_a_long_push_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: seconds)
    log, end = hub_push.PushLog(), 10 * client.PUSH_ENTRIES
    with caplog.at_level(logging.INFO):
        for size in range(0, end + 1, client.PUSH_ENTRIES):
            log.say("h", size, end)
            seconds += 25
        # What one push has is not worth a line.
        log.say("h", end, end + client.PUSH_ENTRIES)
        log.say("h", end + client.PUSH_ENTRIES, end + client.PUSH_ENTRIES)
    assert [record.getMessage() for record in caplog.records] == [
        f"hub h: {end} of {end} entries are to be pushed",
        *(f"hub h: it has {size * client.PUSH_ENTRIES} of {end} entries" for size in (3, 6, 9)),
        f"hub h: it has all {end} entries",
    ]
