"""A whole `mailwatch run` as a process of its own, for the tests to watch, stop, freeze and kill."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.helpers.command import Program, mailwatch
from tests.helpers.patience import PATIENCE, tries
from tests.servers import free_port


class MailWatchProcess:
    """One installation of MailWatch in `folder`. Its config.yaml is written as JSON, which is YAML."""

    MARK = "e2e"

    def __init__(self, folder: Path, targets: list[dict[str, Any]], **sections: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.config = folder / "config.yaml"
        self.log = folder / "log"
        self.data_dir = folder / "data"
        self.prefix: tuple[str, ...] = ()
        self.environment: dict[str, str] = {}
        """What `run` has in its environment besides ours."""
        self.process: subprocess.Popen[bytes] | Program | None = None
        self.settings: dict[str, Any] = {
            "vantage_point": {"name": "test", "place": "here"},
            "data_dir": "data",
            "web": {"listen": f"127.0.0.1:{self.port}"},
            "guard": "off",
            "clock": {"servers": []},
            "targets": targets,
            **sections,
        }
        self.write_config()

    def write_config(self) -> None:
        """Write the settings as they are now."""
        self.config.write_text(json.dumps(self.settings, indent=1))

    @property
    def pid(self) -> int:
        """The process, which runs."""
        assert self.process is not None
        return self.process.pid

    def start(self, *, ready: bool = True) -> None:
        """Start it; return once it says that it is ready."""
        words = ("--config", str(self.config), "run")
        with self.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
            if self.prefix or self.environment:
                command = [*self.prefix, sys.executable, "-m", "mailwatch", *words]
                self.process = subprocess.Popen(
                    command, stdout=log, stderr=log, stdin=nothing, env=os.environ | self.environment
                )
            else:
                self.process = Program(*words, streams=(nothing.fileno(), log.fileno(), log.fileno()))
        if ready:
            self.wait_until(lambda: self.get("/readyz").startswith("ok\n"), "ready")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9."""
        self.signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()
        self.process = None

    def stop(self) -> int:
        """SIGTERM; return its exit status. Twice does no harm."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AssertionError(f"never stopped:\n{self.log.read_text()}") from None

    @contextlib.contextmanager
    def running(self) -> Iterator[MailWatchProcess]:
        """Started, and stopped in any case."""
        try:
            self.start()
            yield self
        finally:
            self.stop()

    def get(self, path: str) -> str:
        """GET a page; "" while it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
                # Without the places where a name may break, so that names can be searched in it.
                return str(answer.read().decode()).replace("<wbr>", "")
        except urllib.error.HTTPError as error:
            return f"{error.code} {error.read().decode()}"
        except OSError:
            return ""

    def api(self, what: str) -> Any:
        """GET /api/v1/WHAT, parsed."""
        return json.loads(self.get(f"/api/v1/{what}"))

    def metric(self, start: str) -> float | None:
        """The value of the one metric line that begins like this, None without one."""
        lines = [line for line in self.get("/metrics").splitlines() if line.startswith(start)]
        assert len(lines) <= 1, lines
        return float(lines[0].rpartition(" ")[2]) if lines else None

    def wait_until(self, holds: Callable[[], Any], what: str, timeout: float = PATIENCE) -> Any:
        """Wait until something holds, and return it."""
        for _ in tries(timeout):
            if answer := holds():
                return answer
            if self.process is not None and self.process.poll() is not None:
                break
        raise AssertionError(f"never {what}; its log:\n{self.log.read_text()}")

    def state(self, target: str) -> str:
        """The state of a target as the API reports it."""
        return next(str(reported["state"]) for reported in self.api("targets") if reported["target"] == target)

    def count(self, target: str, outcome: str) -> int:
        """How many probes of that outcome the API has; none of a target that a reload has not taken over yet."""
        reported = self.get(f"/api/v1/observations?target={target}&limit=1000")
        return 0 if reported.startswith("404") else sum(o["outcome"] == outcome for o in json.loads(reported))

    def wait_for_state(self, target: str, state: str, timeout: float = PATIENCE) -> None:
        """Wait until the API reports this state of a target."""
        self.wait_until(lambda: self.state(target) == state, f"{target} {state}", timeout)

    def wait_for_more(self, target: str, outcome: str, than: int, timeout: float = PATIENCE) -> None:
        """Wait until the API has more than so many observations of that outcome."""
        self.wait_until(lambda: self.count(target, outcome) > than, f"{target} {outcome} again", timeout)

    def command(self, *words: str, given: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run another command of mailwatch on the same config, with `given` on its stdin."""
        return mailwatch("--config", self.config, *words, given=given)

    def all_output(self) -> bytes:
        """All that it wrote or shows: files (but for the secrets given to it), log, pages, command lines."""
        displayed = b""
        for path in self.folder.rglob("*"):
            if path.is_file() and "secret" not in path.name:
                displayed += path.read_bytes()
        if self.process is not None:
            for page in ("/", "/metrics", "/api/v1/targets", "/api/v1/observations?limit=1000", "/api/v1/outages"):
                displayed += self.get(page).encode()
            for process in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    displayed += process.read_bytes()
        return displayed
