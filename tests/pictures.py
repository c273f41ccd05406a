"""Draw the pictures of docs/images/ anew: python -m tests.pictures [pages|reports] (or `make pictures`).

report-it.png, report-en.png    a page each of the report of a made-up outage of five days, by poppler's pdftoppm
joint-it.png                    the first page of a joint report of made-up places; one bundle was left out
web-overview.png, web-phone.png, web-outage.png, web-target.png
                                the pages of a MailWatch with ninety made-up days behind it, in Chromium
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Literal

from playwright.sync_api import Page, ViewportSize, sync_playwright

from benchmarks.schedule import stand_in
from mailwatch.model import Observation, Phase
from mailwatch.times import now
from tests.helpers import report_cases as cases
from tests.helpers.command import mailwatch
from tests.helpers.joint_parts import down, part_of, without_an_observation
from tests.helpers.ledger_factory import DAY, MINUTE, Pattern, write
from tests.helpers.paths import ROOT
from tests.helpers.process import MailWatchProcess
from tests.helpers.report_cases import make_installation
from tests.servers import free_port

DOCS = ROOT / "docs" / "images"
PAGES = (("it", 1), ("en", 2))
DPI = 80
INTERVAL_MS = 10 * MINUTE
CHROMIUM = "/usr/bin/chromium"
HISTORY_SECONDS = 300.0
"""How long reading ninety days of seven targets may take."""


def reports(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of each page of PAGES."""
    made, drawn = make_installation("five-days", folder), []
    for language, page in PAGES:
        pdf = folder / f"{language}.pdf"
        result = made.command("report", made.outage, "-o", str(pdf), "--lang", language)
        assert result.returncode == 0, result.stderr
        drawn.append(_draw(pdf, page, docs / f"report-{language}.png"))
    return drawn


def _draw(pdf: Path, page: int, to: Path) -> Path:
    one = ["-f", str(page), "-l", str(page), "-singlefile"]
    subprocess.run(["pdftoppm", "-r", str(DPI), "-png", *one, pdf, to.with_suffix("")], check=True)
    return to


PLACES = {
    "casa a Milano": (2.0, 6.5),
    "ufficio a Torino": (2.4, 9.0),
    "studio a Roma": (3.1, 7.2),
    "Napoli": (2.2, 8.0),
}
"""From which hour to which the provider is down, by place; the bundle of the last one was changed."""


