"""Draw the pictures of docs/images/ anew: python -m tests.pictures (or `make pictures`).

report-it.png, report-en.png    a page each of the report of a made-up outage of five days, by poppler's pdftoppm
web-overview.png, web-outage.png    the pages of a MailWatch with ninety made-up days behind it, in Chromium
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from benchmarks.schedule import stand_in
from mailwatch.times import now
from tests.helpers import report_cases as cases
from tests.helpers.ledger_factory import DAY, HOUR, MINUTE, Pattern, write
from tests.helpers.paths import ROOT
from tests.helpers.process import MailWatchProcess
from tests.helpers.report_cases import make_installation

DOCS = ROOT / "docs" / "images"
PAGES = (("it", 1), ("en", 2))
DPI = 80
INTERVAL_MS = 5 * MINUTE
CHROMIUM = "/usr/bin/chromium"
NAMES = ("libero-mario", "libero-anna", "virgilio-luca")


def reports(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of each page of PAGES."""
    made, drawn = make_installation("five-days", folder), []
    for language, page in PAGES:
        pdf = folder / f"{language}.pdf"
        result = made.command("report", made.outage, "-o", str(pdf), "--lang", language)
        assert result.returncode == 0, result.stderr
        to = docs / f"report-{language}"
        one = ["-f", str(page), "-l", str(page), "-singlefile"]
        subprocess.run(["pdftoppm", "-r", str(DPI), "-png", *one, pdf, to], check=True)
        drawn.append(to.with_suffix(".png"))
    return drawn


def patterns(now: int) -> dict[str, Pattern]:
    """What was seen in the ninety days before `now`: five bad days on all channels, and some lesser things."""

    def pattern(begin: float, end: float, short: float) -> Pattern:
        def seen(at: int) -> str:
            ago = (now - at) / DAY
            if begin >= ago > end or short >= ago > short - 0.13:
                return "-"
            if 64 >= ago > 62.6:
                return " "
            return "?" if 25.5 >= ago > 25 else "+"

        return seen

    return {
        "libero-mario": pattern(46.1, 41.2, 12.3),
        "libero-anna": pattern(46.1, 42.5, -1),
        "virgilio-luca": pattern(45.9, 41.2, 7.4),
    }


def pages(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of the overview and one of the longest outage."""
    end = now() - HOUR
    write(
        folder / "data",
        patterns(end),
        end - 95 * DAY,
        end,
        interval=INTERVAL_MS,
        provider="libero",
        vantage="casa",
        every=12,
        observe=cases.observation_of_mark,
        durable=False,
        backdated=True,
    ).close()
    drawn = [docs / "web-overview.png", docs / "web-outage.png"]
    with stand_in() as port, sync_playwright() as playwright:
        targets = [
            {"name": name, "kind": "imap", "provider": name.partition("-")[0], "host": "127.0.0.1", "port": port,
             "tls": "none", "interval": "5m"}
            for name in NAMES
        ]  # fmt: skip
        process = MailWatchProcess(
            folder,
            targets,
            vantage_point={"name": "casa", "place": "Milano, IT"},
            guard={"controls": [f"127.0.0.1:{port}"]},
        )
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(
            viewport={"width": 1060, "height": 900},
            locale="en-GB",
            timezone_id="Europe/Rome",
            color_scheme="light",
        )
        with process.running():
            process.wait_until(lambda: all(one["state"] == "up" for one in process.api("targets")), "up")
            home = f"http://127.0.0.1:{process.port}"
            process.wait_until(lambda: _bars(page, home) == len(NAMES), "the history")
            page.screenshot(path=drawn[0], clip={"x": 0, "y": 0, "width": 1060, "height": 975}, full_page=True)
            longest = max(process.api("outages"), key=lambda outage: float(outage["duration"]["min"]))
            page.goto(f"{home}/outages/{longest['id']}", wait_until="networkidle")
            page.screenshot(path=drawn[1], clip={"x": 0, "y": 0, "width": 1060, "height": 1130}, full_page=True)
        browser.close()
    return drawn


def _bars(page: Page, home: str) -> int:
    page.goto(home)
    return page.locator("svg.bars").count()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        reports(Path(folder) / "made", DOCS)
        pages(Path(folder) / "pages", DOCS)
