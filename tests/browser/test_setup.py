"""Set-up and management in Debian's Chromium: end to end with JavaScript and without, judged by axe on the way."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from mailwatch.config import load
from mailwatch.web.manage.texts import texts
from tests.helpers.process import MailWatchProcess
from tests.helpers.web_client import UNREACHABLE_TARGET
from tests.servers import Certificates, Dovecot

SIZES: dict[str, ViewportSize] = {
    "phone": {"width": 390, "height": 844},
    "desk": {"width": 1280, "height": 900},
}
TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
RULES = {"runOnly": TAGS, "resultTypes": ["violations"]}
ALICE = "alice@localhost"
SECRET = "canary-mailbox-password"
_AXE = (resources.files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture
def fresh(tmp_path: Path, certificates: Certificates) -> Iterator[MailWatchProcess]:
    """A MailWatch that runs on the example config."""
    process = MailWatchProcess(tmp_path, [UNREACHABLE_TARGET])
    process.config.unlink()
    process.config = tmp_path / "config.example.yaml"
    process.write_config()
    process.environment = {"SSL_CERT_FILE": str(certificates.ca_file)}
    with process.running():
        yield process


class Walk:
    """A walk through the pages: `see` judges each."""

    def __init__(self, page: Page, home: str, name: str, *, scripts: bool) -> None:
        self.page, self._home, self._name, self._scripts = page, home, name, scripts
        self.found: dict[str, Any] = {}
        self._complaints: list[str] = []
        page.on(
            "request", lambda asked: None if asked.url.startswith(home) else self._complaints.append(asked.url)
        )
        page.on("console", lambda line: self._complaints.append(line.text) if "Policy" in line.text else None)
        page.on("pageerror", lambda error: self._complaints.append(str(error)))

    def see(self, name: str) -> None:
        """Note what axe, the policy or the width of the window have against the page."""
        if folder := os.environ.get("MAILWATCH_PICTURES"):
            self.page.screenshot(path=f"{folder}/{name}-{self._name}.png", full_page=True)
        violations = []
        if self._scripts:
            violations = self.page.evaluate(f"{_AXE}\naxe.run({json.dumps(RULES)})")["violations"]
        problems: list[Any] = [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in violations]
        # Without scripts a click may return before the next document has begun.
        self.page.wait_for_load_state("domcontentloaded")
        if self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
            problems.append("wider than the window")
        if problems or self._complaints:
            self.found[name] = (problems, list(self._complaints))
        self._complaints.clear()

    def send(self, **fields: str) -> None:
        """Fill in a form, and press its button."""
        for name, text in fields.items():
            self.page.fill(f"#{name}", text)
        self.page.click(".acts button")

    def open(self, path: str) -> None:
        """Open a page."""
        self.page.goto(f"{self._home}{path}", wait_until="domcontentloaded")


def set_up(walk: Walk, process: MailWatchProcess, dovecot: Dovecot) -> None:
    """From the overview to a mailbox that is monitored."""
    page = walk.page
    walk.open("/")
    page.click(".setup-card .button")
    page.wait_for_selector("#code")
    walk.see("code")
    walk.send(code="AAAA")
    page.wait_for_selector(".wrong")
    walk.see("code-wrong")
    code = re.findall(r"set-up code: (\S+),", process.log.read_text())[-1]
    walk.send(code=code)
    page.wait_for_selector("#timezone")
    walk.see("pages")
    walk.send(password="short", again="other")
    page.wait_for_selector(".wrong")
    walk.see("pages-wrong")
    walk.send(password="correct horse", again="correct horse", timezone="Europe/Rome")
    page.wait_for_selector("#address")
    walk.see("address")
    walk.send(address=ALICE)
    page.wait_for_selector("#imap")
    walk.see("servers")
    walk.send(imap=f"localhost:{dovecot.imaps_port}", pop3=f"localhost:{dovecot.pop3s_port}", smtp="localhost:1")
    page.wait_for_selector("#password")
    assert page.get_attribute("#password", "autocomplete") == "off"
    walk.see("password")
    walk.send(password="wrong")
    page.wait_for_selector(".notice.bad")
    assert page.input_value("#password") == ""
    walk.see("rejected")
    walk.send(password=SECRET)
    # With JavaScript by the events, without it by loading itself anew: nothing is pressed.
    page.wait_for_selector("#timestamps")
    walk.see("tested")
    page.uncheck("#timestamps")
    walk.send()
    page.wait_for_selector(".desk a.button")
    walk.see("done")
    page.click(".desk a.button")
    page.wait_for_selector(".headline")


def manage(walk: Walk, language: str) -> None:
    """A channel, a pause, a removal."""
    page, words = walk.page, texts(language)
    walk.open("/manage")
    walk.see("manage")
    walk.open("/manage/mailbox")
    walk.see("manage-mailbox")
    for service in ("ntfy", "telegram", "mail", "webhook", "other"):
        walk.open(f"/manage/channel?service={service}")
        walk.see(f"channel-{service}")
    walk.send(url="nonsense", name="Casa")
    page.wait_for_selector(".wrong")
    walk.see("channel-wrong")
    walk.send(url="json://127.0.0.1:1/x", name="Casa")
    page.wait_for_selector("form[action$=test-channel]")
    page.click("form[action$=test-channel] button")
    page.wait_for_selector(".notice.bad")
    walk.see("channel-failed")
    page.click("form[action$='manage/pause'] button")
    page.get_by_role("button", name=words.section("manage")["resume"]).wait_for()
    # The last mailbox cannot go; the channel can.
    assert page.locator(".removal").count() == 1
    page.click(".removal summary")
    walk.see("removal")
    page.click(".removal[open] .danger")
    page.wait_for_selector(".notice.good")
    walk.see("removed")


@pytest.mark.parametrize(
    ("language", "size", "scheme", "scripts"),
    [
        pytest.param("it", "phone", "dark", True, id="phone", marks=pytest.mark.nightly),
        pytest.param("en", "desk", "light", True, id="desk"),
        pytest.param("it", "phone", "light", False, id="without JavaScript"),
    ],
)
def test_from_the_code_to_a_mailbox_and_its_management(
    fresh: MailWatchProcess,
    own_dovecot: Dovecot,
    browser: Browser,
    language: str,
    size: str,
    scheme: Any,
    scripts: bool,
) -> None:
    own_dovecot.add_user(ALICE, SECRET)
    context = browser.new_context(
        locale=language, color_scheme=scheme, viewport=SIZES[size], java_script_enabled=scripts
    )
    page = context.new_page()
    walk = Walk(page, f"http://127.0.0.1:{fresh.port}", f"{language}-{size}-{scheme}", scripts=scripts)
    urls: list[str] = []
    page.on("request", lambda request: urls.append(request.url))
    set_up(walk, fresh, own_dovecot)
    config = load(fresh.folder / "config.yaml")
    assert [target.name for target in config.targets] == [f"{ALICE}/imap", f"{ALICE}/pop3"]
    manage(walk, language)
    assert walk.found == {}
    # nothing secret in an address
    assert not [url for url in urls if SECRET in url or "correct" in url]
    config = load(fresh.folder / "config.yaml")
    assert ({target.paused for target in config.targets}, config.notify) == ({True}, ())
    context.close()
