"""The pages in Debian's Chromium: no violation of WCAG 2.2 AA, on a phone and a desk, light and dark."""

from __future__ import annotations

import http.client
import json
import os
import re
import threading
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from playwright.sync_api import Browser, Page

from mailwatch.web.credentials import COOKIE
from mailwatch.web.templating import texts
from tests.helpers.chromium import SIZES
from tests.helpers.leak_check import PASSWORD, running_with_canaries
from tests.helpers.patience import PATIENCE
from tests.helpers.process import MailWatchProcess
from tests.servers.authority import Authority

TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
CONTRAST = ["color-contrast"]
_AXE = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def web(recorded_outage: tuple[MailWatchProcess, Authority, str]) -> Iterator[tuple[MailWatchProcess, str]]:
    process, _, identity = recorded_outage
    with process.running():
        process.wait_until(lambda: process.count("lab-imap", "up") > 3, "observations")
        yield process, identity


@pytest.fixture(scope="module")
def anonymous_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[MailWatchProcess, dict[str, str]]]:
    """A MailWatch in public mode, and the pages that visitors without a login have."""
    with (
        running_with_canaries(tmp_path_factory.mktemp("public"), public=True) as (process, _),
        process.running(),
    ):
        process.wait_until(lambda: all(t["state"] == "up" for t in process.api("targets")), "up again")
        identity = process.api("outages")[0]["id"]
        yield process, {
            "public": "/", "public-outages": "/outages", "public-outage": f"/outages/{identity}",
            "public-incidents": "/incidents", "public-about": "/about", "login": "/login", "asked": "/ledger",
            "public-target": "/targets/lab%20imap%201",
        }  # fmt: skip


def _pages(identity: str) -> dict[str, str]:
    return {
        "overview": "/", "outages": "/outages", "outage": f"/outages/{identity}", "incidents": "/incidents",
        "observations": "/observations", "ledger": "/ledger", "about": "/about", "api": "/api/docs",
        "missing": "/outages/none", "target": "/targets/lab-imap",
    }  # fmt: skip


def _opened(page: Page, process: MailWatchProcess, path: str) -> list[str]:
    """Open a page; return what it asked for elsewhere and what its console said of the policy."""
    complaints = _complaints(page, process)
    _open(page, process, path)
    return complaints


def _complaints(page: Page, process: MailWatchProcess) -> list[str]:
    """What the page asks for elsewhere and its console says of the policy, from now on."""
    messages: list[str] = []
    home = f"http://127.0.0.1:{process.port}"
    page.on("request", lambda request: None if request.url.startswith(home) else messages.append(request.url))
    page.on(
        "console", lambda message: messages.append(message.text) if "Security Policy" in message.text else None
    )
    page.on("pageerror", lambda error: messages.append(str(error)))
    return messages


def _open(page: Page, process: MailWatchProcess, path: str) -> None:
    page.goto(f"http://127.0.0.1:{process.port}{path}", wait_until="domcontentloaded")
    page.wait_for_selector("main h1, main h2")


PAIRS = [("en", "phone", "light"), ("en", "desk", "dark"), ("it", "phone", "dark"), ("it", "desk", "light")]
"""Any two of language, size and scheme meet in one of these."""
EVERY = [
    *((*pair, {"light": TAGS, "dark": CONTRAST}[pair[2]]) for pair in PAIRS),
    *(
        pytest.param(*each, TAGS, marks=pytest.mark.nightly)
        for each in product(("en", "it"), SIZES, ("light", "dark"))
        if each[2] == "dark" or each not in PAIRS
    ),
]
"""What a scheme changes is the colours: in the dark only these are judged, but for the night, which has it all."""


@pytest.mark.parametrize(("language", "size", "scheme", "rules"), EVERY)
def test_pages_pass_axe(
    web: tuple[MailWatchProcess, str], browser: Browser, language: str, size: str, scheme: Any, rules: list[str]
) -> None:
    process, identity = web
    assert _barriers(browser, process, _pages(identity), language, size, scheme, rules) == {}


