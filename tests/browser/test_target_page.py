"""The chart of a target in Chromium: its crosshair by the pointer and by the keyboard, and all without it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from mailwatch.times import HOUR_MS, now
from tests.helpers.chromium import SIZES
from tests.helpers.ledger_factory import MINUTE, Pattern, write
from tests.helpers.process import MailWatchProcess

NAME = "a-mailbox-with-a-very-long-name.of-a-family@posta.example.org/imap"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MailWatchProcess]:
    """A MailWatch with two days behind it: a failure, then a gap, of a name that hardly fits a phone."""
    folder, end = tmp_path_factory.mktemp("kept"), now() - HOUR_MS

    def seen(at: int) -> str:
        hours = (end - at) / HOUR_MS
        return "-" if 9 >= hours > 7 else " " if 5 >= hours > 3 else "+"

    patterns: dict[str, Pattern] = {NAME: seen}
    write(
        folder / "data", patterns, end - 48 * HOUR_MS, end, interval=5 * MINUTE, durable=False, every=100
    ).close()
    target = {"name": NAME, "kind": "imap", "host": "127.0.0.1", "port": 1, "tls": "none", "interval": "1h"}
    with MailWatchProcess(folder, [target], detection={"recheck": ["1h"]}).running() as process:
        process.wait_until(lambda: process.count(NAME, "down") > 0, "an observation")
        process.wait_until(lambda: process.api(f"targets/{NAME}/response-times")["complete"], "the history")
        yield process


def _opened(browser: Browser, process: MailWatchProcess, size: str, **context: Any) -> Page:
    page = browser.new_context(locale="en-GB", viewport=SIZES[size], **context).new_page()
    page.goto(f"http://127.0.0.1:{process.port}/targets/{NAME}", wait_until="load")
    return page


def test_the_keyboard_reads_each_moment(kept: MailWatchProcess, browser: Browser) -> None:
    page = _opened(browser, kept, "desk")
    chart, values = page.locator("#chart"), page.locator("#chart .values")
    chart.focus()
    page.keyboard.press("Home")
    expect(values).to_be_visible()
    expect(values).to_contain_text(re.compile(r"95 % within.*ms.*checks up"))
    first = values.inner_text()
    page.keyboard.press("ArrowRight")
    expect(values).not_to_have_text(first)
    count = page.locator("#chart .columns rect").count()
    for _ in range(count - 1):
        page.keyboard.press("ArrowRight")
        if "no checks" in values.inner_text():
            break
    expect(values).to_contain_text("no checks")
    page.keyboard.press("Escape")
    expect(values).to_be_hidden()
    page.context.close()


@pytest.mark.parametrize("size", SIZES)
def test_the_values_stay_within_the_window(kept: MailWatchProcess, browser: Browser, size: str) -> None:
    page = _opened(browser, kept, size, has_touch=size == "phone")
    chart, values = page.locator("#chart"), page.locator("#chart .values")
    chart.scroll_into_view_if_needed()
    plot = page.locator("#chart .plot").bounding_box()
    assert plot
    for share in (0.01, 0.3, 0.6, 0.99):
        place = plot["x"] + plot["width"] * share, plot["y"] + 60
        page.touchscreen.tap(*place) if size == "phone" else page.mouse.move(*place)
        expect(values).to_be_visible()
        box = values.bounding_box()
        assert box
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= SIZES[size]["width"]
    assert page.evaluate("document.documentElement.scrollWidth") == SIZES[size]["width"]
    page.context.close()


def test_without_javascript_titles_and_the_table_have_it_all(
    kept: MailWatchProcess,
    browser: Browser,
) -> None:
    page = _opened(browser, kept, "phone", java_script_enabled=False)
    titles = page.locator("#chart .columns title").all_text_contents()
    assert len(titles) == 144
    assert sum("checks failed" in text for text in titles) >= 12
    assert sum("no checks" in text for text in titles) >= 11
    page.get_by_text("Response times as a table").click()
    rows = page.locator("#response-times table tbody tr")
    assert rows.count() == sum("no checks" not in text for text in titles)
    page.get_by_role("link", name="90 days").click()
    assert page.url.endswith("?period=90d")
    assert page.locator("#chart .layers, #chart .area").count() > 0
    page.context.close()
