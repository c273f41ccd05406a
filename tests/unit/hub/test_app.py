"""A hub over HTTP: what it answers to each request, and what it takes of a client that sends much, or nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from mailwatch.hub import app as app_module
from mailwatch.hub.app import HubApp
from mailwatch.ledger.push import MAX_BYTES
from mailwatch.witness.app import WitnessApp
from tests.helpers.hub_members import LivingHub, WrittenMember


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


@pytest.fixture
async def client(hub: LivingHub) -> AsyncIterator[httpx.AsyncClient]:
    app = HubApp(lambda: hub.receiver, WitnessApp(lambda: hub.cosigner))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as made:
        yield made


async def test_each_path_is_answered(client: httpx.AsyncClient, home: WrittenMember) -> None:
    log, other = home.log, "0" * 64
    for method, path, status in (
        ("GET", "/hub/v1/keys", 200),
        ("PUT", "/hub/v1/keys", 405),
        ("GET", "/hub/v1/join", 405),
        ("POST", "/hub/v1/join", 400),
        ("GET", f"/hub/v1/logs/{log}", 200),
        ("GET", f"/hub/v1/logs/{other}", 404),
        ("GET", f"/hub/v1/logs/{log}/entries/0", 405),
        ("PUT", f"/hub/v1/logs/{log}/entries/0", 400),
        ("PUT", f"/hub/v1/logs/{other}/entries/0", 404),
        ("PUT", f"/hub/v1/logs/{log}/entries/{'9' * 19}", 404),
        ("PUT", f"/hub/v1/logs/{log}/cosignatures/1", 400),
        ("PUT", f"/hub/v1/logs/{log}/send", 403),
        ("GET", f"/hub/v1/logs/{log}/send", 405),
        ("PUT", f"/hub/v1/logs/{other}/send", 404),
        ("GET", "/hub/v1/checkpoint/0", 200),
        ("GET", "/hub/v1/checkpoint/7", 409),
        ("POST", "/hub/v1/checkpoint/0", 405),
        ("GET", "/hub/v1/logs/../../etc", 404),
        ("GET", "/hub/", 404),
        ("GET", f"/{log}/checkpoint", 404),
        ("GET", "/add-checkpoint", 405),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == status, (method, path, answer.text)


async def test_before_the_start_is_over_it_says_so() -> None:
    app = HubApp(lambda: None, WitnessApp(lambda: None))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://hub") as client:
        assert (await client.get("/hub/v1/keys")).status_code == 503


async def test_a_body_that_is_too_long_is_not_kept(client: httpx.AsyncClient, home: WrittenMember) -> None:
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 2**20
            yield bytes(2**20)

    answer = await client.put(f"/hub/v1/logs/{home.log}/entries/0", content=body())
    assert answer.status_code == 413
    assert sent <= MAX_BYTES + 2**20
    # Of who is no member nothing is received.
    sent = 0
    assert (await client.put(f"/hub/v1/logs/{'0' * 64}/entries/0", content=body())).status_code == 404
    assert sent == 0
    assert (await client.post("/hub/v1/join", content=bytes(5000))).status_code == 413


async def test_a_body_that_never_ends_is_given_up(
    hub: LivingHub, home: WrittenMember, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "BODY_SECONDS", 0.1)
    app = HubApp(lambda: hub.receiver, WitnessApp(lambda: hub.cosigner))
    path = f"/hub/v1/logs/{home.log}/entries/0"
    scope = {
        "type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b"",
        "headers": [], "scheme": "http", "server": ("hub", 80),
    }  # fmt: skip
    answers: list[Message] = []

    async def receive() -> Message:
        if answers:
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": True}

    async def silent() -> Message:
        await asyncio.Event().wait()
        return {}

    async def send(message: Message) -> None:
        answers.append(message)

    await app(scope, silent, send)
    assert answers[0]["status"] == 408
    answers.clear()
    # Nor does one that trickles keep its place.
    await app(scope, receive, send)
    assert answers[0]["status"] == 408