@pytest.mark.parametrize(
    ("language", "size", "scheme", "rules"),
    [
        ("en", "phone", "light", TAGS),
        ("it", "desk", "dark", CONTRAST),
        pytest.param("en", "desk", "light", TAGS, marks=pytest.mark.nightly),
        pytest.param("it", "phone", "dark", TAGS, marks=pytest.mark.nightly),
    ],
)
def test_public_pages_pass_axe(
    anonymous_pages: tuple[MailWatchProcess, dict[str, str]],
    browser: Browser,
    language: str,
    size: str,
    scheme: Any,
    rules: list[str],
) -> None:
    process, pages = anonymous_pages
    assert _barriers(browser, process, pages, language, size, scheme, rules) == {}


def _barriers(
    browser: Browser,
    process: MailWatchProcess,
    pages: dict[str, str],
    language: str,
    size: str,
    scheme: Any,
    rules: list[str],
) -> dict[str, Any]:
    """What axe, the policy or the width of the window have against each page."""
    context = browser.new_context(
        locale=language, color_scheme=scheme, viewport=SIZES[size], timezone_id="Europe/Rome", bypass_csp=False
    )
    found: dict[str, Any] = {}
    # One page for all: a new one starts a process, which takes longer than most pages do.
    page = context.new_page()
    complaints = _complaints(page, process)
    # What axe found in order takes most of its time to describe.
    options = {"runOnly": rules, "resultTypes": ["violations"]}
    for name, path in pages.items():
        complaints.clear()
        _open(page, process, path)
        if folder := os.environ.get("MAILWATCH_PICTURES"):
            page.screenshot(path=f"{folder}/{name}-{language}-{size}-{scheme}.png", full_page=True)
        answer = page.evaluate(f"{_AXE}\naxe.run({json.dumps(options)})")
        problems = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in answer["violations"]]
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        if problems or complaints or wide:
            found[name] = (problems, list(complaints), "wider than the window" if wide else "")
    context.close()
    return found


def test_login_and_logout_work_without_javascript(
    anonymous_pages: tuple[MailWatchProcess, dict[str, str]], browser: Browser
) -> None:
    process, _ = anonymous_pages
    context = browser.new_context(java_script_enabled=False, locale="en")
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{process.port}/ledger", wait_until="domcontentloaded")
    page.get_by_label("Password or token").fill("wrong")
    page.get_by_role("button", name="Log in").click()
    assert page.get_by_role("alert").is_visible()
    page.get_by_label("Password or token").fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    assert page.url.endswith("/ledger")
    assert page.get_by_role("heading", name="Ledger").is_visible()
    page.get_by_role("link", name="Overview").click()
    assert page.locator(".list").get_by_role("rowheader", name="canary-address-1@example.org/imap").is_visible()
    page.get_by_role("button", name="Log out").click()
    assert page.locator(".list").get_by_role("rowheader", name="lab imap 1").is_visible()
    assert page.get_by_text("canary").count() == 0
    context.close()


class _Prefixed(BaseHTTPRequestHandler):
    """A proxy that puts MailWatch below /mail/, strips that, and sends nothing else there."""

    port: int

    def do_GET(self) -> None:
        if not self.path.startswith("/mail/"):
            self.send_error(404, f"outside of the prefix; cookie: {self.headers['cookie']}")
            return
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        headers = dict(self.headers) | {"X-Forwarded-For": "198.51.100.7", "Connection": "close"}
        connection.request(self.command, self.path.removeprefix("/mail"), body, headers)
        answer = connection.getresponse()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            self.send_header(name, value)
        self.end_headers()
        if answer.getheader("content-type", "").startswith("text/event-stream"):
            return
        self.wfile.write(answer.read())
        connection.close()

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass


