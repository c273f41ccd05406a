"""A page that needs a database which answers nothing is answered in bounded time; a long answer is waited for."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import psycopg
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from mailwatch.store import Reader, Store
from mailwatch.store.postgres import PostgresPlace
from mailwatch.web import answer_bound
from mailwatch.web.answer_bound import AnswerBound
from mailwatch.web.errors import silent_response
from mailwatch.web.frame import Audience, Frame
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import texts
from tests.helpers.few_targets import FewTargets
from tests.helpers.patience import PATIENCE
from tests.helpers.requirements import need
from tests.servers.postgresql import POSTGRES, PostgreSql
from tests.servers.program import server_folder


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PATIENCE_SECONDS", "SHORT_PATIENCE_SECONDS", "ASKED_SECONDS"):
        monkeypatch.setattr(answer_bound, name, 0.05)


@pytest.fixture
def cluster() -> Iterator[PostgreSql]:
    need(POSTGRES)
    with server_folder() as folder, PostgreSql(folder / "postgresql").running() as server:
        yield server


class Ledger:
    """A ledger that is read while `gate` is open. `asked`: how often it was asked for a little of it."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = 0

    def read(self) -> None:
        self.asked += 1
        assert self.gate.wait(PATIENCE)


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger()
    yield made
    made.gate.set()


def silent(request: Request) -> Response:
    return silent_response(Frame(cast(ReadModel, FewTargets([])), Audience()), request)


def client_of(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", timeout=PATIENCE)


async def test_pages_of_a_silent_database_say_so_and_it_is_asked_once_for_all(ledger: Ledger) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/":
            await asyncio.to_thread(ledger.gate.wait, PATIENCE)
        await PlainTextResponse("made")(scope, receive, send)

    async with client_of(AnswerBound(page, ledger.read, silent)) as client:
        for language in ("en", "it"):
            answer = await client.get("/outages", headers={"accept": "text/html", "accept-language": language})
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
            assert texts(language)["problem"]["silent"]["title"] in answer.text
        answer = await client.get("/api/v1/outages")
        assert answer.status_code == 503
        assert "its database does not answer" in answer.json()["detail"]
        assert ledger.asked == 1
        # What needs no database is made all the same.
        assert (await client.get("/")).text == "made"
        ledger.gate.set()
        assert (await client.get("/outages")).text == "made"


async def test_a_long_answer_is_waited_for_while_the_database_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a busy machine even a thread that has nothing to wait for ends later than at once.
    monkeypatch.setattr(answer_bound, "ASKED_SECONDS", PATIENCE)
    asked, enough = [], asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        asked.append("once")
        if len(asked) == 3:
            loop.call_soon_threadsafe(enough.set)
        if len(asked) == 2:
            # An error is an answer: the page says what is wrong.
            raise OSError("unreadable")

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        await enough.wait()
        await PlainTextResponse("made")(scope, receive, send)

    async with client_of(AnswerBound(page, read, silent)) as client:
        answer = await client.get("/availability")
    assert (answer.status_code, answer.text) == (200, "made")
    assert len(asked) >= 3


async def test_an_error_of_a_page_is_passed_on(ledger: Ledger) -> None:
    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    async with client_of(AnswerBound(page, ledger.read, silent)) as client:
        with pytest.raises(ValueError, match="broken"):
            await client.get("/")
    assert ledger.asked == 0


async def test_a_table_that_is_locked_makes_no_page_wait_for_ever(cluster: PostgreSql, tmp_path: Path) -> None:
    database = cluster.make_database()
    place = PostgresPlace(tmp_path, cluster.url(database))
    Store.open(place).close()
    with contextlib.closing(Reader.open(place)) as reader:

        async def page(scope: Scope, receive: Receive, send: Send) -> None:
            size = await asyncio.to_thread(reader.size)
            await PlainTextResponse(f"{size} entries")(scope, receive, send)

        async with client_of(AnswerBound(page, reader.size, silent)) as client:
            with contextlib.closing(psycopg.connect(cluster.url(database), password=None)) as blocker:
                blocker.execute("LOCK TABLE entries IN ACCESS EXCLUSIVE MODE")
                assert (await client.get("/ledger")).status_code == 503
            while (answer := await client.get("/ledger")).status_code == 503:
                await asyncio.sleep(0.05)
            assert answer.text.endswith(" entries")
