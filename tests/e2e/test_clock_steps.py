"""The real program under a wall clock that is set while it runs (Debian's faketime): no duration follows it."""

from __future__ import annotations

import contextlib
import json
import socketserver
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_program
from tests.helpers.seed import FRESH
from tests.helpers.wall_clock import LIBRARIES, WallClock
from tests.servers import free_port

HOUR, DAY = 3600, 86_400
STEPS = {"four days ahead": 4 * DAY, "an hour back": -HOUR}
if FRESH:
    STEPS |= {"an hour ahead": HOUR, "three years back": -1095 * DAY}
"""By how much the clock is set, in seconds; the night sets it in more ways."""
BUSY = 120.0
"""Seconds by which a busy machine may delay what it does: far less than any step."""


class Greeting(socketserver.ThreadingTCPServer):
    """An IMAP server that greets, on a port that it can leave and come back to."""

    allow_reuse_address = True
    daemon_threads = True

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(b"* OK [CAPABILITY IMAP4rev1] ready\r\n")
                line = self.rfile.readline()
                self.wfile.write(b"* BYE\r\n" + line.split()[:1][0] + b" OK\r\n" if line.split() else b"")


@contextlib.contextmanager
def greeting(port: int) -> Iterator[None]:
    with Greeting(("127.0.0.1", port), Greeting.Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class StepResult:
    """An outage as it truly was, in seconds: at least and at most, as far as the test itself knows."""

    outage: dict[str, Any]
    least: float
    most: float


@pytest.fixture(scope="module")
def stepped_outages(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[MailWatchProcess, dict[str, StepResult]]]:
    """One run with an outage for each step, in the middle of which the clock is set; and set right after it."""
    need_program(LIBRARIES[-1] if LIBRARIES else Path("/usr/bin/faketime"))
    folder = tmp_path_factory.mktemp("steps")
    port, clock = free_port(), WallClock(folder)
    target = {"name": "lab", "kind": "imap", "provider": "lab", "host": "127.0.0.1", "port": port, "tls": "none",
              "interval": "1s", "timeout": "2s"}  # fmt: skip
    process = MailWatchProcess(folder, [target], detection={"recheck": ["200ms"]})
    process.environment = clock.environment
    found: dict[str, StepResult] = {}
    with process.running():
        for name, seconds in STEPS.items():
            with greeting(port):
                process.wait_until(lambda: process.state("lab") == "up", "up", timeout=BUSY)
                count = process.count("lab", "up")
                process.wait_for_more("lab", "up", than=count, timeout=BUSY)
                before = time.monotonic()
            began = time.monotonic()
            known = {outage["id"] for outage in process.api("outages")}
            opened = process.wait_until(partial(_opened, process, known), "open", timeout=BUSY)[0]["id"]
            clock.step(seconds)
            process.wait_until(lambda: _shows(process, clock), "the clock that was set", timeout=BUSY)
            steps = process.count("lab", "down")
            process.wait_for_more("lab", "down", than=steps + 5, timeout=BUSY)
            ended = time.monotonic()
            with greeting(port):
                after = time.monotonic()
                process.wait_until(lambda: not process.api("outages?open=true"), "closed", timeout=BUSY)
                clock.step(-seconds)
                process.wait_until(lambda: _shows(process, clock), "the clock that was set right", timeout=BUSY)
                count = process.count("lab", "up")
                process.wait_for_more("lab", "up", than=count + 2, timeout=BUSY)
            outage = next(o for o in process.api("outages") if o["id"] == opened)
            found[name] = StepResult(outage, ended - began, after - before)
        with greeting(port):
            # Without it a busy machine would observe one more outage before it stops.
            gaps = process.metric("mailwatch_gap_seconds_total")
            process.stop()
    yield process, found
    assert gaps is not None
    assert gaps < 8 * BUSY, "gaps are as long as the clock was set by"


def _opened(process: MailWatchProcess, known: set[str]) -> list[dict[str, Any]]:
    return [outage for outage in process.api("outages?open=true") if outage["id"] not in known]


def _shows(process: MailWatchProcess, clock: WallClock) -> bool:
    """Whether the newest observation was dated by the clock as it is set now."""
    newest = datetime.fromisoformat(process.api("observations?target=lab&limit=1")[0]["started_at"])
    return abs(newest.timestamp() - time.time() - clock.off) < 2 * BUSY


@pytest.mark.parametrize("name", STEPS)
def test_a_clock_step_does_not_change_the_duration_of_an_outage(
    stepped_outages: tuple[MailWatchProcess, dict[str, StepResult]], name: str
) -> None:
    one = stepped_outages[1][name]
    reported = one.outage["duration"]
    assert reported["min"] <= one.most
    assert reported["max"] >= one.least
    assert reported["max"] < one.most + BUSY
    assert reported["estimate"] < one.most + BUSY
    assert one.outage["clock"]["reboots"] == 0
    assert abs(one.outage["clock"]["stepped"] - abs(STEPS[name])) < 2
    assert one.outage["largest_gap"] < BUSY
    times = [one.outage[key] for key in ("last_good", "first_bad", "last_bad", "first_good")]
    assert times == sorted(times), "all on one wall clock"


@pytest.mark.parametrize("name", ["an hour back", "four days ahead"])
def test_evidence_across_a_clock_step_states_it_and_is_valid(
    stepped_outages: tuple[MailWatchProcess, dict[str, StepResult]], name: str, tmp_path: Path
) -> None:
    process, found = stepped_outages
    path = tmp_path / "case.zip"
    made = process.command("report", found[name].outage["id"], "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    checked = process.command("verify", str(path))
    assert checked.returncode == 0, checked.stdout
    with zipfile.ZipFile(path) as opened:
        opened.extractall(tmp_path)
    plain = subprocess.run(
        [sys.executable, "-I", "-S", "verify.py", str(path)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert plain.returncode == 0, plain.stdout
    text = subprocess.run(
        ["pdftotext", "-layout", "report.pdf", "-"], cwd=tmp_path, capture_output=True, text=True
    )
    assert "clock was set" in " ".join(text.stdout.split())


def test_the_report_of_the_whole_time_agrees_with_the_other_commands(
    stepped_outages: tuple[MailWatchProcess, dict[str, StepResult]], tmp_path: Path
) -> None:
    """By their times, entries lie before and after others that they follow: none may be lost for that."""
    process, found = stepped_outages
    path, window = tmp_path / "all.zip", ("--from", "2015-01-01", "--to", "2060-01-01")
    made = process.command("report", *window, "-o", str(path), "--lang", "en")
    assert made.returncode == 0, made.stderr
    checked = process.command("verify", str(path))
    assert checked.returncode == 0, checked.stdout
    with zipfile.ZipFile(path) as opened:
        stated = json.loads(opened.read("period.json"))
        opened.extract("verify.py", tmp_path)
    plain = subprocess.run(
        [sys.executable, "-I", "-S", str(tmp_path / "verify.py"), str(path)], capture_output=True, text=True
    )
    assert plain.returncode == 0, plain.stdout
    assert {one["id"] for one in stated["outages"]} == {one.outage["id"] for one in found.values()}
    (reported,) = json.loads(process.command("availability", *window, "--json").stdout)
    (account,) = stated["availability"]
    assert account["observations"] == reported["observations"]
    # The window of a report ends with the latest time of its entries. Of the last observation before the clock was
    # set back, a millisecond of the steady clock may lie beyond that.
    assert account["downtime"] == pytest.approx(reported["downtime"], abs=0.003)
    assert account["availability"] == pytest.approx(reported["availability"], abs=0.001)
    before = time.time() - datetime(2015, 1, 1, tzinfo=UTC).timestamp()
    assert before - DAY < account["unobserved"] < before + DAY, (
        "the record ends where it ends, not at its latest time"
    )


def test_the_ledger_replays_and_the_pages_say_that_the_clock_was_set(
    stepped_outages: tuple[MailWatchProcess, dict[str, StepResult]],
) -> None:
    process, found = stepped_outages
    assert process.command("ledger", "audit").returncode == 0
    reported = {outage["id"]: outage for outage in json.loads(process.command("outages", "--json").stdout)}
    assert {one.outage["id"]: one.outage["duration"] for one in found.values()} == {
        identity: outage["duration"] for identity, outage in reported.items()
    }
    displayed = process.command("outages", "show", found["an hour back"].outage["id"]).stdout
    assert "clock was set" in displayed