def test_login_works_below_the_prefix_of_a_proxy(
    anonymous_pages: tuple[MailWatchProcess, dict[str, str]], browser: Browser
) -> None:
    process, _ = anonymous_pages
    handler = type("Proxy", (_Prefixed,), {"port": process.port})
    context = browser.new_context(locale="en")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        home = f"http://127.0.0.1:{proxy.server_port}/mail/"
        page = context.new_page()
        page.goto(home + "observations", wait_until="domcontentloaded")
        page.get_by_label("Password or token").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_role("heading", name="Checks").wait_for()
        assert page.url == home + "observations"
        assert (
            page.evaluate(f"{_AXE}\naxe.run({{runOnly: {TAGS!r}, resultTypes: ['violations']}})")["violations"]
            == []
        )
        if folder := os.environ.get("MAILWATCH_PICTURES"):
            page.screenshot(path=f"{folder}/logged-in.png")
        # Others who share the host with us are not sent our cookie.
        assert [cookie["path"] for cookie in context.cookies() if cookie["name"] == COOKIE] == ["/mail"]
        page.get_by_role("button", name="Log out").click()
        page.locator(".list").get_by_role("rowheader", name="lab imap 1").wait_for()
        assert page.url == home
        assert [cookie for cookie in context.cookies() if cookie["name"] == COOKIE] == []
        context.close()
        proxy.shutdown()


