"""A process that stands still ends itself; one that was stopped does not; and what supervisors learn of it."""

from __future__ import annotations

import configparser
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from rich.console import Console

from mailwatch.cli import health, main
from mailwatch.cli.run import coloured_handler
from mailwatch.monitor import watchdog
from mailwatch.monitor.watchdog import EXIT_STATUS
from tests.helpers.paths import ROOT
from tests.helpers.process import MailWatchProcess
from tests.servers import free_port

PROGRAM = """
import asyncio, re, sys, time
from mailwatch.monitor.watchdog import watch_loop

def sleeping(): time.sleep(600)
def matching(): re.match("(a+)+$", "a" * 100 + "b")
def reading(): sys.stdin.readline()

async def main():
    async with watch_loop(lambda: None, every=0.05, missed=20):
        await asyncio.sleep(0.2)
        print("beats", flush=True)
        {what}

asyncio.run(main())
"""


def started(what: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    words = (sys.executable, "-c", PROGRAM.format(what=what))
    return subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(
    ("where", "status"), [("sleeping", EXIT_STATUS), ("reading", EXIT_STATUS), ("matching", -signal.SIGPROF)]
)
def test_a_blocked_event_loop_ends_the_process_and_logs_where(where: str, status: int) -> None:
    with started(f"{where}()") as process:
        assert process.stderr is not None
        output = process.stderr.read()
        assert process.wait() == status
    assert f"in {where}" in output


def test_a_process_that_was_stopped_goes_on() -> None:
    with started("await asyncio.to_thread(reading)") as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            # Longer than a loop may stand still.
            time.sleep(1.1)
            process.send_signal(signal.SIGCONT)
        assert process.communicate("\n") == ("", "")
        assert process.returncode == 0


def unreachable_target() -> dict[str, object]:
    return {"name": "away", "kind": "imap", "host": "127.0.0.1", "port": free_port(), "tls": "none",
            "interval": "30m"}  # fmt: skip


@pytest.fixture
def mailwatch(tmp_path: Path) -> Iterator[MailWatchProcess]:
    made = MailWatchProcess(tmp_path, [unreachable_target()])
    yield made
    made.stop()


def test_supervisors_are_notified_of_start_reload_and_end(
    mailwatch: MailWatchProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAILWATCH_LISTEN", f"127.0.0.1:{mailwatch.port}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)

        def received(word: str) -> list[str]:
            """All that is reported up to the message with that word."""
            lines = list[str]()
            for _ in range(500):
                messages = manager.recv(4096).decode().split("\n")
                lines += messages
                if word in messages:
                    return lines
            raise AssertionError(lines)

        mailwatch.environment = {
            "NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "300000", "TZ": "Asia/Kolkata",
        }  # fmt: skip
        mailwatch.start(ready=False)
        before = received("READY=1")
        assert any(re.fullmatch("STATUS=starting: .+", line) for line in before)
        assert any(re.fullmatch("EXTEND_TIMEOUT_USEC=[0-9]+", line) for line in before)
        assert before[-1] == "STATUS=monitoring 1 target"
        received("WATCHDOG=1")
        received("WATCHDOG=1")
        assert main(["health"]) == 0
        assert main(["health", "--ready"]) == 0
        mailwatch.signal(signal.SIGHUP)
        begun = received("RELOADING=1")
        assert "READY=1" not in begun
        assert re.fullmatch("MONOTONIC_USEC=[0-9]+", begun[-1])
        received("READY=1")
        assert mailwatch.stop() == 0
        received("STOPPING=1")
    assert main(["health"]) == 1
    lines = mailwatch.log.read_text().splitlines()
    assert len(lines) > 2
    for line in lines:
        assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d\d\+05:30 [A-Z]+ mailwatch\.", line), line


def test_a_terminal_shows_the_offset_too() -> None:
    displayed = io.StringIO()
    handler = coloured_handler(Console(file=displayed, width=200))
    handler.emit(logging.LogRecord("mailwatch", logging.INFO, "", 0, "up", None, None))
    [text] = re.findall(r"20[^ ]+", displayed.getvalue())
    assert datetime.fromisoformat(text).utcoffset() is not None


def test_a_watchdog_meant_for_another_process_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, whom, expected in (
        ("3000000", None, 3.0), ("3000000", str(os.getpid()), 3.0), ("3000000", "1", None), ("0", None, None),
        ("", None, None), ("soon", None, None),
    ):  # fmt: skip
        monkeypatch.setenv("WATCHDOG_USEC", given)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        if whom:
            monkeypatch.setenv("WATCHDOG_PID", whom)
        assert watchdog.watchdog_seconds() == expected
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/at/all")
    watchdog.keep_alive()


@pytest.mark.parametrize(
    ("listen", "host"), [("0.0.0.0:{}", "127.0.0.1"), ("[::]:{}", "127.0.0.1"), ("127.0.0.1:{}", "127.0.0.1")]
)
@pytest.mark.parametrize(
    ("answer", "status", "says"),
    [
        ("HTTP/1.1 200 OK\r\n\r\nok\n", 0, ""),
        ("HTTP/1.1 503 Service Unavailable\r\n\r\nstarting\n", 1, "starting"),
        ("220 mail.example.org ESMTP\r\n", 1, "not MailWatch"),
        ("", 1, "not MailWatch"),
        (None, 1, "no answer from"),
    ],
)
def test_health_is_what_is_answered_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], listen: str, host: str,
    answer: str | None, status: int, says: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(health, "TIMEOUT_SECONDS", 20.0 if answer is not None else 0.1)
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("MAILWATCH_LISTEN", listen.format(port))
        if answer is not None:
            server.setblocking(True)
            script = "import socket, sys; s = socket.socket(fileno=int(sys.argv[1])); c, _ = s.accept(); "
            script += "c.recv(9999); c.sendall(sys.argv[2].encode())"
            words = (sys.executable, "-c", script, str(server.fileno()), answer)
            with subprocess.Popen(words, pass_fds=[server.fileno()]):
                assert main(["health"]) == status
        else:
            assert main(["health"]) == status
    assert says in capsys.readouterr().err


def test_health_follows_the_config_and_loads_next_to_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("MAILWATCH_LISTEN", raising=False)
    mailwatch = MailWatchProcess(tmp_path, [unreachable_target()])
    assert main(["--config", str(mailwatch.config), "health"]) == 1
    assert f"no answer from 127.0.0.1, port {mailwatch.port}: " in capsys.readouterr().err
    monkeypatch.setenv("MAILWATCH_LISTEN", "8080")
    assert main(["health"]) == 2
    program = "import sys; from mailwatch.cli import main; main(['health']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "mailwatch.cli.health" in loaded
    assert not {"pydantic", "yaml", "asyncio", "http.client", "mailwatch.config", "rich"} & loaded


def test_the_systemd_unit_notifies_restarts_and_reloads() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read(ROOT / "docs" / "how-to" / "mailwatch.service")
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["Restart"] == "on-failure"
    assert service["ExecReload"] == "kill -HUP $MAINPID"
    assert int(service["TimeoutStopSec"].removesuffix("s")) > 10
    assert int(service["WatchdogSec"].removesuffix("s")) >= 30
