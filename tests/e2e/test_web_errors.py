"""What is answered to what cannot be answered: a page to people, JSON to programs, and nothing that leaks."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
from collections.abc import Iterator
from typing import Any, cast
from zoneinfo import ZoneInfo

import pytest
from starlette.types import ASGIApp

from mailwatch.config import WebAccess
from mailwatch.web import access
from mailwatch.web.access import AccessControl
from mailwatch.web.app import full_app
from mailwatch.web.errors import TEXTS_BY_STATUS
from mailwatch.web.frame import Audience
from mailwatch.web.pages import Pages
from mailwatch.web.read_model import ReadModel
from mailwatch.web.templating import texts
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import HTML, PASSWORD, UNREACHABLE_TARGET, ask, basic, watching_with


@pytest.fixture(scope="module")
def empty_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    with MailWatchProcess(tmp_path_factory.mktemp("nobody"), [UNREACHABLE_TARGET]).running() as process:
        yield process


@pytest.mark.parametrize("language", ["en", "it"])
@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/nowhere", "localhost", 404),
        ("/outages/none", "localhost", 404),
        ("/outages/", "localhost", 404),
        ("/api/nothing", "localhost", 404),
        ("/outages?page=0", "localhost", 422),
        ("/outages?page=-1", "localhost", 422),
        ("/incidents?page=many", "localhost", 422),
        ("/observations?target=" + "x" * 300, "localhost", 422),
        ("/", "rebound.example", 421),
    ],
)
def test_a_browser_gets_a_page_that_says_what_is_wrong(
    empty_process: MailWatchProcess, path: str, host: str, status: int, language: str
) -> None:
    got, headers, page = ask(empty_process, path, HTML | {"Accept-Language": language, "Host": host})
    assert got == status
    assert headers["content-type"] == "text/html; charset=utf-8"
    expected = texts(language)["problem"][TEXTS_BY_STATUS[status]]
    assert f"<h1>{expected['title']}</h1>" in page
    assert "static/style.css" in page
    assert headers["cache-control"] == "no-store"
    # To a name that was bent to us not even the pages' names are shown.
    assert ("<nav" in page) is (status != 421)
    assert ("hosts: [" in page) is (status == 421)
    assert ask(empty_process, "/static/style.css", {"Host": host})[0] == 200


@pytest.mark.parametrize(
    ("path", "status", "word"),
    [
        ("/api/v1/nothing", 404, "Not Found"),
        ("/api/v1/outages/none", 404, "GET /api/v1/outages"),
        ("/api/v1/outages?from=now", 422, "from: "),
        ("/api/v1/observations?limit=1000000000", 422, "less than or equal to 10000"),
        ("/api/v1/observations?limit=-1", 422, "greater than or equal to 1"),
        ("/api/v1/observations?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "must be later than from"),
        ("/api/v1/outages?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "must be later than from"),
        ("/api/v1/incidents?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "must be later than from"),
        ("/api/v1/offline?from=2026-01-02T00:00:00Z&to=2026-01-01T00:00:00Z", 422, "must be later than from"),
    ],
)
@pytest.mark.parametrize("accept", [{}, HTML], ids=["program", "browser"])
def test_the_api_says_in_json_what_is_wrong(
    empty_process: MailWatchProcess, path: str, status: int, word: str, accept: dict[str, str]
) -> None:
    got, headers, text = ask(empty_process, path, accept)
    assert (got, headers["content-type"]) == (status, "application/json")
    assert word in str(json.loads(text)["detail"])


def test_the_api_says_in_json_who_may_not_ask(empty_process: MailWatchProcess, tmp_path: Any) -> None:
    assert (
        "hosts: [" in json.loads(ask(empty_process, "/api/v1/targets", {"Host": "rebound.example"})[2])["detail"]
    )
    process = watching_with(tmp_path, password_file="secret-web")
    with process.running():
        assert json.loads(ask(process, "/api/v1/targets")[2]) == {"detail": "a password or a token is needed"}
        for _ in range(10):
            ask(process, "/api/v1/targets", basic("wrong"))
        status, headers, text = ask(process, "/api/v1/targets", basic(PASSWORD))
        assert (status, headers["retry-after"]) == (429, "60")
        assert "wait" in json.loads(text)["detail"]
        status, headers, page = ask(process, "/", basic(PASSWORD) | HTML | {"Accept-Language": "it"})
        assert (status, headers["retry-after"]) == (429, "60")
        assert texts("it")["problem"]["wait"]["title"] in page


RawAnswer = tuple[int, http.client.HTTPMessage, bytes]
READ = ("/", "/about", "/outages", "/metrics", "/healthz", "/api/v1/targets", "/static/live.js")


def _method(process: MailWatchProcess, method: str, path: str, **headers: str) -> RawAnswer:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    response = answer.status, answer.headers, answer.read()
    connection.close()
    return response


@pytest.mark.parametrize("packing", ["gzip", "identity"])
@pytest.mark.parametrize(
    "path", ["/", "/about", "/outages", "/metrics", "/healthz", "/api/v1/targets", "/static/live.js"]
)
def test_head_answers_what_get_would(empty_process: MailWatchProcess, path: str, packing: str) -> None:
    packed = {"Accept-Encoding": packing}
    status, head, body = _method(empty_process, "HEAD", path, **packed)
    assert (status, body) == (200, b"")
    get = _method(empty_process, "GET", path, **packed)[1]
    for name in ("content-type", "content-encoding", "vary", "cache-control", "content-security-policy"):
        assert head[name] == get[name], name
    assert "server" not in head


def test_streams_and_exports_answer_no_head_and_nothing_accepts_writes(empty_process: MailWatchProcess) -> None:
    for method, path in (
        ("HEAD", "/live"), ("HEAD", "/api/v1/outages/000000000000/evidence.zip"),
        ("POST", "/"), ("PUT", "/api/v1/targets"), ("DELETE", "/outages"), ("OPTIONS", "/"), ("TRACE", "/"),
    ):  # fmt: skip
        status, headers, _ = _method(empty_process, method, path)
        assert status == 405, (method, path)
        assert headers["allow"] == "GET"


async def _asked(app: ASGIApp, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
    """Ask an app that nobody serves; no body is ever sent to it."""
    messages: list[dict[str, Any]] = []

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        messages.append(message)

    lines = [(b"host", b"localhost"), *((name.lower().encode(), text.encode()) for name, text in headers.items())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": lines}
    async with asyncio.timeout(PATIENCE):
        with contextlib.suppress(Broken):
            await app(scope, receive, send)
    return messages[0]["status"], b"".join(message.get("body", b"") for message in messages).decode()


class Broken(Exception):
    """A fault of ours."""


async def test_an_internal_error_is_reported_without_details() -> None:
    class BrokenReadModel:
        vantage_point = place = ""
        change_token = str

        def standby(self) -> None:
            return None

        waiting = standby

        zone = ZoneInfo("Europe/Rome")

        def __getattr__(self, name: str) -> object:
            raise Broken("canary")

    app = full_app(cast(ReadModel, BrokenReadModel()), Audience())
    status, page = await _asked(app, "/outages", **HTML)
    assert (status, "canary" in page) == (500, False)
    assert texts("en")["problem"]["fault"]["title"] in page
    status, dns_answers = await _asked(app, "/api/v1/outages")
    assert (status, json.loads(dns_answers)) == (500, {"detail": "internal error; see the log"})


def test_other_sites_cannot_log_a_user_out(tmp_path: Any) -> None:
    process = watching_with(tmp_path, password_file="secret-web")
    with process.running():
        _, headers, _ = ask(process, "/login", form="password=perch%C3%A9+no")
        session = {"Cookie": headers["set-cookie"].partition(";")[0]}
        status, headers, _ = ask(process, "/logout", session | {"Sec-Fetch-Site": "cross-site"}, form="")
        assert (status, headers["set-cookie"]) == (403, None)
        assert ask(process, "/", session)[0] == 200


async def test_a_login_form_that_never_arrives_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "FORM_SECONDS", 0.05)
    app = full_app(cast(ReadModel, None), Audience())
    asked = AccessControl(app, app, cast(Pages, None), WebAccess(public=True), lambda: False)
    assert (await _asked(asked, "/login", "POST"))[0] == 408