def test_all_can_be_read_without_javascript(web: tuple[MailWatchProcess, str], browser: Browser) -> None:
    process, identity = web
    context = browser.new_context(java_script_enabled=False, locale="en")
    page = context.new_page()
    for path in _pages(identity).values():
        page.goto(f"http://127.0.0.1:{process.port}{path}", wait_until="domcontentloaded")
        assert page.locator("main h1").first.is_visible()
    page.goto(f"http://127.0.0.1:{process.port}/", wait_until="domcontentloaded")
    # What would do nothing is not there: only the search, which is a form.
    assert page.get_by_role("button").all_inner_texts() == [texts("en")["find"]]
    page.get_by_role("searchbox").fill("lab-imap")
    page.get_by_role("button").click()
    assert page.url.endswith("/?q=lab-imap")
    assert page.locator(".list tbody tr").count() == 1
    page.get_by_role("link", name=texts("en")["show_all"]).click()
    assert page.locator(".list tbody tr").count() == 2
    page.get_by_role("link", name=texts("en")["theme"]["dark"]).click()
    page.wait_for_url("**/?theme=dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    page.set_viewport_size(SIZES["phone"])
    page.locator(".menu summary").click()
    page.get_by_role("link", name="Ledger").click()
    assert page.get_by_role("heading", name="Ledger").is_visible()
    # The choice is remembered.
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(13, 17, 23)"
    page.set_viewport_size(SIZES["desk"])
    page.goto(f"http://127.0.0.1:{process.port}/outages/{identity}", wait_until="domcontentloaded")
    with page.expect_download() as download:
        page.locator("a.button").first.click()
    assert download.value.suggested_filename == f"outage-{identity}.zip"
    context.close()


def test_pages_work_by_keyboard_and_show_local_time(web: tuple[MailWatchProcess, str], browser: Browser) -> None:
    process, _ = web
    context = browser.new_context(locale="it", timezone_id="Asia/Tokyo")
    page = context.new_page()
    assert _opened(page, process, "/") == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    zone = page.locator("#zone")
    assert "fuso orario di questo dispositivo: Asia/Tokyo (UTC+9)" in zone.inner_text()
    time = page.locator("main time").first
    at = datetime.fromisoformat(time.get_attribute("datetime") or "").astimezone(ZoneInfo("Asia/Tokyo"))
    assert f"{at:%H:%M:%S}" in time.inner_text()
    page.wait_for_function("() => document.getElementById('live').textContent === 'In diretta'")
    context.close()


BEYOND = """edge => [...document.querySelectorAll("main *:not(option)")]
    .filter((one) => one.checkVisibility() && !one.closest("thead, details:not([open]) > :not(summary)"))
    .filter((one) => one.getBoundingClientRect().right > edge).map((one) => one.outerHTML)"""
"""What can be seen and goes beyond an edge. The heads of tables are for screen readers there."""


def test_the_longest_name_fits_the_narrowest_window(tmp_path: Path, browser: Browser) -> None:
    """320 pixels: what WCAG 1.4.10 asks for."""
    name = "un.nome.lunghissimo." * 3 + "di.una.persona@" + "esempio" * 3 + ".it"
    unreachable = {"name": name, "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none", "interval": "1s"}
    process = MailWatchProcess(tmp_path, [unreachable], detection={"recheck": ["200ms"]})
    page = browser.new_page(locale="it", viewport={"width": 320, "height": 640})
    with process.running():
        process.wait_until(lambda: process.api("outages"), "an outage")
        identity = process.api("outages")[0]["id"]
        for path in ("/", "/outages", f"/outages/{identity}", "/incidents", "/observations"):
            _opened(page, process, path)
            assert page.evaluate(BEYOND, 320) == [], path
            assert page.locator("main").get_by_text(name).count() > 0, path
        page.set_viewport_size(SIZES["desk"])
        # Nor are words cut to pieces where they fit.
        assert page.evaluate("document.querySelector('thead').getBoundingClientRect().height") < 60
        # A name breaks after its signs only.
        page.set_viewport_size({"width": 320, "height": 640})
        _opened(page, process, "/")
        assert page.evaluate(BROKEN) == []
    page.close()


BROKEN = """() => [...document.querySelectorAll(".list th[scope=row] > :last-child")].flatMap((name) => {
    const nodes = [...name.childNodes].filter((one) => one.nodeType === Node.TEXT_NODE);
    return nodes.filter((node) => {
        const range = document.createRange();
        range.selectNodeContents(node);
        return range.getClientRects().length > 1;
    }).map((node) => node.data);
})"""
"""The parts of names that a line break divides."""


CHANGED = "b => document.querySelector('main time').dateTime !== b"


def _first_time(page: Page) -> str | None:
    return page.locator("main time").first.get_attribute("datetime")


def test_the_page_updates_itself_and_leaves_focus_and_search_where_they_are(
    web: tuple[MailWatchProcess, str], browser: Browser
) -> None:
    process, _ = web
    page = browser.new_page(locale="en")
    _opened(page, process, "/")
    page.wait_for_function("() => document.querySelectorAll('svg.bars').length === 2")
    link = page.locator(".tabs a").last
    link.focus()
    text = link.inner_text()
    before = _first_time(page)
    page.wait_for_function(CHANGED, arg=before)
    assert page.evaluate("document.activeElement.innerText") == text
    # What is typed in the search stays, and the list goes on being renewed.
    field = page.get_by_role("searchbox")
    field.fill("lab")
    page.wait_for_function("() => location.search === '?q=lab'")
    before = _first_time(page)
    page.wait_for_function(CHANGED, arg=before)
    assert (field.input_value(), page.evaluate("document.activeElement.id")) == ("lab", "q")
    page.close()


def test_the_list_follows_the_search_and_the_tabs_without_loading_the_page(
    web: tuple[MailWatchProcess, str], browser: Browser
) -> None:
    process, _ = web
    page = browser.new_page(locale="en")
    assert _opened(page, process, "/") == []
    page.evaluate("window.mark = true")
    page.keyboard.press("/")
    page.keyboard.type("nothing")
    page.get_by_text(texts("en")["nothing_found"]).wait_for()
    assert page.url.endswith("/?q=nothing")
    page.get_by_role("link", name=texts("en")["show_all"]).click()
    page.wait_for_function("() => document.querySelectorAll('.list tbody tr').length === 2")
    assert page.get_by_role("searchbox").input_value() == ""
    page.locator(".tabs a").last.click()
    page.wait_for_function("() => location.search === '?state=up'")
    assert page.locator(".tabs [aria-current]").inner_text().startswith(texts("en")["tab"]["up"])
    # The pointer names the day: here the first of the ninety, of which nothing is known.
    page.locator("svg.bars").first.hover(position={"x": 2, "y": 12})
    assert page.locator("#day").inner_text().endswith(f": {texts('en')['day_state']['nodata']}")
    page.get_by_role("link", name=texts("en")["theme"]["dark"]).click()
    page.wait_for_function("() => document.documentElement.dataset.theme === 'dark'")
    assert page.evaluate("window.mark")
    page.close()


def test_a_page_stays_unchanged_while_paused_or_while_a_filter_is_edited(
    web: tuple[MailWatchProcess, str], browser: Browser
) -> None:
    process, _ = web
    page = browser.new_page(locale="en")
    _opened(page, process, "/observations")
    field = page.get_by_label("From")
    field.fill("2026-01-31T12:00")
    page.get_by_text(texts("en")["live_held"]).wait_for()
    assert field.input_value() == "2026-01-31T12:00"
    before = _first_time(page)
    page.locator("nav a").first.focus()
    page.wait_for_function(CHANGED, arg=before)
    pause = page.get_by_role("button", name=texts("en")["pause"])
    pause.click()
    page.get_by_text(texts("en")["live_paused"], exact=True).wait_for()
    before = _first_time(page)
    count = process.count("lab-imap", "up")
    process.wait_until(lambda: process.count("lab-imap", "up") > count + 2, "observations while it is stopped")
    assert _first_time(page) == before
    pause.click()
    page.wait_for_function(CHANGED, arg=before)
    page.close()


def test_the_page_comes_back_after_a_restart_and_after_an_answer_that_is_no_stream(
    tmp_path: Path, browser: Browser
) -> None:
    unreachable = {
        "name": "nobody",
        "kind": "imap",
        "host": "127.0.0.1",
        "port": 1,
        "tls": "none",
        "interval": "1h",
    }
    process = MailWatchProcess(tmp_path, [unreachable], detection={"recheck": ["1h"]})
    stream = re.compile(r"/live\?")
    page = browser.new_page(locale="en")
    # What a proxy says while MailWatch is away; a browser never asks again by itself after that.
    page.route(stream, lambda route: route.fulfill(status=502))
    with process.running():
        process.wait_until(lambda: process.count("nobody", "down") == 1, "an observation")
        with page.expect_response(stream):
            _opened(page, process, "/")
        page.unroute(stream)
        page.get_by_text(texts("en")["live_on"], exact=True).wait_for()
        before = _first_time(page)
    page.get_by_text(texts("en")["live_off"]).wait_for()
    with process.running():
        page.get_by_text(texts("en")["live_on"], exact=True).wait_for()
        page.wait_for_function(CHANGED, arg=before)
    page.close()


def test_the_page_shows_progress_while_evidence_is_made(
    web: tuple[MailWatchProcess, str], browser: Browser
) -> None:
    process, identity = web
    page = browser.new_page(locale="it")
    result = _opened(page, process, f"/outages/{identity}")
    button, progress = page.locator("a.button").first, page.locator("#making")
    with page.expect_download() as download:
        button.click()
        page.get_by_role("progressbar").wait_for()
        assert progress.inner_text() == texts("it")["document"]["making"]
    assert download.value.suggested_filename == f"outage-{identity}.zip"
    download.value.save_as(process.folder / "seen.zip")
    assert process.command("verify", str(process.folder / "seen.zip")).returncode == 0
    page.get_by_text(texts("it")["document"]["made"]).wait_for()
    assert page.get_by_role("progressbar").count() == 0
    page.evaluate("document.querySelector('a.button').href = '000000000000/../../api/v1/outages/0/evidence.zip'")
    button.click()
    page.get_by_text(texts("it")["document"]["failed"]).wait_for()
    assert "no such outage" in progress.inner_text()
    assert not [one for one in result if "Policy" in one]
    page.close()