def joint(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of the first page of a joint report."""
    folder.mkdir()
    bundles = [
        part_of(folder / str(number), down(*hours), place) for number, (place, hours) in enumerate(PLACES.items())
    ]
    bundles[-1] = without_an_observation(bundles[-1], folder / "napoli.zip")
    path, key = folder / "joint.zip", folder / "0" / "keys" / "ledger.pem"
    words = ["--keep-going", "--lang", "it", "--key", str(key), "-o", str(path)]
    result = mailwatch("merge", *bundles, *words)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(path) as opened:
        opened.extract("report.pdf", folder)
    return [_draw(folder / "report.pdf", 1, docs / "joint-it.png")]


def patterns(now: int) -> dict[str, Pattern]:
    """What was seen in the ninety days before `now`: five bad days of two providers, and some lesser things."""

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
        "mario.rossi@libero.it/imap": pattern(46.1, 41.2, 12.3),
        "anna.verdi@libero.it/imap": pattern(46.1, 42.5, -1),
        "luca.neri@libero.it/imap": pattern(45.9, 41.2, 30.2),
        "giulia.costa@virgilio.it/imap": pattern(45.9, 41.2, 7.4),
        "paolo.riva@virgilio.it/imap": pattern(45.8, 41.9, -1),
        "info@studio-verdi.it/imap": pattern(-1, -1, 71.4),
        "ordini@studio-verdi.it/imap": pattern(-1, -1, -1),
    }


USUAL = {
    Phase.RESOLVE: 4, Phase.CONNECT: 18, Phase.TLS: 31, Phase.GREETING: 12, Phase.AUTH: 74, Phase.MAILBOX: 21,
}  # fmt: skip
"""Milliseconds that a login usually takes, by phase."""
TARGET = "info@studio-verdi.it/imap"
"""Whose page is drawn."""
PROVIDERS = {"libero.it": "libero", "virgilio.it": "virgilio", "studio-verdi.it": "Studio Verdi"}


def observation(name: str, mark: str, at: int) -> Observation:
    """An observation of a report's case, with response times that rise in the morning and vary."""
    made = cases.observation_of_mark(name, mark, at)
    # On another machine: the steady clock of this one does not go on from it.
    clock = made.clock and replace(made.clock, boot="0b" * 16)
    made = replace(made, clock=clock)
    if mark != "+":
        return made
    random = Random(f"{name} {at}")
    slower = 1 + 0.5 * math.sin(at / DAY * math.tau) ** 2 + (3 if random.random() < 0.01 else 0)
    scale = (0.6 + len(name) % 7 / 8) * slower
    usual = {
        Phase.RESOLVE: 4,
        Phase.CONNECT: 18,
        Phase.TLS: 31,
        Phase.GREETING: 12,
        Phase.AUTH: 74,
        Phase.MAILBOX: 21,
    }
    phases = {phase: round(spent * scale * random.uniform(800, 1300)) for phase, spent in usual.items()}
    return replace(made, attempts=(replace(made.attempts[0], phases=phases),))


def pages(folder: Path, docs: Path) -> list[Path]:
    """Write a picture of the overview while Libero is down, by day and on a phone at night, and one each of the
    longest outage and of a target.
    """
    end = now() - INTERVAL_MS
    write(
        folder / "data",
        patterns(end),
        end - 95 * DAY,
        end,
        interval=INTERVAL_MS,
        provider="libero",
        vantage="casa",
        every=12,
        observe=observation,
        durable=False,
        backdated=True,
    ).close()
    drawn = [docs / name for name in ("web-overview.png", "web-phone.png", "web-outage.png", "web-target.png")]
    with stand_in() as port, sync_playwright() as playwright:
        providers = {name: PROVIDERS[name.partition("@")[2].partition("/")[0]] for name in patterns(end)}
        targets = [
            {"name": name, "kind": "imap", "provider": provider, "host": "127.0.0.1",
             "port": free_port() if provider == "libero" else port, "tls": "none", "interval": "10m"}
            for name, provider in providers.items()
        ]  # fmt: skip
        process = MailWatchProcess(
            folder,
            targets,
            timezone="Europe/Rome",
            vantage_point={"name": "casa", "place": "Milano, IT"},
            guard={"controls": [f"127.0.0.1:{port}"]},
            detection={"recheck": ["1s"] * 5},
        )
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        with process.running():
            for name, provider in providers.items():
                process.wait_for_state(name, "down" if provider == "libero" else "up")
            home = f"http://127.0.0.1:{process.port}"
            longest = max(process.api("outages"), key=lambda outage: float(outage["duration"]["min"]))
            shots: list[tuple[Path, str, ViewportSize, Literal["light", "dark"]]] = [
                (drawn[0], "/", {"width": 1240, "height": 860}, "light"),
                (drawn[1], "/", {"width": 390, "height": 844}, "dark"),
                (drawn[2], f"/outages/{longest['id']}", {"width": 1060, "height": 1130}, "light"),
                (drawn[3], f"/targets/{TARGET}?period=90d", {"width": 1060, "height": 830}, "light"),
            ]
            page = browser.new_page()
            times = f"targets/{TARGET}/response-times?period=90d"
            process.wait_until(lambda: process.api(times)["complete"], "response times", HISTORY_SECONDS)
            process.wait_until(lambda: _bars(page, home) == len(providers), "the history", HISTORY_SECONDS)
            for file, path, size, scheme in shots:
                page = browser.new_page(
                    viewport=size, locale="en-GB", timezone_id="Europe/Rome", color_scheme=scheme
                )
                page.goto(f"{home}{path}", wait_until="load")
                page.screenshot(path=file)
                page.close()
        browser.close()
    return drawn


def _bars(page: Page, home: str) -> int:
    page.goto(home)
    return page.locator("svg.bars").count()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1:] != ["pages"]:
            reports(Path(folder) / "made", DOCS)
            joint(Path(folder) / "joint", DOCS)
        if sys.argv[1:] != ["reports"]:
            pages(Path(folder) / "pages", DOCS)
