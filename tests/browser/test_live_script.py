"""What live.js does to a page, without a running MailWatch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route

import mailwatch.web

SCRIPT = Path(mailwatch.web.__file__).parent / "static" / "live.js"
OpenPage = Callable[[str], Page]


@pytest.fixture
def page_in_tokyo(browser: Browser) -> Iterator[OpenPage]:
    """Opens a page of Rome with `main` before a visitor in Tokyo, eight hours ahead in November."""
    context = browser.new_context(locale="en", timezone_id="Asia/Tokyo")

    def opened(main: str) -> Page:
        page = context.new_page()
        page.set_content(f'<!doctype html><html lang="en" data-zone="Europe/Rome"><main>{main}</main></html>')
        page.add_script_tag(path=SCRIPT)
        return page

    yield opened
    context.close()


def _times(form: str, *moments: str) -> str:
    return "".join(f'<time datetime="{at}" data-form="{form}">as in Rome</time>' for at in moments)


@pytest.mark.parametrize(
    ("form", "moments", "expected"),
    [
        ("date-minute", ("2025-11-29T10:00:00Z", "2025-11-30T23:00:59Z"), ["29 Nov 19:00", "1 Dec 08:00"]),
        ("clock", ("2025-11-29T10:00:00Z", "2025-11-29T11:00:01Z"), ["19:00:00", "20:00:01"]),
        ("clock", ("2025-11-29T14:59:00Z", "2025-11-29T15:01:00Z"), ["29 Nov 23:59", "30 Nov 00:01"]),
        ("minute", ("2025-11-29T14:59:00Z",), ["29 Nov 2025"]),
    ],
)
def test_the_times_of_an_outage_keep_day_and_hour_in_the_zone_of_the_visitor(
    page_in_tokyo: OpenPage, form: str, moments: tuple[str, ...], expected: list[str]
) -> None:
    shown = page_in_tokyo(_times(form, *moments)).locator("time").all_inner_texts()
    assert [text.replace("\u00a0", " ") for text in shown] == expected


CHART = """<span class="when" data-from="1769122800000" data-length="7200000">as in Rome</span>
<svg><text data-at="2026-01-22T23:00:00Z" data-form="hour">00:00</text>
<g data-length="300000"><rect data-from="1769122800000"><title>
22 Jan 2026 00:00–00:05
all checks up: 5</title></rect></g></svg>
<time datetime="2026-01-22T15:00:00Z" data-form="long-minute">22 Jan 2026 16:00</time>"""


def test_the_chart_of_a_target_has_the_zone_of_the_visitor(page_in_tokyo: OpenPage) -> None:
    page = page_in_tokyo(CHART)
    assert page.locator(".when").inner_text() == "23\u00a0Jan\u00a02026\u00a008:00–10:00"
    assert page.locator("svg text").text_content() == "08:00"
    assert page.locator("title").text_content() == ("23\u00a0Jan\u00a02026\u00a008:00–08:05\nall checks up: 5")
    assert page.locator("time").inner_text() == "23\u00a0Jan\u00a02026\u00a000:00"


ZONES = """<datalist id="zones" {suggest}><option value="Asia/Tokyo"></datalist>
<input id="timezone" value="Europe/Rome">
<p id="own-zone" data-text="This device is set to {{zone}}." hidden></p>"""


@pytest.mark.parametrize(("suggest", "value"), [("data-suggest", "Asia/Tokyo"), ("", "Europe/Rome")])
def test_only_the_set_up_suggests_the_zone_of_the_device(
    page_in_tokyo: OpenPage, suggest: str, value: str
) -> None:
    page = page_in_tokyo(ZONES.format(suggest=suggest))
    page.add_script_tag(path=SCRIPT.with_name("manage.js"))
    assert page.locator("#timezone").input_value() == value
    beside = page.locator("#own-zone")
    assert beside.is_visible() is (not suggest)
    assert suggest or beside.inner_text() == "This device is set to Asia/Tokyo."


SHARE = """<details data-keep="share"><summary>Share</summary><a id="share" href="./share/x">link</a>
<button data-copy="share" data-done="Copied" hidden>Copy</button></details><p id="made">{number}</p>"""
LIVE = '<button id="pause"></button><p><span id="live" data-stream="/live" data-pulse="1" data-on="on"></span></p>'


def test_the_link_to_share_can_be_copied_after_the_page_was_renewed(browser: Browser) -> None:
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    made: list[str] = []

    def answer(route: Route) -> None:
        if route.request.url.endswith("/page"):
            made.append("")
            main = SHARE.format(number=len(made))
            text = f'<!doctype html><html lang="en"><main>{main}</main>{LIVE}<script>{SCRIPT.read_text()}</script>'
            return route.fulfill(content_type="text/html", body=text)
        if "/live" in route.request.url and len(made) == 1:
            return route.fulfill(content_type="text/event-stream", body="event: changed\ndata: 2\n\n")
        return route.fulfill(status=204)

    context.route("**/*", answer)
    page = context.new_page()
    page.goto("http://localhost/page")
    page.get_by_text("Share").click()
    page.locator("#made", has_text="2").wait_for()
    page.get_by_role("button", name="Copy").click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "http://localhost/share/x"
    context.close()
