"""The start: signals are heeded and health is answered from its first moment, whatever it needs."""

from __future__ import annotations

import contextlib
import html
import http.client
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mailwatch.model import Outcome
from mailwatch.monitor.restore import restore_targets
from mailwatch.monitor.signals import command_verb
from mailwatch.progress import StartupProgress, StartupStep
from mailwatch.store import Reader, Store
from mailwatch.web.templating import texts
from tests.helpers.ledger_factory import observed
from tests.helpers.paths import TESTS
from tests.helpers.patience import PATIENCE
from tests.helpers.pipeline import PipelineHarness
from tests.helpers.process import MailWatchProcess
from tests.helpers.requirements import need_root
from tests.servers import free_port

AT_MOMENT = '''
"""Sends its own process a signal at named moments: the first event of each whose arguments hold the word."""
import os, signal, sys

NUMBER = getattr(signal, os.environ["SIGNAL"])
moments = [tuple(moment.split(" ", 1)) for moment in os.environ["MOMENTS"].split("|")]


def hook(event, args):
    for moment in list(moments):
        if event == moment[0] and moment[1] in repr(args[:2]):
            moments.remove(moment)
            os.write(2, f"moment: {moment[0]} {moment[1]}\\n".encode())
            os.kill(os.getpid(), NUMBER)


sys.addaudithook(hook)
'''
MOMENTS = (
    "open cli/__pycache__/run", "open monitor/__pycache__/process", "open config.yaml", "socket.bind 127.0.0.1",
    "open secret-imap", "open data/lock", "open ledger.pem", "sqlite3.connect mailwatch.sqlite",
    "open migrations/versions",
)  # fmt: skip
"""Of a first start, in the order in which they come; the last ones in threads."""
AT_ANY_TIME = MOMENTS[1], MOMENTS[3], MOMENTS[6], MOMENTS[8]
"""Those of the gate: of each kind one."""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[MailWatchProcess]:
    (tmp_path / "secret-imap").write_text("canary\n")
    (tmp_path / "secret-imap").chmod(0o600)
    login = {"username": "a@example.org", "password_file": "secret-imap"}
    target = {"name": "away", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none"}
    made = MailWatchProcess(tmp_path, [{**target, "login": login, "interval": "30m"}])
    yield made
    if made.process is not None and made.process.poll() is None:
        made.kill()


def signalled(process: MailWatchProcess, number: str, *moments: str) -> None:
    hooks = process.folder / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(AT_MOMENT)
    path = os.pathsep.join([str(hooks), *filter(None, [os.environ.get("PYTHONPATH")])])
    process.environment = {"PYTHONPATH": path, "SIGNAL": number, "MOMENTS": "|".join(moments)}


def ended(process: MailWatchProcess) -> int:
    assert process.process is not None
    return process.process.wait(PATIENCE)


def test_only_run_handles_signals_this_way() -> None:
    for given, verb in (
        (["run"], "run"), (["--config", "run", "outages"], "outages"), (["report", "-o", "run"], "report"),
        (["--config", "x", "run"], "run"), (["--config=x", "run"], "run"), (["--version"], ""), ([], ""),
    ):  # fmt: skip
        assert command_verb(given) == verb


@pytest.mark.parametrize(
    "moment",
    [pytest.param(moment, marks=[] if moment in AT_ANY_TIME else [pytest.mark.nightly]) for moment in MOMENTS],
)
def test_sigterm_at_any_moment_of_the_start_ends_it_and_the_next_one_succeeds(
    process: MailWatchProcess, moment: str
) -> None:
    signalled(process, "SIGTERM", moment)
    process.start(ready=False)
    assert ended(process) == 0, process.log.read_text()
    log = process.log.read_text()
    assert f"moment: {moment}" in log
    assert "Traceback" not in log
    process.environment = {}
    with process.running():
        pass


def test_sighup_at_all_moments_of_the_start_is_done_after_it(process: MailWatchProcess) -> None:
    signalled(process, "SIGHUP", *MOMENTS)
    with process.running():
        process.wait_until(lambda: "config reloaded" in process.log.read_text(), "reloaded")
    log = process.log.read_text()
    assert [moment for moment in MOMENTS if f"moment: {moment}" not in log] == []
    assert log.index("monitoring 1 target") < log.index("config reloaded")
    assert "Traceback" not in log


def test_health_and_sigterm_work_while_the_disk_hangs(process: MailWatchProcess) -> None:
    Store.open(process.data_dir).close()
    key = process.data_dir / "keys" / "ledger.pem"
    key.unlink()
    # To read it waits for a writer that never comes.
    os.mkfifo(key, 0o600)
    process.start(ready=False)
    expected = f"starting: {StartupStep.OPENING.value}"
    process.wait_until(lambda: process.get("/readyz") == f"503 {expected}\n", "the step")
    assert process.get("/healthz") == "ok\n"
    assert json.loads(process.get("/api/v1/targets").removeprefix("503 ")) == {"detail": expected}
    process.signal(signal.SIGHUP)
    assert process.stop() == 0
    assert "Traceback" not in process.log.read_text()


@pytest.fixture
def small_disk(process: MailWatchProcess) -> Iterator[Path]:
    """A disk of 1 MB for the data_dir; full but for `room`."""
    need_root("mount", "umount")
    process.data_dir.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", process.data_dir], check=True)
    try:
        yield process.data_dir
    finally:
        subprocess.run(["umount", "-l", process.data_dir], check=True)


def fill(disk: Path) -> None:
    with (disk / "ballast").open("ab", 0) as file:
        try:
            while file.write(b"\0" * 4096):
                pass
        except OSError:
            pass


def page_of(process: MailWatchProcess, headers: dict[str, str]) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
    connection.request("GET", "/", headers=headers)
    answer = connection.getresponse()
    response = answer.status, answer.headers, answer.read().decode()
    connection.close()
    return response


def test_a_full_disk_is_waited_for(process: MailWatchProcess, small_disk: Path) -> None:
    fill(small_disk)
    full = f"503 starting: {StartupStep.FULL.value}\n"
    process.start(ready=False)
    process.wait_until(lambda: process.get("/readyz") == full, "full")
    assert process.get("/healthz") == "ok\n"
    for language in ("en", "it"):
        status, headers, page = page_of(process, {"Accept": "text/html", "Accept-Language": language})
        assert (status, headers["retry-after"], headers["content-language"]) == (503, "5", language)
        assert headers["content-security-policy"]
        assert texts(language)["starting"]["step"]["full"] in html.unescape(page)
    assert process.stop() == 0
    process.start(ready=False)
    process.wait_until(lambda: process.get("/readyz") == full, "full again")
    process.signal(signal.SIGHUP)
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    process.wait_until(lambda: process.get("/readyz") == "ok\n", "ready")
    process.wait_until(lambda: "config reloaded" in process.log.read_text(), "reloaded")
    assert process.stop() == 0
    assert process.command("ledger", "audit").returncode == 0


def test_a_disk_too_full_for_the_start_on_record_is_waited_for(
    process: MailWatchProcess, small_disk: Path
) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    with process.running():
        pass
    entries = size(small_disk)
    # The log and its index are there: the ledger opens, and takes nothing.
    with holding_wal(small_disk):
        fill(small_disk)
        process.start(ready=False)
        waits = f"503 starting: {StartupStep.WRITING.value}\n"
        process.wait_until(lambda: process.get("/readyz").startswith(waits[:-1]), "waiting")
        assert process.get("/healthz") == "ok\n"
        assert process.stop() == 0
        assert size(small_disk) == entries
        process.start(ready=False)
        process.wait_until(lambda: process.get("/readyz").startswith(waits[:-1]), "waiting again")
        (small_disk / "ballast").unlink()
        process.wait_until(lambda: process.get("/readyz") == "ok\n", "ready")
    assert process.stop() == 0


def size(data_dir: Path) -> int:
    reader = Reader.open(data_dir)
    try:
        return reader.size()
    finally:
        reader.close()


@contextlib.contextmanager
def holding_wal(data_dir: Path) -> Iterator[None]:
    """Keep the database open, so that its -wal and -shm files stay."""
    connection = sqlite3.connect(data_dir / "mailwatch.sqlite")
    connection.execute("SELECT count(*) FROM entries").fetchone()
    yield
    connection.close()


def test_entries_lost_to_a_full_disk_are_reported_at_the_end(process: MailWatchProcess, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    process.settings["targets"][0] |= {"interval": "500ms", "timeout": "500ms"}
    process.write_config()
    process.start()
    process.wait_until(lambda: process.state("away") != "unknown", "seen")
    fill(small_disk)
    process.wait_until(lambda: process.get("/readyz").startswith("503 "), "full")
    assert process.stop() == 1
    log = process.log.read_text()
    assert "could not be written and are lost: the disk is full" in log
    # It ended by itself, before its time was over.
    assert "not stopped after" not in log


class Noted(StartupProgress):
    """Keeps all that was reported."""

    def __init__(self) -> None:
        super().__init__()
        self.reported: list[str] = []

    def update(self, step: StartupStep, done: int = 0, of: int = 0) -> None:
        super().update(step, done, of)
        self.reported.append(str(self))


async def test_a_long_start_says_how_far_it_is(tmp_path: Path) -> None:
    Store.open(tmp_path).close()
    killed = Store.open(tmp_path)
    killed.append_batch([observed("t", at, Outcome.DOWN) for at in range(5000)])
    killed.close()  # Unlike the writer's, without a checkpoint.
    opening = Noted()
    Store.open(tmp_path, opening).close()
    parts = [f", {part} %" for part in (0, 20, 40, 60, 80)]
    assert opening.reported == [
        "opening the ledger",
        "checking the ledger",
        *(f"checking the ledger{p}" for p in parts),
    ]
    harness = PipelineHarness(tmp_path)
    await harness.writer.start()
    reading = Noted()
    await restore_targets(harness.pipeline, harness.reader, [harness.target], reading)
    assert reading.reported == [f"reading the ledger{part}" for part in (", 0 %", *parts)]
    await harness.close()


def test_it_ends_in_time_whatever_hangs() -> None:
    code = (
        "import threading as t, mailwatch.monitor.signals as e; e.exit_within(lambda: 3, 0.05); t.Event().wait()"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False).returncode == 3


def test_a_second_start_reports_which_lock_or_port_is_in_use(process: MailWatchProcess) -> None:
    with process.running():
        again = process.command("run")
        assert again.returncode == 1
        assert f"data is in use by another mailwatch (process {process.pid})" in again.stderr
        process.settings["data_dir"] = "elsewhere"
        process.write_config()
        taken = process.command("run")
        assert taken.returncode == 1
        assert f"web.listen: port {process.port} is used by another program on 127.0.0.1" in taken.stderr
        assert "rrno" not in taken.stderr
        assert not (process.folder / "elsewhere").exists()


@pytest.fixture(scope="session")
def gated_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that lets the disk hang."""
    need_root("gcc")
    library = tmp_path_factory.mktemp("gated") / "gated.so"
    source = TESTS / "gated_disk.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.mark.nightly
def test_a_hanging_disk_stops_neither_answers_nor_the_shutdown(
    process: MailWatchProcess, gated_disk: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    process.environment = {"LD_PRELOAD": str(gated_disk), "GATE": str(gate)}
    process.start()
    process.wait_until(lambda: process.state("away") != "unknown", "seen")
    gate.touch()
    entries = size(process.data_dir)
    process.signal(signal.SIGHUP)  # A reload goes on record.
    process.signal(signal.SIGTERM)
    # Some of it is not on the disk, and says so.
    assert ended(process) == 1
    assert "not stopped after 9 s, because the disk does not answer" in process.log.read_text()
    gate.unlink()
    process.environment = {}
    with process.running():
        assert size(process.data_dir) > entries
    assert process.command("ledger", "audit").returncode == 0
    # At the start nothing is to be lost, and it ends at once.
    gate.touch()
    process.environment = {"LD_PRELOAD": str(gated_disk), "GATE": str(gate)}
    process.start(ready=False)
    process.wait_until(lambda: process.get("/healthz") == "ok\n", "alive")
    process.wait_until(lambda: process.get("/readyz").startswith("503 starting: "), "starting")
    process.wait_until(
        lambda: "INFO mailwatch.monitor.process: starting: " in process.log.read_text(), "a line in the log"
    )
    assert process.stop() == 0
